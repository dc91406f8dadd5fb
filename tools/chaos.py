"""Runs that are disturbed at random, compared with the same runs left alone.

Usage: python -m tools.chaos [--minutes M] [--seed S] [--chains N] [--engine ENGINE] [--folder DIR]

A round draws a policy, chains and the number of workers, and runs them once undisturbed. Then the
same command runs again while its processes are killed, paused, interrupted and refused the disk,
and is resumed until it is finished. After that the journal has to say what the undisturbed one
says, `calvin-eval verify --all` has to agree, and no process may be left. Rounds follow each other
until the time is up. Exits with 1 if any failed, and names the seed that repeats it.

DIR can lie on a shared file system. Needs Linux. Clocks are not set: that would need a machine of
its own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from calvin_eval.results.store import JOURNAL, RunFolder

Process: TypeAlias = "subprocess.Popen[bytes]"

EVENTS = 8
"""Disturbances of a round; after them it is left to finish."""

POLICY = '''
import numpy as np


class Wanderer:
    """Moves by what it has seen since its reset: a request lost or answered twice shows."""

    requirements = {"rgb": []}

    def reset(self):
        self.seen = np.zeros(3)

    def step(self, obs, goal):
        self.seen = 0.9 * self.seen + obs["robot_obs"][:3]
        wave = np.sin(50 * self.seen + len(goal))
        return np.concatenate([wave, np.zeros(3), [1.0 if wave[0] > 0 else -1.0]])
'''

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ENDED = (0, 3, 70, *(128 + n for n in _STOPS), *(-n for n in (*_STOPS, signal.SIGKILL)))
"""Exit codes of a run that was disturbed; it dies of a signal that comes before it has begun."""
_GONE_SECONDS = 30.0


class Failed(Exception):
    """What a round found wrong."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """What is run.

    Attributes:
        seed: of everything that is drawn.
        folder: where the runs go.
        command: without its folder.
        events: what happened, in order.
    """

    seed: int
    folder: Path
    command: tuple[str, ...]
    events: list[str] = field(default_factory=list)


def draw_round(seed: int, folder: Path, chains: int, engine: str) -> Round:
    """Draw policy and number of workers."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    (folder / "wanderer.py").write_text(POLICY, encoding="utf-8")
    wanderer = [f"{folder}/wanderer.py:Wanderer", "protocol.steps=40"]
    policy, steps = rng.choice([wanderer, ["builtin:expert", "protocol.steps=200"]])
    command = [
        sys.executable, "-m", "calvin_eval", "--ckpt", policy, steps, f"engine={engine}",
        f"--num-chains={chains}", f"--workers={rng.choice([1, 2, 3])}", "--render=none",
        "--retries=1000", "--quiet", f"video.which={rng.choice(['none', 'none', '2'])}",
    ]  # fmt: skip
    return Round(seed=seed, folder=folder, command=tuple(command))


def play(game: Round) -> None:
    """Run it alone and disturbed.

    Raises:
        Failed: the two differ, a process is left, or one hangs.
    """
    started = time.monotonic()
    alone = [*game.command, "--out", str(game.folder / "alone")]
    done = subprocess.run(alone, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"the undisturbed run ended with {done.returncode}: {done.stderr}")
    _disturb(game, patience=120 + 20 * (time.monotonic() - started))
    expected, found = (_outcomes(game.folder / name) for name in ("alone", "disturbed"))
    if found != expected:
        wrong = [e["chain"] for e, f in zip(expected, found, strict=False) if e != f]
        raise Failed(f"{len(found)} records instead of {len(expected)}, chains {wrong} differ")
    check = [sys.executable, "-m", "calvin_eval", "verify", "--all", "--json"]
    said = subprocess.run([*check, str(game.folder / "disturbed")], stdout=subprocess.PIPE)
    if said.returncode != 0:
        raise Failed(f"verify: {json.loads(said.stdout)['status']}")


def _outcomes(folder: Path) -> list[dict[str, Any]]:
    return sorted((r.outcome() for r in RunFolder.open(folder).records()), key=lambda o: o["chain"])


def _disturb(game: Round, patience: float) -> None:
    """Start the run, disturb it, and resume it, until it is finished."""
    rng, out = random.Random(f"{game.seed} events"), game.folder / "disturbed"
    command = [*game.command, "--out", str(out)]
    while True:
        resume = ["--resume"] if (out / JOURNAL).exists() else []
        if not resume and out.exists():  # it ended before its first chain could be recorded
            shutil.rmtree(out)
        with open(game.folder / "output.log", "ab") as log:
            process = subprocess.Popen([*command, *resume], stdout=log, stderr=log)
        try:
            disturbed = _accompany(process, rng, game, out, patience)
        finally:
            family = descendants(process.pid)
            if process.poll() is None:
                process.kill()
        code = process.wait()
        _wait_until_gone(family)
        if code == 0 and RunFolder.open(out).status == "finished":
            return
        if code not in _ENDED or not disturbed:
            raise Failed(f"ended with {code}: see {game.folder / 'output.log'}")


