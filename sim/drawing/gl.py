"""Bullet's OpenGL image, drawn by OpenGL without Bullet: for machines with a GPU, and as a check.

One context may draw many worlds: their states go up in one transfer, every camera of every world
gets a tile of one picture, and the picture comes back in one read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import RenderError
from calvin_eval.sim.drawing import light
from calvin_eval.sim.drawing.gl_context import WINDOW, GlContext, shared_context
from calvin_eval.sim.drawing.options import DrawOptions
from calvin_eval.sim.drawing.scene import Scene, SceneState, order

if TYPE_CHECKING:
    import moderngl

View: TypeAlias = tuple[Sequence[float], Sequence[float], int, int]  # view, projection, W, H
Image: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.float32]]
Tile: TypeAlias = tuple[int, int]  # left column and top row


class GlRenderer:
    """Draws worlds that look like one scene.

    Args:
        scene: the geometry; it is uploaded once.
        options: the defaults if absent; `shadow_detail` has no use here and must be 0.
        context: whose context to draw in; the process's shared one if absent.
    """

    def __init__(
        self,
        scene: Scene,
        options: DrawOptions | None = None,
        context: GlContext | None = None,
    ) -> None:
        options = options or DrawOptions()
        if options.shadow_detail:
            raise RenderError("expected shadow_detail=0: render=gl draws full meshes only")
        self._scene = scene
        self._gl = context or shared_context(options)
        self._unshadowed = 2 if options.first_frames_unshadowed else 0
        with self._gl.current():
            self._upload()

    def _upload(self) -> None:
        ctx, scene = self._gl.ctx, self._scene
        corners = [np.hstack([m.positions, m.normals, m.uvs]) for m in scene.meshes]
        self._corners = ctx.buffer(np.concatenate(corners).astype("f4").tobytes())
        indices = np.concatenate([m.triangles.ravel() for m in scene.meshes])
        self._indices = ctx.buffer(indices.astype("u4").tobytes())
        counts = np.array([m.triangles.size for m in scene.meshes])
        sizes = np.array([len(m.positions) for m in scene.meshes])
        mesh = np.array([shape.mesh for shape in scene.shapes])
        self._commands = np.ones((len(mesh), 5), dtype=np.uint32)
        self._commands[:, 0] = counts[mesh]
        self._commands[:, 2] = (np.cumsum(counts) - counts)[mesh]
        self._commands[:, 3] = (np.cumsum(sizes) - sizes)[mesh]
        white = np.full((1, 1, 3), 255, dtype=np.uint8)
        self._textures = [self._texture(pixels) for pixels in (*scene.textures, white)]
        self._reserve(1)

    def _texture(self, pixels: NDArray[np.uint8]) -> moderngl.Texture:
        height, width = pixels.shape[:2]
        texture = self._gl.ctx.texture((width, height), 3, pixels.tobytes(), alignment=1)
        texture.build_mipmaps()  # and trilinear filtering
        return texture

    def _reserve(self, worlds: int) -> None:
        """Make room for the states of that many worlds."""
        ctx, gl = self._gl.ctx, self._gl
        self._room = worlds
        self._instances = ctx.buffer(reserve=worlds * len(self._scene.shapes) * 11 * 4)
        place = (self._instances, "3f 4f 4f /i", "place", "turn", "tint")
        seen = (self._corners, "3f 3f 2f", "position", "normal", "uv")
        cast = (self._corners, "3f 20x", "position")
        shadow_place = (self._instances, "3f 4f 16x /i", "place", "turn")
        self._colour = ctx.vertex_array(gl.colour, [seen, place], self._indices)
        self._shadow = ctx.vertex_array(gl.shadow, [cast, shadow_place], self._indices)

    def draw(self, state: SceneState, cameras: Sequence[View]) -> list[Image]:
        """Draw one state.

        Args:
            state: where everything is.
            cameras: view and projection (16 numbers each, OpenGL's order), width, height.

        Returns:
            Per camera the colours (H, W, 3) uint8 and the depth buffer (H, W) float32 in 0..1.
        """
        images = []
        with self._gl.current():
            self._send([state])
            self._draw_shadows(0)
            for camera in cameras:
                # Where Bullet draws it, in the lower left corner of its window.
                tile = (0, max(WINDOW[1] - camera[3], 0))
                target = self._gl.target((camera[2], tile[1] + camera[3]))
                target.clear(*light.BACKGROUND, 1.0, depth=1.0)
                self._draw_tile(0, state, camera, tile)
                images += self._read([(camera, tile)])
        self._unshadowed = max(self._unshadowed - len(cameras), 0)
        return images

    def draw_many(
        self, states: Sequence[SceneState], cameras: Sequence[Sequence[View]]
    ) -> list[list[Image]]:
        """Draw several worlds of this scene with one upload and one read-back.

        Args:
            states: one per world.
            cameras: per world its cameras, as `draw` takes them.

        Returns:
            Per world what `draw` returns, up to rounding: a tile's place shows in few pixels.
        """
        tiles, size = _tiles([(c[2], c[3]) for views in cameras for c in views])
        placed = iter(tiles)
        jobs = []
        with self._gl.current():
            target = self._gl.target(size)
            target.clear(*light.BACKGROUND, 1.0, depth=1.0)
            self._send(states)
            for world, (state, views) in enumerate(zip(states, cameras, strict=True)):
                self._draw_shadows(world)
                for camera in views:
                    jobs.append((camera, next(placed)))
                    self._draw_tile(world, state, *jobs[-1])
            images = iter(self._read(jobs))
        self._unshadowed = max(self._unshadowed - len(jobs), 0)
        return [[next(images) for _ in views] for views in cameras]

    def _send(self, states: Sequence[SceneState]) -> None:
        if len(states) > self._room:
            self._reserve(len(states))
        rows = [np.hstack([state.poses, state.colours]) for state in states]
        self._instances.write(np.concatenate(rows).astype("f4").tobytes())

    def _indirect(self, world: int, shapes: NDArray[np.int32]) -> Any:
        commands = self._commands[shapes]
        commands[:, 4] = world * len(self._scene.shapes) + shapes
        return self._gl.ctx.buffer(commands.tobytes())

    def _draw_shadows(self, world: int) -> None:
        gl = self._gl
        gl.shadow_map.use()
        gl.ctx.enable_only(gl.ctx.DEPTH_TEST | gl.ctx.CULL_FACE)
        gl.ctx.cull_face = "front"  # only faces turned away from the light cast
        gl.shadow_map.clear(depth=1.0)
        if not self._unshadowed:
            every = np.arange(len(self._scene.shapes), dtype=np.int32)
            self._shadow.render_indirect(self._indirect(world, every), count=len(every))

    def _draw_tile(self, world: int, state: SceneState, camera: View, tile: Tile) -> None:
        gl = self._gl
        view, projection, width, height = camera
        target = gl.target((1, 1))
        target.use()
        target.viewport = (*tile, width, height)
        target.scissor = target.viewport  # nothing leaks into a neighbour
        gl.ctx.enable_only(gl.ctx.DEPTH_TEST | gl.ctx.CULL_FACE)
        gl.ctx.depth_func = "<"
        gl.ctx.cull_face = "back"
        gl.rows_run_down(True)
        clip = light.product(light.column_matrix(projection), light.column_matrix(view))
        gl.colour["clip"].write(clip.tobytes())
        gl.shadow_texture.use(1)
        shapes = order(self._scene, state, view)
        commands = self._indirect(world, shapes)
        textures = np.array([self._scene.shapes[index].texture for index in shapes])
        starts = np.flatnonzero(np.diff(textures, prepend=-2))
        for start, end in zip(starts, [*starts[1:], len(shapes)], strict=True):
            self._textures[textures[start]].use(0)
            self._colour.render_indirect(commands, count=int(end - start), first=int(start))
        target.scissor = None  # type: ignore[assignment]
        gl.rows_run_down(False)

    def _read(self, jobs: Sequence[tuple[View, Tile]]) -> list[Image]:
        target = self._gl.target((1, 1))
        right = max(tile[0] + camera[2] for camera, tile in jobs)
        top = min(tile[1] for _, tile in jobs)
        bottom = max(tile[1] + camera[3] for camera, tile in jobs)
        box = (0, top, right, bottom - top)
        rgb = np.frombuffer(target.read(box, 3, alignment=1), np.uint8)
        depth = np.frombuffer(target.read(box, 1, attachment=-1, dtype="f4", alignment=1), "<f4")
        rgb, depth = rgb.reshape(bottom - top, right, 3), depth.reshape(bottom - top, right)
        images = []
        for (_, _, width, height), (left, row) in jobs:
            part = np.s_[row - top : row - top + height, left : left + width]
            images.append((np.ascontiguousarray(rgb[part]), np.ascontiguousarray(depth[part])))
        return images


def _tiles(sizes: Sequence[tuple[int, int]]) -> tuple[list[Tile], tuple[int, int]]:
    """Where images of these sizes lie side by side in rows, and the picture's size."""
    widest = max(WINDOW[0] * 4, *(width for width, _ in sizes))
    tiles: list[Tile] = []
    left = row = tallest = right = 0
    for width, height in sizes:
        if left + width > widest:
            left, row, tallest = 0, row + tallest, 0
        tiles.append((left, row))
        left += width
        right, tallest = max(right, left), max(tallest, height)
    return tiles, (right, row + tallest)
