"""A wrapper of RoboVLMs' own behind the policy protocol: one model for all chains."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Queue
from typing import Any, TypeAlias

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.policy import BasePolicy, Chunk, Request, Requirements
from calvin_eval.wrappers.returned import to_chunk

State: TypeAlias = "list[dict[str, Any]]"
"""What the wrapper and its heads hold for one chain, in the order of `CheckoutPolicy._holders`."""

HEADS = ("act_head", "lm_head")
"""Where the model keeps the head that remembers: RoboVLMs' `CustomModel.reset`."""


class CheckoutPolicy(BasePolicy):
    """Serves many chains with one wrapper, whose memory is exchanged for each.

    What a wrapper remembers are attributes of its own and of the policy head: counters, lists,
    queues, and the state of an LSTM. All of them that are no modules are kept per chain, so that
    a chain's actions are those that it would get alone.

    Args:
        wrapper: has `reset()` and `step(obs, goal)`, and its network at `model.model`.
        name: how messages call it.
        hand: whether it looks at the gripper camera.
        device: where it computes.
    """

    def __init__(self, wrapper: Any, name: str, *, hand: bool, device: str) -> None:
        self.requirements = Requirements(rgb=("static", "gripper") if hand else ("static",))
        self._wrapper, self._name, self._device = wrapper, name, device
        network = getattr(getattr(wrapper, "model", None), "model", None)
        heads = [getattr(network, head, None) for head in HEADS]
        found = {id(part): part for part in (wrapper, *heads) if part is not None}
        self._holders = tuple(found.values())
        self._sessions: dict[int, State] = {}

    def reset(self, session: int, instruction: str) -> None:
        """Start a subtask: the chain's memory is what the wrapper's own reset leaves."""
        for holder in self._holders:
            vars(holder).update(_own_containers(holder))
        with on_device(self._device):
            self._wrapper.reset()
        self._sessions[session] = self._held()

    def act(self, requests: Sequence[Request]) -> Sequence[Chunk]:
        """One action for each, by one `step` for each.

        Raises:
            PolicyError: a chain that was not reset, or what is returned is not an action.
        """
        return [self._step(request) for request in requests]

    def _step(self, request: Request) -> Chunk:
        state = self._sessions.get(request.session)
        if state is None:
            raise PolicyError(f"{self._name}: chain {request.session} asked before its reset")
        for holder, held in zip(self._holders, state, strict=True):
            vars(holder).update(held)
        obs = {k: dict(v) if isinstance(v, dict) else v for k, v in request.obs.items()}
        with on_device(self._device):
            output = self._wrapper.step(obs, request.instruction)
        self._sessions[request.session] = self._held()
        return to_chunk(output, self._name)

    def end(self, session: int) -> None:
        """Free a chain's memory."""
        self._sessions.pop(session, None)

    def _held(self) -> State:
        return [dict(_remembered(holder)) for holder in self._holders]


def _remembered(holder: Any) -> Iterator[tuple[str, Any]]:
    """Attributes of a wrapper or a head that may be its memory: nothing of PyTorch's own."""
    import torch

    for name, value in vars(holder).items():
        theirs = name.startswith("_") or name == "training"
        if not theirs and not isinstance(value, torch.nn.Module):
            yield name, value


def _own_containers(holder: Any) -> dict[str, Any]:
    """Copies of what a reset may empty in place, which another chain still uses."""
    made: dict[str, Any] = {}
    for name, value in _remembered(holder):
        if isinstance(value, Queue):
            made[name] = type(value)(maxsize=value.maxsize)
        elif isinstance(value, list | dict | set) or type(value).__name__ == "deque":
            made[name] = copy.copy(value)
    return made


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """Let `tensor.cuda()`, which RoboVLMs calls on every batch, mean this device for the while."""
    import torch

    if device.startswith("cuda"):
        with torch.cuda.device(torch.device(device)):
            yield
        return
    before = torch.Tensor.cuda
    torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.cuda = before  # type: ignore[method-assign]
