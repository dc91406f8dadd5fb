"""The axis `sensor`: what becomes of a drawn image before the policy sees it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from calvin_eval.sim.shifts.variant import Variant

_FIELD: Final = 256
"""Pixels along each side of the noise that every frame takes from another corner on."""
_REFERENCE: Final = 200
"""Rows of the image that the table's pixels are those of."""


@dataclass(frozen=True)
class Sensor:
    """The cameras of one chain's variant, with all their faults."""

    variant: Variant

    @classmethod
    def of(cls, variant: Variant | None) -> Sensor | None:
        """That of a variant; None without the axis."""
        return None if variant is None or not variant.level("sensor") else cls(variant)

    @cached_property
    def delay(self) -> int:
        """Steps by which every image is late."""
        return round(self.variant.span("sensor", "delay"))

    @cached_property
    def _dropped(self) -> float:
        return float(self.variant.one_way("sensor", "dropped")[0])

    def shown(self, step: int, before: int) -> int:
        """The step whose image is seen at a step; 0 is the start state, which is never dropped.

        Args:
            step: of the chain, from its start.
            before: what was seen one step ago.
        """
        late = max(step - self.delay, 0)
        if late == before or self._is_dropped(late):
            return before
        return late

    def _is_dropped(self, step: int) -> bool:
        return float(self.variant.stream("sensor", f"dropped {step}").uniform()) < self._dropped

    def spoiled(self, image: NDArray[np.uint8], camera: str, step: int) -> NDArray[np.uint8]:
        """An image (H, W, 3) as this camera gives it: blurred, exposed, noisy and compressed.

        Args:
            image: as it was drawn.
            camera: its name.
            step: whose image it is; the same step has the same noise.
        """
        radius = float(self.variant.one_way("sensor", "blur")[0]) * len(image) / _REFERENCE
        blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))
        exposed = np.asarray(blurred, np.float32) * np.float32(1 + self._exposure)
        noisy = exposed + self._noise(len(image), image.shape[1], camera, step)
        grey = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        packed = io.BytesIO()
        quality = round(100 - float(self.variant.one_way("sensor", "compression")[0]))
        Image.fromarray(grey).save(packed, "JPEG", quality=quality)
        return np.array(Image.open(packed))

    @cached_property
    def _exposure(self) -> float:
        return float(self.variant.either_way("sensor", "exposure")[0])

    @cached_property
    def _field(self) -> NDArray[np.float32]:
        drawn = self.variant.stream("sensor", "field").normal(size=(_FIELD, _FIELD, 3))
        strength = float(self.variant.one_way("sensor", "noise")[0])
        field: NDArray[np.float32] = (drawn * strength).astype(np.float32)
        return field

    def _noise(self, height: int, width: int, camera: str, step: int) -> NDArray[np.float32]:
        corner = self.variant.stream("sensor", f"noise {camera} {step}").randint(0, _FIELD, 2)
        rows, columns = (
            (np.arange(n) + at) % _FIELD for n, at in zip((height, width), corner, strict=True)
        )
        part: NDArray[np.float32] = self._field[rows][:, columns]
        return part
