"""Stand-ins for CALVIN's packages while a public policy is loaded where they are not installed.

Public policies inherit from `CalvinBaseModel` of `calvin_agent`, and often stand in the file of the
evaluation's loop, which imports the rest of `calvin_agent`, and `calvin_env`. The loop is
calvin-eval's, so only the base class has to work; of the rest, names have to be there.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

PACKAGE = "calvin_agent"
MODULE = f"{PACKAGE}.models.calvin_base_model"
SIMULATOR = "calvin_env"
_PROOF = {PACKAGE: MODULE, SIMULATOR: f"{SIMULATOR}.envs.play_table_env"}
"""A module that each package has where it is really installed."""


class CalvinBaseModel:
    """What a model for CALVIN's `evaluate_policy.py` inherits from; it does nothing by itself."""

    def reset(self) -> None:
        """Forget the last subtask; called before every one. A model replaces it."""
        raise NotImplementedError(f"{type(self).__name__} has no reset()")

    def step(self, obs: Any, goal: Any) -> Any:
        """The next action for an observation and a goal. A model replaces it."""
        raise NotImplementedError(f"{type(self).__name__} has no step(obs, goal)")


class NotInstalledError(RuntimeError):
    """Something of CALVIN's packages is needed, for which there is only a name."""


class _Name(type):
    """The type of what is imported from a stand-in: a name that can be passed on, and not used."""

    def __call__(cls, *args: Any, **kwargs: Any) -> NoReturn:
        raise _used(cls)

    def __getattr__(cls, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise _used(cls)


def _used(name: _Name) -> NotInstalledError:
    origin = next(base.__dict__["origin"] for base in name.__mro__ if "origin" in base.__dict__)
    return NotInstalledError(
        f"{origin} is used, but {origin.partition('.')[0]} is not installed: while a policy is "
        f"loaded calvin-eval stands in for {MODULE}.CalvinBaseModel, and for no more than the "
        "names of the rest, since chains, world and oracle are its own. Install the package, or "
        "leave that out of what the policy does."
    )


class _StandIn(ModuleType):
    """A module that has every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if f"{self.__name__}.{name}" == f"{MODULE}.CalvinBaseModel":
            return CalvinBaseModel
        made = _Name(name, (), {"origin": f"{self.__name__}.{name}"})
        setattr(self, name, made)
        return made


class _Offered(MetaPathFinder, Loader):
    """Finds stand-ins for the modules of some packages.

    Args:
        packages: by their names.
    """

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = frozenset(packages)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """A module of one of the packages; None for any other."""
        if fullname.partition(".")[0] not in self._packages:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A module that has every name."""
        return _StandIn(spec.name, "A stand-in by calvin-eval.")

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: its names are made when they are asked for."""


@contextmanager
def base_model_offered() -> Iterator[None]:
    """Let CALVIN's packages be imported meanwhile, as far as they are not installed."""
    missing = [package for package in _PROOF if _is_missing(package)]
    offered = _Offered(missing)
    sys.meta_path.insert(0, offered)
    try:
        yield
    finally:
        sys.meta_path.remove(offered)
        for name, module in list(sys.modules.items()):
            if isinstance(module, _StandIn) and name.partition(".")[0] in missing:
                del sys.modules[name]


def _is_missing(package: str) -> bool:
    """Whether a package is not there; an empty folder, as of a submodule, is none."""
    if package in sys.modules:
        return False
    spec = importlib.util.find_spec(package)
    if spec is None:
        return True
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    file = Path(*_PROOF[package].split(".")[1:]).with_suffix(".py")
    return spec.origin is None and not any((folder / file).is_file() for folder in folders)
