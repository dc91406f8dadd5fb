"""What each file of `tests/golden` holds, and how upstream's code fills it.

Actions are inputs: traces and the expert's chains are recorded again with the action lists of the
stored files. All else comes from upstream.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tools.record_golden.files import Arrays, read_arrays, write_arrays, write_image
from tools.record_golden.upstream import (
    Simulator,
    add_to_path,
    evaluation_modules,
    task_oracle,
)

# Names of tests/golden/head/action_modes.npz, and the form in which upstream takes such a row.
ACTION_FORMS: Final[Mapping[str, Callable[[NDArray[np.float64]], Any]]] = {
    "abs_euler": lambda a: (a[:3], a[3:6], int(a[6])),
    "abs_quat": lambda a: (a[:3], a[3:7], int(a[7])),
    "joint_abs": lambda a: {"type": "joint_abs", "action": a},
    "joint_rel": lambda a: {"type": "joint_rel", "action": a},
}
CAMERAS: Final = ("static", "gripper")
FRAME_STEPS: Final = (0, 40, 120)


@dataclass(frozen=True)
class RecordingJob:
    """One recording.

    Attributes:
        checkout: of mees/calvin.
        stored: folder with the action lists and start states: `tests/golden`.
        out: folder that the recording is written to, under the same names.
    """

    checkout: Path
    stored: Path
    out: Path

    def start_of(self, chain: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`robot_obs` (15,) and `scene_obs` (24,) with which an official chain starts."""
        states = read_arrays(self.stored / "initial_states.npz")
        return states["robot_obs"][chain], states["scene_obs"][chain]


def _sequences(chains: Any) -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    """Upstream's list of 1000 chains; it takes a minute."""
    found: list[tuple[dict[str, Any], tuple[str, ...]]] = chains.get_sequences(1000)
    return found


def record_sequences(job: RecordingJob, file: str) -> None:
    """The 1000 chains: symbolic start state and five task names each."""
    chains, _ = evaluation_modules()
    job.out.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(chain) for chain in _sequences(chains))
    (job.out / file).write_text(f"[{lines}]\n", encoding="utf-8")


def record_initial_states(job: RecordingJob, file: str) -> None:
    """`robot_obs` (1000, 15) and `scene_obs` (1000, 24) in which the chains start."""
    chains, utils = evaluation_modules()
    states = [utils.get_env_state_for_initial_condition(state) for state, _ in _sequences(chains)]
    robot_obs, scene_obs = (np.stack(part) for part in zip(*states, strict=True))
    write_arrays(job.out / file, {"robot_obs": robot_obs, "scene_obs": scene_obs})


def _record_trace(
    sim: Simulator, oracle: Any, start: tuple[Any, Any], actions: Any, form: Callable[[Any], Any]
) -> Arrays:
    """States after the reset and after every action, and the tasks achieved since the reset."""
    names = list(oracle.tasks)
    states, masks = [sim.start(*start)], []
    before = sim.info()
    for action in actions:
        states.append(sim.step(form(action)))
        done = oracle.get_task_info(before, sim.info())
        masks.append(sum(1 << k for k, name in enumerate(names) if name in done))
    return {
        "actions": actions,
        "robot_obs": np.stack([state["robot_obs"] for state in states]),
        "scene_obs": np.stack([state["scene_obs"] for state in states]),
        "achieved": np.array(masks, np.uint64),
    }


def _record_traces(job: RecordingJob, file: str, scene: str, *, forms: bool = False) -> None:
    stored = read_arrays(job.stored / file)
    oracle, sim = task_oracle(job.checkout), Simulator(job.checkout, scene)
    arrays: Arrays = {}
    for key in (name[: -len("_actions")] for name in stored if name.endswith("_actions")):
        form = ACTION_FORMS[key[: key.index("_chain")]] if forms else _relative
        start = job.start_of(int(key[-4:]))
        trace = _record_trace(sim, oracle, start, stored[f"{key}_actions"], form)
        arrays |= {f"{key}_{name}": array for name, array in trace.items()}
    if not forms:
        arrays["task_names"] = np.array(list(oracle.tasks))
    write_arrays(job.out / file, arrays)


def _relative(action: Any) -> Any:
    return action


