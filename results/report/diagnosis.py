"""Why failures failed, as one page that needs nothing beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calvin_eval.results.diagnosis import CAUSES, Diagnosis, Failure
from calvin_eval.results.illustrations import Pictures
from calvin_eval.results.report.build import page_parts, template
from calvin_eval.results.report.strips import Card, cards
from calvin_eval.results.report.svg import Matrix, MatrixCell, matrix

DIAGNOSIS_HTML: Final = "diagnosis.html"

_POINTS: Final = 30  # of a curve when curves are compared
_UNLIKE: Final = 0.2  # of progress, root mean square, above which curves are not similar
_WIDTH, _HEIGHT = 100, 24  # of a small curve's viewBox


@dataclass(frozen=True, kw_only=True)
class CauseRow:
    """A cause: its failures, and their share of all."""

    cause: str
    count: int
    share: float
    best: float
    curve: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """A failure, as its line in the table has it.

    Attributes:
        failure: all of it.
        curve: points of its progress in a viewBox of 100 by 24.
        instead: tasks that were done, in words.
        find: what a square of the matrices finds it by.
    """

    failure: Failure
    curve: str
    instead: str
    find: str


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Failures of one task by one cause whose progress went alike.

    Attributes:
        typical: the one whose curve is nearest to all others.
        chains: of all, that one first.
    """

    typical: Row
    chains: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class DiagnosisView:
    """All that the page says.

    Attributes:
        title: the run's name.
        found: the diagnosis.
        causes: those that occur, in the order of the rules.
        by_task: tasks down, causes across.
        instead: asked down, done across; None if nothing was done instead.
        rows: all failures.
        clusters: the largest first.
        tasks: names of tasks that failed, sorted.
        places: in the chain at which something failed, from 1.
        cards: failures with pictures; none without pictures.
    """

    title: str
    found: Diagnosis
    causes: tuple[CauseRow, ...]
    by_task: Matrix
    instead: Matrix | None
    rows: tuple[Row, ...]
    clusters: tuple[Cluster, ...]
    tasks: tuple[str, ...]
    places: tuple[int, ...]
    cards: tuple[Card, ...] = ()

    @property
    def pictured(self) -> frozenset[int]:
        """Chains that have a card."""
        return frozenset(card.failure.chain for card in self.cards)

    @property
    def has_videos(self) -> bool:
        """Whether the page plays films, which lie beside it."""
        return any(card.video for card in self.cards)


def diagnosis_html(found: Diagnosis, title: str, pictures: Pictures | None = None) -> str:
    """The page.

    Args:
        found: what it shows.
        title: the run's name.
        pictures: of its failures, if there are any.
    """
    view = make_diagnosis_view(found, title, pictures)
    text = template("diagnosis.html.j2").render(view=view, **page_parts())
    return text.strip("\n").encode("utf-8", "replace").decode("utf-8") + "\n"


def make_diagnosis_view(
    found: Diagnosis, title: str, pictures: Pictures | None = None
) -> DiagnosisView:
    """What the page says."""
    rows = tuple(_row(failure) for failure in found.failures)
    alike = clusters(rows)
    return DiagnosisView(
        title=title,
        found=found,
        causes=tuple(_cause(found, cause) for cause, n in found.causes.items() if n),
        by_task=_by_task(found),
        instead=_instead(found),
        rows=rows,
        clusters=alike,
        tasks=tuple(sorted({failure.task for failure in found.failures})),
        places=tuple(sorted({failure.position + 1 for failure in found.failures})),
        cards=cards(
            ((row.failure, row.find) for row in rows), pictures or Pictures(), _typical(alike)
        ),
    )


def typical_chains(found: Diagnosis) -> tuple[int, ...]:
    """The chain of the most typical failure of each group of failures that are alike."""
    return _typical(clusters([_row(failure) for failure in found.failures]))


def _typical(alike: Sequence[Cluster]) -> tuple[int, ...]:
    return tuple(cluster.typical.failure.chain for cluster in alike)


def _row(failure: Failure) -> Row:
    done = [one.task + ("" if one.lasting else " (undone)") for one in failure.achieved]
    find = [f"{failure.task}: {failure.cause}"]
    find += [f"{failure.task} \N{RIGHTWARDS ARROW} {one.task}" for one in failure.achieved]
    return Row(
        failure=failure,
        curve=_points(failure.curve),
        instead=", ".join(done),
        find="; ".join(find),
    )


