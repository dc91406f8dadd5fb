"""CALVIN's own step interface over our world, drawing only what is asked for.

`reset`, `step`, `get_obs`, `get_state_obs`, `get_info` and `render` behave like upstream's
environment (docs/protocol.md#observations). Rollout engines use `advance` and `observe` instead,
which neither draw nor collect what nobody reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import RenderError, UnknownNameError, UsageError
from calvin_eval.protocol import OFFICIAL, REVISIONS, Revision
from calvin_eval.sim.actions import parse_action
from calvin_eval.sim.cameras import Camera, resolve_cameras
from calvin_eval.sim.drawing.options import DrawOptions
from calvin_eval.sim.interface import CalvinInterface
from calvin_eval.sim.packs import AssetPack, CameraSpec, load_pack
from calvin_eval.sim.render import Renderer, RenderInfo, resolve_backend
from calvin_eval.sim.shifts.cameras import moved_camera
from calvin_eval.sim.shifts.looks import Look
from calvin_eval.sim.shifts.variant import Variant
from calvin_eval.sim.world import ROBOT_OBS_SIZE, Needs, World, finite_array

_FREE_TRIES = 1000
_MIN_BLOCK_DISTANCE = 0.1  # metres between block centres: no two boxes can touch


class PlayTableEnv(CalvinInterface):
    """One environment.

    Args:
        world: the simulator.
        render: the renderer; see `resolve_backend`.
        cameras: which cameras `get_obs` and `step` draw.
        seed: for the sampled start of a `reset()` without a state.
    """

    def __init__(
        self,
        world: World,
        *,
        render: RenderInfo,
        cameras: Sequence[str | CameraSpec] = ("static", "gripper"),
        seed: int = 0,
    ) -> None:
        self.world = world
        self.render_info = render
        drawn = () if render.backend == "none" else resolve_cameras(world.pack, cameras)
        self.cameras = tuple(spec.name for spec in drawn)
        self._renderer = Renderer(render, world)
        self._specs = drawn
        self._variant: Variant | None = None
        self._cameras = {spec.name: Camera(spec, world) for spec in drawn}
        self._rng = np.random.default_rng(seed)

    def start(
        self, robot_obs: Any = None, scene_obs: Any = None, variant: Variant | None = None
    ) -> None:
        """`reset` without observing; a variant shifts what the start state does not say."""
        world = self.world
        scene = self._sampled_scene() if scene_obs is None else scene_obs
        world.check_state(np.zeros(15) if robot_obs is None else robot_obs, scene)
        world.reset(robot_obs, scene, variant)
        if variant is not None or self._variant is not None:
            self._variant = variant
            moved = [moved_camera(variant, spec) for spec in self._specs]
            self._cameras = {spec.name: Camera(spec, world, mount) for spec, mount in moved}
            self._renderer.vary(variant)
            self._renderer.follow(tuple(self._cameras.values()))

    def place_robot(self, robot_obs: Any) -> None:
        """Put the robot alone into the given state (15,); table and blocks stay as they are."""
        self._require_reset()
        self.world.place_robot(finite_array(robot_obs, "robot_obs", ROBOT_OBS_SIZE))
        self._renderer.follow(tuple(self._cameras.values()))

    def advance(self, action: Any) -> None:
        """`step` without observing."""
        parsed = parse_action(action)
        self._require_reset()
        self.world.step(parsed)
        self._renderer.follow(tuple(self._cameras.values()))

    def get_state_obs(self) -> dict[str, NDArray[np.float64]]:
        """`robot_obs` (15,) and `scene_obs` (24,) float64; never draws."""
        self._require_reset()
        return {"robot_obs": self.world.robot.observe(), "scene_obs": self.world.scene_obs()}

    def get_info(self, needs: Needs | None = None) -> dict[str, Any]:
        """Upstream's info for the task oracle, or the part of it that `needs` names."""
        self._require_reset()
        return self.world.info(needs)

    def camera_matrices(self, names: Sequence[str]) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Per camera `intrinsic` (3, 3) and `extrinsic` (4, 4) of the image that it gives now."""
        self._require_reset()
        cameras = {name: self._camera(name) for name in names}
        return {
            name: {"intrinsic": camera.intrinsic(), "extrinsic": camera.extrinsic()}
            for name, camera in cameras.items()
        }

    def close(self) -> None:
        """Free the physics server; a second call does nothing."""
        self.world.close()

    def drawn(self) -> tuple[Look, Any, list[Camera]]:
        """What our own renderer draws with: the look of the world, the drawer, all cameras."""
        return *self._renderer.made(), list(self._cameras.values())

    def _draw(self, names: Sequence[str]) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        return self._renderer.draw([self._camera(name) for name in names])

    def _camera(self, name: str) -> Camera:
        if name not in self._cameras:
            if self.render_info.backend == "none":
                raise RenderError(
                    f"expected a renderer for camera {name!r}; this environment was made with "
                    "render='none' and has no images. Make it with render='auto'."
                )
            raise UnknownNameError("camera of this environment", name, self._cameras)
        return self._cameras[name]

    def _require_reset(self) -> None:
        if not self.world.built:
            raise UsageError("expected reset() before this call; the world is empty until then")
        if self.world.bullet.id < 0:
            raise UsageError("this environment is closed; make a new one")

    def _sampled_scene(self) -> NDArray[np.float64]:
        """A `scene_obs` with blocks on random surfaces, no two near each other."""
        scene = self.world.scene
        surfaces: Mapping[str, Any] = scene.surfaces
        for _ in range(_FREE_TRIES):
            poses = []
            for _block in scene.blocks:
                low, high = surfaces[str(self._rng.choice(list(surfaces)))]
                yaw = self._rng.uniform(-np.pi, np.pi)
                poses.append([*self._rng.uniform(low, high), 0.0, 0.0, yaw])
            centres = np.array(poses)[:, :2]
            gaps = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
            if gaps[np.triu_indices(len(centres), 1)].min(initial=np.inf) > _MIN_BLOCK_DISTANCE:
                break
        still = self.world.scene_obs_size - 6 * len(scene.blocks)
        return np.concatenate([np.zeros(still), np.ravel(poses)])


def make_env(  # noqa: PLR0913 - what an environment is made of
    scene: str = "D",
    *,
    assets: str | AssetPack = "builtin",
    revision: Revision = OFFICIAL.revision,
    render: str = "none",
    draw: DrawOptions | None = None,
    cameras: Sequence[str | CameraSpec] = ("static", "gripper"),
    seed: int = 0,
) -> PlayTableEnv:
    """Make an environment with CALVIN's step interface.

    Args:
        scene: A, B, C or D.
        assets: `builtin`, `official`, the path of a `mees/calvin` checkout, or a loaded pack.
        revision: `pinned` (what papers evaluate on) or `head`; they differ in the button.
        render: `none`, `fast`, `gl`, `egl`, `tiny`, or `auto` (fast where it is built, else EGL
            where it works, else tiny, each with a warning).
        draw: options of `fast` and `gl`; every value but the default changes pixels.
        cameras: which cameras `get_obs` and `step` draw; a `CameraSpec` may give another size.
        seed: for a `reset()` without a state.

    Raises:
        AssetError, RenderError, UnknownNameError: see their messages.
    """
    if revision not in REVISIONS:
        raise UnknownNameError("revision", revision, REVISIONS)
    pack = assets if isinstance(assets, AssetPack) else load_pack(assets)
    world = World(pack, scene, revision)
    return PlayTableEnv(world, render=resolve_backend(render, draw), cameras=cameras, seed=seed)
