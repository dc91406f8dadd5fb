"""DeepSpeed's ZeRO folders: what training had is what comes back, and nothing runs on the way."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import Tensor
from zero_folders import save_zero

from calvin_eval.errors import CheckpointError
from calvin_eval.vla.torch_files import Placeholder, read_torch_file
from calvin_eval.vla.zero import read_zero
from calvin_eval.wrappers.loaders.folders import folder_kind


def groups() -> list[dict[str, Tensor]]:
    """Sizes that no number of ranks divides, in two optimizer groups."""
    torch.manual_seed(0)
    first = {"a.weight": torch.randn(3, 5), "a.bias": torch.randn(5), "scalar": torch.randn(())}
    return [first, {"b.weight": torch.randn(7, 1, 3)}]


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 3, 11])
def test_weights_come_back_exactly(tmp_path: Path, stage: int, ranks: int) -> None:
    frozen = {"f.weight": torch.randn(3, 3)}
    buffers = {"position_ids": torch.arange(5), "mean": torch.randn(3).half()}
    folder = save_zero(
        tmp_path / "x.ckpt", groups(), stage=stage, ranks=ranks, frozen=frozen, buffers=buffers,
        shared={"tied.weight": "a.weight"},
    )  # fmt: skip
    found = read_zero(folder)
    assert (found.stage, found.ranks, found.tag) == (stage, ranks, "checkpoint")
    one, two = groups()
    expected = {**one, **two, **frozen, "tied.weight": one["a.weight"]}
    expected |= {"position_ids": torch.arange(5), "mean": buffers["mean"].float()}
    same(found.state, expected)
    assert folder_kind(folder) == "robovlms"


def test_without_partitions_the_modules_own_weights_are_used(tmp_path: Path) -> None:
    folder = save_zero(tmp_path / "x.ckpt", groups(), stage=2, ranks=2)
    for path in (folder / "checkpoint").glob("*_optim_states.pt"):
        path.unlink()
    found = read_zero(folder)
    one, two = groups()
    assert found.stage == 0
    same(found.state, {name: value.half() for name, value in {**one, **two}.items()})


def test_a_missing_rank_is_named(tmp_path: Path) -> None:
    folder = save_zero(tmp_path / "x.ckpt", groups(), stage=2, ranks=2)
    (folder / "checkpoint" / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(CheckpointError, match=r"expected 2 files \*_optim_states\.pt, found 1"):
        read_zero(folder)
    folder = save_zero(tmp_path / "y.ckpt", groups(), stage=3, ranks=2)
    (folder / "checkpoint" / "zero_pp_rank_1_mp_rank_00_model_states.pt").unlink()
    with pytest.raises(CheckpointError, match=r"expected 2 files \*_model_states\.pt, found 1"):
        read_zero(folder)


@pytest.mark.parametrize("stage", [2, 3])
def test_partitions_of_another_model_are_refused(tmp_path: Path, stage: int) -> None:
    folder = save_zero(tmp_path / "x.ckpt", groups(), stage=stage, ranks=2)
    larger = [{name: torch.cat([v.flatten()] * 3) for name, v in g.items()} for g in groups()]
    other = save_zero(tmp_path / "y.ckpt", larger, stage=stage, ranks=2)
    for path in (other / "checkpoint").glob("*_model_states.pt"):
        path.replace(folder / "checkpoint" / path.name)
    with pytest.raises(CheckpointError, match="do not hold what the list of shapes asks for"):
        read_zero(folder)


def test_foreign_classes_are_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed pickles its own classes: an enumeration for the stage, a loss scaler."""
    ran: list[str] = []

    class Stage:
        def __init__(self, value: int) -> None:
            ran.append("Stage")
            self.value = value

        def __reduce__(self) -> tuple[type, tuple[int]]:
            return Stage, (self.value,)

    class Scaler:
        def __setstate__(self, state: dict[str, int]) -> None:
            ran.append("Scaler")

        def __getstate__(self) -> dict[str, int]:
            return {"scale": 1}

    module = types.ModuleType("deepspeed_like")
    for kind in (Stage, Scaler):
        kind.__module__, kind.__qualname__ = "deepspeed_like", kind.__name__
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "deepspeed_like", module)
    folder = save_zero(
        tmp_path / "x.ckpt", groups(), stage=2, ranks=1, zero_stage=Stage(2),
        extra={"loss_scaler": Scaler()},
    )  # fmt: skip
    ran.clear()
    monkeypatch.delitem(sys.modules, "deepspeed_like")
    found = read_zero(folder)
    one, two = groups()
    assert found.stage == 2
    same(found.state, {**one, **two})
    assert ran == []
    states = read_torch_file(folder / "checkpoint" / "mp_rank_00_model_states.pt")
    assert isinstance(states["loss_scaler"], Placeholder)
    assert "deepspeed_like" not in sys.modules


class Evil:
    def __init__(self, call: tuple[object, tuple[str]]) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return self.call


@pytest.mark.parametrize("function", [os.system, eval])
def test_a_file_that_wants_to_run_code_does_not(tmp_path: Path, function: object) -> None:
    trace = tmp_path / "ran"
    path = tmp_path / "x.ckpt"
    text = f"touch {trace}" if function is os.system else f"open({str(trace)!r}, 'w').close()"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "evil": Evil((function, (text,)))}, path)
    if function is os.system:
        with pytest.raises(CheckpointError, match="without running code from it"):
            read_torch_file(path)
    else:
        assert read_torch_file(path)["evil"].args == (text,)
    assert not trace.exists()


def test_the_legacy_format_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    content = {"state_dict": {"w": torch.arange(3.0)}, "hyper_parameters": Evil((print, ("hi",)))}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    found = read_torch_file(path)
    assert torch.equal(found["state_dict"]["w"], torch.arange(3.0))
    assert isinstance(found["hyper_parameters"], Placeholder)