def _cause(found: Diagnosis, cause: str) -> CauseRow:
    failures = [failure for failure in found.failures if failure.cause == cause]
    mean = np.mean([_even(failure) for failure in failures], axis=0)
    return CauseRow(
        cause=cause,
        count=len(failures),
        share=len(failures) / len(found.failures),
        best=sum(failure.progress_best for failure in failures) / len(failures),
        curve=_points(mean.tolist()),
    )


def _by_task(found: Diagnosis) -> Matrix:
    counts = Counter((failure.task, failure.cause) for failure in found.failures)
    tasks = sorted({task for task, _ in counts})
    causes = [cause for cause in CAUSES if any(c == cause for _, c in counts)]
    failed = Counter(failure.task for failure in found.failures)
    short = [c.removesuffix(" the target").removesuffix(" while progressing") for c in causes]
    return matrix(tasks, short, {
        (tasks.index(task), causes.index(cause)): MatrixCell(
            weight=n / max(counts.values()), share=n / failed[task],
            title=f"{task}: {n} of {failed[task]} {cause}", key=f"{task}: {cause}",
        )
        for (task, cause), n in counts.items()
    })  # fmt: skip


def _instead(found: Diagnosis) -> Matrix | None:
    confusion = found.confusion()
    asked = [task for task, row in confusion.items() if row]
    if not asked:
        return None
    done = sorted({task for row in confusion.values() for task in row})
    failed = Counter(failure.task for failure in found.failures)
    most = max(n for row in confusion.values() for n in row.values())
    words = found.instructions
    return matrix(asked, done, {
        (asked.index(task), done.index(other)): MatrixCell(
            weight=n / most, share=n / failed[task],
            title=f"asked to “{words.get(task, task)}”, {n} of {failed[task]} failures did "
            f"“{words.get(other, other)}”",
            key=f"{task} \N{RIGHTWARDS ARROW} {other}",
        )
        for task in asked for other, n in confusion[task].items()
    })  # fmt: skip


def clusters(rows: Sequence[Row]) -> tuple[Cluster, ...]:
    """Failures of the same task and cause whose progress went alike, the largest group first."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.failure.task, row.failure.cause), []).append(row)
    found = [_cluster(part) for group in groups.values() for part in _alike(group)]
    return tuple(sorted(found, key=lambda one: (-len(one.chains), one.typical.failure.chain)))


def _alike(rows: Sequence[Row]) -> list[list[Row]]:
    """Average linkage of the curves, cut where they are no longer similar."""
    from scipy.cluster.hierarchy import fcluster, linkage

    if len(rows) == 1:
        return [list(rows)]
    tree = linkage(_curves(rows), method="average")
    labels = fcluster(tree, _UNLIKE * _POINTS**0.5, criterion="distance")
    parts: dict[int, list[Row]] = {}
    for row, label in zip(rows, labels.tolist(), strict=True):
        parts.setdefault(label, []).append(row)
    return list(parts.values())


def _cluster(rows: Sequence[Row]) -> Cluster:
    curves = _curves(rows)
    apart = np.linalg.norm(curves[:, None] - curves[None], axis=2).sum(axis=1)
    typical = rows[int(apart.argmin())]
    chains = [row.failure.chain for row in rows if row is not typical]
    return Cluster(typical=typical, chains=(typical.failure.chain, *chains))


def _curves(rows: Sequence[Row]) -> NDArray[np.float64]:
    return np.array([_even(row.failure) for row in rows])


def _even(failure: Failure) -> NDArray[np.float64]:
    """(30,) progress at evenly spaced times."""
    curve = failure.curve
    ends: NDArray[np.float64] = np.interp(
        np.linspace(0, 1, _POINTS), np.linspace(0, 1, len(curve)), curve
    )
    return ends


def _points(curve: Sequence[float]) -> str:
    step = _WIDTH / max(len(curve) - 1, 1)
    return " ".join(
        f"{round(i * step, 1):g},{round(_HEIGHT - 1 - (_HEIGHT - 2) * value, 1):g}"
        for i, value in enumerate(curve)
    )
