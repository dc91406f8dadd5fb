"""Which processes belong together, by the variables that launchers set."""

from __future__ import annotations

import pytest

from calvin_eval.errors import UsageError
from calvin_eval.running import capacity
from calvin_eval.running.launch import Launch, find_launch, processes_here

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "ab-12"}
SRUN = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "77", "SLURM_STEP_ID": "2"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        (TORCHRUN, ("torchrun", 3, 4, 1, "torchrun-ab-12")),
        (SRUN, ("srun", 0, 8, None, "slurm-77-2")),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1"},
         ("srun", 1, 2, 1, None)),
        ({**SRUN, "RANK": "0", "WORLD_SIZE": "1"}, ("srun", 0, 8, None, "slurm-77-2")),
        ({**SRUN, **TORCHRUN}, ("torchrun", 3, 4, 1, "slurm-77-2")),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
         ("mpirun", 1, 2, None, None)),
    ],
)  # fmt: skip
def test_processes_of_a_launcher(environment: dict[str, str], found: tuple[object, ...]) -> None:
    names = ("launcher", "rank", "size", "local_rank", "label")
    assert find_launch(environment) == Launch(**dict(zip(names, found, strict=True)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"RANK": "0"},
        {"WORLD_SIZE": "2"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"},
        # The script of `sbatch --ntasks 8` itself; srun in it sets SLURM_STEP_ID.
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "77", "ENVIRONMENT": "BATCH"},
        {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2"},
    ],
)
def test_a_process_alone(environment: dict[str, str]) -> None:
    assert find_launch(environment) is None


@pytest.mark.parametrize("rank", ["2", "-1", "one", ""])
def test_variables_that_contradict_themselves(rank: str) -> None:
    with pytest.raises(UsageError, match="RANK"):
        find_launch({"RANK": rank, "WORLD_SIZE": "2"})


def test_a_folder_is_asked_for_where_nothing_names_the_launch() -> None:
    launch = find_launch({"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"})
    assert launch is not None
    with pytest.raises(UsageError, match="--out FOLDER: 2 processes of torchrun"):
        _ = launch.default_out


def test_every_process_has_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = find_launch({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "5"})
    assert launch is not None
    for visible, device in (("0,1,2,3", "cuda:1"), ("6", None), ("", None)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert launch.device() == device


def test_processes_on_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "usable_cores", lambda: 16)
    monkeypatch.setattr(capacity, "_free_memory", lambda: 1e12)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert processes_here({}) == 1
    assert capacity.worker_room() == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert capacity.worker_room() == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert capacity.worker_room() == 1
