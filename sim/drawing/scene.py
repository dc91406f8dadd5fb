"""What a renderer needs of a world: geometry once, poses and colours at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import AssetError
from calvin_eval.sim.bullet import BulletClient, pybullet
from calvin_eval.sim.drawing.kinematics import Pose, Skeleton
from calvin_eval.sim.drawing.meshes import Mesh, box, cylinder, load_mesh, obj_texture
from calvin_eval.sim.drawing.textures import load_texture

if TYPE_CHECKING:
    from calvin_eval.sim.world import World

__all__ = ["Mesh", "Scene", "SceneState", "Shape", "order"]

WHITE = -1

_Lights: TypeAlias = Mapping[int, Sequence[float]]
"""By link of the table: the colour that a light has now."""
_Colours: TypeAlias = list[Sequence[float]]


@dataclass(frozen=True)
class Shape:
    """One drawn visual of one link.

    Attributes:
        mesh: index into the scene's meshes, which are in the links' inertial frames.
        texture: index into the scene's textures, or -1 for white.
        body: PyBullet's body id.
        link: PyBullet's link index, -1 for the base.
    """

    mesh: int
    texture: int
    body: int
    link: int


@dataclass(frozen=True, eq=False)
class SceneState:
    """What changes from step to step.

    Attributes:
        poses: (S, 7) float32: per shape the position (metres) and quaternion (x, y, z, w) of its
            link's inertial frame in the world, after the last physics step.
        colours: (S, 4) float32: RGBA in 0..1 that tints the shape; with alpha 0 it is not drawn.
    """

    poses: NDArray[np.float32]
    colours: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything in a world that can be seen.

    Attributes:
        meshes: the distinct geometries.
        textures: (H, W, 3) uint8 each, rows from the bottom up.
        shapes: in the order in which Bullet registers them, which decides ties of the drawing
            order.
    """

    meshes: tuple[Mesh, ...]
    textures: tuple[NDArray[np.uint8], ...]
    shapes: tuple[Shape, ...]
    _bodies: tuple[_Body | _Still, ...] = field(repr=False)

    @classmethod
    def read(cls, world: World) -> Scene:
        """Read the shapes of a world that has been reset.

        A world is built from the same files every time it is reset, so one scene serves all its
        episodes.

        Raises:
            AssetError: a mesh that cannot be read, or a kind of shape that is not drawn here.
        """
        with world.shown() as shown:
            reader = _Reader(world.bullet, shown)
            bodies = [world.bullet.getBodyUniqueId(i) for i in range(world.bullet.getNumBodies())]
            parts = tuple(reader.body(body, body == world.table) for body in bodies)
        return cls(tuple(reader.meshes), tuple(reader.textures), tuple(reader.shapes), parts)

    def with_still(
        self,
        meshes: Sequence[Mesh],
        poses: Sequence[Sequence[float]],
        colours: Sequence[Sequence[float]],
    ) -> Scene:
        """The scene with white shapes that no body of the world has, and that stand still.

        Args:
            meshes: one per shape.
            poses: position and quaternion of each, 7 numbers.
            colours: RGBA of each.
        """
        first = len(self.meshes)
        shapes = [Shape(first + index, WHITE, -1, -1) for index in range(len(meshes))]
        return replace(
            self,
            meshes=(*self.meshes, *meshes),
            shapes=(*self.shapes, *shapes),
            _bodies=(*self._bodies, _Still(poses, colours)),
        )

    def state(self, world: World) -> SceneState:
        """Poses and colours now; asks PyBullet and changes nothing in it."""
        poses: list[float] = []
        colours: list[Sequence[float]] = []
        lights = {light.link: light.color for light in world.lights}
        for body in self._bodies:
            body.extend(world.bullet, lights, poses, colours)
        return SceneState(
            np.array(poses, dtype=np.float32).reshape(-1, 7),
            np.array(colours, dtype=np.float32).reshape(-1, 4),
        )


def order(scene: Scene, state: SceneState, view: Sequence[float]) -> NDArray[np.int32]:
    """In which order Bullet draws the shapes for a camera: (S,) int32, farthest first.

    With equal depths the shape drawn first wins, so the order shows in the image. Shapes that
    share a mesh are drawn together, where the first of them belongs.

    Args:
        scene: the shapes.
        state: where they are.
        view: the view matrix, 16 numbers in OpenGL's column order.
    """
    third_row = np.asarray(view, dtype=np.float32).reshape(4, 4)[:3, 2]
    distance = (state.poses[:, :3] @ third_row).tolist()
    groups: dict[int, list[int]] = {}
    for index, shape in enumerate(scene.shapes):
        groups.setdefault(shape.mesh, []).append(index)
    sorted_groups = [(distance[group[0]], group) for group in groups.values()]
    _partition_sort(sorted_groups, 0, len(sorted_groups) - 1)
    return np.array([index for _, group in sorted_groups for index in group], dtype=np.int32)


