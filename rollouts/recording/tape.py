"""A simulator that keeps what happens in it: one file per frame, in CALVIN's format.

Facts of the format: CALVIN, dataset README. A frame holds the observation, and the action that was
taken in it: `rel_actions` is the relative action, and `actions` the desired tcp pose that it leads
to, both with the gripper command. Where an expert says what should have been done, these two are
what it said, and `executed_actions` and `expert_acted` say what was done and by whom.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import InvalidActionError
from calvin_eval.rollouts.chain import Simulator
from calvin_eval.sim.actions import ParsedAction, parse_action
from calvin_eval.sim.shifts.variant import Variant
from calvin_eval.sim.world import Needs

EXECUTED, EXPERT_ACTED = "executed_actions", "expert_acted"
"""Arrays of a frame in which an expert corrects somebody else."""

REL_UNITS: Final = np.array([0.02] * 3 + [0.05] * 3)
"""What 1 means in `rel_actions`: metres and radians per step."""


def wrap(angles: NDArray[Any]) -> NDArray[np.float64]:
    """Angles in radians, brought into (-pi, pi]."""
    wrapped: NDArray[np.float64] = np.pi - (np.pi - np.asarray(angles, float)) % (2 * np.pi)
    return wrapped


class Tape:
    """A simulator around another one, which writes a frame before every action.

    What is executed is what is written: a relative action clipped to [-1, 1] in float64, so that
    the recorded numbers, played back from the recorded start, give the same states. An absolute
    pose becomes the relative action that leads there as far as one step can.

    Args:
        env: the simulator.
        folder: where frames go, as `000000.npz` and so on.
        rgb: cameras whose colour images are kept.
        depth: cameras whose depth images are kept.
        labelled: whether every action comes with what an expert says, see `label`.

    Attributes:
        executed: the last action as it was executed, relative, (7,).
        frames: how many there are so far.
        watched: by subtask, what its task was judged by: at its start and after each of its steps.
    """

    def __init__(
        self,
        env: Simulator,
        folder: Path,
        *,
        rgb: Sequence[str] = (),
        depth: Sequence[str] = (),
        labelled: bool = False,
    ) -> None:
        self._env = env
        self._folder = folder
        self._rgb, self._depth = tuple(rgb), tuple(depth)
        self._target = np.zeros(6)
        self._gripper = 1.0
        self._judged = -1
        self._reset_to: dict[str, NDArray[np.float64]] = {}
        self._labelled = labelled
        self._label: tuple[Any, bool] | None = None
        self._drawn: tuple[int, dict[str, Any]] = -1, {}
        self.executed = np.zeros(7)
        self.frames = 0
        self.watched: list[list[Mapping[str, Any]]] = []

    def start(
        self, robot_obs: Any = None, scene_obs: Any = None, variant: Variant | None = None
    ) -> None:
        """Build a fresh world in the given state, with what is shifted of it."""
        self._env.start(robot_obs, scene_obs, variant)
        given = {"robot_obs": robot_obs, "scene_obs": scene_obs}
        self._reset_to = {k: np.array(v, float) for k, v in given.items() if v is not None}
        self._target = np.array(self._env.get_state_obs()["robot_obs"][:6])

    def place_robot(self, robot_obs: Any) -> None:
        """Put the robot alone into the given state."""
        self._env.place_robot(robot_obs)
        self._target = np.array(self._env.get_state_obs()["robot_obs"][:6])

    def label(self, action: Any, *, by_expert: bool) -> None:
        """Say what an expert would do now, whatever the next action is.

        Args:
            action: the expert's, in any form.
            by_expert: whether it is also what will be executed.
        """
        self._label = action, by_expert

    def advance(self, action: Any) -> None:
        """Apply one action and keep the frame.

        Raises:
            InvalidActionError: an action for joints, which the format cannot hold.
        """
        relative = self._relative(parse_action(action))
        kept = self._kept(relative)
        seen = self._seen()
        self._env.advance(relative)
        self.executed = relative
        self._target += relative[:6] * REL_UNITS
        self._gripper = float(relative[6])
        np.savez_compressed(
            self._folder / f"{self.frames:06d}.npz",
            **{
                **kept,
                "robot_obs": seen["robot_obs"],
                "scene_obs": seen["scene_obs"],
                **self._reset_to,
                **seen["rgb_obs"],
                **seen["depth_obs"],
            },
        )
        self._reset_to = {}
        self.frames += 1

    def _kept(self, relative: NDArray[np.float64]) -> dict[str, Any]:
        """The arrays of a frame that are about actions, for the relative one that is executed."""
        if not self._labelled:
            return self._both_forms(relative)
        action, by_expert = self._label or (relative, True)
        self._label = None
        said = relative if by_expert else self._relative(parse_action(action))
        return {
            **self._both_forms(said),
            EXECUTED: relative,
            EXPERT_ACTED: np.array(by_expert),
        }

    def _both_forms(self, relative: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        target = self._target + relative[:6] * REL_UNITS
        pose = np.append(target[:3], wrap(target[3:]))
        return {"actions": np.append(pose, relative[6]), "rel_actions": relative}

    def _seen(self) -> dict[str, Any]:
        """What the frame shows; images that the policy was shown just now are not drawn again."""
        frame, images = self._drawn
        names = [f"rgb_{name}" for name in self._rgb]
        if frame != self.frames or self._depth or not set(names) <= set(images):
            return self._env.observe(rgb=self._rgb, depth=self._depth)
        drawn = {name: images[name] for name in names}
        return {**self._env.get_state_obs(), "rgb_obs": drawn, "depth_obs": {}}

    def hold(self) -> None:
        """One frame of standing still, which shows where the last action led."""
        self.advance(np.array([0.0] * 6 + [self._gripper]))

    def _relative(self, action: ParsedAction) -> NDArray[np.float64]:
        if action.position is None or action.orientation is None:
            raise InvalidActionError(
                f"expected relative actions or absolute poses to record, found {action.kind}"
            )
        pose = np.array(action.position, float), np.array(action.orientation, float)
        relative = action.kind == "cartesian_rel"
        units = np.concatenate(pose) if relative else self._towards(*pose)
        return np.append(np.clip(units, -1, 1), action.gripper)

    def _towards(
        self, position: NDArray[np.float64], orientation: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Relative units (6,) from the present target to a pose; quaternions are xyzw."""
        if len(orientation) == 4:
            from scipy.spatial.transform import Rotation

            orientation = Rotation.from_quat(orientation).as_euler("xyz")
        way = [position - self._target[:3], wrap(orientation - self._target[3:])]
        units: NDArray[np.float64] = np.concatenate(way) / REL_UNITS
        return units

    def observe(
        self,
        *,
        rgb: Collection[str] = (),
        depth: Collection[str] = (),
        matrices: bool = False,
    ) -> dict[str, Any]:
        """The observation with the named images, and the matrices of their cameras."""
        seen = self._env.observe(rgb=tuple(rgb), depth=tuple(depth), matrices=matrices)
        # Copies: whom they are shown to may write into them.
        self._drawn = self.frames, {name: image.copy() for name, image in seen["rgb_obs"].items()}
        return seen

    def get_state_obs(self) -> Mapping[str, Any]:
        """`robot_obs` and `scene_obs`."""
        return self._env.get_state_obs()

    def get_info(self, needs: Needs | None = None) -> dict[str, Any]:
        """The info that tasks are judged by; asked twice of one state, a new subtask begins."""
        info = self._env.get_info(needs)
        if needs is not None:
            if self._judged in (-1, self.frames):
                self.watched.append([])
            self.watched[-1].append(info)
            self._judged = self.frames
        return info

    def close(self) -> None:
        """The simulator is its owner's."""
