"""Single values of a configuration: how they are read, and what they may be."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.protocol import SPLITS
from calvin_eval.shifts import Shifts

_MOST_SEEDS = 1000


def optional_text(value: Any) -> str | None:
    """Text, or nothing."""
    return None if value is None else str(value)


def check_number(name: str, value: Any, low: int, *, whole: bool, optional: bool = False) -> None:
    """Raise a UsageError unless a value is a number, or a whole number, from `low` up."""
    if value is None and optional:
        return
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or value < low:
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"expected {name} to be {kind} from {low} up; found {value!r}")


def devices_of(value: Any) -> tuple[str, ...] | None:
    """`cpu`, or `cuda:0,cuda:1`; Hydra reads the latter as text, and a list as a list."""
    if value is None:
        return None
    names = value if isinstance(value, list | tuple) else str(value).split(",")
    for name in map(str, names):
        if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
            raise UsageError(f"expected devices such as cpu or cuda:0,cuda:1; found {name!r}")
    return tuple(map(str, names))


def seeds_of(text: str) -> tuple[int, ...]:
    """Seeds such as `0,1,2` or `0-4`, ascending; raises a UsageError for anything else."""
    from calvin_eval.sim.selection import parse_ranges

    try:
        ranges = list(parse_ranges(text, "seeds"))
    except (UsageError, ValueError) as error:  # a ValueError for thousands of digits
        raise UsageError(
            f"expected --seeds to be seeds such as 0,1,2 or 0-4; found {text!r}"
        ) from error
    count = sum(last - first + 1 for first, last in ranges)
    if count > _MOST_SEEDS:
        raise UsageError(f"expected up to {_MOST_SEEDS} seeds, found {count}")
    return tuple(sorted({seed for first, last in ranges for seed in range(first, last + 1)}))


def chains_of_dataset(folder: str, chosen: Collection[str]) -> dict[str, str]:
    """The keys that `--from-dataset` stands for: chains, and sentences unless others are chosen.

    Args:
        folder: a data set, or one split of it.
        chosen: keys that the command line sets.

    Raises:
        UsageError: there is no such folder, or chains are chosen as well.
    """
    path = Path(folder).expanduser().absolute()  # its last part is a name, which `.` has not
    if not path.is_dir():
        raise UsageError(f"expected --from-dataset to name a data set's folder; found {folder}")
    if "protocol.chains" in chosen:
        raise UsageError("expected --from-dataset or protocol.chains, found both")
    keys = {"protocol.chains": str(path), "protocol.instructions": str(path)}
    return {key: value for key, value in keys.items() if key not in chosen}


def check_cluster(engine: Mapping[str, Any]) -> None:
    """Raise a UsageError for an engine that does not fit its other settings."""
    if engine["address"] is not None and engine["name"] != "ray":
        raise UsageError(
            f"engine.address={engine['address']} is the address of a Ray cluster; expected "
            "engine=ray beside it"
        )
    if engine["name"] == "ray" and engine["workers"] == 0:
        raise UsageError(
            "expected 1 worker or more with engine=ray, found 0: to run everything in this "
            "process, choose engine=local"
        )


def shard_of(value: Any) -> str | None:
    """`i/n`; raises a UsageError for what is no such thing."""
    if value is None:
        return None
    from calvin_eval.sim.selection import parse_shard

    parse_shard(str(value))
    return str(value)


def selection_text(value: Any) -> str:
    """`3,17,40-49` as text; Hydra reads a bare 3,17 as a sweep and a bare 3 as a number."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def shift_text(value: Any) -> str | None:
    """Shifts in the order of their table; None for the benchmark as it is.

    Args:
        value: `camera=3,light=2`, or several of these, as the command line gives them.

    Raises:
        UsageError: no such axis or level.
    """
    texts = [value] if isinstance(value, str) else value or ()
    return str(Shifts.join(map(str, texts))) or None


_SPLIT = re.compile(r"(?:(?:TASK|CALVIN)[-_ ]*)*([A-D]+)(?:(?:->|=>|→|⇒|>|TO|2|[-_/ ])+([A-D]))?")


def split_of(name: str) -> str:
    """A split by any of the names that papers and data sets have for it.

    `ABC->D`, `ABC-D`, `task_ABC_D` and `ABC` are one thing; so are `D->D` and `D`.

    Raises:
        UnknownNameError: there is no such split.
    """
    found = _SPLIT.fullmatch(name.strip().upper())
    if found is not None:
        trained, scene = str(found[1]), found[2]
        for split in (f"{trained}_{scene or 'D'}", trained):
            if split in SPLITS and scene in (None, SPLITS[split]):
                return split
    raise UnknownNameError("split", name, SPLITS)
