"""starVLA's policy server: openpi's framing, with messages of its own.

Facts: starVLA, deployment/model_server/tools/websocket_policy_server.py and policy_wrapper.py, at
commit 0ed0aad. Requests have a number, which the server repeats, so that an answer that comes twice
is noticed. Actions come un-normalised.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.policy import Chunk, Request, Requirements
from calvin_eval.wrappers.servers.openpi import OpenpiPolicy
from calvin_eval.wrappers.servers.options import LinkOptions
from calvin_eval.wrappers.servers.remote import read_actions, read_map, server_words

MARKS = ("action_chunk_size", "available_unnorm_keys")
"""What its metadata have, and nobody else's."""

ARGUMENTS: Mapping[str, Any] = {"do_sample": False, "use_ddim": True, "num_ddim_steps": 10}
"""What its own clients ask of the model."""


class StarVlaPolicy(OpenpiPolicy):
    """A policy behind starVLA's server.

    Observation stages make what is sent: the images in `rgb_obs`, and the vector in `state` if
    there is one.

    Args:
        address: of the server.
        options: patience, retries and limits.
        metadata: what the server said when it was recognised.
        cameras: whose images are sent, in this order.
        arguments: of the model, beside the examples.
    """

    number = "request_id"

    def __init__(
        self,
        address: str,
        options: LinkOptions,
        metadata: Mapping[str, Any],
        *,
        cameras: tuple[str, ...],
        arguments: Mapping[str, Any],
    ) -> None:
        super().__init__(address, options, metadata, requirements=Requirements(rgb=cameras))
        self._arguments = dict(arguments)
        self._numbers = itertools.count()

    def _message(self, request: Request) -> dict[str, Any]:
        images = [request.obs["rgb_obs"][f"rgb_{camera}"] for camera in self.requirements.rgb]
        example: dict[str, Any] = {"image": images, "lang": request.instruction}
        if "state" in request.obs:
            example["state"] = np.asarray(request.obs["state"], np.float32)[None]
        payload = {"examples": [example], **self._arguments}
        return {"type": "infer", self.number: str(next(self._numbers)), "payload": payload}

    def _chunk(self, reply: Mapping[str, Any]) -> Chunk:
        where = f"{self.address}: data"
        if reply.get("ok") is False or reply.get("status") == "error" or "data" not in reply:
            raise PolicyError(f"{self.address}: the server failed: {server_words(reply)}")
        data = read_map(reply["data"], where)
        if "actions" not in data:
            hint = ""
            if "normalized_actions" in data:
                hint = ": serve with a version of starVLA that un-normalises actions itself"
            keys = ", ".join(sorted(data)) or "(none)"
            raise PolicyError(f"{where}: expected actions, found the keys {keys}{hint}")
        actions = data["actions"]
        if np.ndim(actions) == 3 and len(actions) == 1:  # a batch of one
            actions = actions[0]
        return read_actions(actions, f"{where}: actions")
