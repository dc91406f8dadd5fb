"""Whether this process is one of several that a launcher started with the same command."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from calvin_eval.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One process of several with the same command.

    Attributes:
        launcher: what started them, for messages.
        rank: of this process, from 0.
        size: how many there are.
        local_rank: among those of this machine; None if the launcher does not say.
        label: the same text in all of them and in no other launch; None if there is none.
    """

    launcher: str
    rank: int
    size: int
    local_rank: int | None
    label: str | None

    @property
    def default_out(self) -> str:
        """The run folder of all processes where the user names none.

        Raises:
            UsageError: nothing that all of them know tells this launch from others.
        """
        if self.label is None:
            raise UsageError(
                f"expected --out FOLDER: {self.size} processes of {self.launcher} write one run, "
                "and have to agree on its folder"
            )
        return f"runs/{self.label}"

    def device(self) -> str | None:
        """The GPU of this process, if it sees several that it shares with others here."""
        seen = _visible_gpus()
        if self.local_rank is None or seen < 2:
            return None
        return f"cuda:{self.local_rank % seen}"


def find_launch(environment: Mapping[str, str]) -> Launch | None:
    """The launch that this process belongs to; None if it is alone.

    torchrun and accelerate set RANK and WORLD_SIZE, srun SLURM_PROCID and SLURM_NTASKS, mpirun
    OMPI_COMM_WORLD_RANK and _SIZE. A SLURM batch script itself is one process, whatever number of
    tasks was asked for.

    Raises:
        UsageError: these variables contradict themselves.
    """
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    batch = environment.get("ENVIRONMENT") == "BATCH" and "SLURM_STEP_ID" not in environment
    launchers = {
        "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        "mpirun": (
            "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
        ),
        "srun": ("SLURM_PROCID", tasks, "SLURM_LOCALID"),
    }  # fmt: skip
    for launcher, (rank, size, local) in launchers.items():
        if rank not in environment or size not in environment or (launcher == "srun" and batch):
            continue
        number, count = _number(environment, rank), _number(environment, size)
        if number >= count:
            raise UsageError(f"expected {rank} below {size}; found {number} and {count}")
        if count > 1:
            return Launch(
                launcher=launcher,
                rank=number,
                size=count,
                local_rank=_number(environment, local) if environment.get(local) else None,
                label=_label(environment),
            )
    return None


def processes_here(environment: Mapping[str, str]) -> int:
    """How many processes of torchrun or mpirun share this machine's cores; srun divides them."""
    for name in ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"):
        if environment.get(name):
            return max(1, _number(environment, name))
    return 1


def _label(environment: Mapping[str, str]) -> str | None:
    job = environment.get("SLURM_JOB_ID")
    if job:
        return f"slurm-{job}-{environment.get('SLURM_STEP_ID', '0')}"
    torch = environment.get("TORCHELASTIC_RUN_ID", "none")
    return None if torch in ("none", "default", "") else f"torchrun-{torch[:13]}"


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment[name]
    if not value.isdecimal():
        raise UsageError(f"expected the variable {name} to be a number from 0 up; found {value!r}")
    return int(value)


def _visible_gpus() -> int:
    """GPUs of NVIDIA that this process may use, counted without loading any library."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return len([name for name in named.split(",") if name.strip()])
    return len([path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdecimal()])
