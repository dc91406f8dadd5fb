"""`builtin:expert`: the scripted policy behind the policy protocol."""

from __future__ import annotations

from collections.abc import Sequence

from calvin_eval.errors import PolicyError, UnknownNameError
from calvin_eval.wrappers.builtin.expert.geometry import TABLES
from calvin_eval.wrappers.builtin.expert.motion import Arm, Astray, Motion
from calvin_eval.wrappers.builtin.expert.tasks import program
from calvin_eval.wrappers.builtin.expert.view import Array, View
from calvin_eval.wrappers.policy import BasePolicy, Request, Requirements


class _Session:
    """One chain's subtask: what is seen, and the program that runs."""

    def __init__(self, request: Request, scene: str) -> None:
        if request.task is None or request.info is None:
            raise PolicyError(
                "builtin:expert: expected requests with the task's name and the simulator's info, "
                "found none: an engine gives them to policies that require privileged state."
            )
        self.position = request.position
        self._view = View(TABLES[scene])
        self._program = program(request.task)
        self._motion: Motion = iter(())
        self._arm: Arm | None = None

    def act(self, request: Request) -> Array:
        """The next action; a program that has ended without success starts again."""
        assert request.info is not None
        self._view.update(request.obs, request.info)
        try:
            action = next(self._motion, None)
        except Astray:
            action = None
        if action is None:
            known = self._arm is not None and self._arm.followed
            self._arm = Arm(self._view, self._arm.target if self._arm and known else None)
            self._motion = self._program(self._arm)
            action = next(self._motion, None)
            if action is None:  # all goals are reached: the oracle has to see it
                (action,) = self._arm.wait(1)
        return action

    def follow(self, action: Array) -> None:
        """Take in that another action (7,) than the last one was executed."""
        if self._arm is not None:
            self._arm.follow(action)


class ExpertPolicy(BasePolicy):
    """Solves the benchmark's tasks from the simulator's own state; it never sees an image.

    Closed loop: every decision is one relative action (7,) float64 with components in [-1, 1] and
    a gripper command of -1 or 1, computed from the state after the one before. Deterministic, and
    without memory beyond the subtask.

    Args:
        scene: A, B, C or D.
    """

    def __init__(self, scene: str = "D") -> None:
        if scene not in TABLES:
            raise UnknownNameError("scene", scene, TABLES)
        self.requirements = Requirements(privileged=True)
        self.scene = scene
        self._sessions: dict[int, _Session] = {}

    def reset(self, session: int, instruction: str) -> None:
        """Forget the session's subtask."""
        self._sessions.pop(session, None)

    def end(self, session: int) -> None:
        """Free the session's program."""
        self._sessions.pop(session, None)

    def act(self, requests: Sequence[Request]) -> list[Array]:
        """Decide one action, shape (1, 7), for every request.

        Raises:
            UnknownNameError: a task that is none of the benchmark's 34.
            PolicyError: a request without privileged state.
        """
        return [self._session(request).act(request)[None] for request in requests]

    def follow(self, session: int, action: Array) -> None:
        """Take in that another action than the last one of a session was executed.

        What the expert says next is still its own plan, from where that action led; a goal that
        is not reached because of others' actions makes it plan anew.

        Args:
            session: the chain's id.
            action: relative, (7,).
        """
        if session in self._sessions:
            self._sessions[session].follow(action)

    def _session(self, request: Request) -> _Session:
        known = self._sessions.get(request.session)
        if known is None or known.position != request.position:
            known = self._sessions[request.session] = _Session(request, self.scene)
        return known
