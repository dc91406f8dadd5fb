"""What may be chosen about our own renderers' images; the defaults are what EGL on Mesa draws."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from calvin_eval.errors import UsageError

Backend: TypeAlias = Literal["auto", "fast", "gl", "egl", "tiny", "none"]
BACKENDS: Final[tuple[Backend, ...]] = get_args(Backend)
"""The renderers that can be asked for, see `sim.render`."""

_DEPTH_BITS = (16, 24)
_COLOUR_BITS = (8, 10)


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

    depth_bits: int = 16
    colour_bits: int = 10
    shadow_detail: float = 0
    first_frames_unshadowed: bool = False

    def __post_init__(self) -> None:
        if self.depth_bits not in _DEPTH_BITS:
            raise UsageError(f"expected depth_bits of 16 or 24; found {self.depth_bits!r}")
        if self.colour_bits not in _COLOUR_BITS:
            raise UsageError(f"expected colour_bits of 8 or 10; found {self.colour_bits!r}")
        if not 0 <= self.shadow_detail <= 10:
            raise UsageError(
                f"expected shadow_detail of 0 to 10 millimetres; found {self.shadow_detail!r}"
            )

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)
