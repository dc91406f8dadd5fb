"""The worker pool: every job has one answer, whatever happens to the processes."""

from __future__ import annotations

import os
from pathlib import Path

import pool_workers
import pytest
from child_processes import children_of
from pool_workers import Doubler

from calvin_eval.errors import UsageError
from calvin_eval.rollouts.pool import WorkerPool

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(pool_workers.__file__).parent))


def run(folder: Path, jobs: list[int], workers: int, instead: int | None = None) -> dict[int, int]:
    pool = WorkerPool(Doubler, folder, workers, lambda job, how: instead)
    return dict(pool.run(jobs))


def marks(folder: Path, kind: str) -> set[str]:
    return {path.name.removeprefix(f"{kind}-") for path in folder.glob(f"{kind}-*")}


@pytest.mark.parametrize(("workers", "processes"), [(0, 1), (1, 1), (3, 3), (9, 5)])
def test_all_jobs_are_done_by_as_many_processes_as_have_work(
    tmp_path: Path, workers: int, processes: int
) -> None:
    assert run(tmp_path, [1, 2, 3, 4, 5], workers) == {1: 2, 2: 4, 3: 6, 4: 8, 5: 10}
    built = marks(tmp_path, "built")
    assert built == marks(tmp_path, "closed")
    assert len(built) <= processes
    assert (str(os.getpid()) in built) == (workers == 0)
    assert not children_of(os.getpid())


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_built_without_a_job(tmp_path: Path, workers: int) -> None:
    assert run(tmp_path, [], workers) == {}
    assert not marks(tmp_path, "built")


def test_a_job_whose_process_dies_is_done_again(tmp_path: Path) -> None:
    assert run(tmp_path, [5, -1, 6], 1) == {5: 10, -1: -2, 6: 12}
    assert len(marks(tmp_path, "built")) == 2


def test_or_gets_the_answer_of_the_caller(tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []

    def died(job: int, how: str) -> int:
        seen.append((job, how))
        return 0

    answers = dict(WorkerPool(Doubler, tmp_path, 2, died).run([5, -7, 6]))
    assert answers == {5: 10, -7: 0, 6: 12}
    assert [job for job, _ in seen] == [-7]
    assert "killed by SIGKILL" in seen[0][1]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_worker_ends_the_work(tmp_path: Path, workers: int) -> None:
    with pytest.raises(UsageError, match="found 13"):
        run(tmp_path, [1, 13, *range(20, 40)], workers)
    assert not children_of(os.getpid())


def test_who_stops_asking_leaves_no_process_behind(tmp_path: Path) -> None:
    answers = WorkerPool(Doubler, tmp_path, 2, lambda job, how: None).run(range(50))
    next(answers)
    assert children_of(os.getpid())
    answers.close()  # type: ignore[attr-defined]  # it is a generator
    assert not children_of(os.getpid())
