"""calvin-eval: bit-exact, reproducible evaluation of robot policies on CALVIN.

The names in `__all__` are the public interface, described in docs/api.md: they keep their meaning
within a major version. Everything else may change in any release.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calvin_eval.api import evaluate
    from calvin_eval.errors import CalvinEvalError
    from calvin_eval.protocol import OFFICIAL, Protocol
    from calvin_eval.results.store import RunFolder
    from calvin_eval.rollouts.vector.make import make_vec
    from calvin_eval.running.outcome import Run
    from calvin_eval.sim.chains import load_chains
    from calvin_eval.sim.env import make_env
    from calvin_eval.sim.oracle import TaskOracle
    from calvin_eval.vla.opening import OpenProject, open_project
    from calvin_eval.wrappers.loaders.base import LoadedPolicy, Source
    from calvin_eval.wrappers.policy import BasePolicy, Policy, Request, Requirements
    from calvin_eval.wrappers.robo_action import RoboAction
    from calvin_eval.wrappers.robo_action_parser import RoboActionParser
    from calvin_eval.wrappers.stages.base import ActionStage, Context, ObservationStage

__all__ = [
    "OFFICIAL",
    "ActionStage",
    "BasePolicy",
    "CalvinEvalError",
    "Context",
    "LoadedPolicy",
    "ObservationStage",
    "OpenProject",
    "Policy",
    "Protocol",
    "Request",
    "Requirements",
    "RoboAction",
    "RoboActionParser",
    "Run",
    "RunFolder",
    "Source",
    "TaskOracle",
    "__version__",
    "evaluate",
    "load_chains",
    "make_env",
    "make_vec",
    "open_project",
]

__version__ = "0.1.0"

_HOMES = {
    "OFFICIAL": "protocol",
    "ActionStage": "wrappers.stages.base",
    "BasePolicy": "wrappers.policy",
    "CalvinEvalError": "errors",
    "Context": "wrappers.stages.base",
    "LoadedPolicy": "wrappers.loaders.base",
    "ObservationStage": "wrappers.stages.base",
    "OpenProject": "vla.opening",
    "Policy": "wrappers.policy",
    "Protocol": "protocol",
    "Request": "wrappers.policy",
    "Requirements": "wrappers.policy",
    "RoboAction": "wrappers.robo_action",
    "RoboActionParser": "wrappers.robo_action_parser",
    "Run": "running.outcome",
    "RunFolder": "results.store",
    "Source": "wrappers.loaders.base",
    "TaskOracle": "sim.oracle",
    "evaluate": "api",
    "load_chains": "sim.chains",
    "make_env": "sim.env",
    "make_vec": "rollouts.vector.make",
    "open_project": "vla.opening",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use: importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
