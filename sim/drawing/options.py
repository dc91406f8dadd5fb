"""What may be chosen about our own renderers' images; the defaults are what EGL on Mesa draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args

from calvin_eval import plugins
from calvin_eval.checks import Bounds, check_fields
from calvin_eval.errors import UnknownNameError, UsageError

Backend: TypeAlias = Literal["auto", "fast", "gl", "egl", "tiny", "none"]
BACKENDS: Final[tuple[Backend, ...]] = get_args(Backend)
"""The renderers that can be asked for, see `sim.render`."""


def check_backend(name: str) -> None:
    """Raise UnknownNameError unless a renderer of that name is ours or registered by a package."""
    known = [*BACKENDS, *plugins.available("renderers")]
    if name not in known:
        raise UnknownNameError("renderer", name, known)


_SECTION = "sim.draw."
_MOST_SIMPLIFIED = 10


@dataclass(frozen=True)
class DrawOptions:
    """Options of the `fast` and `gl` renderers. Every value but the default changes pixels.

    Attributes:
        depth_bits: of the depth buffer: 16 as EGL's first configuration on Mesa has, whose coarse
            depth shows as jagged edges; 24 as other drivers may choose.
        colour_bits: per channel of the colour buffer before it is read as 8 bits: 10 or 8.
        shadow_detail: millimetres by which the meshes that cast shadows may be simplified.
        first_frames_unshadowed: draw a world's first two images without shadows, as Bullet's
            plugin does on Mesa.
    """

    depth_bits: Literal[16, 24] = 16
    colour_bits: Literal[8, 10] = 10
    shadow_detail: Annotated[float, Bounds(least=0)] = 0
    first_frames_unshadowed: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for a value that is not possible."""
        check_fields(DrawOptions, asdict(self), _SECTION)
        if self.shadow_detail > _MOST_SIMPLIFIED:
            raise UsageError(
                f"expected {_SECTION}shadow_detail to be at most {_MOST_SIMPLIFIED} millimetres; "
                f"found {self.shadow_detail!r}"
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DrawOptions:
        """The inverse of `as_dict`; raises UsageError for an unknown or impossible option."""
        known = [entry.name for entry in fields(cls)]
        for name in values:
            if name not in known:
                raise UnknownNameError("drawing option", name, known)
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)
