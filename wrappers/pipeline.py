"""A policy between stages: every convention explicit, in the order in which it is applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calvin_eval.wrappers.outputs import Outputs
from calvin_eval.wrappers.policy import BasePolicy, Chunk, Policy, Request, with_defaults
from calvin_eval.wrappers.stages.base import ActionStage, Context, ObservationStage


@dataclass
class _Answer:
    """How far a request has come: seen by the policy as `seen`, answered by it, decoded."""

    request: Request
    seen: Request
    output: Any = None
    chunk: Chunk | None = None


class Pipeline(BasePolicy):
    """Applies observation stages, asks the policy, and applies action stages.

    Stages remember per session, so a batch gives what a loop over its requests would give. What
    they remember lies here and is freed when the session ends. If one request of a batch fails,
    the others may be asked again (`Request.attempt`): what was done for them is not repeated.

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
        self._policy = with_defaults(policy)
        self.observe = dict(observe)
        self.actions = dict(actions)
        self.requirements = self._policy.requirements
        for stage in self.observe.values():
            self.requirements = stage.requires(self.requirements)
        self._memories: dict[int, dict[tuple[str, str], dict[str, Any]]] = {}
        self._answers: dict[int, _Answer] = {}
        self._outputs = Outputs() if self.requirements.actions else None

    def reset(self, session: int, instruction: str) -> None:
        """Forget the session in every stage and in the policy."""
        self._memories[session] = {}
        self._answers.pop(session, None)
        if self._outputs is not None:
            self._outputs.forget(session)
        self._policy.reset(session, self._instruction(instruction))

    def end(self, session: int) -> None:
        """Free what the stages and the policy keep for the session."""
        self._memories.pop(session, None)
        self._answers.pop(session, None)
        if self._outputs is not None:
            self._outputs.forget(session)
        self._policy.end(session)

    def report(self) -> Mapping[str, Any] | None:
        """What the policy reports."""
        return self._policy.report()

    def act(self, requests: Sequence[Request]) -> list[Chunk]:
        """Decide for every request."""
        answers = [self._answer(request) for request in requests]
        new = [answer for answer in answers if answer.output is None]
        outputs = self._policy.act([answer.seen for answer in new]) if new else ()
        for answer, output in zip(new, outputs, strict=True):
            answer.output = output
        chunks = []
        for answer in answers:
            if answer.chunk is None:
                answer.chunk = self._decoded(answer.output, answer.request)
            chunks.append(answer.chunk)
        for request in requests:
            answer = self._answers.pop(request.session)
            if self._outputs is not None:
                self._outputs.keep(request, answer.output)
        return chunks

    def _answer(self, request: Request) -> _Answer:
        """The request's answer so far: a new one, unless a batch with it failed before."""
        answer = self._answers.pop(request.session, None)
        if answer is None or not request.attempt:
            if self._outputs is not None:
                request = self._outputs.resolved(request)
            answer = _Answer(request, self._seen(request))
        else:
            answer.seen = replace(answer.seen, attempt=request.attempt)
        self._answers[request.session] = answer
        return answer

    def _seen(self, request: Request) -> Request:
        """The request as the wrapped policy is to see it."""
        frames: Sequence[Mapping[str, Any]] = (*request.frames, request.obs)
        for label, stage in self.observe.items():
            frames = stage(frames, self._context(request, "observe", label))
        needs = self._policy.requirements
        return replace(
            request,
            obs=frames[-1],
            frames=tuple(frames[:-1]) if needs.every_step else (),
            instruction=self._instruction(request.instruction),
            executed=tuple(request.executed[-needs.actions :]) if needs.actions else (),
        )

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
