"""A policy as a Ray actor: it is loaded where its GPU is, and answers workers on any node."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import traceback
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, cast

from calvin_eval.errors import CalvinEvalError, CheckpointError
from calvin_eval.rollouts.batching import Batcher
from calvin_eval.rollouts.policy_errors import PolicyLostError
from calvin_eval.rollouts.ray.cluster import require_software
from calvin_eval.rollouts.ray.nodes import WORKER_VARIABLE, enter, on_this_node
from calvin_eval.rollouts.service import PolicySpec, ServiceReady, ServiceSetup
from calvin_eval.rollouts.sessions import Ask, End, LinkedPolicy, Reply, WorkerSessions
from calvin_eval.wrappers.loaders import LoadedPolicy
from calvin_eval.wrappers.policy import BasePolicy, Requirements

CALLS = 1000
"""Requests that an actor can hold at once: one per worker."""

ray: Any = import_module("ray")  # untyped: its hints know less than its documentation
RayError: Any = ray.exceptions.RayError


@dataclass
class _Client:
    """A worker, and its sessions with the instance of the policy that serves it."""

    sessions: WorkerSessions | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    connection: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


class PolicyActor:
    """Loads a policy and answers the workers; methods run side by side, the policy in one thread.

    Args:
        setup: pickled `ServiceSetup`: what to load and how to batch.
        name: of this actor.
        environment: variables for the policy's code.
        folder: where the run was started.
        expected: the software there.
    """

    def __init__(
        self,
        setup: bytes,
        name: str,
        *,
        environment: Mapping[str, str],
        folder: str,
        expected: tuple[tuple[str, str], ...],
    ) -> None:
        enter(folder)
        os.environ.update(environment)
        self._setup: ServiceSetup = pickle.loads(setup)
        self._pool = ThreadPoolExecutor(CALLS, thread_name_prefix="request")
        self._batcher = Batcher(self._setup.batch)
        self._clients: dict[str, _Client] = {}
        self._free: list[BasePolicy] = []
        self._shared: BasePolicy | None = None
        self._ready = self._load(name, expected)

    def _load(
        self, name: str, expected: tuple[tuple[str, str], ...]
    ) -> ServiceReady | CalvinEvalError:
        ckpt = self._setup.policy.ckpt
        try:
            with on_this_node():
                require_software(expected)
            with on_this_node("The policy's files must lie at this path on every node."):
                loaded = self._setup.policy.load()
        except CalvinEvalError as error:
            return error
        except BaseException:
            return CheckpointError(f"{ckpt}: {traceback.format_exc()}")
        if loaded.policy.requirements.max_sessions is None:
            self._shared = loaded.policy
        else:
            self._free.append(loaded.policy)
        return ServiceReady(
            address=name,
            requirements=loaded.policy.requirements,
            description=loaded.description,
            metadata=loaded.metadata,
        )

    async def ready(self) -> bytes:
        """Pickled: the `ServiceReady` of the policy, or why it cannot be loaded."""
        return pickle.dumps(self._ready)

    async def busy(self) -> float:
        """How long the policy has been at the present call; 0 between calls."""
        return self._batcher.busy_seconds

    async def report(self) -> list[Mapping[str, Any]]:
        """What the policy's instances report, as far as they do."""
        used = (client.sessions.policy for client in self._clients.values() if client.sessions)
        shared = () if self._shared is None else (self._shared,)
        found = {id(policy): policy.report() for policy in (*used, *self._free, *shared)}
        return [report for report in found.values() if report is not None]

    async def answer(self, client: str, message: bytes) -> bytes:
        """Pickled: the reply to a pickled `Ask` or `End`.

        Bytes and not objects: arrays that Ray hands over are read-only, and a policy that writes
        into its images shall work here as it does elsewhere.
        """
        if client not in self._clients:
            self._clients[client] = _Client()
        mine = self._clients[client]
        async with mine.lock:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._answer, mine, message)

    async def forget(self, client: str) -> None:
        """A worker is gone: its sessions end, and what served it may serve another."""
        gone = self._clients.pop(client, None)
        if gone is None:
            return
        async with gone.lock:
            gone.connection.close()
            if gone.sessions is None:
                return
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._pool, gone.sessions.close)
            if self._shared is None:
                self._free.append(gone.sessions.policy)

    def _answer(self, client: _Client, payload: bytes) -> bytes:
        reply: Reply
        try:
            message: Ask | End = pickle.loads(payload)
            if client.sessions is None:
                client.sessions = WorkerSessions(self._batcher, self._take())
                client.connection.enter_context(self._batcher.client())
            reply = client.sessions.answer(message)
        except BaseException:
            reply = traceback.format_exc()
        return pickle.dumps(reply)

    def _take(self) -> BasePolicy:
        """The shared instance, or one that no other worker uses."""
        if self._shared is not None:
            return self._shared
        with contextlib.suppress(IndexError):
            return self._free.pop()
        return cast(BasePolicy, self._setup.policy.load().policy)


class RayPolicy(LinkedPolicy):
    """A policy in an actor.

    Args:
        name: of the actor.
        client: how it knows this worker.
        requirements: of the policy.
        patience: seconds that an answer may take; as long as it takes if None.
    """

    def __init__(
        self, name: str, client: str, requirements: Requirements, patience: float | None = None
    ) -> None:
        super().__init__(requirements)
        self._client = client
        self._patience = patience
        try:
            self._actor = ray.get_actor(name)
        except (ValueError, RayError) as error:
            raise PolicyLostError(f"no policy actor {name}: {error}") from error

    def _exchange(self, message: Ask | End) -> Reply:
        try:
            answer = self._actor.answer.remote(self._client, pickle.dumps(message))
            reply: Reply = pickle.loads(ray.get(answer, timeout=self._patience))
        except RayError as error:
            raise PolicyLostError(f"the policy's actor is gone: {error}") from error
        return reply

    def leave(self) -> None:
        """The actor forgets this client, and what served it may serve another."""
        self._actor.forget.remote(self._client)


@dataclass(frozen=True, kw_only=True)
class ActorPolicy(PolicySpec):
    """A policy that a worker "loads" by asking an actor.

    Attributes:
        name: of the actor.
        requirements: of the policy.
    """

    name: str
    requirements: Requirements

    @property
    def elsewhere(self) -> bool:
        """Always: the actor has the policy."""
        return True

    @contextlib.contextmanager
    def visited(self, patience: float) -> Iterator[BasePolicy]:
        """The policy, for somebody who is no worker and leaves again."""
        guest = RayPolicy(self.name, f"guest {uuid.uuid4().hex}", self.requirements, patience)
        try:
            yield guest
        finally:
            guest.leave()

    def load(self) -> Any:
        """A `LoadedPolicy`; raises PolicyLostError if the actor is gone."""
        policy = RayPolicy(self.name, os.environ[WORKER_VARIABLE], self.requirements)
        return LoadedPolicy(policy=policy, kind="ray", description="", metadata={})
