"""X-VLA's policy server: JSON posted to `/act`, absolute poses back.

Facts: X-VLA, models/modeling_xvla.py and evaluation/calvin/calvin_client.py, read in the fork
xunushan/X-VLA at commit 2c4fedf. The model is told a pose of its own: at the start of a chain the
measured one, later the one that it predicted last.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.loaders.base import LoadedPolicy, Source
from calvin_eval.wrappers.policy import Chunk, Request, Requirements
from calvin_eval.wrappers.servers.http import HttpEndpoint
from calvin_eval.wrappers.servers.options import (
    LINK_OPTIONS,
    LinkOptions,
    check_address,
    check_number,
    check_protocol,
    read_link,
)
from calvin_eval.wrappers.servers.remote import RemotePolicy, read_actions, read_map, server_words
from calvin_eval.wrappers.servers.traffic import Traffic
from calvin_eval.wrappers.stages import Settings

PROTOCOL = "xvla"
POSE = 10
"""Numbers of a pose: position 3, rotation 6, gripper 1; the second arm has as many."""

NUMBERS: Mapping[str, int] = {"domain_id": 2, "steps": 10, "rows": 20}
"""Options with whole numbers: CALVIN's number among X-VLA's domains, steps of denoising, and rows
of a plan that are executed."""

STAGES: tuple[Settings, Settings] = (
    {},
    {
        "columns": {"take": list(range(POSE))},
        "gripper": {"input": "zero_one", "threshold": 0.8, "inclusive": True, "high": "close"},
        "orientation": {"source": "rotation_6d_interleaved", "target": "quaternion_xyzw"},
        "absolute": {},
    },
)


def declare(source: Source) -> tuple[Settings, Settings]:
    """The stages of the preset xvla."""
    _check(source)
    return STAGES


def load(source: Source) -> LoadedPolicy:
    """A policy behind X-VLA's server, which is not asked for anything yet.

    Raises:
        CheckpointError: not an address.
        UsageError: an option that does not exist or cannot be meant.
    """
    numbers = _check(source)
    address = check_address(source.ckpt, schemes=("http", "https")).rstrip("/")
    if not address.endswith("/act"):
        address += "/act"
    policy = XvlaPolicy(address, read_link(source.options), **numbers)
    return LoadedPolicy(
        policy=policy,
        kind="remote",
        description=f"policy server {address} (X-VLA protocol): rgb_static, rgb_gripper",
        metadata=source.metadata("remote", protocol=PROTOCOL, **numbers),
        observe=STAGES[0],
        actions=STAGES[1],
    )


def _check(source: Source) -> dict[str, int]:
    source.check_options(("protocol", *NUMBERS, *LINK_OPTIONS))
    check_protocol(source, PROTOCOL, "an http address")
    numbers = {name: source.options.get(name, value) for name, value in NUMBERS.items()}
    for name, value in numbers.items():
        check_number(name, value, 0 if name == "domain_id" else 1, whole=True)
    return numbers


class XvlaPolicy(RemotePolicy):
    """A policy behind X-VLA's server.

    The images go out as they are drawn. What comes back, rows of 20 numbers, goes to the action
    stages, the first `rows` of it; they are expected to be executed before the next decision.

    Args:
        address: with the path.
        options: patience, retries and limits.
        domain_id: of CALVIN among X-VLA's domains.
        steps: of denoising.
        rows: of a plan that are executed.
    """

    def __init__(
        self, address: str, options: LinkOptions, *, domain_id: int, steps: int, rows: int
    ) -> None:
        traffic = Traffic(address)
        seen = Requirements(rgb=("static", "gripper"))
        super().__init__(seen, traffic, options.connections or 1)
        self.address = address
        self._endpoint = HttpEndpoint(address, options, traffic)
        self._fixed = {"domain_id": domain_id, "steps": steps}
        self._rows = rows
        self._poses: dict[int, NDArray[np.float64]] = {}

    def _forget(self, session: int, instruction: str) -> None:
        self._poses.pop(session, None)

    def _close(self, session: int) -> None:
        self._poses.pop(session, None)

    def _ask(self, request: Request) -> Chunk:
        pose = self._poses.get(request.session)
        if pose is None:
            pose = measured_pose(request.obs["robot_obs"])
        message = {
            "language_instruction": request.instruction,
            "proprio": json.dumps([*pose.tolist(), *[0.0] * POSE]),
            "image0": _packed(request.obs["rgb_obs"]["rgb_static"]),
            "image1": _packed(request.obs["rgb_obs"]["rgb_gripper"]),
            **self._fixed,
        }
        reply = read_map(self._endpoint.post(message), f"{self.address}: reply")
        if "action" not in reply:
            said = server_words(reply)
            raise PolicyError(
                f"{self.address}: "
                + (f"the server failed: {said}" if said else "expected action in the reply, found "
                   f"the keys {', '.join(sorted(reply)) or '(none)'}")
            )  # fmt: skip
        plan = read_actions(reply["action"], f"{self.address}: action")[: self._rows]
        if plan.shape[1] < POSE:
            raise PolicyError(
                f"{self.address}: expected rows of {POSE} numbers or more, found {plan.shape[1]}"
            )
        self._poses[request.session] = np.array(plan[-1, :POSE], np.float64)
        return plan


def measured_pose(robot_obs: NDArray[Any]) -> NDArray[np.float64]:
    """The pose (10,) of a robot_obs (15,): position, rotation, 1 for an open gripper, else 0."""
    turned = Rotation.from_euler("xyz", robot_obs[3:6]).as_matrix()
    opened = float(robot_obs[-1] > 0)
    return np.concatenate([robot_obs[:3], turned[:, :2].reshape(-1), [opened]])


def _packed(image: NDArray[np.uint8]) -> str:
    """An image as text, in the form of json_numpy."""
    whole = np.ascontiguousarray(image)
    return json.dumps(
        {
            "__numpy__": base64.b64encode(whole.tobytes()).decode(),
            "dtype": whole.dtype.str,
            "shape": whole.shape,
        }
    )
