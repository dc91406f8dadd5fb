"""The executed actions of a run as RoboActions, one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from calvin_eval.errors import UsageError
from calvin_eval.results.store import RunFolder
from calvin_eval.wrappers.robo_action import ControlMode, RoboAction, triple
from calvin_eval.wrappers.robo_action_parser import CONTROL_MODES, classify
from calvin_eval.wrappers.stages.rotations import convert

FILE = "robo-actions.jsonl"


def robo_action_lines(folder: RunFolder) -> Iterator[str]:
    """A line per executed action, in the order of chains, subtasks and steps.

    A run keeps what the world got and not what the network was sure of: `confidence` is null.
    `prediction_horizon` counts the actions that the subtask still has, this one included.
    Relative actions are in CALVIN's units, absolute poses in metres and radians with
    `control_mode` position.

    Raises:
        RunFolderError: a damaged run.
        UsageError: an action of joints, which has no translation.
    """
    for record in folder.records():
        actions = folder.read_actions(record.chain)
        for position, subtask in enumerate(record.subtasks):
            rows = actions.get(position, [])
            for step, action in enumerate(rows):
                made = robo_action(action, subtask.instruction, len(rows) - step)
                yield json.dumps(
                    {
                        "chain": record.chain,
                        "subtask": position,
                        "task": subtask.task,
                        "instruction": subtask.instruction,
                        "step": step,
                        **_plain(made),
                    },
                    ensure_ascii=False,
                )


def robo_action(action: Any, instruction: str, horizon: int) -> RoboAction:
    """One environment action as a record.

    Args:
        action: as the simulator takes it.
        instruction: that it serves.
        horizon: actions that the plan still has.

    Raises:
        UsageError: an action of joints.
    """
    kind = classify(instruction)
    facts: dict[str, Any] = {"action_type": kind, "prediction_horizon": horizon}
    if isinstance(action, Mapping):
        raise UsageError(
            f"a RoboAction has a translation and a rotation, found an action of {action['type']}"
        )
    if isinstance(action, tuple):
        place, turn, gripper = (np.asarray(part, np.float64) for part in action)
        if turn.size == 4:
            turn = convert(turn[None], "quaternion_xyzw", "euler_xyz")[0]
        return RoboAction(
            translation=triple(place),
            rotation=triple(turn),
            gripper=float(gripper > 0),
            control_mode=ControlMode.POSITION,
            **facts,
        )
    mode = CONTROL_MODES.get(kind, ControlMode.VELOCITY)
    return RoboAction.from_calvin(np.asarray(action, np.float64), control_mode=mode, **facts)


def _plain(action: RoboAction) -> dict[str, Any]:
    return {
        "translation": list(action.translation),
        "rotation": list(action.rotation),
        "gripper": action.gripper,
        "gripper_convention": action.gripper_convention,
        "action_type": action.action_type,
        "confidence": None,
        "control_mode": action.control_mode.value,
        "prediction_horizon": action.prediction_horizon,
    }
