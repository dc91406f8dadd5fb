"""What a chain's variant looks like to our own renderer: its lamp, its textures and its tints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import UsageError
from calvin_eval.shifts import AXES, Shifts
from calvin_eval.sim.drawing.light import BACKGROUND, Lamp
from calvin_eval.sim.drawing.meshes import box, cylinder
from calvin_eval.sim.drawing.scene import Scene, SceneState
from calvin_eval.sim.shifts.distractors import Thing, can_be_touched
from calvin_eval.sim.shifts.lights import lamp_of
from calvin_eval.sim.shifts.textures import generated
from calvin_eval.sim.shifts.variant import Variant

if TYPE_CHECKING:
    from calvin_eval.sim.world import World

_OWN_DRAWING: Final = ("light", "appearance", "distractors")
"""Axes that need the renderer whose light, textures and shapes are ours to change."""


def check_drawable(shifts: Shifts, backend: str) -> None:
    """Raise UsageError unless a renderer can draw these shifts; `none` draws nothing at all."""
    if shifts.level("sensor") and backend not in ("fast", "gl", "none"):
        raise UsageError(
            f"expected --render fast or gl with --shift sensor={shifts.level('sensor')}: {backend} "
            "draws the present moment only, and images come late"
        )
    levels = dict(shifts.levels)
    asked = [a for a in _OWN_DRAWING if a in levels and not AXES[a].is_physical(levels[a])]
    if asked and backend not in ("fast", "none"):
        raise UsageError(
            f"expected --render fast with --shift {asked[0]}={shifts.level(asked[0])}: {backend} "
            "draws by a light, textures and shapes that cannot be changed from outside"
        )


@dataclass(frozen=True, eq=False)
class Look:
    """How one world is drawn.

    Attributes:
        scene: with the variant's textures.
        lamp: that lights it.
        tints: (S, 4) added to the shapes' colours; None for none.
    """

    scene: Scene
    lamp: Lamp
    tints: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, variant: Variant | None, world: World) -> Look:
        """The look of a world that has been reset to a variant."""
        scene = Scene.read(world)
        if variant is None:
            return cls(scene, Lamp())
        lamp = lamp_of(variant)
        if world.distractors and not can_be_touched(variant):
            scene = _with_distractors(scene, world.distractors)
        if not variant.level("appearance"):
            return cls(scene, lamp)
        lamp = replace(lamp, background=_background(variant))
        return cls(_repainted(scene, variant, world), lamp, _tints(scene, variant, world))

    def tinted(self, state: SceneState) -> SceneState:
        """A state with the colours of the variant."""
        if self.tints is None:
            return state
        return replace(state, colours=np.clip(state.colours + self.tints, 0, 1))


def _with_distractors(scene: Scene, standing: Sequence[Thing]) -> Scene:
    meshes = [cylinder(t.size[2], t.size[0] / 2) if t.round else box(t.size) for t in standing]
    return scene.with_still(
        meshes,
        [(*thing.centre, *thing.quaternion) for thing in standing],
        [(*thing.colour, 1.0) for thing in standing],
    )


def _background(variant: Variant) -> tuple[float, float, float]:
    changed = np.array(BACKGROUND) + variant.either_way("appearance", "background", 3)
    red, green, blue = np.clip(changed, 0, 1).tolist()
    return red, green, blue


def _repainted(scene: Scene, variant: Variant, world: World) -> Scene:
    """The scene with generated textures blended into those of table and floor."""
    blended: dict[int, NDArray[np.uint8]] = {}
    surfaces: Mapping[int, str] = {world.table: "table", world.plane: "floor"}
    for shape in scene.shapes:
        if shape.body in surfaces and shape.texture >= 0 and shape.texture not in blended:
            name = surfaces[shape.body]
            stream = variant.stream("appearance", f"{name} {len(blended)}")
            share = float(variant.one_way("appearance", name)[0])
            blended[shape.texture] = _blend(scene.textures[shape.texture], generated(stream), share)
    textures = (blended.get(index, own) for index, own in enumerate(scene.textures))
    return replace(scene, textures=tuple(textures))


def _blend(own: NDArray[np.uint8], new: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """Two textures on one another; the new one is laid out as often as it fits."""
    height, width = own.shape[:2]
    rows, columns = np.arange(height) % len(new), np.arange(width) % len(new)
    mixed = own * (1 - share) + new[rows][:, columns] * share
    image: NDArray[np.uint8] = np.round(mixed).astype(np.uint8)
    return image


def _tints(scene: Scene, variant: Variant, world: World) -> NDArray[np.float32]:
    """(S, 4): blocks change a little, so that each keeps the name of its colour."""
    changes = variant.either_way("appearance", "block", 3 * len(world.blocks)).reshape(-1, 3)
    by_body = dict(zip(world.blocks.values(), changes, strict=True))
    tints = np.zeros((len(scene.shapes), 4), np.float32)
    for row, shape in enumerate(scene.shapes):
        if shape.body in by_body:
            tints[row, :3] = by_body[shape.body]
    return tints
