"""One run by all processes of a launcher: each runs its shard, and the first merges them.

The shards are run folders in `shards/` of the run's own folder. They need a file system that all
processes see, and nothing else: no process talks to another.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from calvin_eval.config.schema import EvalConfig
from calvin_eval.errors import RunFolderError, UsageError
from calvin_eval.results.header import HEADER
from calvin_eval.results.merge import SHARDS
from calvin_eval.results.store import JOURNAL, RunFolder, is_new
from calvin_eval.running.launch import Launch
from calvin_eval.running.merging import merge_shards
from calvin_eval.running.outcome import FailedRun, Run
from calvin_eval.running.recorder import Display
from calvin_eval.running.run import run_evaluation, run_evaluations
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.selection import select

SILENCE_SECONDS = 1800.0
"""How long the first process waits for a shard that gives no answer, at least."""

_POLL_SECONDS = 0.5

_Signs = tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True, kw_only=True)
class RankShare:
    """What a process does of one run.

    Attributes:
        config: of its shard; None if there are more processes than chains.
        out: the folder of the run.
        shards: the folders of all shards, in order.
        before: what was in these folders when the process began, if earlier ones are completed.
    """

    config: EvalConfig | None
    out: Path
    shards: tuple[Path, ...]
    before: Mapping[Path, _Signs]


def run_ranked(
    configs: Sequence[EvalConfig], launch: Launch, display: Display
) -> list[Run | FailedRun]:
    """Run this process's shards; in the first process, wait for the others and merge.

    Returns:
        In the first process one outcome per configuration, of the merged run; in all others those
        of their shards.

    Raises:
        UsageError: what cannot be divided.
        RunFolderError: a shard that another process did not finish; all others are kept.
    """
    shares = [divide(config, launch) for config in configs]
    display.note(
        f"process {launch.rank} of {launch.size} ({launch.launcher}): shard "
        f"{launch.rank + 1}/{len(shares[0].shards)} in {shares[0].out / SHARDS}"
    )
    started = time.monotonic()
    mine = [share.config for share in shares if share.config is not None]
    if launch.rank:
        mine = [config for config in mine if not _is_complete(Path(str(config.out)))]
    one = len(configs) == 1
    if not mine:
        return []
    runs: list[Run | FailedRun]
    runs = [run_evaluation(mine[0], display)] if one else run_evaluations(mine, display)
    if launch.rank or any(run.interrupted for run in runs):
        return runs
    patience = max(SILENCE_SECONDS, time.monotonic() - started)
    return [
        run if isinstance(run, FailedRun) else _merged(share, patience, display)
        for share, run in zip(shares, runs, strict=True)
    ]


def divide(config: EvalConfig, launch: Launch) -> RankShare:
    """This process's share of a run.

    Raises:
        UsageError: the run cannot be divided, or its folder is none for a new run.
    """
    _check_divisible(config, launch)
    protocol = config.protocol
    chains = select(load_chains(protocol.chains), protocol.num_chains, protocol.select)
    count = min(launch.size, len(chains))
    out = Path(str(config.out))
    shards = tuple(out / SHARDS / f"{i}-of-{count}" for i in range(1, count + 1))
    if out.exists() and not is_new(out, (SHARDS,)):
        raise UsageError(
            f"expected a new folder for the run of {count} processes, or one with nothing but "
            f"{SHARDS}/ in it; found {out} with something else. Choose another --out."
        )
    before = {shard: _signs(shard) for shard in shards if config.resume}
    if launch.rank >= count:
        return RankShare(config=None, out=out, shards=shards, before=before)
    mine, engine = shards[launch.rank], config.engine
    if engine.devices is None and (device := launch.device()) is not None:
        engine = replace(engine, devices=(device,))
    shard = replace(
        config,
        out=str(mine),
        shard=f"{launch.rank + 1}/{count}",
        resume=config.resume and (mine / HEADER).exists(),
        engine=engine,
    )
    return RankShare(config=shard, out=out, shards=shards, before=before)


def _check_divisible(config: EvalConfig, launch: Launch) -> None:
    here = f"{launch.size} processes of {launch.launcher}"
    if config.engine.name == "ray":
        raise UsageError(
            f"engine=ray spreads a run by itself: expected one process, found {here}. Start it "
            "once, or leave engine=ray out."
        )
    if config.gate is not None or config.expect is not None:
        raise UsageError(
            f"a gate or a card is compared with a whole run, and {here} run parts of it: expected "
            "one process with --devices cuda:0,cuda:1, or no --gate and --expect here and "
            "`calvin-eval gate` on the merged run"
        )
    if config.overwrite:
        raise UsageError(f"expected a new --out FOLDER instead of --overwrite: {here} share it")


def _merged(share: RankShare, patience: float, display: Display) -> Run:
    for number, shard in enumerate(share.shards[1:], 2):
        if not _is_over(share, shard):
            display.note(f"waiting for shard {number}/{len(share.shards)}")
        _wait(share, shard, patience)
    return merge_shards(share.shards, share.out)


def _wait(share: RankShare, shard: Path, patience: float) -> None:
    """Wait until a shard is over; raises RunFolderError if it does not seem to come."""
    seen, since = _signs(shard), time.monotonic()
    while not _is_over(share, shard):
        time.sleep(_POLL_SECONDS)
        if (now := _signs(shard)) != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > patience:
            if _status(shard) == "finished":
                return
            raise RunFolderError(
                f"expected the shard {shard} from another process; found nothing new there for "
                f"{patience:.0f} s. Do all processes see this folder? {_remedy(share)}"
            )


def _is_over(share: RankShare, shard: Path) -> bool:
    """Whether a shard is finished in this launch, or before and needs nothing more.

    Raises:
        RunFolderError: it ended in this launch without being finished.
    """
    status = _status(shard)
    if status in (None, "started"):
        return False
    if status == "finished" and _is_complete(shard):
        return True
    if _signs(shard) == share.before.get(shard):  # the end of an earlier launch
        return False
    if status != "finished":
        raise RunFolderError(
            f"expected a finished shard in {shard}, found status {status!r}. {_remedy(share)}"
        )
    return True


def _remedy(share: RankShare) -> str:
    return (
        f"What was run is kept: start all processes again with --out {share.out} --resume, or put "
        f"finished shards together by `calvin-eval merge {share.out / SHARDS}/* --out {share.out}`."
    )


def _status(shard: Path) -> str | None:
    return RunFolder.open(shard).status if (shard / HEADER).exists() else None


def _is_complete(shard: Path) -> bool:
    """Whether a shard is finished and has all its chains, without an error."""
    if _status(shard) != "finished":
        return False
    folder = RunFolder.open(shard)
    done = {record.chain for record in folder.records() if record.status == "completed"}
    return done >= set(folder.header().planned)


def _signs(shard: Path) -> _Signs:
    """What changes in a run folder while the run goes on: sizes and times of two files."""
    found: list[tuple[int, int] | None] = []
    for name in (HEADER, JOURNAL):
        try:
            facts = (shard / name).stat()
        except OSError:
            found.append(None)
        else:
            found.append((facts.st_size, facts.st_mtime_ns))
    return tuple(found)
