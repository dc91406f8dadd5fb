"""Make a policy for all 34 tasks: demonstrations, training, and rounds in which it is corrected.

python -m tools.reference_all --work runs/reference-all --hours 6 [--assets official] [--workers 2]

Stages follow one another until the time is spent: the expert demonstrates; a first policy is
trained; then, round by round, the newest policy acts in turns with the expert, who says what it
would have done, and training goes on with that data too. Every round is evaluated on the dev list;
the official list is used once, at the end. Broken off anywhere, the same command goes on where it
was. WORK/report.md has the numbers of all stages so far.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

from tools.reference_state import Plan, State, episodes_of, last_value, write_report

POLICY_STAGES = ("ensemble=null", "execute={steps: 5}")
"""Five actions of every chunk, without averaging: as in the evaluations."""
OPEN_LOOP = ("policy.actions.ensemble=null", "protocol.execute=5")
WARM_UP = 20
"""Steps of the training that measures how fast training is here."""
SLOWER = 1.6
"""Time of an episode with a policy, of one by the expert alone; a guess that sizes a round."""


class Maker:
    """Runs the stages.

    Args:
        work: folder of everything.
        plan: what is made.
    """

    def __init__(self, work: Path, plan: Plan) -> None:
        self.work, self.plan = work, plan
        self.state = State.open(work, plan)

    def make(self) -> None:
        """All stages, from where they were broken off."""
        self._record()
        self._once("profile", lambda: self._train("profile", WARM_UP, [self._piece(1)], None))
        self._round(0)
        for number in range(1, self.plan.rounds + 1):
            if not self.state.done(f"train-{number}") and self.left < self._share("correct"):
                break
            self._round(number)
        newest = max(n for n in range(self.plan.rounds + 1) if self.state.done(f"train-{n}"))
        if self.plan.final:
            self._once(
                "final", lambda: self._evaluate("final", newest, self.plan.final, "official")
            )

    @property
    def left(self) -> float:
        """Seconds of the budget that are not spent."""
        return self.plan.seconds - self.state.total

    def _share(self, kind: str) -> float:
        """Seconds that a stage of a kind may take."""
        return self.plan.seconds * self.plan.shares[kind]

    def _piece(self, number: int) -> Path:
        return self.work / f"expert-{number}"

    @property
    def _pieces(self) -> list[Path]:
        return [self._piece(n) for n in range(1, self.state.pieces + 1)]

    def _record(self) -> None:
        """Demonstrations, piece by piece, each a data set of its own."""
        while not self.state.pieces or (
            not self.state.done("profile") and self.state.spent("record") < self._share("record")
        ):
            number = self.state.pieces + 1
            episodes = ["--episodes", str(self.plan.piece), "--noise", "0.5"]
            episodes += ["--validation", str(self.plan.validation if number == 1 else 0)]
            self._run("record", [*self._recording(self._piece(number), number), *episodes])
            self.state.add_piece()
            self._report()

    def _recording(self, out: Path, seed: int) -> list[str]:
        plan = self.plan
        return [
            "record", "--out", str(out), "--assets", plan.assets, "--render", plan.render,
            "--sentences", "both", "--max-span", "360", "--min-span", "8", "--quiet",
            "--seed", str(1000 * plan.seed + seed), "--workers", str(plan.workers),
            "--length", str(plan.length), "--tasks", plan.tasks,
        ]  # fmt: skip

    def _round(self, number: int) -> None:
        """Correct the last policy, train the next one, evaluate it on the dev list."""
        data = [self.work / f"fix-{n}" for n in range(1, number + 1)]
        if number:
            self._once(f"correct-{number}", lambda: self._correct(number))
        before = number - 1 if number else None
        kind = "train" if number else "first"
        steps = self.state.size(f"train-{number}", lambda: self._steps(kind))
        self._once(
            f"train-{number}",
            lambda: self._train(f"round-{number}", steps, [*self._pieces, *data], before),
        )
        if self.plan.dev:
            self._once(
                f"dev-{number}",
                lambda: self._evaluate(f"dev-{number}", number, self.plan.dev, "dev"),
            )

    def _steps(self, kind: str) -> int:
        rate = last_value(self.work / "profile", "samples_per_second")
        seconds = min(self._share(kind), max(0.0, self.left - self._share("dev")))
        return max(self.plan.least_steps, int(rate * seconds / self.plan.batch))

    def _correct(self, number: int) -> None:
        """The policy of the round before acts in turns with the expert."""
        each = self.state.spent("record") / max(1, self.state.pieces * self.plan.piece)
        count = self.state.size(
            f"correct-{number}", lambda: max(1, int(self._share("correct") / (SLOWER * each)))
        )
        stages = [word for stage in POLICY_STAGES for word in ("--stage", stage)]
        self._run(
            f"correct-{number}",
            [*self._recording(self.work / f"fix-{number}", 500 + number), *stages,
             "--policy", str(self.work / f"round-{number - 1}"), "--label", "expert",
             "--beta", f"{max(0.1, 0.6 - 0.1 * number):g}", "--takeover", "120",
             "--episodes", str(count), "--validation", "0"],
        )  # fmt: skip

    def _train(self, name: str, steps: int, data: Sequence[Path], before: int | None) -> None:
        """Train on data sets: from random numbers, or from the policy of another round."""
        out = self.work / name
        if (out / "resume").is_dir():
            words = [f"out={out}", "resume=true"]
        else:
            shutil.rmtree(out, ignore_errors=True)
            words = [f"out={out}", f"data={data[0]}", *self._training(steps, data, before)]
        stage = name.replace("round", "train")
        self._run(stage, ["train", "--quiet", *words])

    def _training(self, steps: int, data: Sequence[Path], before: int | None) -> list[str]:
        plan = self.plan
        words = [
            f"model={plan.model}", "use_state=true", f"seed={123 + plan.seed}",
            f"batch_size={plan.batch}", f"trainer.threads={plan.workers}",
            "trainer.max_epochs=-1", f"trainer.max_steps={steps}", "save.every=100", "save.keep=1",
            "trainer.val_check_interval=500", "trainer.limit_val_batches=10",
            f"warmup_steps={min(200, steps // 10)}", *plan.overrides,
        ]  # fmt: skip
        if len(data) > 1:
            others = [
                f"{{type:DiskCalvinDataset,data_dir:{folder / 'training'},acted:expert}}"
                for folder in data[1:]
            ]
            words += [f"weights={self._weights(data)}", f"cotrain=[{','.join(others)}]"]
        if before is not None:
            last = self.work / f"round-{before}"
            weights = sorted(last.glob("*.ckpt"))[-1]
            words += [
                f"model_load_path={weights}", "learning_rate=5e-4",
                f"vlm.pretrained_model_name_or_path={last / 'vlm'}", "vlm.from_scratch=true",
            ]  # fmt: skip
        return words

    def _weights(self, data: Sequence[Path]) -> str:
        """By frames, those of corrections counting as much as those of demonstrations at least."""
        frames = [sum(e["frames"] for e in episodes_of(folder)) for folder in data]
        fixes = [folder.name.startswith("fix") for folder in data]
        fixed = sum(n for n, fix in zip(frames, fixes, strict=True) if fix)
        more = max(1.0, (sum(frames) - fixed) / fixed) if fixed else 1.0
        weights = [n * (more if fix else 1.0) for n, fix in zip(frames, fixes, strict=True)]
        return "[" + ",".join(f"{weight / sum(weights):.4f}" for weight in weights) + "]"

    def _evaluate(self, name: str, number: int, chains: int, which: str) -> None:
        out = self.work / name
        resume = ["--resume"] if (out / "header.json").exists() else []
        self._run(
            name,
            ["--ckpt", str(self.work / f"round-{number}"), "--split", "D", "--out", str(out),
             "--assets", self.plan.assets, "--num-chains", str(chains), "--quiet", *resume,
             "--workers", str(self.plan.workers), f"protocol.chains={which}",
             *self.plan.evaluation, *OPEN_LOOP],
        )  # fmt: skip

    def _once(self, stage: str, run: Any) -> None:
        """Run a stage that is not done, and note that it is."""
        if not self.state.done(stage):
            run()
            self.state.finish(stage)
            self._report()

    def _report(self) -> None:
        write_report(self.work, self.plan, self.state)

    def _run(self, stage: str, words: Sequence[str]) -> None:
        """A command of calvin-eval, whose time is the stage's also when this one is killed.

        Raises:
            SystemExit: it failed, or was stopped.
        """
        print(f"{stage}: calvin-eval {' '.join(words)}", flush=True)
        child = subprocess.Popen([sys.executable, "-m", "calvin_eval", *words])

        def stop(number: int, frame: FrameType | None) -> None:
            child.send_signal(number)

        before = signal.signal(signal.SIGTERM, stop)
        noted = monotonic()
        try:
            while True:
                try:
                    code = child.wait(5)
                except subprocess.TimeoutExpired:
                    code = None
                now = monotonic()
                self.state.add_seconds(stage, now - noted)
                noted = now
                if code is not None:
                    break
        except KeyboardInterrupt:
            child.wait()
            raise SystemExit(130) from None
        finally:
            signal.signal(signal.SIGTERM, before)
        if code:
            raise SystemExit(f"{stage}: exit code {code}" if code > 0 else 128 - code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/reference-all"))
    for name, value in Plan().options.items():
        kind = type(value)
        if isinstance(value, list):
            parser.add_argument(f"--{name}", nargs="*", default=value)
        else:
            parser.add_argument(f"--{name}", type=kind, default=value)
    options = vars(parser.parse_args(arguments))
    work = options.pop("work")
    Maker(work.absolute(), Plan(**options)).make()
    print(f"The numbers: {work / 'report.md'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
