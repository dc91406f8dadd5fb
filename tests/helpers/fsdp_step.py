"""One training step of a tiny model, sharded over processes if there are several.

    python fsdp_step.py FOLDER OUT

FOLDER is a model's; OUT receives losses and weights after two steps, from the first process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import tiny_vlm
import torch
from tiny_batch import batch
from torch import Tensor
from torch import distributed as dist

from calvin_eval.vla.compat import Compat
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.training.forward import Trainee
from calvin_eval.vla.training.setup import TrainSetup, prepare


def main(folder: Path, out: Path) -> None:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    torch.manual_seed(0)
    config = tiny_vlm.project("kosmos", window_size=3, fwd_pred_next_n=2)
    model = RoboVLM.build(config, folder, Compat())
    tiny_vlm.set_weights(model)
    prepare(model, TrainSetup(train_vision=True, train_text_embedding=True))
    trainee: Any = Trainee(model).train()
    if world > 1:
        from torch.distributed.fsdp import fully_shard

        dist.init_process_group("gloo")
        for layer in model.parts.layers:
            fully_shard(layer)
        fully_shard(trainee)
    optimizer = torch.optim.AdamW(trainee.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = trainee(batch())["loss"]
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    state = {name: whole(value) for name, value in trainee.state_dict().items()}
    shards = sum(whole_size(value) for value in trainee.parameters())
    if int(os.environ.get("RANK", "0")) == 0:
        torch.save({"losses": losses, "state": state, "held": shards}, out)
    if world > 1:
        dist.destroy_process_group()


def whole(value: Any) -> Tensor:
    """A parameter gathered from all processes."""
    full: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return full.detach().clone()


def whole_size(value: Any) -> int:
    """Numbers of a parameter that this process holds."""
    local = value.to_local() if hasattr(value, "to_local") else value
    return int(local.numel())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
