"""Asset packs: the scenes, the robot, the cameras, the tasks and their instructions.

Every pack has the layout of a `mees/calvin` checkout with its `calvin_env` submodule, so one
reader serves the built-in pack, upstream's files and a user's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from calvin_eval.errors import AssetError, UnknownNameError
from calvin_eval.protocol import SCENES
from calvin_eval.sim.urdfs import lean_urdf, loadable_urdf, read_text

_CONF = Path("calvin_env/conf")
_DATA = Path("calvin_env/data")
_TASKS = Path("calvin_models/conf/callbacks/rollout/tasks/new_playtable_tasks.yaml")
_INSTRUCTIONS = Path("calvin_models/conf/annotations/new_playtable_validation.yaml")


@dataclass(frozen=True, kw_only=True)
class TriggerSpec:
    """A button or a switch: its joint and the light it works."""

    joint: str
    light: str


@dataclass(frozen=True, kw_only=True)
class LightSpec:
    """A light: the table link that is coloured, and the colour (RGBA, 0..1) when it is on."""

    name: str
    link: str
    color: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SceneSpec:
    """One scene file. Lengths in metres, angles in radians, world frame.

    Attributes:
        blocks: name and URDF of every movable object in file order, which is also the order of
            the blocks in `scene_obs`.
        surfaces: per surface the lower and the upper corner in which a block may start.
    """

    name: str
    global_scaling: float
    robot_base_position: tuple[float, ...]
    robot_base_orientation: tuple[float, ...]
    robot_initial_joints: tuple[float, ...]
    table: str
    doors: tuple[str, ...]
    buttons: tuple[TriggerSpec, ...]
    switches: tuple[TriggerSpec, ...]
    lights: tuple[LightSpec, ...]
    blocks: tuple[tuple[str, str], ...]
    surfaces: Mapping[str, Sequence[Sequence[float]]]


@dataclass(frozen=True, kw_only=True)
class RobotSpec:
    """The arm's URDF, link and joint ids, limits (radians, metres) and motor forces (N, N m)."""

    urdf: str
    arm_joints: tuple[int, ...]
    gripper_joints: tuple[int, int]
    tcp_link: int
    end_effector_link: int
    lower_limits: tuple[float, ...]
    upper_limits: tuple[float, ...]
    gripper_limits: tuple[float, float]
    joint_force: float
    gripper_force: float
    max_velocity: float
    max_rel_pos: float
    max_rel_orn: float


@dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """A camera: size in pixels, vertical field of view in degrees, near and far in metres.

    A camera with `look_from` stands still; one without rides on the robot link `gripper_cam`.
    """

    name: str
    width: int
    height: int
    fov: float
    aspect: float
    near: float
    far: float
    look_from: tuple[float, ...] | None = None
    look_at: tuple[float, ...] | None = None
    up: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class AssetPack:
    """A verified pack.

    Attributes:
        name: `builtin`, `official` or `custom`.
        root: its folder.
        fingerprint: SHA-256 over the names and hashes of its files.
    """

    name: str
    root: Path
    fingerprint: str
    scenes: Mapping[str, SceneSpec]
    robot: RobotSpec
    cameras: Mapping[str, CameraSpec]
    tasks: Mapping[str, Sequence[Any]]
    instructions: Mapping[str, Sequence[str]]

    @property
    def location(self) -> str:
        """What `load_pack` takes to find this pack again, in any process of this machine."""
        return "builtin" if self.name == "builtin" else os.fspath(self.root)

    def scene(self, name: str) -> SceneSpec:
        """The scene of that name; an unknown one raises `UnknownNameError`."""
        if name not in self.scenes:
            raise UnknownNameError("scene", name, self.scenes)
        return self.scenes[name]

    def urdf(self, relative: str, *, drawn: bool = True) -> str:
        """A path that Bullet can load for a URDF named relative to the pack's data folder.

        Args:
            relative: the file in the pack.
            drawn: whether visual shapes are loaded with it.
        """
        path = self.root / _DATA / relative
        return loadable_urdf(path) if drawn else lean_urdf(path)


