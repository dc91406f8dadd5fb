"""The files beside the frames that CALVIN's tools read: ranges, statistics and the environment.

Facts of the formats: CALVIN, dataset README, `load_dataset_statistics` and `get_env`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from numpy.typing import NDArray

from calvin_eval.files import write_atomic
from calvin_eval.rollouts.recording.episode import Episode
from calvin_eval.rollouts.recording.labels import save_plain
from calvin_eval.rollouts.recording.store import frame_name
from calvin_eval.rollouts.recording.tape import EXPERT_ACTED
from calvin_eval.sim.packs import AssetPack
from calvin_eval.sim.upstream_package import camera_configuration

RANGES: Final = "ep_start_end_ids.npy"
STATISTICS: Final = "statistics.yaml"
SCENES: Final = "scene_info.npy"
ENVIRONMENT: Final = ".hydra/merged_config.yaml"

_NORMALIZE = "calvin_models.calvin_agent.utils.transforms.NormalizeVector"
_STILL = 1e-6  # a standard deviation below which a value counts as constant


def write_ranges(folder: Path, episodes: Sequence[Episode]) -> None:
    """Write which frames belong together, and which scene they show; both ends included."""
    lengths = np.array([episode.frames for episode in episodes], np.int64)
    last = np.cumsum(lengths) - 1
    np.save(folder / "ep_lens.npy", lengths)
    np.save(folder / RANGES, np.stack([last - lengths + 1, last], axis=1).reshape(-1, 2))
    scenes: dict[str, list[int]] = {}
    for episode, length, end in zip(episodes, lengths, last, strict=True):
        key = f"calvin_scene_{episode.scene}"
        scenes.setdefault(key, [int(end - length + 1), 0])[1] = int(end)
    save_plain(folder / SCENES, scenes)


def write_statistics(folder: Path, count: int) -> None:
    """Write mean and deviation of the states, and the bounds of the absolute actions."""
    names = ("robot_obs", "scene_obs", "actions")
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for index in range(count):
        with np.load(folder / frame_name(index)) as frame:
            for name in names:
                columns[name].append(frame[name])
    content: dict[str, Any] = {}
    for name in names[:2]:
        mean, deviation = np.mean(columns[name], axis=0), np.std(columns[name], axis=0)
        deviation = np.where(deviation < _STILL, 1.0, deviation)
        content[name] = [{"_target_": _NORMALIZE, "mean": mean.tolist(), "std": deviation.tolist()}]
    content["act_min_bound"] = np.min(columns["actions"], axis=0).tolist()
    content["act_max_bound"] = np.max(columns["actions"], axis=0).tolist()
    write_atomic(folder / STATISTICS, yaml.safe_dump(content, sort_keys=False).encode())


def write_marks(folder: Path, count: int) -> None:
    """Write in which frames of a corrected policy the expert acted, (count,) bool."""
    acted = []
    for index in range(count):
        with np.load(folder / frame_name(index)) as frame:
            acted.append(bool(frame[EXPERT_ACTED]))
    np.save(folder / f"{EXPERT_ACTED}.npy", np.array(acted))


def write_environment(folder: Path, pack: AssetPack, scene: str) -> None:
    """Write what CALVIN's `get_env` makes an environment of."""
    content = {
        "cameras": {name: camera_configuration(spec) for name, spec in pack.cameras.items()},
        "env": _ENV,
        "scene": _scene(pack, scene),
        "robot": _robot(pack),
        "seed": 0,
        "use_vr": False,
        "data_path": "data",
        "show_gui": False,
    }
    path = folder / ENVIRONMENT
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, yaml.safe_dump(content, sort_keys=False).encode())


_ENV: Mapping[str, Any] = {
    "_target_": "calvin_env.envs.play_table_env.PlayTableSimEnv",
    "_recursive_": False,
    "cameras": "${cameras}",
    "seed": 0,
    "bullet_time_step": 240.0,
    "use_vr": False,
    "show_gui": "${show_gui}",
    "robot_cfg": "${robot}",
    "scene_cfg": "${scene}",
    "use_scene_info": False,
    "use_egl": True,
    "control_freq": 30,
}


def _scene(pack: AssetPack, name: str) -> dict[str, Any]:
    path = pack.root / "calvin_env/conf/scene" / f"calvin_scene_{name}.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {
        "_target_": "calvin_env.scene.play_table_scene.PlayTableScene",
        "_recursive_": False,
        "data_path": "${data_path}",
        "euler_obs": "${robot.euler_obs}",
        "name": f"calvin_scene_{name}",
        **{k: v for k, v in content.items() if k not in ("_target_", "_recursive_", "data_path")},
    }


def _robot(pack: AssetPack) -> dict[str, Any]:
    spec = pack.robot
    return {
        "_target_": "calvin_env.robot.robot.Robot",
        "filename": spec.urdf,
        "base_position": "${scene.robot_base_position}",
        "base_orientation": "${scene.robot_base_orientation}",
        "initial_joint_positions": "${scene.robot_initial_joint_positions}",
        "max_joint_force": spec.joint_force,
        "gripper_force": spec.gripper_force,
        "arm_joint_ids": list(spec.arm_joints),
        "lower_joint_limits": list(spec.lower_limits),
        "upper_joint_limits": list(spec.upper_limits),
        "gripper_joint_ids": list(spec.gripper_joints),
        "gripper_joint_limits": list(spec.gripper_limits),
        "tcp_link_id": spec.tcp_link,
        "end_effector_link_id": spec.end_effector_link,
        "gripper_cam_link": 14,
        "use_nullspace": True,
        "max_velocity": spec.max_velocity,
        "use_ik_fast": False,
        "magic_scaling_factor_pos": 1,
        "magic_scaling_factor_orn": 1,
        "use_target_pose": True,
        "euler_obs": True,
    }
