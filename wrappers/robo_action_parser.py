"""RoboActions from a network's output: tuples, arrays and tensors of one to four axes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.arrays import to_numpy
from calvin_eval.wrappers.confidence import gripper_margin, spread_confidence, token_confidence
from calvin_eval.wrappers.robo_action import (
    CONVENTIONS,
    ControlMode,
    RoboAction,
    gripper_number,
    triple,
)
from calvin_eval.wrappers.stages.gripper import HIGH, THRESHOLDS, open_probability
from calvin_eval.wrappers.stages.options import choice, number, whole


@dataclass(frozen=True, kw_only=True)
class RoboActionParser:
    """Reads actions from a network's output.

    Attributes:
        low: arm numbers are cut to [low, high], not rescaled.
        high: see `low`.
        batch: which row of the batch.
        frame: which frame of the window; the last by default.
        step: which action of the chunk.
        gripper: what the seventh number is, a name in `stages.gripper.THRESHOLDS`; if None,
            "logit" in an (arm, gripper) tuple, as the model returns it, and "zero_one" in an
            array, as its evaluation makes it.
        gripper_high: what a high seventh number does, "open" or "close".
        threshold: splits the probability of open into 0 and 1; kept as it is if None.
        convention: how the record writes the gripper, "1_open" or "1_closed".
        missing_gripper: the record's number where the output has none.
        bins: of `parse_discrete`.
        control_mode: of every record; the action type's own if None, see `CONTROL_MODES`.

    The record's confidence is the margin of the gripper's probability, see
    `confidence.gripper_margin`, and 0 where the output has no gripper; `parse_discrete` and
    `parse_ensemble` have others.
    """

    low: float = -1.0
    high: float = 1.0
    batch: int = 0
    frame: int = -1
    step: int = 0
    gripper: str | None = None
    gripper_high: str = "open"
    threshold: float | None = None
    convention: str = "1_open"
    missing_gripper: float = 0.0
    bins: int = 256
    control_mode: ControlMode | None = None

    def __post_init__(self) -> None:
        if self.gripper is not None:
            choice("gripper of RoboActionParser", self.gripper, THRESHOLDS)
        choice("gripper_high of RoboActionParser", self.gripper_high, HIGH)
        choice("convention of RoboActionParser", self.convention, CONVENTIONS)
        number("low of RoboActionParser", self.low)
        number("high of RoboActionParser", self.high, above=self.low)
        whole("bins of RoboActionParser", self.bins, least=2)

    def parse(self, output: Any, text: str = "") -> RoboAction:
        """One action: the chosen row, frame and step.

        Args:
            output: an (arm, gripper) tuple of (B, T, n, 6) and (B, T, n, 1) or (B, T, n), or an
                array or tensor (B, T, n, d), (B, T, d), (T, d) or (d,). Of d numbers those from
                the eighth on are ignored; fewer than six are filled up with zeros.
            text: the instruction.

        Raises:
            PolicyError: the output has none of these forms, or not the chosen row.
        """
        values, kind = self._read(output)
        picks = {1: (), 2: (self.frame,), 3: (self.batch, self.frame)}
        row = self._picked(values, picks.get(values.ndim, (self.batch, self.frame, self.step)))
        left = values.shape[2] - range(values.shape[2])[self.step] if values.ndim == 4 else 1
        return self._record(row, kind, text, horizon=left)

    def parse_ensemble(self, outputs: Sequence[Any], text: str = "") -> RoboAction:
        """The mean of several predictions of one action; its confidence is their agreement.

        Args:
            outputs: m outputs, each see `parse`; of an ensemble, of samples, or of the chunks of
                earlier decisions that reach this step.
            text: the instruction.

        Raises:
            PolicyError: there is none, or see `parse`.
        """
        if not outputs:
            raise PolicyError("expected at least one prediction, found none")
        records = [self.parse(output, text) for output in outputs]
        arms = np.array([[*one.translation, *one.rotation] for one in records])
        mean = arms.mean(axis=0)
        return replace(
            records[-1],
            translation=triple(mean[:3]),
            rotation=triple(mean[3:]),
            gripper=float(np.mean([one.gripper for one in records])),
            confidence=spread_confidence(list(arms), self.low, self.high),
        )

    def parse_trajectory(self, output: Any, text: str = "") -> list[RoboAction]:
        """All actions of the chosen chunk (of (B, T, d) or (T, d): all T), with what is left.

        Args:
            output: see `parse`; a single action (d,) is a trajectory of one.
            text: the instruction.

        Raises:
            PolicyError: see `parse`.
        """
        values, kind = self._read(output)
        picks = {1: (None,), 2: (), 3: (self.batch,)}
        rows = self._picked(values, picks.get(values.ndim, (self.batch, self.frame)))
        return [
            self._record(row, kind, text, horizon=len(rows) - done) for done, row in enumerate(rows)
        ]

    def parse_discrete(self, ids: Any, text: str = "", probabilities: Any = None) -> RoboAction:
        """One action from bin numbers (d,), of which 0 is the largest value.

        They count down from `bins`, like action tokens from their vocabulary base: an id stands
        for the middle of bin `bins - id - 1` of [low, high]; ids out of range for the nearest.
        With the probabilities (d,) of the words that were chosen the confidence is their geometric
        mean.

        Raises:
            PolicyError: they are not whole numbers (d,).
        """
        digits = _array(ids)
        if digits.ndim != 1 or digits.dtype.kind not in "iu":
            raise PolicyError(
                f"expected action ids as whole numbers (d,), found {digits.dtype} {digits.shape}."
            )
        edges = np.linspace(self.low, self.high, self.bins)
        middles = (edges[:-1] + edges[1:]) / 2
        values = middles[np.clip(self.bins - digits.astype(np.int64) - 1, 0, self.bins - 2)]
        found = self._record(values, self.gripper or "signed", text, horizon=1)
        if probabilities is None:
            return found
        return replace(found, confidence=token_confidence(_array(probabilities)))

    def _read(self, output: Any) -> tuple[NDArray[Any], str]:
        """Numbers (..., d) with 1 to 4 axes, and what the seventh one is."""
        if isinstance(output, tuple) and len(output) == 2 and np.ndim(output[0]):
            values, kind = _joined(*map(_array, output)), "logit"
        else:
            values, kind = _array(output), "zero_one"
        if not 1 <= values.ndim <= 4 or not values.size or not np.isfinite(values).all():
            raise PolicyError(
                "expected finite actions as (arm, gripper), (B, T, n, d), (B, T, d), (T, d) or "
                f"(d,), found shape {values.shape}."
            )
        return values, self.gripper or kind

    def _picked(self, values: NDArray[Any], picks: tuple[int | None, ...]) -> NDArray[Any]:
        try:
            return values[picks]
        except IndexError as error:
            raise PolicyError(
                f"expected a batch, frame and step of {self.batch}, {self.frame} and {self.step} "
                f"in the output, found shape {values.shape}."
            ) from error

    def _record(self, row: NDArray[Any], kind: str, text: str, horizon: int) -> RoboAction:
        arm = np.zeros(6)
        arm[: len(row[:6])] = np.clip(row[:6], self.low, self.high)
        gripper, sure = self.missing_gripper, 0.0
        if len(row) > 6:
            opening = float(np.clip(open_probability(row[6], kind, self.gripper_high), 0, 1))
            sure = gripper_margin(opening)
            if self.threshold is not None:
                opening = float(opening > self.threshold)
            gripper = gripper_number(opening, self.convention)
        action_type = classify(text)
        return RoboAction(
            translation=triple(arm[:3]),
            rotation=triple(arm[3:]),
            gripper=gripper,
            gripper_convention=self.convention,
            action_type=action_type,
            confidence=sure,
            control_mode=self.control_mode or CONTROL_MODES.get(action_type, ControlMode.VELOCITY),
            prediction_horizon=horizon,
        )


WORDS: Mapping[str, str] = {
    "move": r"\b(move|push|pull|slide|sweep)\b|이동|움직|밀|당기",
    "turn": r"\b(turn|rotate|spin)\b|회전|돌리|돌려",
    "stop": r"\b(stop|halt|wait)\b|정지|멈",
    "grab": r"\b(grab|grasp|pick|take|lift)\b|잡|집",
    "release": r"\b(release|drop|place|put)\b|놓|내려",
    "navigate": r"\b(navigate|go to|drive|approach)\b|탐색|찾아가",
}
"""Words of an instruction by action type; the first type that has one counts."""

CONTROL_MODES: Mapping[str, ControlMode] = {
    "grab": ControlMode.POSITION,
    "release": ControlMode.POSITION,
    "navigate": ControlMode.TRAJECTORY,
}
"""Control modes of action types; all others are velocities."""


def classify(text: str) -> str:
    """The action type that an instruction (English or Korean) asks for, or "unknown"."""
    lower = text.lower()
    return next((kind for kind, words in WORDS.items() if re.search(words, lower)), "unknown")


def _array(value: Any) -> NDArray[Any]:
    try:
        array = to_numpy(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PolicyError(f"expected an action, found {type(value).__name__}: {error}.") from error
    if array.dtype.kind not in "fiub":
        raise PolicyError(f"expected an action of numbers, found {type(value).__name__}.")
    return array


def _joined(arm: NDArray[Any], gripper: NDArray[Any]) -> NDArray[Any]:
    """Arm (..., 6) and gripper (..., 1) or (...) as one array (..., 7)."""
    if arm.shape[-1] != 6 or gripper.size * 6 != arm.size:
        raise PolicyError(
            "expected an arm of (..., 6) and as many grippers, found shapes "
            f"{arm.shape} and {gripper.shape}."
        )
    return np.concatenate([arm, gripper.reshape(*arm.shape[:-1], 1)], axis=-1)
