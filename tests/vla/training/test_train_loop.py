"""The training loop: what it leaves behind, and that stopping changes nothing."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import SMALL, TrainingNotes, differing, run, weights, write_data
from tiny_vlm import save_vlm
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_pre_hook
from waiting import LIMIT

from calvin_eval.config.training import compose_training
from calvin_eval.errors import CalvinEvalError, CheckpointError, RunFolderError, UsageError
from calvin_eval.vla.training.loop import train

pytestmark = pytest.mark.slow

NO_VALIDATION = "val_dataset.data_dir=null"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


def logged(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def interrupt(at: int) -> TrainingNotes:
    return TrainingNotes(lambda step: signal.raise_signal(signal.SIGINT) if step == at else None)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (
            "trainer.accumulate_grad_batches=2", "batch_size=4", "window_size=2",
            "act_head.type=LSTMDecoder", "act_head.num_layers=2",
            "act_head.policy_rnn_dropout_p=0.3", "train_dataset.cache=false",
        ),
        ("train_setup.lora_enable=true", "train_setup.lora_r=2"),
    ],
    ids=["full", "dropout", "lora"],
)  # fmt: skip
def test_stopped_and_resumed_is_the_same_as_training_through(
    data: Path, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    """Weights bit for bit, and every number in the log but the speed: images are shifted."""
    given = ("trainer.max_epochs=2", "batch_size=8", "save.every=100", NO_VALIDATION, *overrides)
    through = run(data, tmp_path / "through", *given)
    stopped = run(data, tmp_path / "stopped", *given, notes=interrupt(4))
    assert (stopped.interrupted, stopped.position.step) == (True, 4)
    assert differing(weights(stopped), weights(through))
    resumed = run(None, tmp_path / "stopped")
    assert (resumed.interrupted, resumed.position) == (False, through.position)
    assert not differing(weights(resumed), weights(through))
    one, other = logged(tmp_path / "through"), logged(tmp_path / "stopped")
    assert [int(row["step"]) for row in other] == list(range(1, through.position.step + 1))
    same = [name for name in one[0] if name != "samples_per_second"]
    # What is averaged over steps since the last line is logged every step here.
    assert [[row[name] for name in same] for row in one] == [
        [row[name] for name in same] for row in other
    ]


def test_a_resumed_training_goes_on_with_step_and_learning_rate(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", "trainer.max_steps=3", "scheduler=constant")
    notes = TrainingNotes()
    resumed = run(None, tmp_path / "run", "trainer.max_steps=5", "warmup_steps=10", notes=notes)
    assert notes.facts is not None
    assert (notes.facts.start, notes.facts.total) == (3, 5)
    assert (resumed.position.step, resumed.position.samples) == (5, 20)
    assert [float(row["lr"]) for row in logged(tmp_path / "run")[3:]] == pytest.approx(
        [4e-4, 5e-4]  # a warm-up of ten steps, of which the next step is the fifth and sixth
    )


def test_the_gradient_has_a_norm_of_at_most_one_after_clipping(data: Path, tmp_path: Path) -> None:
    norms: list[float] = []

    def note(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.cat([g.ravel() for g in grads if g is not None]).norm()))

    hook = register_optimizer_step_pre_hook(note)
    steep = ("trainer.max_steps=3", "arm_gripper_loss_ratio=1000")
    try:
        run(data, tmp_path / "clipped", *steep)
        run(data, tmp_path / "free", *steep, "trainer.gradient_clip_val=0")
        run(data, tmp_path / "top", *steep, "gradient_clip_val=0.25")
    finally:
        hook.remove()
    clipped, free, top = norms[:3], norms[3:6], norms[6:]
    assert clipped == pytest.approx([1.0] * 3, abs=1e-4)
    assert min(free) > 1.5
    assert top == pytest.approx([0.25] * 3, abs=1e-4)
    assert float(logged(tmp_path / "clipped")[0]["grad_norm"]) == pytest.approx(free[0], rel=1e-4)
    assert "grad_norm" not in logged(tmp_path / "free")[0]


@pytest.mark.parametrize(
    ("precision", "dtype"), [("32", torch.float32), ("bf16-mixed", torch.bfloat16)]
)
def test_layers_compute_in_the_precision_that_was_asked_for(
    data: Path, tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    seen = set()

    def note(module: torch.nn.Module, given: object, found: object) -> None:
        if isinstance(module, torch.nn.Linear) and torch.is_grad_enabled():
            assert isinstance(found, torch.Tensor)
            seen.add(found.dtype)

    hook = register_module_forward_hook(note)
    try:
        once = ("trainer.max_steps=1", NO_VALIDATION)
        outcome = run(data, tmp_path / "run", *once, f"trainer.precision={precision}")
    finally:
        hook.remove()
    assert seen == {dtype}
    # Only computing is in half precision; weights are not.
    assert {w.dtype for w in weights(outcome).values() if w.is_floating_point()} == {torch.float32}


def test_accumulated_batches_give_the_gradient_of_one_large_batch(
    data: Path, tmp_path: Path
) -> None:
    given = (
        "trainer.max_steps=1",
        "trainer.precision=32",
        "fwd_pred_next_n=1",
        NO_VALIDATION,
    )  # with chunks of one action none is padded, and means of halves are the mean of the whole
    sizes = {"whole": (8, 1), "halves": (4, 2), "quarters": (2, 4)}
    norms = {}
    for name, (batch, groups) in sizes.items():
        run(data, tmp_path / name, *given, f"batch_size={batch}",
            f"trainer.accumulate_grad_batches={groups}")  # fmt: skip
        norms[name] = float(logged(tmp_path / name)[0]["grad_norm"])
    assert norms["halves"] == pytest.approx(norms["whole"], rel=1e-3)
    assert norms["quarters"] == pytest.approx(norms["whole"], rel=1e-3)


def test_validation_and_evaluation_change_nothing_that_is_trained(
    data: Path, tmp_path: Path
) -> None:
    lstm = ("act_head.type=LSTMDecoder", "act_head.num_layers=2",
            "act_head.policy_rnn_dropout_p=0.3", "trainer.max_steps=5")  # fmt: skip
    alone = run(data, tmp_path / "alone", *lstm, NO_VALIDATION)
    notes = TrainingNotes()
    watched = run(
        data, tmp_path / "watched", *lstm, "trainer.val_check_interval=2", "evaluate.every=2",
        "evaluate.at_end=true", notes=notes,
    )  # fmt: skip
    assert not differing(weights(alone), weights(watched))
    assert notes.evaluated == [2, 4, 5]
    rows = logged(tmp_path / "watched")
    assert [row["step"] for row in rows if row["val_loss"]] == ["2", "4"]
    assert [row["eval_average_length"] for row in rows if row["eval_average_length"]] == [
        "0.2", "0.4", "0.5",
    ]  # fmt: skip
    assert "val_loss" not in logged(tmp_path / "alone")[0]


def test_gradients_of_several_batches_make_one_step(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", "trainer.accumulate_grad_batches=4", "trainer.max_epochs=2")
    # Six batches of four: four in one step, and the two that are left in another.
    assert [float(row["epoch"]) for row in logged(tmp_path / "run")] == pytest.approx(
        [4 / 6, 1, 10 / 6, 2]
    )


def test_a_pretrained_model_starts_with_its_weights(data: Path, tmp_path: Path) -> None:
    vlm = save_vlm(tmp_path / "vlm", "smolvlm", save_weights=True)
    given = ("model=smolvlm", "act_head.type=FCDecoder", "trainer.precision='32'",
             f"vlm.pretrained_model_name_or_path={vlm}", "learning_rate=0",
             "trainer.max_steps=1")  # fmt: skip
    small = [text for text in SMALL if not text.startswith("vlm.sizes")]
    out = tmp_path / "run"
    config = compose_training([f"data={data}", f"out={out}", *small, *given])
    state = weights(train(config.project, out, TrainingNotes()))
    own = load_file(vlm / "model.safetensors")
    assert len(own) > 10
    assert all(torch.equal(state[f"model.backbone.{name}"], own[name]) for name in own)
    assert not [path for path in (out / "vlm").iterdir() if "safetensors" in path.name]


def test_a_folder_without_weights_is_an_error_unless_asked_for(data: Path, tmp_path: Path) -> None:
    vlm = save_vlm(tmp_path / "vlm", "smolvlm")
    small = [text for text in SMALL if not text.startswith("vlm.sizes")]
    given = [f"data={data}", f"out={tmp_path / 'run'}", *small, "model=smolvlm",
             "act_head.type=FCDecoder", f"vlm.pretrained_model_name_or_path={vlm}",
             "trainer.precision='32'", "trainer.max_steps=1"]  # fmt: skip
    config = compose_training(given)
    with pytest.raises(CheckpointError, match=r"vlm\.from_scratch=true"):
        train(config.project, config.out, TrainingNotes())
    config = compose_training([*given, "vlm.from_scratch=true"])
    assert train(config.project, config.out, TrainingNotes()).position.step == 1


def test_a_loss_that_is_no_number_ends_the_training(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CalvinEvalError, match=r"step \d+: the loss is nan"):
        run(data, tmp_path / "run", "learning_rate=1e30", "trainer.max_steps=5")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.precision=8", "unknown trainer.precision '8'"),
        ("trainer.precision=16-mixed", "needs a GPU"),
        ("trainer.accelerator=tpu", "unknown trainer.accelerator 'tpu'"),
        ("train_dataset.tasks=[open_drawr]", "Did you mean 'open_drawer'"),
        ("vlm.sizes.layers=3", "expected sizes among"),
        ("compat.act_insert=rows", "unknown value of act_insert"),
        ("trainer.logger=[tensorbord]", "unknown trainer.logger"),
    ],
)
def test_a_training_that_cannot_start_leaves_no_folder(
    data: Path, tmp_path: Path, override: str, message: str
) -> None:
    if torch.cuda.is_available() and "16-mixed" in override:
        pytest.skip("float16 works on this machine's GPU")
    with pytest.raises(UsageError, match=message):
        run(data, tmp_path / "run", override)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_training_cannot_go_on(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="expected a training to go on with"):
        run(None, tmp_path)


def test_a_gpu_beside_a_training_on_the_cpu_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, str]] = []

    def note(device: str, way: str) -> str:
        given.append((device, way))
        return " (a GPU is idle)"

    monkeypatch.setattr("calvin_eval.vla.training.machine.idle_gpu", note)
    notes = TrainingNotes()
    run(data, tmp_path / "run", "trainer.max_steps=1", NO_VALIDATION, notes=notes)
    assert notes.facts is not None
    assert notes.facts.device == "cpu (a GPU is idle)"
    assert given == [("cpu", "trainer.accelerator=gpu")]


def test_bfloat16_trains_on_a_cpu(data: Path, tmp_path: Path) -> None:
    half = ("trainer.precision=bf16-mixed", "trainer.max_steps=2")
    outcome = run(data, tmp_path / "run", *half)
    assert all(value.dtype == torch.float32 for value in weights(outcome).values())
    assert 0 < outcome.values["train_loss"] < 10


@pytest.mark.slow
@pytest.mark.processes
def test_two_processes_train_as_one_does_with_their_batches_together(
    data: Path, tmp_path: Path
) -> None:
    """Chunks of one action: all actions are real, so means of halves are means of the whole."""
    given = ("fwd_pred_next_n=1", "trainer.max_steps=4", "learning_rate=1e-4", NO_VALIDATION)
    run(data, tmp_path / "one", *given, "batch_size=4")
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *("-m", "calvin_eval", "train", f"data={data}", f"out={tmp_path / 'two'}"),
        *(*SMALL, *given, "batch_size=2"),
    ]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("trained at step 4") == 1, "one process tells"
    with pytest.raises(RunFolderError, match=r"expected 2 processes, as .* found 1"):
        run(None, tmp_path / "two", "trainer.max_steps=6")
    one, two = logged(tmp_path / "one"), logged(tmp_path / "two")
    for name in ("train_loss", "grad_norm"):
        found = [float(row[name]) for row in two]
        assert found == pytest.approx([float(row[name]) for row in one], rel=1e-4), name


def test_another_number_of_processes_does_not_go_on(data: Path, tmp_path: Path) -> None:
    """A state of the first versions, which did not write the number, is gone on with."""
    run(data, tmp_path / "run", "trainer.max_steps=1", NO_VALIDATION)
    path = tmp_path / "run" / "resume" / "position.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    assert values["processes"] == 1
    path.write_text(json.dumps({**values, "processes": 3}), encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"expected 3 processes, as .* found 1"):
        run(None, tmp_path / "run", "trainer.max_steps=2")
    del values["processes"]
    path.write_text(json.dumps(values), encoding="utf-8")
    assert run(None, tmp_path / "run", "trainer.max_steps=2").position.step == 2
