"""How many simulator workers this machine has room for."""

from __future__ import annotations

import os

from calvin_eval.rollouts.processes import usable_cores
from calvin_eval.running.launch import processes_here

_WORKER_BYTES = 500e6
"""What `--workers auto` sets aside per worker; measured: 150 MB, 440 MB with EGL in software."""


def worker_room() -> int:
    """Workers that cores and memory allow; 0 where memory is too short for one.

    Processes of one launcher on this machine share both.
    """
    cores, sharing = usable_cores(), processes_here(os.environ)
    return min(max(1, cores // sharing), int(_free_memory() // _WORKER_BYTES // sharing))


def _free_memory() -> float:
    """Bytes; plenty where the system does not say."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError):
        return 1e12
