"""A policy between stages: every convention explicit, in the order in which it is applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from calvin_eval.wrappers.policy import Chunk, Policy, Request
from calvin_eval.wrappers.stages.base import ActionStage, Context, ObservationStage


class Pipeline:
    """Applies observation stages, asks the policy, and applies action stages.

    Stages remember per session, so a batch gives what a loop over its requests would give.

    Args:
        policy: what is wrapped; it sees requests whose `obs` the observation stages made.
        observe: observation stages by their label, in execution order.
        actions: action stages by their label, in execution order.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        observe: Mapping[str, ObservationStage],
        actions: Mapping[str, ActionStage],
    ) -> None:
        self.policy = policy
        self.observe = dict(observe)
        self.actions = dict(actions)
        needs = policy.requirements
        every_frame = any(stage.every_frame for stage in self.observe.values())
        self.requirements = replace(needs, every_step=needs.every_step or every_frame)
        limit = getattr(policy, "max_sessions", None)
        if limit is not None:
            self.max_sessions = limit
        self._memories: dict[int, dict[tuple[str, str], dict[str, Any]]] = {}

    def reset(self, session: int, instruction: str) -> None:
        """Forget the session in every stage and in the policy."""
        self._memories[session] = {}
        self.policy.reset(session, self._instruction(instruction))

    def act(self, requests: Sequence[Request]) -> list[Chunk]:
        """Decide for every request."""
        chunks = self.policy.act([self._seen(request) for request in requests])
        return [self._decoded(c, r) for c, r in zip(chunks, requests, strict=True)]

    def _seen(self, request: Request) -> Request:
        """The request as the wrapped policy is to see it."""
        frames: Sequence[Mapping[str, Any]] = (*request.frames, request.obs)
        for label, stage in self.observe.items():
            frames = stage(frames, self._context(request, "observe", label))
        kept = tuple(frames[:-1]) if self.policy.requirements.every_step else ()
        instruction = self._instruction(request.instruction)
        return replace(request, obs=frames[-1], frames=kept, instruction=instruction)

    def _decoded(self, actions: Any, request: Request) -> Chunk:
        for label, stage in self.actions.items():
            actions = stage(actions, self._context(request, "actions", label))
        chunk: Chunk = actions
        return chunk

    def _instruction(self, text: str) -> str:
        for stage in self.observe.values():
            text = stage.instruction(text)
        return text

    def _context(self, request: Request, side: str, label: str) -> Context:
        memories = self._memories.setdefault(request.session, {})
        return Context(request, memories.setdefault((side, label), {}))
