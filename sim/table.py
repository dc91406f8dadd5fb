"""The moving parts of the play table: doors, button, switch and the lights they work.

Rules: docs/protocol.md#lights and #revisions. None of these classes steps time; the world does.
"""

from __future__ import annotations

from collections.abc import Sequence

from calvin_eval.sim.bullet import BulletClient, pybullet
from calvin_eval.sim.packs import LightSpec

MOTOR_FORCE = 4  # newtons, of the friction-like motors on every table joint
_COLOR_OFF = (1, 1, 1, 1)


class TableJoint:
    """One prismatic joint of the table, found by name so that extra joints do no harm."""

    def __init__(self, bullet: BulletClient, table: int, joints: dict[str, int], name: str) -> None:
        self.name = name
        self._bullet = bullet
        self._table = table
        self._index = joints[name]

    @property
    def position(self) -> float:
        """Metres from the closed (released, off) position."""
        return float(self._bullet.getJointState(self._table, self._index)[0])

    def place(self, position: float) -> None:
        """Put the joint somewhere, at rest, without stepping time."""
        self._bullet.resetJointState(self._table, self._index, position)

    def hold_by_friction(self) -> None:
        """Resist motion with the motor force: the joint stays where it is left."""
        self._bullet.setJointMotorControl2(
            self._table, self._index, controlMode=pybullet.VELOCITY_CONTROL, force=MOTOR_FORCE
        )

    def pull_to_zero(self) -> None:
        """Return to 0 with the motor force when nothing presses."""
        self._bullet.setJointMotorControl2(
            self._table,
            self._index,
            controlMode=pybullet.POSITION_CONTROL,
            targetPosition=0,
            force=MOTOR_FORCE,
        )

    def middle(self) -> float:
        """The middle of the joint's limits in metres: where a button or switch triggers."""
        lower, upper = self._bullet.getJointInfo(self._table, self._index)[8:10]
        return float((lower + upper) / 2)


class Light:
    """A table link that is white when off and coloured when on.

    Args:
        spec: its name, link and colour.
        links: Bullet's indices of the table's links.
        shown: the server and the table in it, where Bullet draws the light too.

    Attributes:
        name: the light's.
        link: Bullet's index of the link.
        on: whether it is lit.
    """

    def __init__(
        self, spec: LightSpec, links: dict[str, int], shown: tuple[BulletClient, int] | None
    ) -> None:
        self.name = spec.name
        self.link = links[spec.link]
        self.on = False
        self._shown = shown
        self._color_on: Sequence[float] = spec.color

    @property
    def color(self) -> Sequence[float]:
        """RGBA in 0..1 that tints the link now."""
        return self._color_on if self.on else _COLOR_OFF

    def switch(self, on: bool) -> None:
        """Turn the light on or off."""
        self.on = on
        if self._shown is not None:
            bullet, table = self._shown
            bullet.changeVisualShape(table, self.link, rgbaColor=self.color)


class Button:
    """A spring button: every press toggles its logical state, and the light follows.

    Attributes:
        joint: what is pressed.
        light: what it works.
        on: its logical state.
        threshold: metres of the joint above which it is pressed.
    """

    def __init__(self, joint: TableJoint, light: Light) -> None:
        joint.pull_to_zero()
        self.joint = joint
        self.light = light
        self.on = False
        self.threshold = joint.middle()
        self._was_pressed = joint.position > self.threshold

    def reset(self, position: float, *, follow_light: bool) -> None:
        """Place the button.

        Args:
            position: metres.
            follow_light: take the light's state as the logical state (revision `head`); without
                it the logical state is off even under a lit light, so that the first press leaves
                the light on (revision `pinned`).
        """
        self.joint.place(position)
        self.on = follow_light and self.light.on

    def step(self) -> None:
        """Toggle on the rising edge of a press; called once per action."""
        pressed = self.joint.position > self.threshold
        if pressed and not self._was_pressed:
            self.on = not self.on
            self.light.switch(self.on)
        self._was_pressed = pressed


class Switch:
    """A lever that stays where it is left; the light follows when its state changes.

    Attributes:
        joint: the lever.
        light: what it works.
        on: its logical state.
        threshold: metres of the joint above which it is on.
    """

    def __init__(self, joint: TableJoint, light: Light) -> None:
        joint.hold_by_friction()
        self.joint = joint
        self.light = light
        self.on = False
        self.threshold = joint.middle()

    def reset(self, position: float) -> None:
        """Place the lever; its logical state is off after every reset, as upstream has it."""
        self.joint.place(position)
        self.on = False

    def step(self) -> None:
        """Follow the lever; called once per action."""
        up = self.joint.position > self.threshold
        if up != self.on:
            self.on = up
            self.light.switch(up)