def record_scene(job: RecordingJob, file: str) -> None:
    """Traces of relative actions, `pinned/sceneD.npz` and the like."""
    _record_traces(job, file, Path(file).stem[-1])


def record_action_modes(job: RecordingJob, file: str) -> None:
    """Traces of absolute and joint actions, which scene D's head revision takes."""
    _record_traces(job, file, "D", forms=True)


def record_expert(job: RecordingJob, file: str) -> None:
    """Chains solved by a scripted expert: per subtask its outcome, its length and its last state.

    A subtask's actions end where upstream's oracle says that it is done, or after 360.
    """
    stored = read_arrays(job.stored / file)
    oracle, sim = task_oracle(job.checkout), Simulator(job.checkout, "D")
    arrays: Arrays = {}
    index: list[tuple[int, int, str, int, int]] = []
    rows = json.loads(str(stored["index"]))
    for chain, subtasks in groupby(rows, key=lambda row: int(row[0])):
        state = sim.start(*job.start_of(chain))
        for _, position, task, _, _ in subtasks:
            key = f"chain{chain:04d}_sub{position}"
            before, done, steps = sim.info(), False, 0
            for action in stored[f"{key}_actions"]:
                state, steps = sim.step(action), steps + 1
                done = bool(oracle.get_task_info_for_set(before, sim.info(), {task}))
                if done:
                    break
            index.append((chain, position, task, int(done), steps))
            arrays[f"{key}_actions"] = stored[f"{key}_actions"][:steps]
            arrays[f"{key}_robot_obs"] = state["robot_obs"]
            arrays[f"{key}_scene_obs"] = state["scene_obs"]
    arrays["index"] = np.array(json.dumps(index))
    write_arrays(job.out / file, arrays)


def record_frames(job: RecordingJob, file: str) -> None:
    """Images and depths of both cameras, of one scene: `frames_tiny/depth_sceneD.npz` and PNGs.

    The actions are those of `head/sceneD.npz`, in every scene.
    """
    folder, scene = Path(file).parent, Path(file).stem[-1]
    sim = Simulator(job.checkout, scene, CAMERAS, egl="egl" in folder.name)
    actions = read_arrays(job.stored / "head" / "sceneD.npz")
    depths: Arrays = {}
    sim.start(*job.start_of(0))  # under Mesa a process's first two images lack their shadows
    for chain in (0, 6, 7) if scene == "D" else (6,):
        state = sim.start(*job.start_of(chain))
        for step in range(FRAME_STEPS[-1] + 1):
            if step:
                state = sim.step(actions[f"chain{chain:04d}_actions"][step - 1])
            for camera in CAMERAS if step in FRAME_STEPS else ():
                name = f"scene{scene}_chain{chain:04d}_step{step:03d}_{camera}"
                depths[name] = state["depth_obs"][f"depth_{camera}"]
                image = state["rgb_obs"][f"rgb_{camera}"]
                write_image(job.out / folder / f"{name}.png", image)
    write_arrays(job.out / file, depths)


Record = Callable[[RecordingJob, str], None]
BOTH: Final = ("pinned", "head")
# File -> the revisions of calvin_env that can record it, and the function that does.
RECORDINGS: Final[Mapping[str, tuple[Sequence[str], Record]]] = {
    "sequences.json": (BOTH, record_sequences),
    "initial_states.npz": (BOTH, record_initial_states),
    **{f"pinned/scene{scene}.npz": (("pinned",), record_scene) for scene in "ABCD"},
    "head/sceneD.npz": (("head",), record_scene),
    "head/action_modes.npz": (("head",), record_action_modes),
    "expert/pinned_sceneD.npz": (("pinned",), record_expert),
    **{f"frames_tiny/depth_scene{scene}.npz": (BOTH, record_frames) for scene in "ABCD"},
    "frames_egl_llvmpipe/depth_sceneD.npz": (BOTH, record_frames),
}


if __name__ == "__main__":  # a process per file: a simulator has to be the first of its process
    _checkout, _stored, _out, _file = sys.argv[1:]
    add_to_path(Path(_checkout))
    RECORDINGS[_file][1](RecordingJob(Path(_checkout), Path(_stored), Path(_out)), _file)
