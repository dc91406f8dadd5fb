"""What other packages add to calvin-eval, found by their entry points.

A package names an object in one of the groups below; once it is installed, the object can be used
by its name. docs/extending.md has an example of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Literal, TypeAlias

from calvin_eval.errors import PluginError, UnknownNameError

Group: TypeAlias = Literal["policies", "loaders", "stages", "servers", "renderers"]

PREFIX: Final = "calvin_eval."
"""Of an entry point group's name: `calvin_eval.policies` and so on."""


@cache
def available(group: Group) -> Mapping[str, EntryPoint]:
    """The entry points of a group by name, in the order of the names.

    Raises:
        PluginError: two packages use one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=PREFIX + group), key=lambda point: point.name):
        other = found.setdefault(point.name, point)
        if other.value != point.value:
            raise PluginError(
                f"expected one {PREFIX}{group} named {point.name!r}, found two: {_origin(other)} "
                f"and {_origin(point)}; uninstall one of the packages"
            )
    return found


def load(group: Group, name: str) -> Any:
    """The object that an entry point names.

    Raises:
        UnknownNameError: nothing of that name is installed.
        PluginError: it cannot be imported.
    """
    points = available(group)
    if name not in points:
        raise UnknownNameError(f"entry point in {PREFIX}{group}", name, list(points) or ["(none)"])
    try:
        return points[name].load()
    except Exception as error:
        raise PluginError(
            f"{name}, an entry point in {PREFIX}{group} ({_origin(points[name])}), cannot be "
            f"imported: {type(error).__name__}: {error}"
        ) from error


def version(group: Group, name: str) -> tuple[str, str]:
    """Name and version of the distribution that an entry point belongs to."""
    distribution = available(group)[name].dist
    return (distribution.name, distribution.version) if distribution else ("unknown", "unknown")


def _origin(point: EntryPoint) -> str:
    return f"{point.value} of {point.dist.name if point.dist else 'an unknown package'}"
