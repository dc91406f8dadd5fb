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
        """An image (H, W, 3) as this camera gives it, with all its faults.

        Args:
            image: as it was drawn.
            camera: its name.
            step: whose image it is; the same step has the same noise.
        """
        blurred = Image.fromarray(image).filter(
            ImageFilter.BoxBlur(self._radius * len(image) / _REFERENCE)
        )
        noisy = self._response[np.asarray(blurred)]
        noisy += self._noise(len(image), image.shape[1], camera, step)
        grey = np.clip(noisy, 0, 255).astype(np.uint8)
        packed = io.BytesIO()
        Image.fromarray(grey).save(packed, "JPEG", quality=self._quality)
        return np.array(Image.open(packed))

    @cached_property
    def _radius(self) -> float:
        return float(self.variant.one_way("sensor", "blur")[0])

    @cached_property
    def _quality(self) -> int:
        return round(100 - float(self.variant.one_way("sensor", "compression")[0]))

    @cached_property
    def _response(self) -> NDArray[np.int16]:
        """What a value of 0 to 255 becomes by the exposure."""
        exposure = 1 + float(self.variant.either_way("sensor", "exposure")[0])
        response: NDArray[np.int16] = np.rint(np.arange(256) * exposure).astype(np.int16)
        return response

    @cached_property
    def _field(self) -> NDArray[np.int16]:
        """Noise (256, 256, 3), and once more to the right of it and below."""
        drawn = self.variant.stream("sensor", "field").normal(size=(_FIELD, _FIELD, 3))
        strength = float(self.variant.one_way("sensor", "noise")[0])
        return np.tile(np.rint(drawn * strength).astype(np.int16), (2, 2, 1))

    def _noise(self, height: int, width: int, camera: str, step: int) -> NDArray[np.int16]:
        stream = self.variant.stream("sensor", f"noise {camera} {step}")
        row, column = stream.randint(0, _FIELD, 2).tolist()
        if max(height, width) > _FIELD:
            rows, columns = (np.arange(n) % _FIELD for n in (height + row, width + column))
            part: NDArray[np.int16] = self._field[rows[row:]][:, columns[column:]]
            return part
        return self._field[row : row + height, column : column + width]
