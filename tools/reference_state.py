"""What `tools.reference_all` plans, what it has done, and the page with its numbers."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from calvin_eval.files import write_atomic
from calvin_eval.results.metrics import Summary, summarize
from calvin_eval.results.store import RunFolder
from calvin_eval.sim.symbolic import TASK_NAMES


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is made. Everything but `hours` and `workers` must stay the same in a folder.

    Attributes:
        hours: the budget; the last evaluation comes on top of it.
        workers: cores that are used.
        assets: the pack.
        render: who draws.
        model: a preset of `calvin-eval train`.
        seed: of everything.
        piece: episodes of a piece of the demonstrations.
        validation: episodes of the expert for the validation loss, 1 or more.
        length: tasks of an episode.
        tasks: their names.
        rounds: corrections at most.
        dev: chains of the dev list after every round; 0 for none.
        final: of the official list, at the end; 0 for none.
        batch: samples of a step.
        least_steps: of a training, however little time is left.
        overrides: of trainings.
        evaluation: overrides of evaluations.
    """

    hours: float = 6.0
    workers: int = 2
    assets: str = "official"
    render: str = "fast"
    model: str = "tiny"
    seed: int = 0
    piece: int = 40
    validation: int = 8
    length: int = 5
    tasks: str = " ".join(TASK_NAMES)
    rounds: int = 6
    dev: int = 50
    final: int = 200
    batch: int = 64
    least_steps: int = 100
    overrides: list[str] = field(default_factory=list)
    evaluation: list[str] = field(default_factory=list)

    @property
    def options(self) -> dict[str, Any]:
        """All of them by name."""
        return asdict(self)

    @property
    def seconds(self) -> float:
        """The budget."""
        return 3600 * self.hours

    @property
    def shares(self) -> dict[str, float]:
        """Of the budget that a stage of a kind takes; the last three once a round."""
        rest = 0.5 / max(1, self.rounds)
        return {"record": 0.2, "first": 0.27, "dev": 0.16 * rest, "correct": 0.28 * rest,
                "train": 0.56 * rest}  # fmt: skip


_MAY_CHANGE = ("hours", "workers")


class State:
    """What has been done and what it took, kept in WORK/state.json.

    Args:
        path: of the file.
        values: its content.
    """

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self._path, self._values = path, values

    @classmethod
    def open(cls, work: Path, plan: Plan) -> State:
        """The state of a folder, new or gone on with.

        Raises:
            SystemExit: the folder was begun with another plan.
        """
        work.mkdir(parents=True, exist_ok=True)
        path = work / "state.json"
        fresh = {"plan": plan.options, "pieces": 0, "seconds": {}, "done": [], "sizes": {}}
        values: dict[str, Any] = fresh
        if path.exists():
            values = json.loads(path.read_text(encoding="utf-8"))
        before = values["plan"]
        changed = [k for k, v in plan.options.items() if before.get(k) != v]
        if other := sorted({*changed} - {*_MAY_CHANGE}):
            raise SystemExit(
                f"{work} was begun with {', '.join(f'--{k} {before.get(k)}' for k in other)}: give "
                "the same options, or another --work"
            )
        state = cls(path, {**values, "plan": plan.options})
        state._save()
        return state

    def _save(self) -> None:
        write_atomic(self._path, (json.dumps(self._values, indent=1) + "\n").encode())

    @property
    def pieces(self) -> int:
        """How many pieces of demonstrations are complete."""
        return int(self._values["pieces"])

    def add_piece(self) -> None:
        """Another one is."""
        self._values["pieces"] += 1
        self._save()

    @property
    def total(self) -> float:
        """Seconds that all stages took."""
        return float(sum(self._values["seconds"].values()))

    def spent(self, stage: str) -> float:
        """Seconds that a stage took so far."""
        return float(self._values["seconds"].get(stage, 0.0))

    def add_seconds(self, stage: str, seconds: float) -> None:
        """It took some more."""
        self._values["seconds"][stage] = round(self.spent(stage) + seconds, 2)
        self._save()

    def size(self, stage: str, choose: Callable[[], int]) -> int:
        """How much a stage does: chosen when it begins, and the same when it goes on."""
        if stage not in self._values["sizes"]:
            self._values["sizes"][stage] = choose()
            self._save()
        return int(self._values["sizes"][stage])

    def done(self, stage: str) -> bool:
        """Whether a stage is complete."""
        return stage in self._values["done"]

    def finish(self, stage: str) -> None:
        """A stage is complete."""
        self._values["done"].append(stage)
        self._save()

    @property
    def stages(self) -> list[str]:
        """Stages that are complete, in order."""
        return list(self._values["done"])