def _partition_sort(items: list[tuple[float, list[int]]], low: int, high: int) -> None:
    """Sort in place by the first entries, by Hoare's quicksort around the middle, as Bullet does.

    It shows in the image: the pedestal and the floor are equal, and which of them comes first
    depends on all others.
    """
    if low >= high:
        return
    i, j, pivot = low, high, items[(low + high) // 2][0]
    while i <= j:
        while items[i][0] < pivot:
            i += 1
        while items[j][0] > pivot:
            j -= 1
        if i <= j:
            items[i], items[j] = items[j], items[i]
            i, j = i + 1, j - 1
    _partition_sort(items, low, j)
    _partition_sort(items, i, high)


class _Body:
    """One body's part of the state."""

    def __init__(self, bullet: BulletClient, body: int, shapes: Sequence[Any], lit: bool) -> None:
        self._body = body
        self._links = [shape[1] for shape in shapes]
        self._colours = [shape[7] for shape in shapes]
        self._lit = lit
        moving = [link for link in self._links if link >= 0]
        self._skeleton = Skeleton(bullet, body, moving) if moving else None
        still = bullet.getDynamicsInfo(body, -1)[0] == 0  # no mass: nothing moves the base
        self._base: Pose | None = bullet.getBasePositionAndOrientation(body) if still else None

    def extend(
        self, bullet: BulletClient, lights: _Lights, poses: list[float], colours: _Colours
    ) -> None:
        """Append the body's shapes: 7 numbers of pose each, and their colours."""
        base = self._base or bullet.getBasePositionAndOrientation(self._body)
        links = self._skeleton.poses(base) if self._skeleton else {-1: base}
        for link in self._links:
            position, rotation = links[link]
            poses += position
            poses += rotation
        if self._lit:
            own = zip(self._links, self._colours, strict=True)
            colours += [lights.get(link, colour) for link, colour in own]
        else:
            colours += self._colours


class _Still:
    """Shapes that are no part of the world."""

    def __init__(
        self, poses: Sequence[Sequence[float]], colours: Sequence[Sequence[float]]
    ) -> None:
        self._poses, self._colours = poses, colours

    def extend(
        self, bullet: BulletClient, lights: _Lights, poses: list[float], colours: _Colours
    ) -> None:
        """Append the shapes, as `_Body.extend` does."""
        for pose in self._poses:
            poses += pose
        colours += self._colours


class _Reader:
    """Collects what the bodies of a world look like.

    Args:
        bullet: the world's server.
        shown: one in which the bodies have their visual shapes; may be the same.
    """

    def __init__(self, bullet: BulletClient, shown: BulletClient) -> None:
        self._bullet = bullet
        self._shown = shown
        self._loaded = shown.getNumBodies()
        self.meshes: list[Mesh] = []
        self.textures: list[NDArray[np.uint8]] = []
        self.shapes: list[Shape] = []
        self._known_meshes: dict[Any, int] = {}
        self._known_textures: dict[Path, int] = {}

    def body(self, body: int, lit: bool) -> _Body:
        """Add a body's shapes; `lit` if the world changes their colours."""
        # What was put into the world after it was built has its visual shapes there.
        shown = self._shown if body < self._loaded else self._bullet
        drawn = [
            shape
            for shape in shown.getVisualShapeData(body)
            if shape[2] != pybullet.GEOM_PLANE  # Bullet's OpenGL renderer leaves planes out
        ]
        for _, link, kind, size, file, *frame_and_colour in drawn:
            position, rotation = frame_and_colour[:2]
            texture = obj_texture(Path(file.decode())) if kind == pybullet.GEOM_MESH else None
            mesh = self._mesh(body, link, (kind, size, file, position, rotation))
            self.shapes.append(Shape(mesh, self._texture(texture), body, link))
        return _Body(self._bullet, body, drawn, lit)

    def _mesh(self, body: int, link: int, visual: tuple[Any, ...]) -> int:
        kind, size, file, position, rotation = visual
        inertial = self._bullet.getDynamicsInfo(body, link)[3:5]
        # Bullet draws meshes of the same file and frames together, and every box on its own.
        key = (file, size, inertial, position, rotation) if file else (body, link, len(self.shapes))
        if key not in self._known_meshes:
            inverse = self._bullet.invertTransform(*inertial)
            offset, turn = self._bullet.multiplyTransforms(*inverse, position, rotation)
            matrix = np.array(self._bullet.getMatrixFromQuaternion(turn)).reshape(3, 3)
            mesh, scale = _geometry(kind, size, file)
            self._known_meshes[key] = len(self.meshes)
            self.meshes.append(mesh.moved(scale, offset, matrix))
        return self._known_meshes[key]

    def _texture(self, image: Path | None) -> int:
        if image is None:
            return WHITE
        if image not in self._known_textures:
            pixels = load_texture(image)
            assert pixels is not None  # `obj_texture` has read it
            self._known_textures[image] = len(self.textures)
            self.textures.append(pixels)
        return self._known_textures[image]


def _geometry(kind: int, size: Sequence[float], file: bytes) -> tuple[Mesh, Sequence[float]]:
    """A visual's mesh in its own frame, and its scale."""
    if kind == pybullet.GEOM_MESH:
        return load_mesh(Path(file.decode())), size
    if kind == pybullet.GEOM_BOX:
        return box(size), (1, 1, 1)
    if kind == pybullet.GEOM_CYLINDER:
        return cylinder(size[0], size[1]), (1, 1, 1)
    raise AssetError(
        f"expected meshes, boxes and cylinders to draw; found Bullet's shape type {kind}. "
        "Choose --render egl or tiny for this pack."
    )
