"""Policy processes, one per device, started, watched and replaced by the parent."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from calvin_eval.errors import CalvinEvalError, CheckpointError
from calvin_eval.rollouts import confinement, plain_messages
from calvin_eval.rollouts.batching import BatchRules
from calvin_eval.rollouts.confinement.room import Room
from calvin_eval.rollouts.policy_errors import UnreadableAnswerError
from calvin_eval.rollouts.policy_log import PolicyLog
from calvin_eval.rollouts.printed import PrintedHere
from calvin_eval.rollouts.processes import Child
from calvin_eval.rollouts.service import BUSY, REPORT, PolicySpec, ServiceReady, ServiceSetup
from calvin_eval.rollouts.worker import PolicyLink

_ANSWER_SECONDS = 10.0
_DYING_SECONDS = 0.5  # until the end of a process whose socket has closed can be seen


class PolicyHost(Protocol):
    """Where a policy is, and how its process is watched and replaced."""

    @property
    def link(self) -> PolicyLink:
        """Where workers find it now."""

    @property
    def alive(self) -> bool:
        """Whether it answers workers, as far as can be seen."""

    def hangs(self, seconds: float) -> bool:
        """Whether the policy has been at one batch for that long, or does not answer at all."""

    def report(self) -> list[Mapping[str, Any]]:
        """What the policy reports of the run so far; nothing if it does not answer."""

    def printed(self) -> str:
        """The last lines that the policy printed, as far as they can be seen from here."""

    def replace(self) -> str:
        """End the process, dead or stuck, and start another; returns how the old one ended."""

    def close(self) -> None:
        """End the process."""


class ServingHost(PolicyHost, Protocol):
    """A host that loaded its policy.

    Attributes:
        ready: the description, metadata and requirements of the loaded policy, and its address.
    """

    ready: ServiceReady


class EndedProcess(Protocol):
    """A process, or an actor, that is to be ended."""

    @property
    def alive(self) -> bool:
        """Whether it is still there."""

    def exit_report(self) -> str:
        """How it ended."""

    def kill(self) -> None:
        """End it at once."""


def end(process: EndedProcess) -> str:
    """End a process, dead or stuck; returns how it ended."""
    death = "it hung and was killed" if process.alive else process.exit_report()
    process.kill()
    return death


class LocalPolicyHost:
    """A policy in a child process.

    Args:
        spec: what to load.
        device: `cpu`, `cuda:N`, or None to leave the choice to the policy. The process sees only
            this device.
        rules: when a batch goes.
        log: takes what the process prints.
        confined: whether the process can write to a folder of its own only, and reach nothing.

    Attributes:
        ready: the description, metadata and requirements of the loaded policy, and its address.

    Raises:
        CalvinEvalError: the policy cannot be loaded.
        UsageError: a process cannot be confined here.
    """

    def __init__(
        self,
        spec: PolicySpec,
        device: str | None,
        rules: BatchRules,
        log: PolicyLog | None = None,
        confined: bool = False,
    ) -> None:
        self._setup = ServiceSetup(policy=spec, batch=rules)
        self._log = log or PolicyLog()
        self._name = f"policy on {device}" if device else "policy"
        self._environment = device_environment(device)
        self._room = Room() if confined else None
        self._receive = plain_messages.receive if confined else Connection.recv
        self._start()

    def _start(self) -> None:
        python = self._setup.policy.python
        python = python and os.path.expanduser(python)
        environment, scratch = self._environment, None
        if self._room is not None:
            scratch = self._room.enter()
            environment = {**environment, **confinement.environment(scratch)}
        try:
            self._child = Child(
                "calvin_eval.rollouts.service", environment, python, self._take_line, scratch
            )
        except OSError as error:
            raise CheckpointError(
                f"policy.python={python}: it cannot be run ({error.strerror}): expected the Python "
                "of an environment with calvin-eval."
            ) from error
        answer = self._first_answer()
        if not isinstance(answer, ServiceReady):
            self._child.kill()
            self.close()
            raise answer
        self.ready: ServiceReady = answer

    def _first_answer(self) -> ServiceReady | CalvinEvalError:
        ckpt, line = self._setup.policy.ckpt, self._child.connection
        try:
            line.send(self._setup)
            answer = self._receive(line)
        except (EOFError, OSError):
            return CheckpointError(
                f"{ckpt}: the process that loads it died: {self._child.exit_report()}"
            )
        except UnreadableAnswerError as error:
            return CheckpointError(f"{ckpt}: what its confined process says is refused: {error}")
        if isinstance(answer, CalvinEvalError):
            return answer
        if not isinstance(answer, ServiceReady) or not plain_messages.has_json_form(
            [answer.address, answer.description, answer.metadata]
        ):
            return CheckpointError(f"{ckpt}: expected a loaded policy, found another answer")
        return answer

    def _take_line(self, line: str) -> None:
        self._log.add(self._name, line)

    @property
    def link(self) -> PolicyLink:
        """Where workers find it now."""
        return PolicyLink(
            requirements=self.ready.requirements,
            address=self.ready.address,
            confined=self._room is not None,
        )

    @property
    def alive(self) -> bool:
        """Whether the process is still there, as it will be in half a second."""
        return not self._child.ended(_DYING_SECONDS)

    def hangs(self, seconds: float) -> bool:
        """Whether the policy has been at one batch for that long, or does not answer at all."""
        busy = self._ask(BUSY)
        return not isinstance(busy, (int, float)) or busy >= seconds

    def report(self) -> list[Mapping[str, Any]]:
        """What the policy reports of the run so far; nothing if it does not answer."""
        said = self._ask(REPORT)
        return said if isinstance(said, list) and plain_messages.has_json_form(said) else []

    def printed(self) -> str:
        """The last lines that the process printed."""
        return self._child.printed()

    def _ask(self, question: str) -> Any:
        try:
            self._child.connection.send(question)
            if not self._child.connection.poll(_ANSWER_SECONDS):
                return None
            return self._receive(self._child.connection)
        except (EOFError, OSError, UnreadableAnswerError):
            return None

    def replace(self) -> str:
        """End the process, dead or stuck, and start another; returns how the old one ended."""
        death = end(self._child)
        self._start()
        return death

    def close(self) -> None:
        """End the process, and remove what it wrote."""
        self._child.stop()
        if self._room is not None:
            self._room.leave()


@dataclass(frozen=True)
class FixedPolicy:
    """A policy without a process to watch: it is in the workers, or in the caller's process.

    Attributes:
        link: where workers find it.
        prints: what it prints, in the caller's process.
    """

    link: PolicyLink
    prints: PrintedHere | None = None

    alive = True

    def hangs(self, seconds: float) -> bool:
        """Unknown; a hanging worker is replaced and the chain tried again."""
        return False

    def replace(self) -> str:
        """Nothing to replace."""
        return "the policy's process is the caller's own"

    def report(self) -> list[Mapping[str, Any]]:
        """Nothing: the policy is elsewhere."""
        return []

    def printed(self) -> str:
        """The last lines that it printed, in the caller's process."""
        return "" if self.prints is None else self.prints.last()

    def close(self) -> None:
        """Listen no more to what it prints."""
        if self.prints is not None:
            self.prints.close()


def device_environment(device: str | None) -> Mapping[str, str]:
    """Variables that make a process see one device only.

    `CALVIN_EVAL_DEVICE` tells our loaders, `CUDA_VISIBLE_DEVICES` any other code.
    """
    if device is None:
        return {}
    if not device.startswith("cuda"):
        return {"CALVIN_EVAL_DEVICE": device, "CUDA_VISIBLE_DEVICES": ""}
    number = device.partition(":")[2] or "0"
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if visible and int(number) < len(visible):  # cuda:N counts within what we may see ourselves
        number = visible[int(number)]
    return {"CALVIN_EVAL_DEVICE": "cuda:0", "CUDA_VISIBLE_DEVICES": number}