def last_value(run: Path, name: str) -> float:
    """The last value of that name in a training's log; NaN if there is none."""
    path = run / "metrics.csv"
    rows = list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []
    found = [row[name] for row in rows if row.get(name)]
    return float(found[-1]) if found else float("nan")


def episodes_of(folder: Path) -> list[dict[str, Any]]:
    """The training episodes of a recording."""
    path = folder / "training" / "episodes.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def write_report(work: Path, plan: Plan, state: State) -> None:
    """Write WORK/report.md: what every stage did, what it took, and the scores."""
    lines = [
        "# A policy for all tasks: the numbers so far", "",
        f"{date.today()}, {platform.machine()}, {plan.workers} of {os.cpu_count()} cores; "
        f"assets {plan.assets}, renderer {plan.render}, model {plan.model}, seed {plan.seed}; "
        f"{state.total / 60:.1f} of {plan.hours * 60:.0f} minutes spent.", "",
        "| stage | minutes | what |", "| --- | ---: | --- |",
    ]  # fmt: skip
    pieces = [work / f"expert-{n}" for n in range(1, state.pieces + 1)]
    lines.append(f"| record | {state.spent('record') / 60:.1f} | {_recorded(pieces)} |")
    for stage in state.stages:
        lines.append(f"| {stage} | {state.spent(stage) / 60:.1f} | {_what(work, stage)} |")
    scored = [stage for stage in state.stages if stage.startswith("dev") or stage == "final"]
    if scored:
        last = _summary(work / scored[-1])
        lines += ["", f"Tasks in {scored[-1]}:", "", "| task | solved |", "| --- | ---: |"]
        lines += [f"| `{t}` | {c.success} of {c.total} |" for t, c in last.per_task.items()]
        lines += ["", "| place in the chain | solved |", "| ---: | ---: |"]
        lines += [f"| {p} | {c.success} of {c.total} |" for p, c in last.per_position.items()]
    write_atomic(work / "report.md", ("\n".join(lines) + "\n").encode())


def _what(work: Path, stage: str) -> str:
    kind, _, number = stage.partition("-")
    if kind == "correct":
        return _recorded([work / f"fix-{number}"])
    if kind in ("train", "profile"):
        run = work / ("profile" if kind == "profile" else f"round-{number}")
        return "; ".join(_trained(run))
    return _scores(_summary(work / stage))


def _trained(run: Path) -> Iterator[str]:
    names: Mapping[str, str] = {
        "step": "{:.0f} steps", "samples_per_second": "{:.1f} samples/s",
        "train_loss": "loss {:.4f}", "val_loss": "validation loss {:.4f}",
    }  # fmt: skip
    for name, form in names.items():
        value = last_value(run, name)
        if value == value:
            yield form.format(value)


def _recorded(folders: list[Path]) -> str:
    episodes = [episode for folder in folders for episode in episodes_of(folder)]
    subtasks = [subtask for episode in episodes for subtask in episode["subtasks"]]
    frames = sum(episode["frames"] for episode in episodes)
    solved = sum(subtask["success"] for subtask in subtasks)
    return f"{len(episodes)} episodes, {frames} frames, {solved} of {len(subtasks)} tasks solved"


def _summary(run: Path) -> Summary:
    folder = RunFolder.open(run)
    return summarize(list(folder.records()), len(folder.header().chains.planned))


def _scores(summary: Summary) -> str:
    if summary.partial_average_length is None:
        return "no chain"
    interval: Any = summary.partial_average_length_interval
    rates = summary.partial_success_rates or {}
    row = ", ".join(f"{100 * rate:.1f} %" for rate in rates.values())
    return (
        f"average length **{summary.partial_average_length:.3f}** ({interval.low:.2f} to "
        f"{interval.high:.2f}) over {summary.completed} chains; in a row {row}"
    )
