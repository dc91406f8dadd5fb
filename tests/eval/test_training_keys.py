"""No key of a project file is dropped in silence when a training starts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from tiny_vlm import project

from calvin_eval.cli.main import cli
from calvin_eval.config.training import TrainConfig, compose_training
from calvin_eval.errors import UsageError
from calvin_eval.vla.keys import IDLE, READ, leaves

ROOT = Path(__file__).parents[2]


def compose(folder: Path, *overrides: str, **values: Any) -> TrainConfig:
    """What a project file like RoboVLMs' comes to; sections are laid over its own."""
    document = project("kosmos")
    for key, value in values.items():
        old = document.get(key)
        merges = isinstance(value, dict) and isinstance(old, dict)
        document[key] = dict(old or {}, **value) if merges else value
    path = folder / "project.json"
    path.write_text(json.dumps(document))
    return compose_training([f"model={path}", f"data={folder}", *overrides])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_dataset": {"type": "OpenVLADataset", "data_mix": "bridge"}}, "data_root_dir=FOLD"),
        ({"val_dataset": {"type": "OpenVLADataset"}}, "val_dataset: OpenVLADataset needs"),
        ({"val_dataset": {"type": "RTXDataset"}}, r"val_dataset\.type"),
        ({"train_dataset": {"few_shot": True}}, r"pairs=PATH/10_shot_task_data\.json"),
        ({"train_dataset": {"partial_data": True}}, r"pairs=PATH/data_name_list\.txt"),
        ({"train_dataset": {"text_aug": True}}, "the original fails with it"),
        ({"train_dataset": {"predict_stop_token": "yes"}}, "expected true or false"),
        ({"train_dataset": {"lang_folder": "other"}}, "lang_annotations"),
        ({"val_dataset": [{"type": "DiskCalvinDataset"}]}, "choose one of them"),
        (
            {"train_dataset": [{"type": "VideoLLaVADataset"}]},
            "of type DiskCalvinDataset or OpenVLA",
        ),
        ({"train_dataset": {"type": "ConcatDataset", "datasets": []}}, "DiskCalvinDataset"),
        ({"train_dataset": [{}], "weights": [1, 2]}, "weights: expected a list of 1"),
        ({"cotrain": [{"type": "VideoLLaVADataset"}]}, "expected data_dir"),
        ({"cotrain": [{"type": "VideoLLaVA", "data_dir": "x"}]}, "VideoLLaVADataset"),
        ({"cotrain": [{"data_dri": "x"}]}, "data_dir"),
        ({"cotrain": [{"type": "ImageTextDataset", "data_dir": "x"}], "weights": [0, 0]}, "from 0"),
        ({"resume": "runs/old/last.ckpt"}, "model_load_path=CHECKPOINT"),
        ({"train_setup": {"reinit": True}}, r"vlm\.from_scratch=true"),
        ({"trainer": {"limit_train_batches": 0.1}}, r"trainer\.max_steps=N"),
        ({"trainer": {"overfit_batches": 8}}, "expected 0"),
        ({"trainer": {"check_val_every_n_epoch": 3}}, r"val_check_interval=N"),
        ({"fwd_head": {"type": "TheirOwn"}}, "expected ImageDecoder"),
    ],
)
def test_what_would_change_the_training_is_refused(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        compose(tmp_path, **values)


def test_the_same_keys_are_accepted_where_they_ask_for_nothing(tmp_path: Path) -> None:
    config = compose(
        tmp_path,
        train_dataset={"type": "DiskCalvinDataset", "few_shot": False, "partial_data": False,
                       "text_aug": False, "lang_folder": "lang_annotations"},
        resume=None, use_clip_norm=False, train_setup={"reinit": False},
        trainer={"limit_train_batches": 1.0, "overfit_batches": 0, "check_val_every_n_epoch": 1},
    )  # fmt: skip
    assert not {key for key in config.idle if key.startswith("train_dataset")} - {
        "train_dataset.lang_folder"
    }


def test_a_few_shot_list_that_is_named_is_used(tmp_path: Path) -> None:
    named = f"train_dataset.pairs={tmp_path / '10_shot_task_data.json'}"
    config = compose(tmp_path, named, train_dataset={"few_shot": True, "pairs": None})
    assert config.project["train_dataset"]["pairs"].endswith("10_shot_task_data.json")
    assert "train_dataset.few_shot" not in config.idle


def test_what_has_no_effect_is_listed_with_the_reason(tmp_path: Path) -> None:
    config = compose(
        tmp_path,
        optimizer="adamw", image_mean=[0.4, 0.4, 0.4], gpus=8, num_nodes=2, cap_loss_ratio=0.05,
        fwd_loss_ratio=1.0, kl_div_ratio=0.1, use_state=True, act_encoder={"type": "X"},
        use_time_causal_attn=True, vision_masked_ratio=0.8, seq_len=1, data_scale=1,
        vision_resampler={"depth": 8}, train_setup={"mm_projector_lr": 1e-4, "precision": "bf16"},
        trainer={"strategy": "deepspeed_stage_2", "max_time": "1:00"},
        train_dataset={"key": "lang"},
    )  # fmt: skip
    assert {
        "optimizer", "image_mean", "gpus", "num_nodes", "cap_loss_ratio", "fwd_loss_ratio",
        "kl_div_ratio", "act_encoder", "use_time_causal_attn",
        "vision_masked_ratio", "seq_len", "data_scale", "vision_resampler.depth",
        "train_setup.mm_projector_lr", "train_setup.precision", "trainer.strategy",
        "trainer.max_time", "train_dataset.key", "act_head.with_history", "act_head.window_size",
        "act_head.fwd_pred_next_n", "tokenizer.type", "vlm.type",
    } <= set(config.idle)  # fmt: skip
    assert "use_state" not in config.idle
    assert "no fwd_head" in config.idle["fwd_loss_ratio"]
    assert "launcher" in config.idle["trainer.strategy"]
    assert "Lightning" in config.idle["trainer.max_time"]
    assert not {"norm_action", "window_size", "act_head.hidden_size"} & set(config.idle)


def test_a_list_of_data_sets_is_one_of_actions_and_others_beside_it(tmp_path: Path) -> None:
    """RoboVLMs' form: weights and sizes of batches in the order of the list."""
    sentences = {"type": "VideoLLaVADataset", "data_paths": ["a.json"], "image_folder": "images"}
    actions = {"type": "DiskCalvinDataset", "data_dir": "there", "rgb_pad": 3}
    config = compose(
        tmp_path, train_dataset=[sentences, actions], weights=[0.2, 0.8], batch_size=[16, 4],
        num_workers=[2, 1], cap_loss_ratio=0.05,
    )  # fmt: skip
    project = config.project
    assert project["train_dataset"]["rgb_pad"] == 3
    assert project["train_dataset"]["data_dir"] == str(tmp_path / "training")
    assert (project["batch_size"], project["num_workers"]) == (4, 1)
    assert project["weights"] == [0.8, 0.2]
    assert project["cotrain"] == [{**sentences, "batch_size": 16, "num_workers": 2}]
    assert "vl_cotrain_ratio" not in config.idle
    assert "ImageTextDataset" in config.idle["cap_loss_ratio"]


def test_parts_that_a_configuration_lacks_make_keys_idle(tmp_path: Path) -> None:
    head = {"type": "ImageDecoder"}
    config = compose(tmp_path, fwd_head=head, vision_masked_ratio=0.5, use_state=True)
    assert {"fwd_head.type", "vision_masked_ratio"} <= set(config.idle)
    assert "predict_forward is false" in config.idle["fwd_head.type"]
    setup = {"predict_forward": True, "predict_forward_hand": True}
    config = compose(tmp_path, fwd_head=head, train_setup=setup, fwd_loss_ratio=1.0)
    assert not {"fwd_head.type", "fwd_loss_ratio", "train_setup.predict_forward"} & set(config.idle)
    assert "pred_hand_image" in config.idle["train_setup.predict_forward_hand"]
    config = compose(tmp_path, "compat.state_token=ignored", use_state=True)
    assert "misspelt" in config.idle["use_state"]


def test_every_key_of_a_file_is_known_refused_or_listed(tmp_path: Path) -> None:
    values = {"something": 1, "train_setup": {"another": {"deep": 2}}, "norm_min": -0.5}
    config = compose(tmp_path, **values)
    listed = set(config.idle)
    assert {"something", "train_setup.another.deep"} <= listed
    written = json.loads((tmp_path / "project.json").read_text())
    packaged = dict(leaves(compose_training([f"data={tmp_path}"]).project))
    for key, value in leaves(written):
        off = value is None or value is False
        assert off or key in listed or key in packaged or key in READ, key


def test_a_training_without_a_file_lists_nothing(tmp_path: Path) -> None:
    assert compose_training([f"data={tmp_path}"]).idle == {}
    changed = compose_training([f"data={tmp_path}", "cap_loss_ratio=0.5"])
    assert list(changed.idle) == ["cap_loss_ratio"]


def test_keys_of_the_packaged_configuration_are_read_or_said_to_be_idle() -> None:
    packaged = yaml.safe_load((ROOT / "eval" / "conf" / "train.yaml").read_text())
    del packaged["defaults"]
    sources = "".join(
        path.read_text()
        for folder in ("vla", "eval")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "keys.py"
    )
    for key, _ in leaves(packaged):
        name = key.rpartition(".")[2]
        read = re.search(rf'"([a-z_]+\.)?{name}"|^    {name}: ', sources, re.MULTILINE)
        assert read or key in IDLE, key


@pytest.mark.slow
def test_the_list_is_printed_with_the_configuration(tmp_path: Path) -> None:
    compose(tmp_path, gpus=8)
    arguments = ["train", f"model={tmp_path / 'project.json'}", f"data={tmp_path}"]
    result = CliRunner().invoke(cli, [*arguments, "--print-config"], catch_exceptions=False)
    assert yaml.safe_load(result.stdout)["gpus"] == 8
    assert "# has no effect (as in the original): gpus" in result.stdout
