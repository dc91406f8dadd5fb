"""`builtin:NAME`, and recordings given by their path."""

from __future__ import annotations

from pathlib import Path

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.wrappers.builtin import RandomPolicy, ReplayPolicy, StillPolicy
from calvin_eval.wrappers.loaders.base import LoadedPolicy, Source, file_facts

PREFIX = "builtin:"


def load_builtin(source: Source) -> LoadedPolicy:
    """Make the built-in policy that `builtin:NAME` names."""
    makers = {
        "expert": _load_expert,
        "random": _load_random,
        "still": _load_still,
        "replay": _load_replay,
    }
    name = source.ckpt.removeprefix(PREFIX)
    if name not in makers:
        raise UnknownNameError("built-in policy", name, makers)
    return makers[name](source)


def load_recording(source: Source) -> LoadedPolicy:
    """Make a replay policy of the file that the source names."""
    source.check_options(("chunk",))
    return _replay(source, source.ckpt)


def _load_expert(source: Source) -> LoadedPolicy:
    from calvin_eval.wrappers.builtin.expert.policy import ExpertPolicy  # SciPy costs a second

    source.check_options(())
    policy = ExpertPolicy(source.scene)
    return LoadedPolicy(
        policy=policy,
        kind="builtin",
        description=(
            f"built-in policy expert: scripted skills for scene {policy.scene}, reads the "
            "simulator's own state, no camera -> 1 action"
        ),
        metadata=source.metadata("builtin", scene=policy.scene),
    )


def _load_random(source: Source) -> LoadedPolicy:
    source.check_options(("hold",))
    policy = RandomPolicy(source.seed, **source.options)
    return LoadedPolicy(
        policy=policy,
        kind="builtin",
        description=(
            f"built-in policy random (seed {policy.seed}): one random motion out and back every "
            f"{2 * policy.hold} steps, no camera -> 1 action"
        ),
        metadata=source.metadata("builtin", seed=policy.seed, hold=policy.hold),
    )


def _load_still(source: Source) -> LoadedPolicy:
    source.check_options(())
    return LoadedPolicy(
        policy=StillPolicy(),
        kind="builtin",
        description="built-in policy still: no motion, open gripper, no camera -> 1 action",
        metadata=source.metadata("builtin"),
    )


def _load_replay(source: Source) -> LoadedPolicy:
    source.check_options(("file", "chunk"))
    file = source.options.get("file")
    if file is None:
        raise UsageError(
            "builtin:replay needs policy.options.file=PATH (an .npz of recorded actions); or give "
            "that file itself as the checkpoint."
        )
    return _replay(source, str(file))


def _replay(source: Source, file: str) -> LoadedPolicy:
    policy = ReplayPolicy(file, chunk=source.options.get("chunk"))
    facts = file_facts(Path(file))
    chains = len({chain for chain, _ in policy.recording})
    return LoadedPolicy(
        policy=policy,
        kind="recording",
        description=(
            f"recorded actions {policy.name} ({facts}): {len(policy.recording)} subtasks of "
            f"{chains} chains, no camera -> {policy.chunk or 'all remaining'} actions"
        ),
        metadata=source.metadata(
            "recording", **facts.metadata(), chains=chains, subtasks=len(policy.recording)
        ),
    )