def _accompany(
    process: Process, rng: random.Random, game: Round, out: Path, patience: float
) -> bool:
    """Disturb a process until it ends; returns whether anything happened to it."""
    disturbed, limit = False, time.monotonic() + patience
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.05, 3.0))
            break
        if time.monotonic() > limit:
            raise Failed(f"nothing ended it in {patience:.0f} s")
        if len(game.events) < EVENTS:
            event = rng.choice(_EVENTS)
            if event(process, rng, [*game.command, "--out", str(out)]):
                disturbed = True
                game.events.append(event.__name__.strip("_"))
    return disturbed


def _kill_one(process: Process, rng: random.Random, command: Sequence[str]) -> bool:
    family = descendants(process.pid)
    return bool(family) and _send(rng.choice(family), signal.SIGKILL)


def _pause_one(process: Process, rng: random.Random, command: Sequence[str]) -> bool:
    pid = rng.choice([process.pid, *descendants(process.pid)])
    if not _send(pid, signal.SIGSTOP):
        return False
    time.sleep(rng.uniform(0.1, 3.0))
    return _send(pid, signal.SIGCONT)


def _end(process: Process, rng: random.Random, command: Sequence[str]) -> bool:
    return _send(process.pid, rng.choice(_STOPS))


def _kill(process: Process, rng: random.Random, command: Sequence[str]) -> bool:
    """Kill the first process: all others have to notice."""
    family = descendants(process.pid)
    process.kill()
    process.wait()
    _wait_until_gone(family)
    return True


def _fill_disk(process: Process, rng: random.Random, command: Sequence[str]) -> bool:
    """Refuse the first process every file that grows beyond the journal's present size."""
    journal = Path(command[-1]) / JOURNAL
    if not journal.exists():
        return False
    size = journal.stat().st_size + rng.randrange(200)
    with suppress(ProcessLookupError):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
    return True


def _start_another(process: Process, rng: random.Random, command: Sequence[str]) -> bool:
    """Start the same run in the same folder: it has to be refused, and to harm nothing."""
    if not (Path(command[-1]) / JOURNAL).exists():
        return False
    second = subprocess.run([*command, "--resume"], capture_output=True, check=False)
    if second.returncode != 2 and process.poll() is None:
        raise Failed(f"a second run in the same folder ended with {second.returncode}")
    return False


_EVENTS: tuple[Callable[[Process, random.Random, Sequence[str]], bool], ...] = (
    _kill_one, _kill_one, _kill_one, _pause_one, _pause_one, _end, _kill, _fill_disk,
    _start_another,
)  # fmt: skip


def descendants(pid: int) -> list[int]:
    """All processes that a process has started, and theirs."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *descendants(child)]
    return found


def _send(pid: int, number: signal.Signals) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _wait_until_gone(processes: Sequence[int]) -> None:
    limit = time.monotonic() + _GONE_SECONDS
    while left := [pid for pid in processes if _alive(pid)]:
        if time.monotonic() > limit:
            raise Failed(f"{len(left)} processes were left by one that ended")
        time.sleep(0.05)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play rounds until the time is up."""
    parser = argparse.ArgumentParser(prog="chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=None, help="of the first round")
    parser.add_argument("--chains", type=int, default=40)
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(2**31) if options.seed is None else options.seed
    folder = options.folder or Path(tempfile.mkdtemp(prefix="calvin-eval-chaos-"))
    limit, failed = time.monotonic() + 60 * options.minutes, 0
    print(f"rounds of {options.chains} chains in {folder} for {options.minutes:g} minutes")
    while time.monotonic() < limit:
        game = draw_round(seed, folder / str(seed), options.chains, options.engine)
        started, result = time.monotonic(), "equal"
        try:
            play(game)
            shutil.rmtree(game.folder)
        except Failed as error:
            failed, result = failed + 1, f"FAILED: {error}"
        seconds = time.monotonic() - started
        print(f"seed {seed}, {' '.join(game.command[4:9])}: {', '.join(game.events) or 'nothing'}: "
              f"{result} ({seconds:.0f} s)", flush=True)  # fmt: skip
        seed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
