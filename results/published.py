"""Results as others publish them: upstream's results file, flat ones, and logs of its form.

Such files have rates and no more: neither which chains were run, nor under which rules. What reads
them can hold rates side by side, and nothing else.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from calvin_eval.errors import RunFolderError
from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.results.header import HEADER
from calvin_eval.results.metrics import Count

_AVERAGES: Final = ("avg_seq_len", "average_length", "avg_len")
_RATES: Final = ("chain_sr", "success_rates")
_TASKS: Final = ("task_info", "per_task")
_MOST_BYTES: Final = 64 * 2**20
_MOST_CHAINS: Final = 1_000_000
_MOST_LENGTH: Final = 100

_LENGTH = re.compile(r"\bsuccess(?:_counter)?\s*[=:]\s*([0-9]{1,2})\b(?![.%])")
_PLACE = re.compile(r"\brank\s*[=:]?\s*([0-9]+)\b.*?\bseq\w*\s*[=:]?\s*([0-9]+)\b", re.IGNORECASE)
_PRINTED_AVERAGE = re.compile(r"[Aa]verage successful sequence length:\s*([0-9.]+)")
_PRINTED_RATE = re.compile(r"^\s*([0-9]{1,2}):\s*([0-9.]+)\s*%\s*$")


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a result file says.

    Attributes:
        name: of the file or folder, with the checkpoint if it has several.
        form: what kind of file it is, in words.
        average_length: mean number of tasks done in a row.
        rates: per i = 1.. the share of chains with at least i tasks done in a row.
        chains: how many there were; None if the file does not say.
        lengths: how many tasks each of them did in a row, in any order; None likewise.
        tasks: successes among attempts by task; empty if the file has none.
        notes: what does not fit together in it.
    """

    name: str
    form: str
    average_length: float
    rates: Mapping[int, float]
    chains: int | None = None
    lengths: tuple[int, ...] | None = field(default=None, repr=False)
    tasks: Mapping[str, Count] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line."""
        over = "" if self.chains is None else f" over {self.chains} chains"
        return f"{self.form}, average length {self.average_length:.3f}{over}"


def is_run_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is a run's header at a path."""
    return (Path(path) / HEADER).is_file()


def refuse_published(path: str | os.PathLike[str], wanted: str) -> None:
    """Raises RunFolderError if there is a result file at a path, and neither a run nor a card.

    Args:
        path: that a user named.
        wanted: what was expected there, in words.
    """
    try:
        found = read_published(path)
    except (RunFolderError, OSError):
        return
    raise RunFolderError(
        f"expected {wanted}, found {found} at {path}: it has rates, and neither chains nor rules. "
        f"`calvin-eval compare RUN {path}` compares a run with it; --min-avg-len "
        f"{found.average_length:.3f} makes a gate of its number."
    )


def read_published(path: str | os.PathLike[str]) -> Published:
    """Read a result file, a log, or a folder that has either.

    Args:
        path: `FILE.json` in upstream's form (`{checkpoint: {avg_seq_len, chain_sr, task_info}}`),
            flat (without the checkpoint), or a list of lengths; `FILE.json:CHECKPOINT` where it has
            several; a log with `success=N` for every chain, or with upstream's printed summary; or
            a folder of logs of ranks, or with a `results.json`.

    Raises:
        RunFolderError: it is none of these, or cannot be read.
    """
    asked, wanted = Path(path), None
    if not asked.exists() and ":" in asked.name:
        name, _, wanted = asked.name.rpartition(":")
        asked = asked.with_name(name)
    if asked.is_dir():
        logs = sorted(file for file in asked.glob("*rank*") if file.suffix in (".log", ".txt"))
        if logs:
            return _from_logs([_text(log) for log in logs], asked.name, len(logs))
        asked = asked / "results.json"
    if not asked.is_file():
        raise RunFolderError(
            f"expected a run folder or a result file, found none at {path}. A result file is "
            "upstream's results.json, or a log with success=N for every chain."
        )
    text = _text(asked)
    if asked.suffix != ".json" and text.lstrip()[:1] not in ("{", "["):
        return _from_logs([text], asked.name, 1)
    try:
        content = parse_json(text, strict=False)
    except DocumentError as error:
        raise RunFolderError(f"{asked}: expected results in JSON, found {error}") from error
    return _from_json(content, asked, wanted)


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise RunFolderError(f"{path}: expected a result file, found one of more than 64 MiB")
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror}") from error


def _from_json(content: Any, path: Path, wanted: str | None) -> Published:
    if isinstance(content, list) and content and all(type(n) is int for n in content):
        return _of_lengths(content, path.name, "a list of lengths")
    if _is_flat(content):
        return _of_flat(content, path.name, "a flat result file")
    found = content if isinstance(content, dict) else {}
    checkpoints = {name: value for name, value in found.items() if _is_flat(value, _RATES[:1])}
    if not checkpoints:
        raise RunFolderError(
            f"{path}: expected {{checkpoint: {{avg_seq_len, chain_sr, task_info}}}} as upstream "
            f"writes it, the same without the checkpoint, or a list of lengths; found "
            f"{type(content).__name__} {str(content)[:60]}"
        )
    if (wanted is None and len(checkpoints) > 1) or wanted not in (None, *checkpoints):
        raise RunFolderError(
            f"{path}: expected one of its checkpoints as {path.name}:CHECKPOINT, found "
            f"{wanted or 'no name'}; it has {', '.join(map(str, checkpoints))}"
        )
    key = next(iter(checkpoints)) if wanted is None else wanted
    name = path.name if len(checkpoints) == 1 else f"{path.name}:{key}"
    return _of_flat(checkpoints[key], name, "a result file in upstream's form")


