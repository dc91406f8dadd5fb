"""What may go wrong on one machine, and what must come of it. Real processes throughout."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from child_processes import children_of
from engine_watch import EngineWatch
from waiting import LIMIT, wait_until

from calvin_eval.config.compose import compose_config
from calvin_eval.errors import RunFolderError
from calvin_eval.results.journal import read_journal
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.engine import FaultRules
from calvin_eval.rollouts.local import LocalWorkers
from calvin_eval.rollouts.processes import Child
from calvin_eval.rollouts.slots import WorkerSlot
from calvin_eval.rollouts.supervisor import SupervisedEngine
from calvin_eval.running.outcome import Run
from calvin_eval.running.prepare import gather_inputs, make_plan, open_policy
from calvin_eval.running.run import run_plan

pytestmark = [pytest.mark.slow, pytest.mark.processes]

# A policy with the batch-first protocol; what it does on which chain is up to each test. With
# `journal` it answers only until so many chains have their records, or the file `go` exists.
POLICY = """
import ctypes, os, sys, time
import numpy as np
from calvin_eval.wrappers.policy import Requirements

class Policy:
    requirements = Requirements()

    def __init__(self, fault="", chains=(), log=None, journal=None, most=0):
        self.fault, self.chains, self.log = fault, set(chains), log
        self.journal, self.most = journal, most
        self.history = {}

    def reset(self, session, instruction):
        self.history[session] = 0

    def act(self, requests):
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{os.getpid()} {len(requests)}\\n")
        while self.journal and self.finished() >= self.most and not os.path.exists("go"):
            time.sleep(0.01)
        return [self.one(request) for request in requests]

    def finished(self):
        if not os.path.exists(self.journal):
            return 0
        with open(self.journal, "rb") as file:
            return file.read().count(b"\\n")

    def one(self, request):
        if request.session in self.chains and request.step >= 2:
            if self.fault == "raise":
                raise RuntimeError(f"no idea what to do on chain {request.session}")
            if self.fault == "die":
                ctypes.string_at(0)  # reads address 0
            if self.fault == "hang":
                time.sleep(600)
            if self.fault == "exit":
                sys.exit("enough of this")
        self.history[request.session] += 1
        rng = np.random.default_rng([request.session, request.step])
        return np.append(rng.uniform(-1, 1, 6), 1.0)[None]
"""


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "faulty.py"
    path.write_text(POLICY)
    return f"{path}:Policy"


def evaluate(
    out: Path,
    ckpt: str,
    *overrides: str,
    workers: int = 2,
    faults: FaultRules = FaultRules(),  # noqa: B008 - frozen
    watch: EngineWatch | None = None,
) -> Run:
    """Run with an engine of our own, so that a test can lay hands on its processes."""
    watch = watch or EngineWatch()
    quiet = ("protocol.steps=4", "engine.ask_twice=false")
    config = compose_config([*quiet, *overrides], {"ckpt": ckpt, "out": str(out)})
    policy = open_policy(config)
    engine = SupervisedEngine(LocalWorkers(workers), faults)
    watch.engine = engine
    try:
        return run_plan(make_plan(gather_inputs(config), policy), engine, watch)
    finally:
        engine.close()
        policy.close()


def pid_of(slot: WorkerSlot) -> int:
    assert isinstance(slot.worker, Child)
    return slot.worker.pid


def outcomes(folder: Path) -> list[dict[str, Any]]:
    return [record.outcome() for record in read_journal(folder / "chains.jsonl")]


def actions(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "actions").iterdir()}


def test_workers_killed_at_random_change_nothing(tmp_path: Path) -> None:
    chains = "protocol.num_chains=40"
    calm = evaluate(tmp_path / "calm", "builtin:random", chains, workers=1)
    dice = random.Random(0)
    finished: list[int] = []
    killed: list[int] = []

    def kill_now_and_then(engine: SupervisedEngine, worker: int) -> None:
        at_work = [slot for slot in engine.slots if slot.chain is not None]
        if at_work and len(finished) >= 8 * (len(killed) + 1):  # wherever in their chains they are
            slot = dice.choice(at_work)
            os.kill(pid_of(slot), dice.choice([signal.SIGKILL, signal.SIGSEGV]))
            killed.append(slot.number)

    wild = evaluate(
        tmp_path / "wild", "builtin:random", chains,
        faults=FaultRules(retries=100),
        watch=EngineWatch(kill_now_and_then, lambda engine, worker: finished.append(worker)),
    )  # fmt: skip
    assert len(killed) >= 3
    assert wild.summary.complete
    assert outcomes(wild.folder) == outcomes(calm.folder)
    assert actions(wild.folder) == actions(calm.folder)
    assert wild.summary == calm.summary


def obey_hangups() -> None:
    """Undo what `nohup make test` does: processes that ignore SIGHUP start others that do too."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        options.setdefault("preexec_fn", obey_hangups)
        child = subprocess.Popen(
            [sys.executable, "-m", "calvin_eval", *arguments],
            cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
        )  # fmt: skip
        started.append(child)
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def held(policy: str, most: int) -> tuple[str, ...]:
    """Arguments for a run that finishes about so many chains, and then no more until `go`."""
    return (
        "--ckpt", policy, "--workers", "2", "policy.options.journal=run/chains.jsonl",
        f"policy.options.most={most}",
    )  # fmt: skip


