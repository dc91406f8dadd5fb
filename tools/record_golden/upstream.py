"""Upstream's own simulator, oracle and chain generator, driven from a checkout of mees/calvin.

Nothing of this project's package is imported here: what the traces prove does not depend on what
they are compared with. Upstream's code is used as it is, apart from two things: the world is built
anew at every start, with Bullet's overlapping pairs in a fixed order, and blocks are loaded where
they touch nothing (docs/protocol.md says why).
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

COMMITS: Final = {
    "1431a46bd36bde5903fb6345e68b5ccc30def666": "pinned",
    "797142c588c21e76717268b7b430958dbd13bf48": "head",
}


def revision_of(checkout: Path) -> str:
    """Returns `pinned` or `head`, from the commit of calvin_env in the checkout.

    Raises:
        SystemExit: it is neither commit, or files that matter were changed.
    """
    folder = checkout / "calvin_env"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit not in COMMITS:
        raise SystemExit(
            f"expected calvin_env at one of {', '.join(COMMITS)}; found {commit} in {folder}. "
            "Check one of them out there."
        )
    if changed := git("status", "--porcelain", "--", "calvin_env", "conf", "data"):
        raise SystemExit(f"expected {folder} without changes; found:\n{changed}")
    return COMMITS[commit]


def add_to_path(checkout: Path) -> None:
    """Let upstream's two packages be imported from the checkout."""
    for folder in ("calvin_models", "calvin_env"):
        sys.path.insert(0, str(checkout / folder))


class Simulator:
    """One scene of upstream's `PlayTableSimEnv`; one per process, for it needs Bullet's server 0.

    Args:
        checkout: of mees/calvin, with calvin_env in it.
        scene: A, B, C or D.
        cameras: `static`, `gripper`, both or none; those given are drawn at every step.
        egl: draw by OpenGL instead of TinyRenderer.
    """

    def __init__(
        self, checkout: Path, scene: str, cameras: Sequence[str] = (), *, egl: bool = False
    ) -> None:
        from calvin_env.envs.play_table_env import PlayTableSimEnv

        config = _configuration(checkout / "calvin_env" / "conf", scene, cameras)
        self._sim = PlayTableSimEnv(
            robot_cfg=config.robot,
            scene_cfg=config.scene,
            cameras=config.cameras,
            seed=0,
            use_vr=False,
            bullet_time_step=240.0,
            show_gui=False,
            use_scene_info=True,
            use_egl=egl,
            control_freq=30,
        )

    def start(self, robot_obs: NDArray[Any], scene_obs: NDArray[Any]) -> dict[str, Any]:
        """Build the world anew and reset it to a state; returns upstream's observation."""
        sim = self._sim
        sim.p.resetSimulation(physicsClientId=sim.cid)
        # After the reset, which discards it; upstream sets it before.
        sim.p.setPhysicsEngineParameter(deterministicOverlappingPairs=1, physicsClientId=sim.cid)
        sim.p.setGravity(0, 0, -9.8, physicsClientId=sim.cid)
        sim.robot.gripper_action = 1  # upstream would report the last one of the chain before
        sim.robot.load()
        sim.scene.load()
        observation: dict[str, Any] = sim.reset(np.array(robot_obs), np.array(scene_obs))
        return observation

    def step(self, action: Any) -> dict[str, Any]:
        """Returns upstream's observation after one action; arrays are copied before."""
        # The pinned revision scales the caller's array in place.
        action = action.copy() if isinstance(action, np.ndarray) else action
        observation: dict[str, Any] = self._sim.step(action)[0]
        return observation

    def info(self) -> Any:
        """Upstream's info, as its task oracle reads it."""
        return self._sim.get_info()


def _configuration(conf: Path, scene: str, cameras: Sequence[str]) -> Any:
    from omegaconf import OmegaConf

    robot: Any = OmegaConf.load(conf / "robot" / "panda_longer_finger.yaml")
    bases = [OmegaConf.load(conf / "robot" / f"{name}.yaml") for name in robot.pop("defaults")]
    config = OmegaConf.create(
        {
            "data_path": str((conf.parent / "data").absolute()),
            "robot": OmegaConf.merge(*bases, robot),
            "scene": OmegaConf.load(conf / "scene" / f"calvin_scene_{scene}.yaml"),
            "cameras": {
                name: OmegaConf.load(conf / "cameras" / "cameras" / f"{name}.yaml")
                for name in cameras
            },
        }
    )
    OmegaConf.resolve(config)
    for i, block in enumerate(config.scene.objects.movable_objects.values()):
        # In the air, clear of everything: no contact exists before the reset.
        block.initial_pos, block.initial_orn = [0, 0, 1 + i], [0, 0, 0]
    return config


def task_oracle(checkout: Path) -> Any:
    """Upstream's `Tasks` with the benchmark's task file."""
    from calvin_env.envs.tasks import Tasks
    from omegaconf import OmegaConf

    conf = checkout / "calvin_models/conf/callbacks/rollout/tasks/new_playtable_tasks.yaml"
    return Tasks(OmegaConf.load(conf).tasks)


def evaluation_modules() -> tuple[Any, Any]:
    """Upstream's `multistep_sequences` and `utils` of `calvin_agent.evaluation`.

    They import a policy model, its training libraries and a window toolkit, which chains and start
    states never reach: where such a module is missing, an empty one takes its place. `pyhash` is no
    such module and has to be installed.
    """
    for name in ("cv2", "hydra", "torch"):
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = ModuleType(name)
    for name, missing in {
        "calvin_agent.models.mcil": ("MCIL",),
        "calvin_agent.utils.utils": ("add_text", "format_sftp_path"),
    }.items():
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = ModuleType(name)
            vars(sys.modules[name]).update(dict.fromkeys(missing))
    chains = importlib.import_module("calvin_agent.evaluation.multistep_sequences")
    return chains, importlib.import_module("calvin_agent.evaluation.utils")
