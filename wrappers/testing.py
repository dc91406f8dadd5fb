"""A contract check for policies: run it in your own tests, before any simulator is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.policy import (
    BasePolicy,
    Chunk,
    Executed,
    Policy,
    Request,
    Requirements,
    with_defaults,
)
from calvin_eval.wrappers.sizes import reachable_bytes

INSTRUCTIONS = ("push the sliding door to the left side", "open the drawer")
CAMERA_SHAPES = {"static": (200, 200), "gripper": (84, 84)}
ROBOT_OBS = (
    0.04,
    -0.11,
    0.55,
    3.09,
    -0.02,
    1.53,
    0.08,
    -1.21,
    1.03,
    2.11,
    -2.32,
    -0.57,
    2.3,
    2.2,
    1,
)

KEPT_BYTES = 4096
"""What may be left of a session that has ended: an entry in a table, but no image."""

Trace = dict[tuple[int, int], list[NDArray[np.float64]]]
"""All actions by (session, position), one flat array per decision."""


def check_policy(
    policy: Policy,
    *,
    sessions: Sequence[int] = (0, 1, 2),
    decisions: int = 3,
    deterministic: bool = True,
    tolerance: float = 1e-4,
) -> None:
    """Put a policy through the contract, on made-up observations that hold what it requires.

    Two subtasks of every session are run several times: one session at a time, all sessions in
    one batch, the same again, in reversed order, and with a session that ends early. Checked are
    the form of every answer, that observations are left as they were, that a second run repeats
    the first to the last bit (a reset forgets everything), that sessions do not disturb each
    other, and that a session that has ended keeps no memory that counts (4 kB).

    Args:
        policy: the policy; one that requires `max_sessions` gets no larger batches.
        sessions: chain ids to use (a recording knows only some).
        decisions: how many decisions each subtask takes.
        deterministic: False skips the comparisons between runs, for policies that draw.
        tolerance: how far actions may move with the batch they were computed in.

    Raises:
        PolicyError: what was expected, what was found.
    """
    _check_requirements(policy)
    checked = with_defaults(policy)
    size = checked.requirements.max_sessions or len(sessions)
    groups = [list(sessions[i : i + size]) for i in range(0, len(sessions), size)]
    single = _run_and_weigh(checked, policy, sessions, decisions)
    first = _run(checked, groups, decisions)
    second = _run(checked, groups, decisions)
    early = _run(checked, groups, decisions, early=True)
    if not deterministic:
        return
    _compare(first, second, 0.0, "the same run a second time")
    backwards = [group[::-1] for group in groups[::-1]]
    _compare(first, _run(checked, backwards, decisions), tolerance, "another order")
    _compare(first, single, tolerance, "one session at a time")
    _compare(first, early, tolerance, "a run in which another session ends early")


def fake_request(
    requirements: Requirements,
    session: int = 0,
    position: int = 0,
    step: int = 0,
    frames: int = 0,
) -> Request:
    """A request with made-up content: a function of its arguments, with the cameras required.

    Args:
        requirements: what the observations hold.
        session: the chain's id.
        position: index of the subtask.
        step: environment steps taken in it.
        frames: how many observations to add from before `step`.
    """
    seen = [_fake_obs(requirements, session, position, s) for s in range(step - frames, step + 1)]
    return Request(
        session=session,
        instruction=INSTRUCTIONS[position % len(INSTRUCTIONS)],
        position=position,
        step=step,
        obs=seen[-1],
        info={} if requirements.privileged else None,
        frames=tuple(seen[:-1]),
        executed=tuple(
            _fake_executed(session, position, at)
            for at in range(max(step - requirements.actions, 0), step)
        ),
    )


def _fake_executed(session: int, position: int, step: int) -> Executed:
    action = np.random.default_rng([session, position, step, 1]).uniform(-1, 1, 7)
    action[-1] = 1.0 if action[-1] > 0 else -1.0
    return Executed(sent=action, raw=action, decision=(position, step))


def _fake_obs(requirements: Requirements, session: int, position: int, step: int) -> dict[str, Any]:
    draw = np.random.default_rng([session, position, step])
    cameras = {
        name: {"intrinsic": np.diag([200.0, 200.0, 1.0]), "extrinsic": np.eye(4)}
        for name in requirements.cameras
    }
    return {
        **({"cameras": cameras} if requirements.matrices else {}),
        "robot_obs": np.array(ROBOT_OBS, np.float64) + draw.uniform(-0.01, 0.01, 15),
        "scene_obs": draw.uniform(-0.5, 0.5, 24),
        "rgb_obs": {
            f"rgb_{camera}": draw.integers(0, 256, (*CAMERA_SHAPES[camera], 3), dtype=np.uint8)
            for camera in requirements.rgb
        },
        "depth_obs": {
            f"depth_{camera}": draw.uniform(0.1, 5.0, CAMERA_SHAPES[camera]).astype(np.float32)
            for camera in requirements.depth
        },
    }


def check_chunk(chunk: Chunk, where: str) -> None:
    """Check the form of one answer.

    Raises:
        PolicyError: it is not k >= 1 actions that the simulator accepts.
    """
    if isinstance(chunk, np.ndarray) and (chunk.ndim != 2 or chunk.shape[1] != 7):
        raise PolicyError(f"{where}: expected a chunk of shape (k, 7), found {chunk.shape}.")
    if len(chunk) < 1:
        raise PolicyError(f"{where}: expected at least one action, found none.")
    for action in chunk:
        numbers = _flat(action)
        if not np.isfinite(numbers).all():
            raise PolicyError(f"{where}: expected finite actions, found {numbers.tolist()}.")
        relative = not isinstance(action, Mapping) and len(action) != 3
        if relative and len(numbers) != 7:
            raise PolicyError(f"{where}: expected actions of 7 numbers, found {len(numbers)}.")
        if numbers[-1] not in (-1.0, 1.0):
            raise PolicyError(
                f"{where}: expected a gripper command of exactly -1 (close) or 1 (open), found "
                f"{numbers[-1]}."
            )


def _check_requirements(policy: Policy) -> None:
    found = getattr(policy, "requirements", None)
    if not isinstance(found, Requirements):
        raise PolicyError(f"expected requirements to be a Requirements, found {found!r}.")
    unknown = [camera for camera in found.cameras if camera not in CAMERA_SHAPES]
    if unknown:
        raise PolicyError(f"expected cameras of {tuple(CAMERA_SHAPES)}, found {unknown}.")


def _run_and_weigh(
    policy: BasePolicy, given: Policy, sessions: Sequence[int], decisions: int
) -> Trace:
    """Run one session after the other, and look at what is left of each.

    The first one pays for what is made once. This has to be a policy's first run: later ones find
    what earlier ones left, in the same place.

    Raises:
        PolicyError: a session that has ended still occupies memory.
    """
    trace: Trace = {}
    sizes = []
    for session in sessions:
        trace |= _run(policy, [[session]], decisions)
        policy.end(session)  # once more, which must do nothing
        sizes.append(reachable_bytes(given))
    kept = (sizes[-1] - sizes[0]) / max(len(sizes) - 1, 1)
    if kept > KEPT_BYTES:
        raise PolicyError(
            f"expected a session that has ended to keep nothing, found about {kept / 1000:.0f} kB "
            "for each: free in end(session) what reset and act have kept for it. A run has a "
            "thousand chains."
        )
    return trace


def _run(
    policy: BasePolicy, groups: Sequence[Sequence[int]], decisions: int, *, early: bool = False
) -> Trace:
    """Run two subtasks of every session, group after group; end the sessions.

    With `early` the first session of a group ends within its second subtask, after a decision.
    """
    trace: Trace = {}
    for every in groups:
        group = list(every)
        for position in (0, 1):
            steps, frames = dict.fromkeys(group, 0), dict.fromkeys(group, 0)
            for session in group:
                policy.reset(session, INSTRUCTIONS[position])
                trace[session, position] = []
            for decision in range(decisions):
                if early and position and decision == 1:
                    policy.end(group.pop(0))
                if not group:
                    break
                chunks = _decide(policy, [(s, position, steps[s], frames[s]) for s in group])
                for session, chunk in zip(group, chunks, strict=True):
                    flat = np.concatenate([_flat(action) for action in chunk])
                    trace[session, position].append(flat)
                    steps[session] += len(chunk)
                    frames[session] = len(chunk) - 1 if policy.requirements.every_step else 0
        for session in group:
            policy.end(session)
    return trace


def _decide(policy: BasePolicy, asked: Sequence[tuple[int, int, int, int]]) -> Sequence[Chunk]:
    """One call of `act`, with every check that needs no second run."""
    requests = [fake_request(policy.requirements, *who) for who in asked]
    try:
        chunks = policy.act(requests)
    except KeyError as error:
        raise PolicyError(
            f"act() looked for {error}: an observation holds what requirements list "
            f"({policy.requirements}), so list it there."
        ) from error
    if len(chunks) != len(requests):
        raise PolicyError(
            f"expected one chunk for each of {len(requests)} requests, found {len(chunks)}."
        )
    for who, chunk, request in zip(asked, chunks, requests, strict=True):
        where = f"session {who[0]}, subtask {who[1]}, step {who[2]}"
        check_chunk(chunk, where)
        given = fake_request(policy.requirements, *who)
        if not (_same(request.obs, given.obs) and _same(request.frames, given.frames)):
            raise PolicyError(f"{where}: act() changed its observation: work on a copy.")
    return chunks


def _compare(first: Trace, other: Trace, tolerance: float, what: str) -> None:
    for (session, position), decisions in other.items():
        for index, found in enumerate(decisions):
            actions = first[session, position][index]
            if actions.shape != found.shape or not np.allclose(
                actions, found, rtol=tolerance, atol=tolerance
            ):
                raise PolicyError(
                    f"session {session}, subtask {position}, decision {index}: expected the same "
                    f"actions from {what}, found {found.tolist()} instead of {actions.tolist()}: "
                    "keep what is remembered per session, forget it at reset and end, and seed "
                    "what is drawn."
                )


def _flat(action: Any) -> NDArray[np.float64]:
    """All numbers of an action in order; the last one is the gripper's."""
    parts = action["action"] if isinstance(action, Mapping) else action
    return np.concatenate([np.asarray(part, np.float64).ravel() for part in parts])


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return np.array_equal(one, other)
