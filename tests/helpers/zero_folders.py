"""ZeRO checkpoints as DeepSpeed lays them out, made by hand from a state dict."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Groups = Sequence[Mapping[str, Tensor]]


def save_zero(
    folder: Path,
    groups: Groups,
    *,
    stage: int,
    ranks: int,
    buffers: Mapping[str, Tensor] | None = None,
    frozen: Mapping[str, Tensor] | None = None,
    shared: Mapping[str, str] | None = None,
    extra: Mapping[str, Any] | None = None,
    zero_stage: Any = None,
) -> Path:
    """Write a folder with tag `checkpoint`; parameters of one optimizer group per mapping."""
    place = folder / "checkpoint"
    place.mkdir(parents=True)
    (folder / "latest").write_text("checkpoint\n", encoding="utf-8")
    optimizer = _stage_3(groups, ranks) if stage == 3 else _stage_2(groups, ranks)
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    for rank in range(ranks):
        states = {
            "zero_stage": stage if zero_stage is None else zero_stage,
            "partition_count": ranks if stage == 3 else [ranks] * len(groups),
            key: optimizer[rank],
        }
        torch.save(
            {"optimizer_state_dict": states, "ds_version": "0.16.0"},
            place / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt",
        )
    everything = {name: value for group in groups for name, value in group.items()}
    halves = {name: value.half() for name, value in everything.items()}
    frozen = frozen or {}
    for rank in range(ranks if stage == 3 else 1):
        fragments = {
            name: _part(value, rank, ranks) if stage == 3 else value
            for name, value in frozen.items()
        }
        states = {
            "module": {**halves, **frozen, **(buffers or {})},
            "buffer_names": list(buffers or {}),
            "param_shapes": [
                OrderedDict((n, v.shape) for n, v in group.items()) for group in groups
            ],
            "frozen_param_shapes": {name: value.shape for name, value in frozen.items()},
            "frozen_param_fragments": fragments,
            "shared_params": dict(shared or {}),
            "ds_version": "0.16.0",
            **(extra or {}),
        }
        name = f"zero_pp_rank_{rank}_mp_rank_00" if stage == 3 else "mp_rank_00"
        torch.save(states, place / f"{name}_model_states.pt")
    return folder


def _stage_2(groups: Groups, ranks: int) -> list[list[Tensor]]:
    """Each group flattened, padded to a multiple of 2 * ranks, and cut evenly."""
    parts: list[list[Tensor]] = [[] for _ in range(ranks)]
    for group in groups:
        flat = torch.cat([value.flatten().float() for value in group.values()])
        flat = torch.cat([flat, torch.full((-len(flat) % (2 * ranks),), 99.0)])
        for rank, part in enumerate(flat.chunk(ranks)):
            parts[rank].append(part.clone())
    return parts


def _stage_3(groups: Groups, ranks: int) -> list[list[Tensor]]:
    """Each parameter padded and cut; a rank's cuts of one group follow one another."""
    return [
        [
            torch.cat([_part(value.float(), rank, ranks) for value in group.values()])
            for group in groups
        ]
        for rank in range(ranks)
    ]


def _part(value: Tensor, rank: int, ranks: int) -> Tensor:
    size = math.ceil(value.numel() / ranks)
    flat = torch.cat([value.flatten(), torch.full((size * ranks - value.numel(),), 77.0)])
    return flat[rank * size : (rank + 1) * size].clone()
