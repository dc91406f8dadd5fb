"""A policy as a Ray actor: it is loaded where its GPU is, and answers workers on any node."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, cast

from calvin_eval.errors import CalvinEvalError, CheckpointError
from calvin_eval.rollouts.batching import Answer, Batcher
from calvin_eval.rollouts.chain import PolicyLostError, RemotePolicyError
from calvin_eval.rollouts.ray.cluster import require_software
from calvin_eval.rollouts.ray.nodes import WORKER_VARIABLE, enter, on_this_node
from calvin_eval.rollouts.service import PolicySpec, ServiceReady, ServiceSetup
from calvin_eval.wrappers.loaders import LoadedPolicy
from calvin_eval.wrappers.policy import Chunk, Policy, Request, Requirements

CALLS = 1000
"""Requests that an actor can hold at once: one per worker."""

ray: Any = import_module("ray")  # untyped: its hints know less than its documentation
RayError: Any = ray.exceptions.RayError


@dataclass
class _Client:
    """A worker, and the instance of the policy that serves it."""

    policy: Policy | None = None
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
        self._free: list[Policy] = []
        self._shared: Policy | None = None
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
        except Exception:
            return CheckpointError(f"{ckpt}: {traceback.format_exc()}")
        sessions = getattr(loaded.policy, "max_sessions", None)
        if sessions is None:
            self._shared = loaded.policy
        else:
            self._free.append(loaded.policy)
        return ServiceReady(
            address=name,
            requirements=loaded.policy.requirements,
            max_sessions=sessions,
            description=loaded.description,
            metadata=loaded.metadata,
        )

    async def ready(self) -> bytes:
        """Pickled: what the policy says of itself, or why it cannot be loaded."""
        return pickle.dumps(self._ready)

    async def busy(self) -> float:
        """How long the policy has been at the present call; 0 between calls."""
        return self._batcher.busy_seconds

    async def report(self) -> list[Mapping[str, Any]]:
        """What the policy's instances say of the run, as far as they do."""
        used = (client.policy for client in self._clients.values())
        found: dict[int, Any] = {id(p): p for p in (*used, *self._free, self._shared)}
        return [policy.report() for policy in found.values() if hasattr(policy, "report")]

    async def act(self, client: str, request: bytes) -> bytes:
        """Pickled: the answer to a pickled (request, reset), or the policy's traceback.

        Bytes and not objects: arrays that Ray hands over are read-only, and a policy that writes
        into its images shall work here as it does elsewhere.
        """
        if client not in self._clients:
            self._clients[client] = _Client()
        mine = self._clients[client]
        async with mine.lock:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._answer, mine, request)

    async def forget(self, client: str) -> None:
        """A worker is gone: what served it may serve another, once its last request is done."""
        gone = self._clients.pop(client, None)
        if gone is None:
            return
        async with gone.lock:
            gone.connection.close()
            if self._shared is None and gone.policy is not None:
                self._free.append(gone.policy)

    def _answer(self, client: _Client, payload: bytes) -> bytes:
        answer: Answer | str
        try:
            request, reset = pickle.loads(payload)
            if client.policy is None:
                client.policy = self._take()
                client.connection.enter_context(self._batcher.client())
            answer = self._batcher.ask(client.policy, request, reset=reset)
        except RemotePolicyError as error:
            answer = error.trace
        except Exception:
            answer = traceback.format_exc()
        return pickle.dumps(answer)

    def _take(self) -> Policy:
        """The shared instance, or one that no other worker uses."""
        if self._shared is not None:
            return self._shared
        with contextlib.suppress(IndexError):
            return self._free.pop()
        return cast(Policy, self._setup.policy.load().policy)


class RayPolicy:
    """A policy in an actor, as the chain loop sees it; like `RemotePolicy` in everything else."""

    def __init__(self, name: str, client: str, requirements: Requirements) -> None:
        self.requirements = requirements
        self.inference_seconds = 0.0
        self._client = client
        self._reset = False
        try:
            self._actor = ray.get_actor(name)
        except (ValueError, RayError) as error:
            raise PolicyLostError(f"no policy actor {name}: {error}") from error

    def reset(self, session: int, instruction: str) -> None:
        """Travels with the next request, which has both."""
        self._reset = True

    def act(self, requests: list[Request]) -> list[Chunk]:
        """Ask for one request.

        Raises:
            RemotePolicyError: the policy raised.
            PolicyLostError: its actor is gone.
        """
        payload = pickle.dumps((requests[0], self._reset))
        try:
            answer = pickle.loads(ray.get(self._actor.act.remote(self._client, payload)))
        except RayError as error:
            raise PolicyLostError(f"the policy's actor is gone: {error}") from error
        self._reset = False
        if isinstance(answer, str):
            raise RemotePolicyError(answer)
        self.inference_seconds += answer.seconds / answer.batch
        return [answer.chunk]


@dataclass(frozen=True, kw_only=True)
class ActorPolicy(PolicySpec):
    """A policy that a worker "loads" by asking an actor.

    Attributes:
        name: of the actor.
        requirements: of the policy.
    """

    name: str
    requirements: Requirements

    def load(self) -> Any:
        """A `LoadedPolicy`; raises PolicyLostError if the actor is gone."""
        policy = RayPolicy(self.name, os.environ[WORKER_VARIABLE], self.requirements)
        return LoadedPolicy(policy=cast(Any, policy), kind="ray", description="", metadata={})
