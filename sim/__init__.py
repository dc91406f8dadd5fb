"""The play-table simulator: asset packs, world, cameras, task oracle, chains.

`make_env` and `TaskOracle` are loaded on first use, so that importing `calvin_eval.sim` costs
nothing and starts no physics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calvin_eval.sim.chains import load_chains
    from calvin_eval.sim.env import PlayTableEnv, make_env
    from calvin_eval.sim.oracle import TaskOracle
    from calvin_eval.sim.packs import load_pack

__all__ = ["PlayTableEnv", "TaskOracle", "load_chains", "load_pack", "make_env"]

_HOMES = {
    "PlayTableEnv": "env",
    "TaskOracle": "oracle",
    "load_chains": "chains",
    "load_pack": "packs",
    "make_env": "env",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
