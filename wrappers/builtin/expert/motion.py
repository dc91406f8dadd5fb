"""The arm as generators of actions: every step yields one relative action and sees its effect."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from calvin_eval.wrappers.builtin.expert.view import Array, View

OPEN, CLOSE = 1.0, -1.0
POSITION_STEP, ANGLE_STEP = 0.02, 0.05  # one unit of a relative action: metres, radians
_UNITS = np.array([POSITION_STEP] * 3 + [ANGLE_STEP] * 3)

YAW_MIDDLE = 1.83  # of the yaws that the wrist can reach with the fingers down

Motion = Iterator[Array]

_BIAS_GAIN = 0.3
_PATIENCE = 14  # steps without coming nearer


class Astray(Exception):
    """A goal was not reached, and not by the expert's own actions: its plan has to begin anew."""


def wrap(angle: Array) -> Array:
    """Into (-pi, pi]."""
    wrapped: Array = np.pi - (np.pi - angle) % (2 * np.pi)
    return wrapped


def way_round(goal: Array, current: Array) -> Array:
    """(3,) the rotation from one pose of the hand to another that the wrist can make.

    Pitch and roll turn the shorter way; the yaw stays out of the range that the wrist's limits
    forbid, which is about 1.5 radians wide.
    """
    turn = wrap(goal - current)
    low = YAW_MIDDLE - np.pi
    turn[2] = (goal[2] - low) % (2 * np.pi) - (current[2] - low) % (2 * np.pi)
    return turn


class Arm:
    """Moves the hand to goals.

    The simulator adds relative actions to a target pose of its own; this class keeps the same sum,
    so that a goal is absolute and errors do not build up.

    Args:
        view: kept up to date by the policy between two actions.
        target: position (3,) and euler angles (3,) of the simulator's target pose; unknown if
            None, and then the hand has to come to rest at it first.

    Attributes:
        view: as given.
        grip: the command for the gripper.
        followed: whether another action than the last one was ever executed.
    """

    def __init__(self, view: View, target: tuple[Array, Array] | None = None) -> None:
        self.view = view
        self._known = target is not None
        self._position: Array
        self._euler: Array
        self._position, self._euler = target or (view.tcp.copy(), view.euler.copy())
        self._said = np.zeros(6)
        self._misled = self.followed = False
        self.grip = OPEN if view.gripper > 0 else CLOSE
        self.bias = 0.02  # metres by which a target may overshoot a goal that is not reached

    @property
    def target(self) -> tuple[Array, Array]:
        """Position (3,) and euler angles (3,) of the simulator's target pose, by this sum."""
        return self._position.copy(), self._euler.copy()

    def follow(self, action: Array) -> None:
        """Take in that another action (7,) than the last one was executed."""
        change = np.clip(action[:6], -1, 1) * _UNITS - self._said
        self._position, self._euler = self._position + change[:3], self._euler + change[3:]
        self._misled = self.followed = True

    def sync(self, steps: int = 3) -> Motion:
        """Stand still until the arm has reached the target, whose value is then known."""
        if self._known:
            return
        yield from self.wait(steps)
        self._position, self._euler = self.view.tcp.copy(), self.view.euler.copy()

    def wait(self, steps: int) -> Motion:
        """Hold the target."""
        for _ in range(steps):
            yield self._action(np.zeros(3), np.zeros(3))

    def open(self, steps: int = 3) -> Motion:
        """Open the hand; it takes about three steps."""
        if self.grip != OPEN or self.view.width < 0.075:
            self.grip = OPEN
            yield from self.wait(steps)

    def close(self, limit: int = 12, press: float = 0.0) -> Motion:
        """Close the hand until the fingers stand still, going down by `press` metres a step."""
        self.grip = CLOSE
        before = -1.0
        for step in range(limit):
            yield from self.creep(np.array([0.0, 0.0, -press]))
            if step >= 3 and abs(self.view.width - before) < 5e-4:
                return
            before = self.view.width

    def move(
        self,
        position: Array,
        euler: Array | None = None,
        *,
        speed: float = 1.0,
        tolerance: float = 0.005,
        limit: int = 90,
    ) -> Motion:
        """Move in a straight line to a pose of the tcp.

        Args:
            position: (3,) metres.
            euler: (3,) radians; as it is if None.
            speed: of the largest coordinate, 1 for the most that an action can ask for.
            tolerance: metres within which the goal counts as reached.
            limit: steps after which it is given up.

        Raises:
            Astray: it is given up, and some of the actions executed meanwhile were not its own.
        """
        self._misled = False
        goal, turn = np.asarray(position, float), self._euler if euler is None else euler
        bias = np.zeros(3)
        best, stalled = np.inf, 0
        for _ in range(limit):
            error = goal - self.view.tcp
            rotation = way_round(turn, self._euler)
            left = float(np.linalg.norm(error)) + 0.1 * float(np.abs(rotation).max())
            best, stalled = (left, 0) if left < best - 5e-4 else (best, stalled + 1)
            if stalled > _PATIENCE:
                self._give_up()
                return
            turned = np.abs(wrap(turn - self.view.euler)).max()
            if np.linalg.norm(error) < tolerance and turned < max(0.03, 6 * tolerance):
                return
            if np.abs(goal + bias - self._position).max() < 1e-3:
                bias += _BIAS_GAIN * error
                bias *= min(1.0, self.bias / max(float(np.linalg.norm(bias)), 1e-9))
            step = goal + bias - self._position
            step *= min(1.0, speed * POSITION_STEP / max(float(np.abs(step).max()), 1e-9))
            rotation *= min(1.0, ANGLE_STEP / max(float(np.abs(rotation).max()), 1e-9))
            yield self._action(step, rotation)
        self._give_up()

    def _give_up(self) -> None:
        if self._misled:
            raise Astray

    def creep(self, step: Array, pitch: float = 0.0) -> Motion:
        """Shift the target by a step of at most 2 cm, and its pitch by at most 0.05."""
        yield self._action(np.asarray(step, float), np.array([0.0, pitch, 0.0]))

    def _action(self, step: Array, rotation: Array) -> Array:
        self._position = self._position + step
        self._euler = self._euler + rotation
        self._said = np.concatenate([step, rotation])
        units = np.concatenate([step / POSITION_STEP, rotation / ANGLE_STEP, [self.grip]])
        units[:6] = np.clip(units[:6], -1, 1)
        return units
