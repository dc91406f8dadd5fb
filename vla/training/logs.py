"""Where a training's numbers go: a CSV file, TensorBoard, Weights & Biases."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.extras import missing_modules, require
from calvin_eval.vla.training.saving import written

CSV = "metrics.csv"
STEP = "step"


class Log(Protocol):
    """Takes numbers of a step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log values by name."""
        ...

    def close(self) -> None:
        """Finish writing."""
        ...


class CsvLog:
    """One row per step that logged something; a column per name, empty where it has no value.

    Args:
        path: the file.
        start: rows of later steps in an older file are dropped, since they are trained again.
    """

    def __init__(self, path: Path, start: int) -> None:
        self._path = path
        self._columns = [STEP]
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self._columns = list(reader.fieldnames or [STEP])
                rows = [row for row in reader if int(row[STEP]) <= start]
            self._rewrite(rows)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Log.write`."""
        new = [name for name in values if name not in self._columns]
        if new or not self._path.exists():
            rows = []
            if self._path.exists():
                with self._path.open(newline="", encoding="utf-8") as file:
                    rows = list(csv.DictReader(file))
            self._columns += new
            self._rewrite(rows)
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._columns).writerow({STEP: step, **values})

    def _rewrite(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with written(self._path) as place, place.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)

    def close(self) -> None:
        """Nothing is open between two rows."""


class TensorBoardLog:
    """Event files.

    Args:
        folder: for them.
        start: values of later steps in older files are hidden.
    """

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=start + 1 if start else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Log.write`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush."""
        self._writer.close()


class WandbLog:
    """A run of Weights & Biases; it goes on if the training does.

    Args:
        folder: of the run.
        config: the project configuration.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import wandb

        section = config.get("wandb") or {}
        known = folder / "wandb-run.txt"
        try:
            self._run: Any = wandb.init(
                project=section.get("project"),
                name=section.get("name") or folder.name,
                dir=str(folder),
                id=known.read_text(encoding="utf-8").strip() if known.exists() else None,
                resume="allow",
                config=dict(config),
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            raise UsageError(
                f"trainer.logger: expected wandb to take the run, found: "
                f"{str(error).rstrip('.')}. Log in by `wandb login`, or set WANDB_MODE=offline."
            ) from error
        known.write_text(self._run.id, encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Log.write`."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


LOGS = ("csv", "tensorboard", "wandb")


def open_logs(config: Mapping[str, Any], folder: Path, start: int) -> list[Log]:
    """The logs that `trainer.logger` names, and the CSV file always.

    TensorBoard, which is in the default configuration, is left out if it is not installed.

    Raises:
        UnknownNameError: a log that does not exist.
        MissingExtraError: wandb is not installed.
        UsageError: it refuses.
    """
    asked = (config.get("trainer") or {}).get("logger") or []
    names = [asked] if isinstance(asked, str) else list(asked)
    for name in names:
        if name not in LOGS:
            raise UnknownNameError("trainer.logger", name, LOGS)
    logs: list[Log] = [CsvLog(folder / CSV, start)]
    if "tensorboard" in names and not missing_modules("tensorboard"):
        logs.append(TensorBoardLog(folder / "tensorboard", start))
    if "wandb" in names:
        require("wandb", "trainer.logger=wandb")
        logs.append(WandbLog(folder, config))
    return logs


class Logs:
    """Several logs as one, which nothing need be written to.

    Args:
        logs: where numbers go.

    Attributes:
        values: the last that were written of each name.
    """

    def __init__(self, logs: Sequence[Log] = ()) -> None:
        self._logs = logs
        self.values: dict[str, float] = {}

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """See `Log.write`."""
        self.values.update(values)
        for log in self._logs if values else ():
            log.write(step, values)

    def close(self) -> None:
        """Finish writing."""
        for log in self._logs:
            log.close()


class Means:
    """Means of losses over batches; numbers stay on their device until they are asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Take in the losses of a batch."""
        for name, value in values.items():
            now = value.detach().float()
            self._sums[name] = self._sums[name] + now if name in self._sums else now
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self, accelerator: Any, prefix: str) -> dict[str, float]:
        """The means over all processes, by name behind a prefix; and start over."""
        names = sorted(self._sums)
        if not names:
            return {}
        means = torch.stack([self._sums[name] / self._counts[name] for name in names])
        values = accelerator.reduce(means, reduction="mean").tolist()
        self.__init__()  # type: ignore[misc]
        return {f"{prefix}{name}": value for name, value in zip(names, values, strict=True)}