def load_pack(assets: str | os.PathLike[str] = "builtin", *, verify: bool = True) -> AssetPack:
    """Find, verify and read a pack.

    Args:
        assets: `builtin`, `official`, or the path of a checkout.
        verify: compare every file with the pack's manifest. Without it a changed pack is
            accepted, under the name `custom` and with another fingerprint.

    Raises:
        AssetError: the pack is not there, or a file of it is missing or altered.
    """
    return _load_pack(os.fspath(assets), verify)


@lru_cache(maxsize=8)
def _load_pack(assets: str, verify: bool) -> AssetPack:
    from calvin_eval.sim.assets import store as assets_store

    name, root, fingerprint = assets_store.identify(assets, verify=verify)
    return AssetPack(
        name=name,
        root=root,
        fingerprint=fingerprint,
        scenes={scene: _read_scene(root, scene) for scene in SCENES},
        robot=_read_robot(root),
        cameras={camera: _read_camera(root, camera) for camera in ("static", "gripper")},
        tasks=_read_yaml(root / _TASKS)["tasks"],
        instructions=_read_yaml(root / _INSTRUCTIONS),
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    text = read_text(path)
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise AssetError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise AssetError(f"expected a mapping in {path}; found {type(content).__name__}")
    return content


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _read_scene(root: Path, name: str) -> SceneSpec:
    raw = _read_yaml(root / _CONF / "scene" / f"calvin_scene_{name}.yaml")
    table = raw["objects"]["fixed_objects"]["table"]
    return SceneSpec(
        name=name,
        global_scaling=raw["global_scaling"],
        robot_base_position=_floats(raw["robot_base_position"]),
        robot_base_orientation=_floats(raw["robot_base_orientation"]),
        robot_initial_joints=_floats(raw["robot_initial_joint_positions"]),
        table=table["file"],
        doors=tuple(table["joints"]),
        buttons=_triggers(table["buttons"]),
        switches=_triggers(table["switches"]),
        lights=tuple(
            LightSpec(name=light, link=spec["link"], color=_floats(spec["color"]))
            for light, spec in table["lights"].items()
        ),
        blocks=tuple(
            (block, spec["file"]) for block, spec in raw["objects"]["movable_objects"].items()
        ),
        surfaces=raw["surfaces"],
    )


def _triggers(raw: Mapping[str, Any]) -> tuple[TriggerSpec, ...]:
    return tuple(TriggerSpec(joint=joint, light=spec["effect"]) for joint, spec in raw.items())


def _read_robot(root: Path) -> RobotSpec:
    folder = root / _CONF / "robot"
    raw = _read_yaml(folder / "panda_longer_finger.yaml")
    for base in raw.pop("defaults", []):
        raw = {**_read_yaml(folder / f"{base}.yaml"), **raw}
    return RobotSpec(
        urdf=raw["filename"],
        arm_joints=tuple(raw["arm_joint_ids"]),
        gripper_joints=tuple(raw["gripper_joint_ids"]),
        tcp_link=raw["tcp_link_id"],
        end_effector_link=raw["end_effector_link_id"],
        lower_limits=_floats(raw["lower_joint_limits"]),
        upper_limits=_floats(raw["upper_joint_limits"]),
        gripper_limits=(float(raw["gripper_joint_limits"][0]), raw["gripper_joint_limits"][1]),
        joint_force=raw["max_joint_force"],
        gripper_force=raw["gripper_force"],
        max_velocity=raw["max_velocity"],
        max_rel_pos=raw.get("max_rel_pos", 0.02),
        max_rel_orn=raw.get("max_rel_orn", 0.05),
    )


def _read_camera(root: Path, name: str) -> CameraSpec:
    raw = _read_yaml(root / _CONF / "cameras" / "cameras" / f"{name}.yaml")
    pose = {
        ours: _floats(raw[theirs]) if theirs in raw else None
        for ours, theirs in (
            ("look_from", "look_from"),
            ("look_at", "look_at"),
            ("up", "up_vector"),
        )
    }
    return CameraSpec(
        name=raw["name"],
        width=raw["width"],
        height=raw["height"],
        fov=raw["fov"],
        aspect=raw["aspect"],
        near=raw["nearval"],
        far=raw["farval"],
        **pose,
    )
