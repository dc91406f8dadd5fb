"""Taking the upper of two stacked blocks down.

The task counts as done the moment the blocks part, and the next task starts from there: a block
that hangs in the air then can be neither lifted off the table nor pushed. So the upper block is
tipped over the lower one's edge and slid down until it stands on the table, without losing touch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calvin_eval.wrappers.builtin.expert.geometry import BUTTON_Y
from calvin_eval.wrappers.builtin.expert.motion import Arm, Motion
from calvin_eval.wrappers.builtin.expert.skills_grasp import YAW_RANGE, grasp
from calvin_eval.wrappers.builtin.expert.skills_place import release
from calvin_eval.wrappers.builtin.expert.skills_reach import place_of, point
from calvin_eval.wrappers.builtin.expert.view import Array, Block, View

UP = np.array([0.0, 0.0, 1.0])
STEEPEST = 1.1  # radians that the hand can tip nearly everywhere


def unstack(arm: Arm) -> Motion:
    """Take the upper block off the lower one and put it down beside it."""
    view = arm.view
    top = max(view.blocks.values(), key=lambda b: (bool(view.neighbours(b)), b.position[2]))
    bottom = min(view.neighbours(top) or [top], key=lambda b: b.position[2])
    way = max(_ways(view, top, bottom), key=lambda w: w.room)
    yield from grasp(arm, top.name, yaw=way.yaw)
    if place_of(view, bottom) == "table" and view.neighbours(view.blocks[top.name]):
        yield from _tip(arm, top.name, bottom.name, way)
    else:
        reach = (top.length + bottom.length) / 2
        yield from arm.move(view.tcp + way.away * reach, speed=0.5, limit=60)
        yield from arm.move(view.tcp - 0.04 * UP, speed=0.5, limit=30)
    yield from arm.move(view.tcp + 0.06 * way.away - 0.0005 * UP, speed=0.3, limit=40)
    yield from release(arm)


@dataclass(frozen=True, kw_only=True)
class _Way:
    """How to take a block down: the hand's yaw, where to, how the pitch turns, how good it is."""

    yaw: float
    away: Array
    tip: float
    room: float


def _ways(view: View, top: Block, bottom: Block) -> list[_Way]:
    ways = []
    step = np.pi / 2 if top.square else np.pi
    for yaw in (top.yaw + k * step for k in range(-8, 9)):
        if not YAW_RANGE[0] <= yaw <= YAW_RANGE[1]:
            continue
        ahead = point(np.cos(yaw), np.sin(yaw), 0.0)
        for sign in (-1.0, 1.0):  # of the pitch: tipped backwards, the fingers point ahead
            away = sign * ahead
            room = _room(view, top, bottom, away) - 0.01 * abs(yaw - view.euler[2])
            ways.append(_Way(yaw=yaw, away=away, tip=sign, room=room))
    return ways


def _room(view: View, top: Block, bottom: Block, away: Array) -> float:
    """How good it is to put a block down there, in metres."""
    end = bottom.position + (_reach(bottom, away) + 0.04) * away
    others = [b for b in view.blocks.values() if b.name not in (top.name, bottom.name)]
    room: float = min([0.12, *(float(np.hypot(*(end - b.position)[:2])) for b in others)])
    room = min(room, float(np.hypot(end[0] - view.table.button, end[1] - BUTTON_Y)))
    room -= 2 * max(0.0, end[1] + 0.05) + 4 * max(0.0, -0.165 - end[1])
    room -= 2 * max(0.0, abs(end[0]) - 0.34) + 0.1 * max(0.0, away[1])
    # The hand leans to where the block goes; far from the robot it cannot lean back.
    return float(room - 2 * max(0.0, away[0]) * max(0.0, bottom.position[0] - 0.08))


def _reach(block: Block, way: Array) -> float:
    """From a block's centre to its outermost point along a level direction."""
    return float(np.abs(way @ block.axes) @ block.size / 2)


@dataclass(frozen=True, kw_only=True)
class _Lean:
    """How the upper block lies on the edge of the lower one.

    Attributes:
        normal: (3,) of its face that lies on the edge, outwards.
        angle: by which the face slopes down, in radians.
        down: (3,) down the slope.
        edge: (3,) a point of the edge, in metres.
        beyond: metres by which the face's middle is beyond the edge.
        gap: metres between the blocks, negative where they press; None if they have parted.
        upset: whether the lower block is tipping.
    """

    normal: Array
    angle: float
    down: Array
    edge: Array
    beyond: float
    gap: float | None
    upset: bool


def _look(view: View, block: Block, base: Block, face: tuple[int, float], away: Array) -> _Lean:
    under, sign = face
    normal = sign * block.axes[:, under]
    angle = float(np.arctan2(-normal @ away, -normal[2]))
    down = away * np.cos(angle) - UP * np.sin(angle)
    edge = base.position + _reach(base, away) * away + 0.02 * UP
    middle = block.position + normal * block.size[under] / 2
    return _Lean(
        normal=normal,
        angle=angle,
        down=down,
        edge=edge,
        beyond=float((middle - edge) @ down),
        gap=block.gaps.get(view.uid[base.name]),
        upset=bool(np.abs(base.axes[2]).max() < 0.996),
    )


def _tip(arm: Arm, top: str, bottom: str, way: _Way) -> Motion:
    """Move the upper block over the edge of the lower one and down to the table."""
    view = arm.view
    block = view.blocks[top]
    under = int(np.argmax(np.abs(block.axes[2])))
    face = (under, -float(np.sign(block.axes[2, under])))
    length = float(block.size[np.argmax(np.abs(way.away @ block.axes))])
    steep = min(STEEPEST, float(np.arcsin(min(1.0, 0.042 / (length - 0.006)))))
    before = 0.0
    for _ in range(250):
        block = view.blocks[top]
        lean = _look(view, block, view.blocks[bottom], face, way.away)
        if lean.gap is None or view.on(block, "base_link"):
            return
        if lean.beyond > length / 2 - 0.003:
            # The rest in one action: the blocks are looked at only after it.
            yield from arm.creep(-0.018 * UP)
            return
        ahead = lean.gap + 2.0 * (lean.gap - before)
        before = lean.gap
        more = 0.0 if abs(view.euler[1]) > 1.15 else steep - lean.angle
        yield from _creep(arm, lean, way, ahead, more)


def _creep(arm: Arm, lean: _Lean, way: _Way, ahead: float, more: float) -> Motion:
    """One small step along the face or about the edge, as fast as the blocks' touch allows.

    Args:
        arm: the arm.
        lean: how the block lies.
        way: where to.
        ahead: the gap that is to be expected, in metres.
        more: radians by which it is still to be tipped.
    """
    over = lean.beyond > -0.001
    wanted = 0.0 if lean.upset else -0.0006 if over else -0.00015
    pressed = ahead < wanted - (0.0006 if over else 0.0003)
    firm = 0.0 if lean.upset or pressed else float(np.clip(-ahead / 0.0002, 0.0, 1.0))
    turn = firm * float(np.clip(0.3 * more, 0.0, 0.016)) if over else 0.0
    forward = 0.0007 * firm if not over or more < 0.03 else 0.0
    gain, most = (0.6, 0.001) if over else (0.3, 0.0006)
    push = float(np.clip(gain * (ahead - wanted), -0.0003, most))
    swing = turn * np.cross(np.cross(-way.away, UP), arm.view.tcp - lean.edge)
    yield from arm.creep(forward * lean.down + push * lean.normal + swing, pitch=way.tip * turn)
