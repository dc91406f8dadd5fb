"""Export to LeRobot's data set format (extra `calvin-eval[lerobot]`).

Facts of the format: LeRobot, `LeRobotDataset` (0.4.4, format 3.0).
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from calvin_eval.errors import UsageError
from calvin_eval.extras import install_command, require
from calvin_eval.foreign.splits import Annotation, SplitFolder

FPS: Final = 30

ACTION_NAMES: Final = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
STATE_NAMES: Final = (
    *("tcp_x", "tcp_y", "tcp_z", "tcp_roll", "tcp_pitch", "tcp_yaw", "opening"),
    *(f"joint_{i}" for i in range(1, 8)),
    "gripper",
)
SCENE_NAMES: Final = (
    *("slide", "drawer", "button", "switch", "lightbulb", "led"),
    *(f"block_{i}_{part}" for i in (1, 2, 3) for part in ACTION_NAMES[:6]),
)
_IMAGES: Final = {
    "observation.images.static": "rgb_static",
    "observation.images.gripper": "rgb_gripper",
}


def export_lerobot(
    splits: Sequence[SplitFolder],
    out: Path,
    *,
    repo_id: str = "local/calvin",
    videos: bool = False,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write a LeRobot data set with an episode for every annotation; returns how many.

    A frame has `observation.state` (robot_obs), `observation.environment_state` (scene_obs), the
    two cameras, `action` (rel_actions, as the simulator takes them) and the sentence. The last
    frame shows the solution; its action belongs to what follows, and becomes standing still.

    Args:
        splits: where the demonstrations are.
        out: a folder that does not exist yet.
        repo_id: the data set's name.
        videos: whether images are kept as videos, which is smaller and not the same to the bit.
        watch: called with the number of episodes that are done, and of all.

    Raises:
        MissingExtraError: LeRobot is not installed.
        UsageError: no annotations, broken frames, or `out` exists.
    """
    require("lerobot", "export-lerobot")
    spans = [(split, a) for split in splits for a in split.annotations or ()]
    if not spans:
        raise UsageError("expected a data set with language annotations, found none")
    if out.exists():
        raise UsageError(f"expected a folder that does not exist yet, found {out}")
    dataset = _create(out, repo_id, videos, spans[0][0].read(spans[0][1].first))
    try:
        for done, (split, annotation) in enumerate(spans):
            watch(done, len(spans))
            _add_episode(dataset, split, annotation)
        dataset.finalize()
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    watch(len(spans), len(spans))
    return len(spans)


def _create(out: Path, repo_id: str, videos: bool, frame: Mapping[str, Any]) -> Any:
    try:
        module = importlib.import_module("lerobot.datasets.lerobot_dataset")
    except ImportError as error:
        raise UsageError(
            f"expected LeRobot to be whole, found that it cannot be imported ({error}): "
            f"{install_command('lerobot')}"
        ) from error
    features: dict[str, Any] = {
        "observation.state": _numbers(STATE_NAMES),
        "observation.environment_state": _numbers(SCENE_NAMES),
        "action": _numbers(ACTION_NAMES),
    }
    for name, key in _IMAGES.items():
        if key in frame:
            features[name] = {
                "dtype": "video" if videos else "image",
                "shape": frame[key].shape,
                "names": ["height", "width", "channels"],
            }
    return module.LeRobotDataset.create(
        repo_id, FPS, features, root=out, robot_type="panda", use_videos=videos
    )


def _numbers(names: Sequence[str]) -> dict[str, Any]:
    return {"dtype": "float32", "shape": (len(names),), "names": list(names)}


def _add_episode(dataset: Any, split: SplitFolder, annotation: Annotation) -> None:
    for index in range(annotation.first, annotation.last + 1):
        frame = split.read(index)
        action = frame["rel_actions"].astype(np.float32)
        if index == annotation.last:
            action[:6] = 0
        row = {
            "observation.state": frame["robot_obs"].astype(np.float32),
            "observation.environment_state": frame["scene_obs"].astype(np.float32),
            "action": action,
            "task": annotation.text,
        }
        row |= {name: frame[key] for name, key in _IMAGES.items() if key in frame}
        dataset.add_frame(row)
    dataset.save_episode()
