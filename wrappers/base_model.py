"""A stand-in for the base class of CALVIN's custom models, which public policies inherit from."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "calvin_agent"
MODULE = f"{PACKAGE}.models.calvin_base_model"


class CalvinBaseModel:
    """What a model for CALVIN's `evaluate_policy.py` inherits from; it does nothing by itself."""

    def reset(self) -> None:
        """Forget the last subtask; called before every one. A model replaces it."""
        raise NotImplementedError(f"{type(self).__name__} has no reset()")

    def step(self, obs: Any, goal: Any) -> Any:
        """The next action for an observation and a goal. A model replaces it."""
        raise NotImplementedError(f"{type(self).__name__} has no step(obs, goal)")


def _modules() -> dict[str, ModuleType]:
    """The package with nothing in it but the base class, by the names of its modules."""
    names = [PACKAGE, f"{PACKAGE}.models", MODULE]
    made = {name: ModuleType(name, "A stand-in by calvin-eval.") for name in names}
    made[PACKAGE].__path__ = []  # a package: whatever else is imported from it is not there
    made[f"{PACKAGE}.models"].__path__ = []
    made[PACKAGE].models = made[f"{PACKAGE}.models"]  # type: ignore[attr-defined]
    made[f"{PACKAGE}.models"].calvin_base_model = made[MODULE]  # type: ignore[attr-defined]
    made[MODULE].CalvinBaseModel = CalvinBaseModel  # type: ignore[attr-defined]
    return made


@contextmanager
def base_model_offered() -> Iterator[None]:
    """Let `calvin_agent.models.calvin_base_model` be imported meanwhile, if it is not installed."""
    if not _is_missing():
        yield
        return
    offered = _modules()
    sys.modules.update(offered)
    try:
        yield
    finally:
        for name, module in offered.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _is_missing() -> bool:
    """Whether the package is not there; an empty folder, as of a submodule, is none."""
    if PACKAGE in sys.modules:
        return False
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        return True
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    file = Path(*MODULE.split(".")[1:]).with_suffix(".py")
    return spec.origin is None and not any((folder / file).is_file() for folder in folders)
