"""A policy's options as its constructor wants them: keyword arguments, or a table of them."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Mapping
from typing import Any

TABLES = (
    "args", "arguments", "cfg", "conf", "config", "configs", "hparams", "opt", "options", "opts",
    "params",
)  # fmt: skip
"""Names of a constructor's parameter that is a table of its settings."""


class Arguments(dict[str, Any]):
    """A dict whose entries are attributes as well, as are those of the dicts and lists in it.

    Args:
        values: the entries, which are copied.
    """

    __slots__ = ()

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__({name: as_arguments(value) for name, value in values.items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            known = ", ".join(self) or "(none)"
            raise AttributeError(f"no argument {name!r}: those given are {known}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"no argument {name!r}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        """For `vars`: the entries, as those of a namespace."""
        return self


def as_arguments(value: Any) -> Any:
    """A value whose dicts are `Arguments`, at any depth."""
    if isinstance(value, Mapping):
        return Arguments(value)
    if isinstance(value, list):
        return [as_arguments(entry) for entry in value]
    return value


def _as_config(value: Any) -> Any:
    """A value whose dicts and lists are OmegaConf's, as those of Hydra's configurations."""
    from omegaconf import OmegaConf

    return OmegaConf.create(value) if isinstance(value, dict | list) else value


def _as_namespace(value: Any) -> Any:
    """A value whose dicts are such namespaces as a parser of arguments makes."""
    if isinstance(value, Mapping):
        return argparse.Namespace(**{name: _as_namespace(one) for name, one in value.items()})
    return [_as_namespace(one) for one in value] if isinstance(value, list) else value


_ANNOTATED = {"DictConfig": "omegaconf", "argparse.Namespace": "namespace"}
"""What is made of a table for a parameter whose annotation has such a name."""

_MADE: dict[str, Callable[[Any], Any]] = {
    "attributes": as_arguments,
    "dict": lambda value: value,
    "omegaconf": _as_config,
    "namespace": _as_namespace,
}
"""What is made of a constructor's argument, by `Interface.arguments`."""


def keyword_arguments(
    factory: Callable[..., Any], options: Mapping[str, Any], kind: str = "attributes"
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The keyword arguments of a factory, and their names that it does not have.

    A factory with one parameter such as `args` or `cfg` (see `TABLES`), which the options do not
    name, gets a table of those options that are no parameters of it.

    Args:
        factory: the class or function.
        options: by name.
        kind: what tables are made of, see `Interface.arguments`. A parameter that is annotated as a
            `DictConfig` or an `argparse.Namespace` gets one, if the kind is "attributes".
    """
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some classes in C have none
        return {name: _MADE[kind](value) for name, value in options.items()}, ()
    named = {
        n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    free = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = dict(options)
    others = tuple(name for name in given if name not in named)
    tables = [name for name in TABLES if name in named and name not in given]
    needed = [name for name in tables if parameters[name].default is inspect.Parameter.empty]
    if others and (needed or (tables and not free)):
        given[(needed or tables)[0]] = {name: given.pop(name) for name in others}
        others = ()
    made = {n: _MADE[_kind(parameters.get(n), kind)](value) for n, value in given.items()}
    return made, () if free else others


def _kind(parameter: inspect.Parameter | None, kind: str) -> str:
    if parameter is None or kind != "attributes":
        return kind
    annotation = inspect.formatannotation(parameter.annotation)
    return next((made for name, made in _ANNOTATED.items() if name in annotation), kind)
