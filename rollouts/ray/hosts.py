"""Policy actors, one per GPU, started, watched and replaced by the driver."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import uuid
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from calvin_eval.errors import CalvinEvalError, CheckpointError
from calvin_eval.rollouts.batching import BatchRules
from calvin_eval.rollouts.hosts import end
from calvin_eval.rollouts.ray.cluster import cluster_resources, software
from calvin_eval.rollouts.ray.nodes import require_policy
from calvin_eval.rollouts.ray.policy import CALLS, ActorPolicy, PolicyActor
from calvin_eval.rollouts.service import PolicySpec, ServiceReady, ServiceSetup
from calvin_eval.rollouts.worker import PolicyLink

ray: Any = import_module("ray")  # untyped: its hints know less than its documentation
RayError: Any = ray.exceptions.RayError

_ANSWER_SECONDS = 30.0  # a live actor answers "busy?" at once, whatever its policy does
_STARTS = 3  # times that a replacement is tried
_PATIENCE = 60.0  # seconds of waiting for an actor after which the log says so

_log = logging.getLogger(__name__)


class _ActorProcess:
    """The process of a policy actor, see `hosts.EndedProcess`."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self._end = "it was ended"

    @property
    def alive(self) -> bool:
        """Whether it answers. One that does not is as good as dead: no worker can reach it."""
        try:
            ray.get(self.actor.busy.remote(), timeout=_ANSWER_SECONDS)
        except RayError as error:
            self._end = describe(error)
            return False
        return True

    def exit_report(self) -> str:
        """How it was lost."""
        return self._end

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(Exception):  # gone, or the cluster is
            ray.kill(self.actor, no_restart=True)


class RayPolicyHost:
    """A policy in an actor, started, watched and replaced by the driver; a `ServingHost`.

    Args:
        spec: what to load.
        device: `cpu`; `cuda` for one GPU, whichever of the cluster's is free; or None for a GPU
            if the cluster has any.
        rules: when a batch goes.

    Attributes:
        ready: the description, metadata and requirements of the loaded policy, and its address.

    Raises:
        CalvinEvalError: the policy cannot be loaded.
    """

    def __init__(self, spec: PolicySpec, device: str | None, rules: BatchRules) -> None:
        wanted = device.startswith("cuda") if device else cluster_resources("GPU") > 0
        self._gpus = int(wanted)
        self._variables: dict[str, str] = {}
        if device is not None:  # Ray shows the actor its own GPU only, which is the first it sees
            self._variables["CALVIN_EVAL_DEVICE"] = "cuda:0" if wanted else "cpu"
        self._setup = ServiceSetup(policy=spec, batch=rules)
        self._metadata: Mapping[str, Any] | None = None  # of the first actor
        self._start()

    def _start(self) -> None:
        # Until Ray has noticed that a node is lost, it may send the replacement to that very node.
        attempts = 1 if self._metadata is None else _STARTS
        for attempt in range(1, attempts + 1):
            try:
                self._begin()
                return
            except RayError as error:
                if attempt == attempts:
                    raise CheckpointError(
                        f"{self._setup.policy.ckpt}: the actor that loads it died: "
                        f"{describe(error)}"
                    ) from error

    def _begin(self) -> None:
        name = f"calvin-eval-{uuid.uuid4().hex}"
        # No restarts and no repeated calls by Ray: it would go on with a policy that has lost its
        # sessions, in the middle of a chain. The engine runs the chain again instead.
        kind = ray.remote(num_cpus=0, num_gpus=self._gpus, max_restarts=0)(PolicyActor)
        actor = kind.options(name=name, max_concurrency=CALLS, max_task_retries=0).remote(
            pickle.dumps(self._setup), name,
            environment=self._variables, folder=os.getcwd(), expected=software(),
        )  # fmt: skip
        self._process = _ActorProcess(actor)
        try:
            answer = pickle.loads(self._wait(actor.ready.remote()))
            if isinstance(answer, CalvinEvalError):
                raise answer
            expected = self._metadata or answer.metadata
            require_policy(self._setup.policy.ckpt, expected, answer.metadata)
        except BaseException:
            self._process.kill()
            raise
        self.ready: ServiceReady = answer
        self._metadata = answer.metadata

    def _wait(self, reference: Any) -> Any:
        if not ray.wait([reference], timeout=_PATIENCE)[0]:
            needs = "a free GPU" if self._gpus else "a node"
            _log.warning(
                "still waiting for the policy: its actor is loading, or waits for %s", needs
            )
        return ray.get(reference)

    @property
    def link(self) -> PolicyLink:
        """Where workers find it now."""
        spec = ActorPolicy(
            **vars(self._setup.policy),
            name=self.ready.address,
            requirements=self.ready.requirements,
        )
        return PolicyLink(requirements=self.ready.requirements, inline=spec)

    @property
    def alive(self) -> bool:
        """Whether the actor answers; one that is lost may take a while to be known as such."""
        return self._process.alive

    def hangs(self, seconds: float) -> bool:
        """Whether the policy has been at one batch for that long, or does not answer at all."""
        try:
            actor = self._process.actor
            return float(ray.get(actor.busy.remote(), timeout=_ANSWER_SECONDS)) >= seconds
        except RayError:
            return True

    def report(self) -> list[Mapping[str, Any]]:
        """What the policy reports of the run so far; nothing if it does not answer."""
        try:
            actor = self._process.actor
            found: list[Mapping[str, Any]] = ray.get(actor.report.remote(), timeout=_ANSWER_SECONDS)
        except RayError:
            return []
        return found

    def printed(self) -> str:
        """Nothing: Ray keeps what its actors print, in logs of its own."""
        return ""

    def forget(self, client: str) -> None:
        """A worker is gone."""
        self._process.actor.forget.remote(client)

    def replace(self) -> str:
        """End the actor, dead or stuck, and start another; returns how the old one ended."""
        death = end(self._process)
        self._start()
        return death

    def close(self) -> None:
        """End the actor."""
        self._process.kill()


def describe(error: Exception) -> str:
    """A Ray error: its kind on the first line, then what Ray says."""
    return f"its actor is gone ({type(error).__name__})\n{str(error).strip()[:2000]}"