def _is_flat(value: Any, names: Sequence[str] = _RATES) -> bool:
    return isinstance(value, dict) and isinstance(_first(value, names), (dict, list))


def _first(value: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((value[name] for name in names if name in value), None)


def _of_flat(value: Mapping[str, Any], name: str, form: str) -> Published:
    rates = _rates(_first(value, _RATES), name)
    total = sum(rates.values())
    average = _first(value, _AVERAGES)
    average = float(average) if isinstance(average, (int, float)) else total
    tasks = _tasks(_first(value, _TASKS))
    notes = []
    if abs(average - total) > 0.006:
        notes.append(
            f"{name} gives the average length {average:.3f}, and its rates add to {total:.3f}"
        )
    chains = _count_chains(average, tasks)
    if tasks and chains is None:
        notes.append(f"the counts of tasks in {name} do not fit its average length")
    return Published(
        name=name,
        form=form,
        average_length=average,
        rates=rates,
        chains=chains,
        lengths=None if chains is None else _lengths(rates, chains),
        tasks=tasks,
        notes=tuple(notes),
    )


def _rates(value: Any, name: str) -> dict[int, float]:
    """Shares of 0..1 by number of tasks; percent become shares."""
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value, 1)
    try:
        rates = {int(key): float(rate) for key, rate in pairs}
    except (TypeError, ValueError):
        rates = {}
    scale = 0.01 if any(rate > 1 for rate in rates.values()) else 1.0
    rates = {key: scale * rates[key] for key in sorted(rates)}
    whole = sorted(rates) == list(range(1, len(rates) + 1)) and len(rates) <= _MOST_LENGTH
    if not rates or not whole or not all(0 <= rate <= 1 for rate in rates.values()):
        raise RunFolderError(
            f"{name}: expected success rates for 1, 2, ... tasks in a row, found {str(value)[:80]}"
        )
    return rates


def _tasks(value: Any) -> dict[str, Count]:
    found = {}
    for task, entry in (value if isinstance(value, Mapping) else {}).items():
        success = entry.get("success") if isinstance(entry, Mapping) else None
        total = entry.get("total") if isinstance(entry, Mapping) else None
        if type(success) is int and type(total) is int and 0 <= success <= total <= 10**9:
            found[str(task)] = Count(success=success, total=total)
    return dict(sorted(found.items()))


def _count_chains(average: float, tasks: Mapping[str, Count]) -> int | None:
    """The number of chains that these counts of tasks come from; None if they fit none."""
    done = sum(count.success for count in tasks.values())
    if not done or not average:
        return sum(count.total for count in tasks.values()) or None if not done else None
    chains = round(done / average)
    fits = 0 < chains <= _MOST_CHAINS and abs(done / chains - average) < 0.006
    return chains if fits else None


def _lengths(rates: Mapping[int, float], chains: int) -> tuple[int, ...] | None:
    """Lengths with these rates, to the nearest chain; None if the rates rise."""
    reached = [chains, *(round(rate * chains) for rate in rates.values()), 0]
    ended = [here - beyond for here, beyond in itertools.pairwise(reached)]
    if min(ended) < 0:
        return None
    return tuple(length for length, count in enumerate(ended) for _ in range(count))


def _from_logs(texts: Sequence[str], name: str, files: int) -> Published:
    form = "a log" if files == 1 else f"{files} logs of ranks"
    lengths: dict[object, int] = {}
    for number, text in enumerate(texts):
        for line, found in enumerate(text.splitlines()):
            if match := _LENGTH.search(found):
                place = _PLACE.search(found)
                key = (number, *place.groups()) if place else (number, line)
                lengths[key] = int(match[1])
    if lengths:
        return _of_lengths(list(lengths.values()), name, form)
    return _from_printed("\n".join(texts), name)


def _of_lengths(lengths: Sequence[int], name: str, form: str) -> Published:
    longest = max(5, *lengths)
    if not all(0 <= length <= _MOST_LENGTH for length in lengths):
        raise RunFolderError(f"{name}: expected lengths from 0 to {_MOST_LENGTH}")
    count = len(lengths)
    return Published(
        name=name,
        form=form,
        average_length=sum(lengths) / count,
        rates={i: sum(n >= i for n in lengths) / count for i in range(1, longest + 1)},
        chains=count,
        lengths=tuple(sorted(lengths)),
    )


def _from_printed(text: str, name: str) -> Published:
    """The last summary that upstream's evaluation printed into a log."""
    averages = list(_PRINTED_AVERAGE.finditer(text))
    rates: dict[str, float] = {}
    for line in text[averages[-1].end() :].splitlines() if averages else ():
        if match := _PRINTED_RATE.match(line):
            rates[match[1]] = float(match[2]) / 100
    if not rates:
        raise RunFolderError(
            f"{name}: expected a result file or a log: success=N for every chain, or the summary "
            "that upstream prints (Average successful sequence length); found neither"
        )
    value = {"avg_seq_len": float(averages[-1][1].rstrip(".")), "chain_sr": rates}
    return _of_flat(value, name, "a log with upstream's summary")
