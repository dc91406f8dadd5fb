"""What runs on the nodes of a Ray cluster: simulator workers, and the checks that they are alike.

No file system is shared, so everything that could differ from node to node (software, assets, the
policy's files, the GL driver) is compared with what the run was started with before a chain runs.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import threading
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, cast

from calvin_eval.errors import (
    AssetError,
    CalvinEvalError,
    CheckpointError,
    RenderError,
    UsageError,
)
from calvin_eval.rollouts.chain import Simulator
from calvin_eval.rollouts.ray.cluster import require_software, software
from calvin_eval.rollouts.service import PolicySpec
from calvin_eval.rollouts.worker import ChainWorker, SimulatorSpec, worker_environment
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.render import resolve_backend
from calvin_eval.sim.selftest import quick_selftest

ray: Any = import_module("ray")  # untyped: its hints know less than its documentation

WORKER_VARIABLE = "CALVIN_EVAL_WORKER"
"""Names the worker in the environment of its process; policy actors know it by this name."""

_SEVERAL = 2  # workers on a node: what `worker_environment` does for any number but one


@dataclass(frozen=True, kw_only=True)
class NodeSimulator(SimulatorSpec):
    """A simulator that a node builds if it would be the same there.

    Attributes:
        fingerprint: of the pack where the run was started.
        software: of that machine.
        bits: hash of the state that the selftest's steps end in there.
    """

    fingerprint: str
    software: tuple[tuple[str, str], ...]
    bits: str

    @classmethod
    def of(cls, spec: SimulatorSpec) -> NodeSimulator:
        """The same, with the facts of this machine."""
        return cls(
            **vars(spec),
            fingerprint=load_pack(spec.assets, verify=False).fingerprint,
            software=software(),
            bits=_bits(spec.assets, spec.scene, spec.revision),
        )

    def build(self) -> Simulator:
        """The simulator, in this process.

        Raises:
            CalvinEvalError: this node has other software, other assets or another GL driver, or
                computes other bits.
        """
        with on_this_node():
            require_software(self.software)
            self._require_pack()
            bits = _bits(self.assets, self.scene, self.revision)
            if bits != self.bits:
                raise UsageError(
                    f"expected the machine that the run was started on ({self.bits[:12]} after the "
                    f"selftest's steps), found one that computes other bits ({bits[:12]}). Run "
                    "`calvin-eval doctor` on both, and restrict the cluster to nodes alike."
                )
            self._require_renderer()
            return super().build()

    def _require_pack(self) -> None:
        remedy = "The same pack must lie at this path on every node."
        try:
            found = load_pack(self.assets, verify=False).fingerprint
        except AssetError as error:
            raise AssetError(f"{error} {remedy}") from error
        if found != self.fingerprint:
            raise AssetError(
                f"{self.assets}: expected the pack {self.fingerprint[:12]} that the run was "
                f"started with, found {found[:12]}. {remedy}"
            )

    def _require_renderer(self) -> None:
        """Images are a function of the GL driver too, and the header names one driver."""
        if self.render.backend not in ("egl", "gl"):
            return
        here, there = (
            f"{info.vendor}, {info.renderer}, {info.version}"
            for info in (resolve_backend(self.render.backend, self.render.options), self.render)
        )
        if here != there:
            raise RenderError(
                f"expected the GL driver that the run was started with ({there}), found {here}. "
                "Start the run on a node like the workers' own, restrict the cluster to nodes "
                "alike, or choose --render fast."
            )


@dataclass(frozen=True, kw_only=True)
class NodePolicy(PolicySpec):
    """A light policy that every worker loads for itself, if it would be the same there.

    Attributes:
        metadata: its metadata where the run was started, hashes of files included.
    """

    metadata: Mapping[str, Any]

    def load(self) -> Any:
        """A `LoadedPolicy`; raises CalvinEvalError if this node has another or none."""
        with on_this_node("The policy's files must lie at this path on every node."):
            loaded = super().load()
            require_policy(self.ckpt, self.metadata, loaded.metadata)
        return loaded


@cache
def _bits(assets: str, scene: str, revision: str) -> str:
    return quick_selftest(load_pack(assets, verify=False), scene, cast(Any, revision)).found


def require_policy(ckpt: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise CheckpointError, naming what differs, unless the two descriptions agree."""
    keys = dict.fromkeys([*expected, *found])
    different = [
        f"{key} {expected.get(key)!r} there, {found.get(key)!r} here"
        for key in keys
        if expected.get(key) != found.get(key)
    ]
    if different:
        raise CheckpointError(
            f"{ckpt}: expected the policy that the run was started with, found that it differs in "
            f"{'; '.join(different)}."
        )


@contextlib.contextmanager
def on_this_node(remedy: str = "") -> Iterator[None]:
    """Say in an error of the body which node it is about, and what to do.

    The error that comes out can be pickled, whatever the class of the one that went in.
    """
    try:
        yield
    except CalvinEvalError as error:
        plain = (AssetError, CheckpointError, RenderError)
        kind = next((kind for kind in plain if isinstance(error, kind)), UsageError)
        node = ray.util.get_node_ip_address()
        raise kind(f"node {node}: {error} {remedy}".rstrip()) from error


def enter(folder: str) -> None:
    """Go to the folder where the run was started, if this node has it: paths may be relative."""
    with contextlib.suppress(OSError):
        os.chdir(folder)


class SimulatorActor:
    """A simulator worker as a Ray actor: `ChainWorker`, with two queues for a line.

    The simulator runs in one dedicated thread, as a GL context must; `tell` and `hear` have a
    thread each.

    Args:
        folder: where the run was started.
        name: of this worker.
    """

    def __init__(self, folder: str, name: str) -> None:
        enter(folder)
        os.environ.update({**worker_environment(_SEVERAL), WORKER_VARIABLE: name})
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="simulator", daemon=True).start()

    def tell(self, message: bytes) -> None:
        """Hand the worker a pickled message."""
        self._inbox.put(message)

    def hear(self) -> list[bytes]:
        """The worker's next messages, pickled; waits until there is one."""
        messages = [self._outbox.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                messages.append(self._outbox.get_nowait())
        return messages

    def recv(self) -> Any:
        """The worker's own side of the line: the next message."""
        return pickle.loads(self._inbox.get())

    def send(self, message: object) -> None:
        """The worker's own side of the line: an answer."""
        self._outbox.put(pickle.dumps(message))

    def _work(self) -> None:
        try:
            ChainWorker(cast(Any, self)).run()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)  # the engine sees the actor's death, and never an actor without a worker
