"""Run the policies that come with the project, and build their leaderboard, for the docs' site.

python -m tools.leaderboard_site [--work runs/leaderboard] [--out build/leaderboard] [--chains 20]

Expert, random and reference, on the built-in pack and, where it is installed, on the official one,
as it is and under a shift. What is there already is not run again; bundles and records of their
verifications stay under --work.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calvin_eval.cli.main import main as calvin_eval
from calvin_eval.errors import AssetError
from calvin_eval.sim.packs import load_pack

POLICIES: dict[str, dict[str, Any]] = {
    "expert": {
        "name": "Scripted expert", "parameters": 0, "observation_space": ["simulator state"],
        "action_space": "absolute tcp pose",
        "description": "Plans with the simulator's own state: an upper bound, and no policy.",
    },
    "random": {
        "name": "Random", "parameters": 0, "observation_space": ["nothing"],
        "action_space": "relative tcp pose",
        "description": "Moves out and back at random: a lower bound.",
    },
    "reference": {
        "name": "Reference", "parameters": 3_300_000,
        "observation_space": ["rgb_static 200x200", "rgb_gripper 84x84"],
        "action_space": "relative tcp pose, chunks of 10",
        "description": "Trained for half an hour on eight of the 34 tasks, on the built-in pack.",
    },
}  # fmt: skip
CARD = {"training_split": "D", "licence": "Apache-2.0", "links": {}}
SHIFT = "layout=3"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: of a policy, on a pack, as it is or shifted."""

    policy: str
    pack: str
    shift: str | None

    @property
    def name(self) -> str:
        """Of its folder and its bundle."""
        return "-".join([self.policy, self.pack, *(["shifted"] if self.shift else [])])

    def arguments(self, chains: int, workers: int, out: Path) -> list[str]:
        """The command line of the run, which goes on where it was broken off."""
        ckpt = self.policy if self.policy == "reference" else f"builtin:{self.policy}"
        shift = ["--shift", self.shift] if self.shift else []
        resume = ["--resume"] if (out / "header.json").exists() else []
        plan = ["--assets", self.pack, "--num-chains", str(chains), *shift]
        where = ["--workers", str(workers), "--quiet", "--out", str(out), *resume]
        return ["--ckpt", ckpt, "--split", "D", *plan, *where]


def jobs(policies: Sequence[str]) -> Iterator[Job]:
    """What can be run here."""
    packs = ["builtin"]
    try:
        load_pack("official")
        packs.append("official")
    except AssetError:
        pass
    for pack in packs:
        for policy in policies:
            for shift in (None, SHIFT):
                yield Job(policy=policy, pack=pack, shift=shift)


def make_bundle(job: Job, work: Path, chains: int, workers: int) -> None:
    """Run a job and pack it, unless that has been done."""
    bundle, card = work / "entries" / f"{job.name}.zip", work / f"{job.policy}.json"
    if bundle.exists():
        return
    bundle.parent.mkdir(parents=True, exist_ok=True)
    about = {"key": f"calvin-eval-{job.policy}", **POLICIES[job.policy], **CARD}
    card.write_text(json.dumps(about), encoding="utf-8")
    run = work / "runs" / job.name
    for command in (
        job.arguments(chains, workers, run),
        ["bundle", str(run), "--meta", str(card), "--out", str(bundle)],
    ):
        if code := calvin_eval(command):
            raise SystemExit(f"calvin-eval {' '.join(command)}: exit code {code}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, pack, build; returns the exit code of the build."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/leaderboard"))
    parser.add_argument("--out", type=Path, default=Path("build/leaderboard"))
    parser.add_argument("--chains", type=int, default=20)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    options = parser.parse_args(arguments)
    for job in jobs(options.policies):
        make_bundle(job, options.work, options.chains, options.workers)
    return calvin_eval(
        ["leaderboard", "build", str(options.work / "entries"), "--out", str(options.out),
         "--records", str(options.work / "records"), "--workers", str(options.workers),
         "--title", "Policies that come with calvin-eval"]
    )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
