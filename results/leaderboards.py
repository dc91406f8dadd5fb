"""A run as the entries that public CALVIN leaderboards take.

Upstream's `results.json` is written by `upstream.py`. The other two forms: a row of
`leaderboard.json` of allenai/vla-evaluation-harness (July 2026) and one of `calvin.json` of
Evo-SOTA.io. Whatever departs from the official protocol is stated in the row, since neither form
has a place for evidence.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, Final

from calvin_eval.errors import UsageError
from calvin_eval.results.model_card import ModelCard
from calvin_eval.results.store import RunFolder
from calvin_eval.results.upstream import upstream_results

VE_FILE: Final = "vla-leaderboard.json"
EVO_FILE: Final = "evo-sota.json"
UPSTREAM_FILE: Final = "results.json"

_EVO_LISTS: Final = {"D": "d_d", "ABC_D": "abc_d", "ABCD_D": "abcd_d"}
_TRAINED_AND_TESTED: Final = {"D": "D->D", "ABC_D": "ABC->D", "ABCD_D": "ABCD->D"}
_VE_SPLIT: Final = "ABC_D"  # the one that its ranking is about
_DIGITS: Final = 4


def leaderboard_entries(
    folder: RunFolder, card: ModelCard, today: datetime.date
) -> dict[str, dict[str, Any]]:
    """All entries of a complete run, by the name of the file that they belong in.

    Args:
        folder: the run.
        card: what to say about the policy.
        today: when the entry is made.

    Raises:
        UsageError: the run is not complete, or was made on none of the leaderboards' splits.
        RunFolderError: the run is damaged.
    """
    header, summary = folder.header(), folder.read_json("summary.json")
    if not summary.get("complete"):
        raise UsageError(
            f"expected a complete run for a leaderboard, found {summary.get('completed')} of "
            f"{summary.get('planned')} chains in {folder.path}. Complete it with --resume."
        )
    split = header.config.split
    if split not in _EVO_LISTS:
        raise UsageError(
            f"expected a run of split {', '.join(_EVO_LISTS)} for a leaderboard, found {split}"
        )
    return {
        UPSTREAM_FILE: upstream_results(folder.records()),
        VE_FILE: {
            "last_updated": today.isoformat(),
            "results": [ve_row(card, summary, split, today)],
        },
        EVO_FILE: evo_entry(card, summary, split),
    }


def ve_row(
    card: ModelCard, summary: Mapping[str, Any], split: str, today: datetime.date
) -> dict[str, Any]:
    """A row for allenai/vla-evaluation-harness; keys without a value are left out.

    Its overall score is the average length of 1000 official chains on ABC->D. Any other run has
    none there, and its average length under `task_scores`.
    """
    length = round(float(summary["average_length"]), _DIGITS)
    ranked = bool(summary["verdict"]["official"]) and split == _VE_SPLIT
    row = {
        "model": card.short_name,
        "display_name": card.name,
        "benchmark": "calvin",
        "overall_score": length if ranked else None,
        "suite_scores": {
            f"{i}_task": round(100 * rate, _DIGITS - 2) for i, rate in _rates(summary).items()
        },
        "task_scores": None if ranked else {"reported_avg": length},
        "reported_paper": card.links.get("paper"),
        "curated_by": card.submitter or "human",
        "notes": _notes(card, summary, split),
        "date_added": today.isoformat(),
        "params": None if card.parameters is None else _count(card.parameters),
        "model_paper": card.links.get("paper"),
        "weight_type": card.weights or "finetuned",
    }
    kept = ("overall_score",)  # null says that there is none
    return {key: value for key, value in row.items() if value is not None or key in kept}


def evo_entry(card: ModelCard, summary: Mapping[str, Any], split: str) -> dict[str, Any]:
    """A row for Evo-SOTA.io inside its list; the rank is the site's to give."""
    official = bool(summary["verdict"]["official"])
    code = card.links.get("code")
    kind = ("standard_opensource" if code else "standard_closed") if official else "non_standard"
    rates = _rates(summary)
    row = {
        "name": card.name,
        "base_name": card.base_model or card.name,
        "setting": "",
        "paper_url": card.links.get("paper"),
        "pub_date": card.published,
        "is_opensource": code is not None,
        "opensource_url": code,
        "is_rl": bool(card.reinforcement_learning),
        "is_standard": official,
        "note": _notes(card, summary, split),
        **{f"inst{i}": round(rates[i], _DIGITS) if i in rates else None for i in range(1, 6)},
        "avg_len": round(float(summary["average_length"]), _DIGITS),
        "source": "original",
        "rank": None,
    }
    return {_EVO_LISTS[split]: {kind: [row]}}


def _rates(summary: Mapping[str, Any]) -> dict[int, float]:
    """Success of 1.. in a row, 0..1."""
    return {int(i): float(rate) for i, rate in summary["success_rates"].items()}


def _notes(card: ModelCard, summary: Mapping[str, Any], split: str) -> str:
    low, high = (summary["average_length_interval"][end] for end in ("low", "high"))
    parts = [
        f"{_TRAINED_AND_TESTED[split]}, {summary['completed']} chains, "
        f"length between {low:.2f} and {high:.2f} (95 %), calvin-eval"
    ]
    if not summary["verdict"]["official"]:
        parts.append(
            "departs from the official protocol: " + " ".join(summary["verdict"]["reasons"])
        )
    return ". ".join(part.rstrip(".") for part in [*parts, *([card.notes] if card.notes else [])])


def _count(number: int) -> str:
    """7000000000 as 7B."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
