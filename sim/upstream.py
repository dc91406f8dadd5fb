"""A second simulator behind the same interface: the user's own installation of `calvin_env`.

Nothing of upstream's code is here: its world, robot and cameras are driven from outside, part by
part, so that nothing is drawn unless it is asked for. Rules: docs/protocol.md, read off
`mees/calvin_env` 1431a46 ("pinned") and 797142c ("head").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig

from calvin_eval.errors import (
    InvalidActionError,
    InvalidStateError,
    RenderError,
    UnknownNameError,
    UsageError,
)
from calvin_eval.protocol import REVISIONS, Revision
from calvin_eval.sim.actions import ParsedAction, parse_action
from calvin_eval.sim.bullet import captured_output, pybullet
from calvin_eval.sim.interface import CalvinInterface
from calvin_eval.sim.packs import AssetPack, CameraSpec, load_pack
from calvin_eval.sim.render import resolve_backend
from calvin_eval.sim.shifts.variant import Variant
from calvin_eval.sim.upstream_package import (
    configuration,
    disconnect,
    import_upstream,
    installed_revision,
    package_folder,
    without_git,
)
from calvin_eval.sim.world import ROBOT_OBS_SIZE, Needs, finite_array


class UpstreamEnv(CalvinInterface):
    """Upstream's environment, with `PlayTableEnv`'s interface.

    Upstream draws part of its robot into this process's first physics server whatever its own
    is, so it has to be that server: make it before any other environment, or in a process of
    its own.

    Args:
        scene: A, B, C or D.
        assets: `official`, the path of a `mees/calvin` checkout, or a loaded pack; upstream
            reads its data and configuration from there.
        revision: which revision must be installed; any, even a modified one, if absent.
        render: `none`, `egl`, `tiny` or `auto`.
        cameras: which cameras `get_obs` and `step` draw; also `tactile`, if tacto is installed.
        deterministic: build a fresh world at every reset (docs/protocol.md#determinism), so that a
            chain's result follows from its actions alone. Otherwise upstream as it is: built
            once, and every chain depends on those before it.
        seed: for the sampled start of a `reset()` without a state.

    Attributes:
        revision: `pinned`, `head`, or `modified` where the installed files are neither's.

    Raises:
        UsageError: `calvin_env` is not installed, is another revision than the one wanted, or
            there is a physics server already.
        AssetError, RenderError, UnknownNameError: see their messages.
    """

    def __init__(  # noqa: PLR0913 - the arguments of `make_env` and one more
        self,
        scene: str = "D",
        *,
        assets: str | AssetPack = "official",
        revision: Revision | None = None,
        render: str = "none",
        cameras: Sequence[str | CameraSpec] = ("static", "gripper"),
        deterministic: bool = True,
        seed: int = 0,
    ) -> None:
        self._sim: Any = None
        self._started = False
        self._warm = False
        self.pack = assets if isinstance(assets, AssetPack) else load_pack(assets)
        self.deterministic = deterministic
        self._module = import_upstream()
        self.revision = installed_revision()
        self._check_revision(revision)
        self._scene = self.pack.scene(scene)
        self.render_info = resolve_backend(render, own=False)
        drawn = () if self.render_info.backend == "none" else cameras
        config = configuration(self.pack, scene, drawn)
        self.cameras: tuple[str, ...] = tuple(str(name) for name in config.cameras)
        self._sim = self._construct(config, seed)

    def _check_revision(self, wanted: str | None) -> None:
        if wanted is not None and wanted not in REVISIONS:
            raise UnknownNameError("revision", wanted, REVISIONS)
        if wanted not in (None, self.revision):
            raise UsageError(
                f"expected calvin_env at revision {wanted!r}; found {self.revision!r} in "
                f"{package_folder()}. Check the wanted revision out there, or ask for "
                "the one that is installed."
            )

    def _construct(self, config: DictConfig, seed: int) -> Any:
        """Let upstream build its environment; what its constructor does besides is kept out."""
        if pybullet.isConnected(0):
            raise UsageError(
                "expected no physics server in this process yet: calvin_env draws into the first "
                "one, which must be its own; found one. Make the calvin_env environment before "
                "any other, close the other first, or use another process."
            )
        with without_git(self._module), captured_output():
            sim = self._module.PlayTableSimEnv(
                robot_cfg=config.robot,
                scene_cfg=config.scene,
                cameras=config.cameras,
                seed=seed,
                use_vr=False,
                bullet_time_step=240.0,
                show_gui=False,
                use_scene_info=True,
                use_egl=self.render_info.backend == "egl",
                control_freq=30,
            )
        if sim.cid != 0:
            disconnect(sim)
            raise UsageError("expected calvin_env to get this process's first physics server")
        return sim

    def start(
        self, robot_obs: Any = None, scene_obs: Any = None, variant: Variant | None = None
    ) -> None:
        """`reset` without observing; upstream's world has no variants."""
        if variant is not None:
            raise UsageError(f"expected no shifts in calvin_env's world, found {variant.shifts}")
        self._require_open()
        if robot_obs is not None:
            robot_obs = finite_array(robot_obs, "robot_obs", ROBOT_OBS_SIZE)
        if scene_obs is not None:
            scene_obs = self._checked_scene(scene_obs)
        sim = self._sim
        if self.deterministic:
            self._build()
        sim.scene.reset(scene_obs)
        sim.robot.reset(robot_obs)
        sim.p.stepSimulation(physicsClientId=sim.cid)
        self._started = True

    def place_robot(self, robot_obs: Any) -> None:
        """Put the robot alone into the given state (15,); table and blocks stay as they are."""
        self._require_reset()
        sim = self._sim
        sim.robot.reset(finite_array(robot_obs, "robot_obs", ROBOT_OBS_SIZE))
        sim.robot.gripper_action = 1
        sim.p.stepSimulation(physicsClientId=sim.cid)

    def _build(self) -> None:
        """Load everything anew, in upstream's own order, with the overlapping pairs sorted."""
        sim = self._sim
        sim.p.resetSimulation(physicsClientId=sim.cid)
        # After the reset, which would discard it.
        sim.p.setPhysicsEngineParameter(deterministicOverlappingPairs=1, physicsClientId=sim.cid)
        sim.p.setGravity(0, 0, -9.8, physicsClientId=sim.cid)
        sim.robot.gripper_action = 1  # else the one of the chain before is reported
        sim.robot.load()
        # Blocks stacked in the air, clear of everything: no contact exists before the reset.
        poses = sim.scene.object_cfg["movable_objects"]
        sampled = {name: (pose["initial_pos"], pose["initial_orn"]) for name, pose in poses.items()}
        for i, pose in enumerate(poses.values()):
            pose["initial_pos"], pose["initial_orn"] = [0, 0, 1 + i], [0, 0, 0]
        sim.scene.load()
        for block in sim.scene.movable_objects:
            pose = poses[block.name]
            pose["initial_pos"], pose["initial_orn"] = sampled[block.name]
            # What a reset without a state samples from.
            block.initial_pos, block.initial_orn = sampled[block.name]

    def _checked_scene(self, scene_obs: Any) -> NDArray[np.float64]:
        scene = self._scene
        joints = len(scene.doors) + len(scene.buttons) + len(scene.switches)
        still = joints + len(scene.lights)
        array = finite_array(scene_obs, "scene_obs", still + 6 * len(scene.blocks))
        if not np.isin(lights := array[joints:still], (0.0, 1.0)).all():
            raise InvalidStateError(
                f"expected light states of 0 or 1 in scene_obs; found {lights.tolist()}"
            )
        return array

    def advance(self, action: Any) -> None:
        """`step` without observing."""
        theirs = self._their_action(parse_action(action))
        self._require_reset()
        sim = self._sim
        sim.robot.apply_action(theirs)
        for _ in range(sim.action_repeat):
            sim.p.stepSimulation(physicsClientId=sim.cid)
        sim.scene.step()

    def _their_action(self, action: ParsedAction) -> Any:
        """The form that both revisions take; a new array, which the pinned one scales in place."""
        if action.joints is not None:
            if not hasattr(self._sim.robot, "control_motors"):
                raise InvalidActionError(
                    f"expected a cartesian action: calvin_env at revision {self.revision!r} has "
                    f"no {action.kind} actions; its head revision has"
                )
            vector = np.append(action.joints, action.gripper)
            return {"type": action.kind, "action": vector}
        if action.kind == "cartesian_abs":
            return action.position, action.orientation, int(action.gripper)
        assert action.position is not None
        gripper = np.array([action.gripper], action.position.dtype)
        return np.concatenate([action.position, action.orientation, gripper])

    def _draw(self, names: Sequence[str]) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        return [self._draw_one(name) for name in names]

    def _draw_one(self, name: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        if self.render_info.backend == "none":
            raise RenderError(
                f"expected a renderer for camera {name!r}; this environment was made with "
                "render='none' and has no images. Make it with render='auto'."
            )
        if name not in self.cameras:
            raise UnknownNameError("camera of this environment", name, self.cameras)
        camera = self._sim.cameras[self.cameras.index(name)]
        if self.deterministic and not self._warm and self.render_info.backend == "egl":
            # The first two images after connecting lack their shadows under Mesa.
            self._warm = True
            for _ in range(2):
                camera.render()
        colour, distance = camera.render()
        return np.ascontiguousarray(colour), distance

    def get_state_obs(self) -> dict[str, NDArray[np.float64]]:
        """`robot_obs` (15,) and `scene_obs` (24,) float64; never draws."""
        self._require_reset()
        state: dict[str, NDArray[np.float64]] = self._sim.get_state_obs()
        return state

    def get_info(self, needs: Needs | None = None) -> dict[str, Any]:
        """Upstream's info for the task oracle; always whole, whatever `needs` names."""
        self._require_reset()
        info: dict[str, Any] = self._sim.get_info()
        return info

    def close(self) -> None:
        """Free the physics server; a second call does nothing."""
        if self._sim is not None:
            disconnect(self._sim)
            self._sim = None

    def _require_open(self) -> None:
        if self._sim is None:
            raise UsageError("this environment is closed; make a new one")

    def _require_reset(self) -> None:
        self._require_open()
        if not self._started:
            raise UsageError("expected reset() before this call; the world has no state until then")