def test_a_killed_run_is_completed_by_resume(
    tmp_path: Path, policy: str, command: Callable[..., subprocess.Popen[str]]
) -> None:
    run = (*held(policy, 4), "--num-chains", "20", "protocol.steps=4")
    journal = tmp_path / "run" / "chains.jsonl"
    child = command(*run, "--out", "run")
    wait_until(lambda: lines(journal) >= 4, "four chains have their records")
    assert len(children_of(child.pid, "calvin_eval.rollouts.worker")) == 2
    assert len(children_of(child.pid, "calvin_eval.rollouts.service")) == 1
    child.kill()
    child.wait()
    wait_until(lambda: not children_of(child.pid), "the processes of a killed run have ended")
    assert 4 <= lines(journal) < 20
    with journal.open("ab") as file:  # as a power cut would leave it
        file.write(b'{"crc32":"0123')
    (tmp_path / "go").touch()
    resumed = command(*run, "--out", "run", "--resume")
    _, err = resumed.communicate(timeout=LIMIT)
    assert resumed.returncode == 0, err
    calm = command(*run, "--out", "calm", "--workers", "0")
    calm.communicate(timeout=LIMIT)
    assert outcomes(tmp_path / "run") == outcomes(tmp_path / "calm")
    assert actions(tmp_path / "run") == actions(tmp_path / "calm")


def test_resume_refuses_another_configuration_and_names_what_differs(tmp_path: Path) -> None:
    evaluate(tmp_path / "run", "builtin:random", "protocol.num_chains=2")
    with pytest.raises(RunFolderError, match=r"config\.seed: 0 before, 7 now"):
        evaluate(
            tmp_path / "run", "builtin:random", "protocol.num_chains=2", "resume=true", "seed=7"
        )
    with pytest.raises(RunFolderError, match=r"config\.protocol\.num_chains: 2 before, 3 now"):
        evaluate(tmp_path / "run", "builtin:random", "protocol.num_chains=3", "resume=true")
    again = evaluate(tmp_path / "run", "builtin:random", "protocol.num_chains=2", "resume=true")
    assert again.summary.complete


def test_a_damaged_journal_is_refused_with_its_line(tmp_path: Path) -> None:
    evaluate(tmp_path / "run", "builtin:random", "protocol.num_chains=3")
    journal = tmp_path / "run" / "chains.jsonl"
    first, second, third = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(first + second.replace(b"success", b"sucess") + third)
    with pytest.raises(RunFolderError, match="line 2"):
        evaluate(tmp_path / "run", "builtin:random", "protocol.num_chains=3", "resume=true")


def test_a_policy_that_raises_on_3_of_20_chains(
    tmp_path: Path, policy: str, command: Callable[..., subprocess.Popen[str]]
) -> None:
    child = command(
        "--ckpt", policy, "--num-chains", "20", "--workers", "2", "--out", "run",
        "protocol.steps=4", "policy.options.fault=raise", "policy.options.chains=[3,11,17]",
    )  # fmt: skip
    out, err = child.communicate(timeout=LIMIT)
    assert child.returncode == 3, err
    records = {r.chain: r for r in read_journal(tmp_path / "run" / "chains.jsonl")}
    assert [c for c, r in records.items() if r.status == "error"] == [3, 11, 17]
    assert "no idea what to do on chain 17" in str(records[17].error)
    assert "Traceback" in str(records[17].error)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["completed"], summary["errors"], summary["average_length"]) == (17, 3, None)
    assert "headline is withheld" in " ".join(out.split())


