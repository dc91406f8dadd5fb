"""The process that holds a policy and answers the simulator workers.

`main` is a process with one policy on one device; `PolicyService` is the same inside a process that
has the policy already, such as a training loop. Workers connect over a Unix
socket in a folder that only this user can enter.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from calvin_eval.errors import CalvinEvalError, CheckpointError
from calvin_eval.rollouts.batching import Batcher, BatchRules
from calvin_eval.rollouts.generators import seeded
from calvin_eval.rollouts.policy_errors import (
    PolicyLostError,
    RemotePolicyError,
    UnreadableAnswerError,
)
from calvin_eval.rollouts.sessions import Ask, End, Leave, LinkedPolicy, Reply, WorkerSessions
from calvin_eval.rollouts.socket_folder import make_socket_folder
from calvin_eval.wrappers.policy import BasePolicy, Policy, Requirements, with_defaults

BUSY, REPORT = "busy?", "report?"
"""What a parent may ask."""

_BACKLOG = 128
_SOCKET = "policy"


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """A policy as `--ckpt` names it, to be loaded wherever it is needed.

    `python` is the interpreter of the process that `LocalPolicyHost` starts for it; this process's
    if None.
    """

    ckpt: str
    trust: bool
    seed: int
    options: Mapping[str, Any]
    scene: str = "D"
    interface: Mapping[str, Any] = field(default_factory=dict)
    observe: Mapping[str, Any] = field(default_factory=dict)
    actions: Mapping[str, Any] = field(default_factory=dict)
    python: str | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether what is "loaded" is only a way to a policy that another process has."""
        return False

    def visited(self, patience: float) -> contextlib.AbstractContextManager[BasePolicy]:
        """A policy that is elsewhere, for somebody who is no worker and leaves again.

        Args:
            patience: seconds that an answer may take.
        """
        raise NotImplementedError(f"{self.ckpt} is not elsewhere")

    def load(self) -> Any:
        """A `LoadedPolicy`."""
        from calvin_eval.wrappers.loaders import resolve

        with seeded(self.seed):
            return resolve(
                self.ckpt,
                trust=self.trust,
                seed=self.seed,
                scene=self.scene,
                interface=self.interface,
                options=self.options,
                observe=self.observe,
                actions=self.actions,
            )


@dataclass(frozen=True, kw_only=True)
class ServiceSetup:
    """The parent's first message: what to load and how to batch."""

    policy: PolicySpec
    batch: BatchRules


@dataclass(frozen=True, kw_only=True)
class ServiceReady:
    """The child's answer: what it loaded, and where workers connect."""

    address: str
    requirements: Requirements
    description: str
    metadata: Mapping[str, Any]


