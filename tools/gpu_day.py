"""What a machine with an NVIDIA GPU does with this project, in ten minutes, on one page.

    python -m tools.gpu_day [--out gpu-day] [--minutes 10]

Each stage is a process with a deadline of its own; one that fails or is late leaves its last words
on the page, and the next one starts. The page is written after every stage, so that a machine that
is taken away leaves what was measured. Without a GPU the stages run on the CPU, and the page says
so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GOAL = 2000  # steps a second of a host, end to end
WORLDS = (1, 8, 32, 128)
SECONDS_OF_WORLDS = 8.0
CASE = "the same in chains of 120"


@dataclass(frozen=True)
class Stage:
    """A measurement.

    Attributes:
        name: its heading.
        command: arguments of Python; `{json}` stands for the file that it writes, if it does.
        share: of the time that there is.
    """

    name: str
    command: tuple[str, ...]
    share: float


def stages(cores: int, worlds: Sequence[int] = WORLDS) -> list[Stage]:
    """All of them, the most wanted first."""
    counts = sorted({1, 2, 4, 8, 16, cores} & set(range(1, cores + 1)))
    own = ("-m", "tools.gpu_day")
    fidelity = ("-m", "calvin_eval.sim.drawing.fidelity", "--chains", "2", "--json")
    return [
        Stage("Images of the driver's EGL against ours", (*fidelity, "--renders", "fast"), 0.12),
        Stage("Renderers", ("benchmarks/rendering.py", "--json", "{json}"), 0.2),
        *[
            Stage(f"OpenGL, {n} worlds in a process", (*own, "--worlds", str(n)), 0.06)
            for n in worlds
        ],
        *[
            Stage(f"End to end, {n} workers", (*own, "--workers", str(n)), 0.4 / len(counts))
            for n in counts
        ],
    ]


def run_stage(stage: Stage, folder: Path, seconds: float) -> dict[str, Any]:
    """Run a stage; returns its result, or under `error` why there is none."""
    file = folder / "stage.json"
    file.unlink(missing_ok=True)
    command = [part.replace("{json}", str(file)) for part in stage.command]
    start = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT, timeout=seconds, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {seconds:.0f} s", "seconds": seconds}
    spent = {"seconds": round(time.monotonic() - start, 1)}
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        return {"error": words[-1] if words else f"exit code {done.returncode}", **spent}
    try:
        text = file.read_text() if file.exists() else done.stdout[done.stdout.index("{") :]
        return {"result": json.loads(text), **spent}
    except ValueError:
        return {"error": "it printed no result", **spent}


def measure(
    plan: Sequence[Stage], folder: Path, minutes: float, gpu: str, told: Callable[[str], None]
) -> dict[str, Any]:
    """Run stages within some minutes; writes `results.json` and `page.md` after each."""
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    results: dict[str, Any] = {"machine": machine(gpu), "stages": {}}
    shares = sum(stage.share for stage in plan)
    for stage in plan:
        # A stage that was quick leaves its time to those after it.
        seconds = (end - time.monotonic()) * min(1.0, stage.share / shares)
        shares -= stage.share
        results["stages"][stage.name] = found = run_stage(stage, folder, max(1.0, seconds))
        (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        (folder / "page.md").write_text(page(results))
        told(f"{stage.name}: {found.get('error', 'done')} ({found['seconds']:.0f} s)")
    return results


def machine(gpu: str) -> dict[str, Any]:
    """What it ran on."""
    return {
        "gpu": gpu, "cores": os.cpu_count(), "system": platform.platform(),
        "python": platform.python_version(), "date": time.strftime("%Y-%m-%d"),
        "load": os.getloadavg()[0],
    }  # fmt: skip


def gpu_name() -> str:
    """The GPU and its driver; empty without one."""
    if shutil.which("nvidia-smi") is None:
        return ""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return done.stdout.strip() if done.returncode == 0 else ""


def page(results: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    facts = results["machine"]
    lines = [
        "# A day with a GPU",
        "",
        f"{facts['gpu'] or 'No GPU: a rehearsal on the CPU'}; {facts['cores']} cores, load "
        f"{facts['load']:.1f}; {facts['system']}; Python {facts['python']}; {facts['date']}.",
        "",
        "| what | result | seconds |",
        "| --- | --- | --- |",
    ]
    for name, found in results["stages"].items():
        text = f"not measured: {found['error']}" if "error" in found else _flat(found["result"])
        lines.append(f"| {name} | {text.replace('|', '/')} | {found['seconds']:.0f} |")
    rates = [
        found["result"]["steps_per_second"]
        for found in results["stages"].values()
        if "steps_per_second" in found.get("result", {})
    ]
    if rates:
        reached = "reached" if max(rates) >= GOAL else "missed"
        lines += ["", f"End to end at most {max(rates):.0f} steps a second: goal {GOAL} {reached}."]
    return "\n".join(lines) + "\n"


def _flat(result: Any, name: str = "") -> str:
    if isinstance(result, Mapping):
        parts = [_flat(value, f"{name} {key}".strip()) for key, value in result.items()]
        return "; ".join(part for part in parts if part)
    return f"{name} {result:.4g}" if isinstance(result, float) else f"{name} {result}"


def worlds_with_gl(count: int, seconds: float) -> dict[str, float]:
    """Pairs of images a second of worlds that OpenGL draws in turn in one process."""
    from calvin_eval.sim import make_env

    envs = [make_env("D", render="gl") for _ in range(count)]
    for env in envs:
        env.start()
        env.observe(rgb=("static", "gripper"))
    drawn, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for env in envs:
            env.observe(rgb=("static", "gripper"))
        drawn += count
    rate = drawn / (time.perf_counter() - start)
    return {"worlds": count, "pairs_per_second": rate}


def end_to_end(workers: int) -> dict[str, float]:
    """Steps a second of workers whose policy looks at every step, drawn by `fast`."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from common import best_assets
    from engine import close, our_engine

    things, measured = our_engine(best_assets(), "fast", CASE, workers)
    rate = measured()
    close(things)
    return {"workers": workers, "steps_per_second": rate}


def main() -> None:
    """Run a stage of its own, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu-day"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--worlds", type=int)
    parser.add_argument("--seconds", type=float, default=SECONDS_OF_WORLDS)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    if options.worlds:
        print(json.dumps(worlds_with_gl(options.worlds, options.seconds)))
    elif options.workers:
        print(json.dumps(end_to_end(options.workers)))
    else:
        plan = stages(os.cpu_count() or 1)
        measure(plan, options.out, options.minutes, gpu_name(), print)
        print(f"{options.out / 'results.json'} and {options.out / 'page.md'}")


if __name__ == "__main__":
    main()