def test_errors_are_run_again_by_resume(tmp_path: Path, policy: str) -> None:
    chains = ("protocol.num_chains=6", "policy.options.fault=raise")
    broken = evaluate(tmp_path / "run", policy, *chains, "policy.options.chains=[2]")
    assert broken.summary.errors == 1
    header = json.loads((tmp_path / "run" / "header.json").read_text())
    header["config"]["policy"]["options"]["chains"] = []  # the fault was repaired
    header["policy"]["options"]["chains"] = []
    RunFolder.open(tmp_path / "run").write_json("header.json", header)
    repaired = evaluate(
        tmp_path / "run", policy, *chains, "policy.options.chains=[]", "resume=true"
    )
    assert repaired.summary.complete
    assert [record.chain for record in repaired.records] == list(range(6))


def test_a_policy_that_kills_its_process_costs_its_own_chain_only(
    tmp_path: Path, policy: str
) -> None:
    run = evaluate(
        tmp_path / "run", policy, "protocol.num_chains=12", "policy.options.fault=die",
        "policy.options.chains=[4]", faults=FaultRules(retries=1), workers=3,
    )  # fmt: skip
    errors = {record.chain: record.error for record in run.records if record.status == "error"}
    assert list(errors) == [4]
    assert "policy process died: killed by SIGSEGV" in str(errors[4])
    assert run.summary.completed == 11


@pytest.mark.parametrize("workers", [0, 2])
def test_a_policy_that_exits_costs_its_own_chain_only_and_no_time(
    tmp_path: Path, policy: str, command: Callable[..., subprocess.Popen[str]], workers: int
) -> None:
    """With the time limit at its default of ten minutes, and retries."""
    child = command(
        "--ckpt", policy, "--num-chains", "6", "--workers", str(workers), "--out", "run",
        "protocol.steps=4", "policy.options.fault=exit", "policy.options.chains=[2]",
    )  # fmt: skip
    _, err = child.communicate(timeout=400)  # less than the limit
    assert child.returncode == 3, err
    records = {r.chain: r for r in read_journal(tmp_path / "run" / "chains.jsonl")}
    assert [records[chain].status for chain in range(6)] == [
        "error" if chain == 2 else "completed" for chain in range(6)
    ]
    assert "SystemExit: enough of this" in str(records[2].error)


def test_a_policy_that_hangs_costs_its_own_chain_only(tmp_path: Path, policy: str) -> None:
    calm = EngineWatch()
    evaluate(tmp_path / "calm", policy, "protocol.num_chains=6", watch=calm)
    limit = calm.patience
    run = evaluate(
        tmp_path / "run", policy, "protocol.num_chains=6", "policy.options.fault=hang",
        "policy.options.chains=[1]", faults=FaultRules(retries=1, step_timeout=limit),
    )  # fmt: skip
    errors = {record.chain: record.error for record in run.records if record.status == "error"}
    assert list(errors) == [1]
    assert f"policy hung: no progress for {limit} s" in str(errors[1])


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    stopped: list[int] = []

    def stop_one(engine: SupervisedEngine, worker: int) -> None:
        if not stopped:
            stopped.append(pid_of(engine.slots[worker]))
            os.kill(stopped[0], signal.SIGSTOP)

    calm, chains = EngineWatch(), "protocol.num_chains=20"
    evaluate(tmp_path / "calm", "builtin:random", chains, watch=calm)
    run = evaluate(
        tmp_path / "run", "builtin:random", chains,
        faults=FaultRules(step_timeout=calm.patience), watch=EngineWatch(stop_one),
    )  # fmt: skip
    assert stopped
    assert run.summary.complete
    assert not Path(f"/proc/{stopped[0]}").exists()


def test_enough_errors_stop_the_run(tmp_path: Path, policy: str) -> None:
    run = evaluate(
        tmp_path / "run", policy, "protocol.num_chains=60", "policy.options.fault=raise",
        "policy.options.chains=[0,1,2,3,4,5]", faults=FaultRules(max_errors=2), workers=1,
    )  # fmt: skip
    assert run.summary.errors == 2
    assert run.summary.missing == 58
    assert run.exit_code == 3