class PolicyService:
    """Serves a policy to every worker that connects.

    Args:
        policy: the first instance.
        make: makes further instances of a policy that serves a limited number of sessions.
        rules: when a batch goes.

    Attributes:
        address: where workers connect.
    """

    def __init__(
        self, policy: Policy, *, make: Callable[[], Policy] | None = None, rules: BatchRules
    ) -> None:
        self._policy = with_defaults(policy)
        self._shared = self._policy.requirements.max_sessions is None
        self._instances = [self._policy]
        self._free = [self._policy]
        self._make = make
        self._lock = threading.Lock()
        self._batcher = Batcher(rules)
        self._folder = make_socket_folder(_SOCKET)
        self.address = str(self._folder / _SOCKET)
        self._listener = Listener(self.address, family="AF_UNIX", backlog=_BACKLOG)
        threading.Thread(target=self._accept, name="accept workers", daemon=True).start()

    @property
    def busy_seconds(self) -> float:
        """How long the policy has been at the present call; 0 between calls."""
        return self._batcher.busy_seconds

    def report(self) -> list[Mapping[str, Any]]:
        """What the policy's instances report, as far as they do."""
        found = [policy.report() for policy in self._instances]
        return [report for report in found if report is not None]

    def close(self) -> None:
        """Stop accepting and answering."""
        with contextlib.suppress(OSError):
            self._listener.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._batcher.close()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: Connection[Any, Any]) -> None:
        with connection, contextlib.suppress(EOFError, OSError):
            try:
                policy = self._take()
            except BaseException:
                connection.recv()
                connection.send(traceback.format_exc())
                return
            sessions = WorkerSessions(self._batcher, policy)
            try:
                with self._batcher.client():
                    while not isinstance(message := connection.recv(), Leave):
                        connection.send(sessions.answer(message))
            finally:
                sessions.close()
                self._give_back(policy)
            connection.send(None)

    def _take(self) -> BasePolicy:
        """The shared instance, or one that no other worker uses."""
        if self._shared:
            return self._policy
        with self._lock:
            if self._free:
                return self._free.pop()
            if self._make is None:
                raise CheckpointError(
                    "expected one worker for a policy object that serves one chain at a time; "
                    "found more. Run it with workers=1, or name its class by --ckpt."
                )
            self._instances.append(with_defaults(self._make()))
            return self._instances[-1]

    def _give_back(self, policy: BasePolicy) -> None:
        if not self._shared:
            with self._lock:
                self._free.append(policy)


class SocketPolicy(LinkedPolicy):
    """A policy behind a Unix socket.

    Args:
        address: of the socket.
        requirements: of the policy.
        patience: seconds that an answer may take; any number if None.
        receive: reads an answer from the connection; as a pickle, if None.
    """

    def __init__(
        self,
        address: str,
        requirements: Requirements,
        patience: float | None = None,
        receive: Callable[[Connection[Any, Any]], Any] | None = None,
    ) -> None:
        super().__init__(requirements)
        self._patience = patience
        self._receive = receive or Connection.recv
        try:
            self._connection = Client(address, family="AF_UNIX")
        except OSError as error:
            raise PolicyLostError(f"no policy at {address}: {error}") from error

    def leave(self) -> None:
        """Ask no more, and return when another worker can have what served this one."""
        with contextlib.suppress(EOFError, OSError, UnreadableAnswerError):
            self._connection.send(Leave())
            self._receive(self._connection)
        self._connection.close()

    def _exchange(self, message: Ask | End) -> Reply:
        try:
            self._connection.send(message)
            if self._patience is not None and not self._connection.poll(self._patience):
                raise PolicyLostError(f"the policy gave no answer in {self._patience:g} s")
            reply: Reply = self._receive(self._connection)
        except UnreadableAnswerError as error:
            raise RemotePolicyError(f"the confined policy's answer is refused: {error}") from error
        except (EOFError, OSError) as error:
            raise PolicyLostError(f"the policy's process is gone: {error}") from error
        return reply

    def close(self) -> None:
        """Disconnect."""
        self._connection.close()


def main() -> None:
    """Load the policy that the parent names, and serve it until the parent closes the line."""
    from calvin_eval.rollouts.processes import join_parent

    line = join_parent()
    setup: ServiceSetup = line.recv()
    try:
        loaded = setup.policy.load()
        service = PolicyService(
            loaded.policy, make=lambda: setup.policy.load().policy, rules=setup.batch
        )
    except CalvinEvalError as error:
        line.send(error)
        return
    except BaseException:
        line.send(CheckpointError(f"{setup.policy.ckpt}: {traceback.format_exc()}"))
        return
    line.send(
        ServiceReady(
            address=service.address,
            requirements=loaded.policy.requirements,
            description=loaded.description,
            metadata=loaded.metadata,
        )
    )
    with contextlib.suppress(EOFError, OSError):
        while True:  # until the parent closes the line
            question = line.recv()
            line.send(service.report() if question == REPORT else service.busy_seconds)
    shutil.rmtree(os.path.dirname(service.address), ignore_errors=True)
    os._exit(0)  # without waiting for a batch that nobody reads
