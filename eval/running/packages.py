"""Whether the optional packages are installed that a run needs, asked before anything starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from calvin_eval.config.presets import check_kind
from calvin_eval.config.schema import EvalConfig
from calvin_eval.errors import CheckpointError
from calvin_eval.extras import require
from calvin_eval.rollouts.ray.cluster import require_ray


def require_all_installed(configs: Iterable[EvalConfig]) -> None:
    """`require_installed` for each; what else is wrong with a policy waits for its turn."""
    for config in configs:
        with contextlib.suppress(CheckpointError):
            require_installed(config)


def require_installed(config: EvalConfig) -> None:
    """Make sure that what a configuration needs is installed; nothing is loaded or started.

    A policy that is loaded elsewhere, in another environment or on a cluster's nodes, is looked at
    there.

    Raises:
        MissingExtraError: a package is missing.
        CheckpointError: the policy's file is damaged, or of a kind that is not known or not meant.
    """
    from calvin_eval.wrappers.loaders import is_light, require_packages
    from calvin_eval.wrappers.loaders.base import Source

    on_ray = config.engine.name == "ray"
    if on_ray:
        require_ray()
    if config.sim.render == "gl":
        require("gl", "render=gl")
    check_kind(config)
    policy = config.policy
    if policy.python is None and (not on_ray or is_light(config.ckpt)):
        options = policy.loader_options
        require_packages(Source(ckpt=config.ckpt, options=options, trust=policy.trust))