@pytest.mark.parametrize(
    ("kind", "times"),
    [(signal.SIGINT, 1), (signal.SIGINT, 2), (signal.SIGTERM, 1), (signal.SIGHUP, 1)],
)
def test_ctrl_c_once_finishes_cleanly_and_twice_stops_at_once(
    tmp_path: Path,
    policy: str,
    command: Callable[..., subprocess.Popen[str]],
    kind: signal.Signals,
    times: int,
) -> None:
    journal = tmp_path / "run" / "chains.jsonl"
    run = (*held(policy, 2), "--num-chains", "30", "--out", "run", "protocol.steps=60")
    child = command(*run)
    assert child.stderr is not None
    wait_until(lambda: lines(journal) >= 2, "two chains have their records")
    child.send_signal(kind)
    heard = iter(child.stderr.readline, "")
    assert any("stopping after the chains in progress" in line for line in heard)
    if times == 1:
        (tmp_path / "go").touch()  # otherwise the chains in progress never end
    else:
        child.send_signal(kind)
    _, err = child.communicate(timeout=LIMIT)
    assert child.returncode == 130, err
    assert "--resume" in err
    assert not children_of(child.pid)
    header = json.loads((tmp_path / "run" / "header.json").read_text())
    assert header["status"] == "interrupted"
    assert not list((tmp_path / "run").glob(".*.tmp"))
    assert 2 <= lines(journal) < 30
    assert all(record.status == "completed" for record in read_journal(journal))


def test_a_full_disk_stops_the_run_with_the_finished_chains_safe(
    tmp_path: Path, command: Callable[..., subprocess.Popen[str]]
) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))

    run = ("--ckpt", "builtin:random", "--num-chains", "40", "--workers", "2", "protocol.steps=4")
    child = command(*run, "--out", "run", preexec_fn=small_files)
    _, err = child.communicate(timeout=LIMIT)
    assert child.returncode == 2
    assert "cannot write" in err
    assert not children_of(child.pid)
    safe = read_journal(tmp_path / "run" / "chains.jsonl")
    assert 0 < len(safe) < 40
    resumed = command(*run, "--out", "run", "--resume")
    _, err = resumed.communicate(timeout=LIMIT)
    assert resumed.returncode == 0, err
    assert len(read_journal(tmp_path / "run" / "chains.jsonl")) == 40


def test_a_batching_policy_gives_the_same_journal_for_any_number_of_workers(
    tmp_path: Path, policy: str
) -> None:
    chains = ("protocol.num_chains=16", "protocol.steps=12")
    runs = {}
    for workers in (1, 3):
        log = f"policy.options.log={tmp_path}/{workers}.log"
        runs[workers] = evaluate(tmp_path / str(workers), policy, *chains, log, workers=workers)
    assert outcomes(runs[1].folder) == outcomes(runs[3].folder)
    assert actions(runs[1].folder) == actions(runs[3].folder)
    sizes = {
        workers: {
            int(line.split()[1])
            for line in (tmp_path / f"{workers}.log").read_text().split("\n")[:-1]
        }
        for workers in runs
    }
    assert sizes[1] == {1}
    assert max(sizes[3]) > 1, "no two requests were ever answered together"


def test_a_model_without_sessions_gets_an_instance_per_worker(tmp_path: Path) -> None:
    (tmp_path / "single.py").write_text(
        "import numpy as np\n"
        "class Model:\n"
        "    requirements = {'rgb': []}\n"
        "    def reset(self):\n"
        "        self.t = 0\n"
        "    def step(self, obs, goal):\n"
        "        self.t += 1\n"
        "        return np.array([np.sin(self.t), 0, 0, 0, 0, 0, 1])\n"
    )
    chains = ("protocol.num_chains=8", "protocol.steps=10")
    ckpt = f"{tmp_path / 'single.py'}:Model"
    one, two = (
        evaluate(tmp_path / str(workers), ckpt, *chains, workers=workers) for workers in (1, 2)
    )
    assert one.summary.complete
    assert outcomes(one.folder) == outcomes(two.folder)


def test_workers_never_import_torch_and_nothing_is_left_running(
    tmp_path: Path, policy: str
) -> None:
    seen: dict[int, bool] = {}

    def look(engine: SupervisedEngine, worker: int) -> None:
        maps = Path(f"/proc/{pid_of(engine.slots[worker])}/maps").read_text()
        seen[worker] = "libtorch" in maps

    evaluate(tmp_path / "run", policy, "protocol.num_chains=4", watch=EngineWatch(look))
    assert seen == {0: False, 1: False}
    assert not children_of(os.getpid())
