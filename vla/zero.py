"""DeepSpeed's ZeRO checkpoints: float32 weights from the optimizer's partitions.

A folder has a text file `latest` that names a tag, and under the tag `*_model_states.pt` (names,
shapes, buffers, frozen weights) and one `*_optim_states.pt` per rank with that rank's part of the
flattened float32 weights. DeepSpeed itself is not needed. The layout: DeepSpeed's checkpoints,
stages 1 to 3, as of versions 0.9 to 0.19.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calvin_eval.errors import CheckpointError
from calvin_eval.vla.torch_files import Placeholder, read_torch_file

GROUPS_KEY = {
    1: "single_partition_of_fp32_groups",
    2: "single_partition_of_fp32_groups",
    3: "fp32_flat_groups",
}


@dataclass(frozen=True)
class ZeroWeights:
    """What a folder held.

    Attributes:
        state: weights and buffers by the names they had in training.
        tag: the folder that `latest` named.
        stage: ZeRO's stage; 0 if there were no optimizer partitions, and `state` is the module's
            own weights in the precision of training.
        ranks: number of partitions.
    """

    state: dict[str, Tensor]
    tag: str
    stage: int
    ranks: int


def read_zero(folder: Path) -> ZeroWeights:
    """Rebuild the weights in memory; nothing is written.

    Raises:
        CheckpointError: files are missing, damaged, or of a layout that is not known.
    """
    tag = (folder / "latest").read_text(encoding="utf-8").strip()
    place = folder / tag
    models = [_model_states(path) for path in _ranked(place, "*_model_states.pt")]
    files = _ranked(place, "*_optim_states.pt")
    if not files:
        return ZeroWeights(_module_weights(place, models), tag, 0, 1)
    optimizers = [_optimizer_state(path) for path in files]
    stage = _number(optimizers[0].get("zero_stage"))
    if stage not in GROUPS_KEY:
        raise CheckpointError(f"{place}: expected ZeRO stage 1, 2 or 3, found {stage}.")
    _check_ranks(place, stage, models, optimizers)
    groups = [optimizer[GROUPS_KEY[stage]] for optimizer in optimizers]
    state: dict[str, Tensor] = _buffers(models[0])
    try:
        if stage == 3:
            state.update(_frozen_3(models))
            state.update(_trained_3(models[0], groups))
        else:
            state.update(models[0].get("frozen_param_fragments") or {})
            paddings = optimizers[0].get("param_alignment_paddings")
            state.update(_trained_2(models[0], groups, paddings))
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{place}: the partitions do not hold what the list of shapes asks for ({error}): "
            "copy the folder again."
        ) from error
    for alias, name in (models[0].get("shared_params") or {}).items():
        if name in state:
            state[alias] = state[name]
    return ZeroWeights(state, tag, stage, len(files))


def _ranked(folder: Path, pattern: str) -> list[Path]:
    """Files in the order of the numbers in their names."""

    def numbers(path: Path) -> list[int]:
        return [int(text) for text in re.findall(r"\d+", path.name)]

    return sorted(folder.glob(pattern), key=numbers)


def _model_states(path: Path) -> Mapping[str, Any]:
    states = read_torch_file(path)
    if not isinstance(states, dict) or "module" not in states:
        raise CheckpointError(f"{path} holds no model states: expected the key 'module'.")
    if "mp_rank_00" not in path.name:
        raise CheckpointError(
            f"{path}: weights split by tensor parallelism are not supported: convert them with "
            "DeepSpeed's own tools first."
        )
    return states


def _optimizer_state(path: Path) -> Mapping[str, Any]:
    states = read_torch_file(path)
    inner = states.get("optimizer_state_dict") if isinstance(states, dict) else None
    if not isinstance(inner, dict) or "zero_stage" not in inner:
        raise CheckpointError(f"{path} holds no ZeRO optimizer state: expected 'zero_stage' in it.")
    return inner


def _number(value: Any) -> int:
    """A number that may have been an enumeration's member."""
    if isinstance(value, Placeholder) and value.args:
        value = value.args[0]
    return value if isinstance(value, int) else -1


def _check_ranks(
    place: Path,
    stage: int,
    models: Sequence[Mapping[str, Any]],
    optimizers: Sequence[Mapping[str, Any]],
) -> None:
    count = optimizers[0].get("partition_count")
    wanted = max(count) if isinstance(count, list) else count
    if wanted != len(optimizers):
        raise CheckpointError(
            f"{place}: expected {wanted} files *_optim_states.pt, found {len(optimizers)}: copy "
            "those of all ranks."
        )
    expected = wanted if stage == 3 else 1
    if len(models) != expected:
        raise CheckpointError(
            f"{place}: expected {expected} files *_model_states.pt, found {len(models)}."
        )


def _module_weights(place: Path, models: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    if len(models) != 1:
        raise CheckpointError(
            f"{place}: expected *_optim_states.pt files, found none; the weights are only there."
        )
    module = models[0]["module"]
    return {name: value for name, value in module.items() if isinstance(value, Tensor)}


def _buffers(states: Mapping[str, Any]) -> dict[str, Tensor]:
    names = set(states.get("buffer_names") or ())
    found = {name: value for name, value in states["module"].items() if name in names}
    return {n: v.float() if v.is_floating_point() else v for n, v in found.items()}


def _trained_2(
    states: Mapping[str, Any], groups: Sequence[Sequence[Tensor]], paddings: Any
) -> dict[str, Tensor]:
    """Stages 1 and 2: a group's parameters in one vector, cut evenly over the ranks."""
    state: dict[str, Tensor] = {}
    for index, shapes in enumerate(states["param_shapes"]):
        vector = torch.cat([rank[index] for rank in groups])
        offset = 0
        for position, (name, shape) in enumerate(shapes.items()):
            size = math.prod(shape)
            state[name] = vector.narrow(0, offset, size).view(shape)
            offset += size + (paddings[index][position] if paddings else 0)
        # The end is padded to a multiple of twice the ranks, in ways that differ by version.
        step = 2 * len(groups)
        if math.ceil(offset / step) != math.ceil(len(vector) / step):
            raise ValueError(f"group {index}: used {offset} of {len(vector)} numbers")
    return state


def _trained_3(states: Mapping[str, Any], groups: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    """Stage 3: every parameter cut over the ranks, the parts of one rank in one vector."""
    vectors = [torch.cat(list(rank)) for rank in groups]
    state: dict[str, Tensor] = {}
    offset = 0
    for shapes in states["param_shapes"]:
        for name, shape in shapes.items():
            part = math.ceil(math.prod(shape) / len(vectors))
            pieces = [vector.narrow(0, offset, part) for vector in vectors]
            state[name] = torch.cat(pieces)[: math.prod(shape)].view(shape)
            offset += part
    if offset != len(vectors[0]):
        raise ValueError(f"used {offset} of {len(vectors[0])} numbers of each rank")
    return state


def _frozen_3(models: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    state = {}
    for name, shape in (models[0].get("frozen_param_shapes") or {}).items():
        pieces = [states["frozen_param_fragments"][name] for states in models]
        state[name] = torch.cat(pieces)[: math.prod(shape)].view(shape)
    return state
