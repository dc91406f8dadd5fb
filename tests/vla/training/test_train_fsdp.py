"""FSDP on two processes of a CPU, over gloo: what it trains is what one process trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_vlm
import torch

pytestmark = [pytest.mark.slow, pytest.mark.processes, pytest.mark.needs("vla")]
SCRIPT = Path(__file__).parents[2] / "helpers" / "fsdp_step.py"
LIMIT = 280


def trained(folder: Path, out: Path, processes: int) -> dict[str, Any]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    done = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), str(SCRIPT), str(folder), str(out)],
        capture_output=True, text=True, timeout=LIMIT, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = torch.load(out, weights_only=True)
    return found


def test_two_sharded_processes_train_as_one_does(tmp_path: Path) -> None:
    folder = tiny_vlm.save_vlm(tmp_path / "vlm", "kosmos")
    one, two = (trained(folder, tmp_path / f"{n}.pt", n) for n in (1, 2))
    assert one["losses"][1] < one["losses"][0]
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert two["held"] < 0.6 * one["held"], "each process holds its share of the weights"
    assert one["state"].keys() == two["state"].keys()
    for name, value in one["state"].items():
        torch.testing.assert_close(two["state"][name], value, atol=2e-5, rtol=1e-4, msg=name)
