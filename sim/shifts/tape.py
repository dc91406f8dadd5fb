"""States that have passed and may still be seen: what images that come late are drawn from.

Nothing is drawn for it: a state is a few hundred numbers, and an image is drawn when it is asked
for, whichever moment it shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.sim.drawing.scene import SceneState
from calvin_eval.sim.shifts.sensors import Sensor


class Tape:
    """The states of one chain, from the one that is seen now on.

    Args:
        sensor: says which one that is.
    """

    def __init__(self, sensor: Sensor) -> None:
        self._sensor = sensor
        self._step = -1
        self._shown = 0
        self._kept: dict[int, tuple[SceneState, Mapping[str, Any]]] = {}

    @classmethod
    def of(cls, sensor: Sensor | None) -> Tape | None:
        """A new tape; None where images are never late."""
        return None if sensor is None else cls(sensor)

    def keep(self, state: SceneState, views: Mapping[str, Any]) -> None:
        """Take note of the next state, and where each camera looks in it."""
        self._step += 1
        self._kept[self._step] = state, views
        self._shown = self._sensor.shown(self._step, self._shown)
        for step in [step for step in self._kept if step < self._shown]:
            del self._kept[step]

    @property
    def state(self) -> SceneState:
        """The one that is seen now."""
        return self._kept[self._shown][0]

    @property
    def views(self) -> Mapping[str, Any]:
        """The view matrices in it, by camera."""
        return self._kept[self._shown][1]

    def spoiled(self, image: NDArray[np.uint8], camera: str) -> NDArray[np.uint8]:
        """What the camera makes of the image that is seen now."""
        return self._sensor.spoiled(image, camera, self._shown)
