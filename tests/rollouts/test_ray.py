"""Runs on a cluster of two nodes that the tests start, one CPU each, on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_watch import EngineWatch, once_at_work
from requirements import need_package
from two_nodes import Nodes, two_nodes
from waiting import LIMIT, wait_until

from calvin_eval.config.compose import compose_config
from calvin_eval.errors import AssetError, CheckpointError, RenderError, UsageError
from calvin_eval.results.journal import read_journal
from calvin_eval.rollouts.ray import cluster as ray_cluster
from calvin_eval.rollouts.worker import SimulatorSpec
from calvin_eval.running.outcome import Run
from calvin_eval.running.prepare import gather_inputs, make_plan, open_policy
from calvin_eval.running.run import make_engine, run_plan
from calvin_eval.sim.render import RenderInfo

ray = need_package("ray", "the extra ray")

from calvin_eval.rollouts.ray import nodes as ray_nodes  # noqa: E402 - imports Ray

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.processes]

# One policy with sessions and batches, one with upstream's interface. Both write into what they
# are given, as code in the wild does.
POLICIES = """
import os, time
import numpy as np
from calvin_eval.wrappers.policy import Requirements

class Batched:
    requirements = Requirements()

    def __init__(self, fault="", go=""):
        self.fault, self.history, self.go = fault, {}, go

    def reset(self, session, instruction):
        self.history[session] = 0

    def act(self, requests):
        return [self.one(request) for request in requests]

    def one(self, request):
        request.obs["robot_obs"][:] = 0
        self.history[request.session] += 1
        if self.fault == "raise" and request.session == 1:
            raise RuntimeError("no idea")
        if self.fault == "hang" and request.session == 1:
            time.sleep(600)
        while self.fault == "wait" and request.session >= 4 and not os.path.exists(self.go):
            time.sleep(0.01)
        if self.fault == "device":
            raise RuntimeError(f"device {os.environ['CALVIN_EVAL_DEVICE']}")
        rng = np.random.default_rng([request.session, self.history[request.session]])
        return np.append(rng.uniform(-1, 1, 6), 1.0)[None]


class Single:
    requirements = {"rgb": ["gripper"]}

    def __init__(self, log=""):
        if log:
            with open(log, "a") as file:
                print("made", file=file)

    def reset(self):
        self.t = 0

    def step(self, obs, goal):
        obs["rgb_obs"]["rgb_gripper"][:] = 0
        self.t += 1
        return np.array([np.sin(self.t), np.cos(len(goal)), 0, 0, 0, 0, 1])
"""


@pytest.fixture(scope="module")
def started() -> Iterator[Nodes]:
    with two_nodes() as nodes:
        yield nodes


@pytest.fixture
def nodes(started: Nodes) -> Nodes:
    started.settle()  # a run has as many workers as Ray counts CPUs, those of a lost node too
    return started


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    path = tmp_path / "policies.py"
    path.write_text(POLICIES)
    return path


def run(
    out: Path,
    ckpt: str,
    *overrides: str,
    watch: EngineWatch | None = None,
    workers: int = 0,
    then: Callable[[Any, Any], object] | None = None,
) -> Run:
    """A run as the command makes it.

    `then` is called once with the policy's host and the engine, when so many workers are at work.
    """
    watch = watch or EngineWatch()
    config = compose_config(["protocol.steps=30", *overrides], {"ckpt": ckpt, "out": str(out)})
    inputs, policy = gather_inputs(config), open_policy(config)
    try:
        plan = make_plan(inputs, policy)
        engine = make_engine(plan)
        try:
            watch.engine = engine
            if then is not None:
                host = policy.hosts[0]
                watch.on_progress = once_at_work(workers, lambda engine: then(host, engine))
            return run_plan(plan, engine, watch)
        finally:
            engine.close()
    finally:
        policy.close()


def outcomes(folder: Path) -> list[dict[str, Any]]:
    return [record.outcome() for record in read_journal(folder / "chains.jsonl")]


def actions(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "actions").iterdir()}


def assert_same(run: Run, other: Run) -> None:
    assert run.summary.complete
    assert outcomes(run.folder) == outcomes(other.folder)
    assert actions(run.folder) == actions(other.folder)
    assert run.summary == other.summary


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("", ()),
        ("Batched", ()),
        ("Single", ("engine.workers=2", "sim.render=tiny", "protocol.steps=6")),
    ],
    ids=["light", "batched", "single"],
)
def test_two_nodes_give_the_records_of_one_process(
    nodes: Nodes, policies: Path, tmp_path: Path, name: str, overrides: tuple[str, ...]
) -> None:
    ckpt = f"{policies}:{name}" if name else "builtin:random"
    shared = ("protocol.num_chains=8", *overrides)
    watch = EngineWatch()
    far = run(tmp_path / "far", ckpt, *shared, "engine=ray", watch=watch)
    near = run(tmp_path / "near", ckpt, *shared, "engine.workers=0")
    assert watch.workers == {0, 1}, "each node has room for one worker: both are to work"
    assert_same(far, near)
    header, here = (json.loads((done.folder / "header.json").read_text()) for done in (far, near))
    assert header["engine"]["name"] == "ray"
    asked = header.get("reproducibility")  # a policy that workers load for themselves is not
    assert asked == here.get("reproducibility")
    assert asked is None if not name else asked["reproducible"] is True


def test_a_lost_node_costs_nothing_but_time(nodes: Nodes, tmp_path: Path) -> None:
    shared = ("protocol.num_chains=8", "protocol.steps=150")
    watch = EngineWatch()
    far = run(
        tmp_path / "far", "builtin:random", *shared, "engine=ray", watch=watch, workers=2,
        then=lambda host, engine: nodes.lose_one(),
    )  # fmt: skip
    assert any("simulator worker died" in note for note in watch.notes), watch.notes
    assert any("trying again" in note for note in watch.notes), watch.notes
    assert_same(far, run(tmp_path / "near", "builtin:random", *shared, "engine.workers=0"))


def test_a_node_lost_with_the_policy_on_it_is_made_up_for(
    nodes: Nodes, policies: Path, tmp_path: Path
) -> None:
    def move(host: Any, engine: Any) -> None:
        nodes.lose_one()  # the only one with a GPU
        nodes.complete()

    ckpt, shared = f"{policies}:Batched", ("protocol.num_chains=8", "protocol.steps=150")
    watch = EngineWatch()
    far = run(
        tmp_path / "far", ckpt, *shared, "engine=ray", "engine.devices=cuda", watch=watch,
        workers=2, then=move,
    )  # fmt: skip
    assert any("policy process died" in note for note in watch.notes), watch.notes
    assert_same(far, run(tmp_path / "near", ckpt, *shared, "engine.workers=0"))


def test_a_killed_policy_actor_is_replaced(nodes: Nodes, policies: Path, tmp_path: Path) -> None:
    def kill(host: Any, engine: Any) -> None:
        ray.kill(host._process.actor)

    ckpt, shared = f"{policies}:Batched", ("protocol.num_chains=6", "protocol.steps=60")
    watch = EngineWatch()
    far = run(tmp_path / "far", ckpt, *shared, "engine=ray", watch=watch, workers=2, then=kill)
    assert any("policy process died" in note for note in watch.notes), watch.notes
    assert_same(far, run(tmp_path / "near", ckpt, *shared, "engine.workers=0"))


def test_a_killed_worker_is_replaced_and_what_served_it_serves_the_next(
    nodes: Nodes, policies: Path, tmp_path: Path
) -> None:
    def made() -> int:
        return log.read_text().count("made") if log.exists() else 0

    def kill(engine: Any, worker: int) -> None:
        if not killed and made() == 2:
            killed.append(worker)
            ray.kill(engine.slots[0].worker._actor)

    killed: list[int] = []
    ckpt = f"{policies}:Single"
    shared = ("protocol.num_chains=6", "protocol.steps=12", "sim.render=tiny")
    log = tmp_path / "log"
    watch = EngineWatch(on_progress=kill)
    far = run(
        tmp_path / "far", ckpt, *shared, "engine=ray", "engine.workers=2",
        f"policy.options.log={log}", watch=watch,
    )  # fmt: skip
    assert killed, "both workers got a chain after both instances were made"
    assert any("simulator worker died" in note for note in watch.notes), watch.notes
    assert made() == 2, "one instance for each worker, dead or alive"
    assert_same(far, run(tmp_path / "near", ckpt, *shared, "engine.workers=0"))


def test_a_policy_that_hangs_costs_its_own_chain_only(
    nodes: Nodes, policies: Path, tmp_path: Path
) -> None:
    calm, common = EngineWatch(), ("protocol.num_chains=3", "engine=ray", "engine.workers=1")
    run(tmp_path / "calm", f"{policies}:Batched", *common, watch=calm)
    limit = calm.patience
    done = run(
        tmp_path / "far", f"{policies}:Batched", *common, f"engine.step_timeout={limit}",
        "engine.retries=0", "policy.options.fault=hang",
    )  # fmt: skip
    errors = {record.chain: record.error for record in done.records if record.error}
    assert list(errors) == [1]
    assert f"policy hung: no progress for {limit} s" in str(errors[1])
    assert done.summary.completed == 2


def test_a_chain_that_cannot_be_finished_is_given_up(nodes: Nodes, tmp_path: Path) -> None:
    def kill(host: Any, engine: Any) -> None:
        ray.kill(engine.slots[0].worker._actor)

    done = run(
        tmp_path / "far", "builtin:random", "protocol.num_chains=1", "protocol.steps=150",
        "engine=ray", "engine.retries=0", workers=1, then=kill,
    )  # fmt: skip
    assert done.summary.errors == 1
    assert "given up after 1 attempts: simulator worker died" in str(done.records[0].error)


def test_a_policy_that_raises_makes_an_error_record(
    nodes: Nodes, policies: Path, tmp_path: Path
) -> None:
    done = run(
        tmp_path / "far", f"{policies}:Batched", "protocol.num_chains=3", "engine=ray",
        "policy.options.fault=raise",
    )  # fmt: skip
    errors = {record.chain: record.error for record in done.records if record.error}
    assert list(errors) == [1]
    assert "RuntimeError: no idea" in str(errors[1])
    assert "Traceback" in str(errors[1])
    assert done.summary.completed == 2


@pytest.mark.parametrize(("device", "seen"), [("cpu", "cpu"), ("cuda:3", "cuda:0")])
def test_the_policy_sees_its_device_only(
    nodes: Nodes, policies: Path, tmp_path: Path, device: str, seen: str
) -> None:
    done = run(
        tmp_path / "far", f"{policies}:Batched", "protocol.num_chains=1", "engine=ray",
        "policy.options.fault=device", f"engine.devices=[{device}]",
    )  # fmt: skip
    assert f"RuntimeError: device {seen}" in str(done.records[0].error)


def test_the_command_runs_on_a_cluster_without_torch_on_the_driver(
    nodes: Nodes, policies: Path, tmp_path: Path
) -> None:
    script = (
        "import sys; from calvin_eval.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "print('torch' in sys.modules, file=sys.stderr)\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [
            sys.executable, "-c", script, "--ckpt", "policies.py:Batched", "--num-chains", "2",
            "--out", "run", "--quiet", "protocol.steps=10", "engine=ray",
            f"engine.address={nodes.address}",
        ],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "2 chains" in done.stdout
    assert done.stderr.strip().splitlines()[-1] == "False"


def test_ctrl_c_finishes_the_chains_in_progress(
    nodes: Nodes, policies: Path, tmp_path: Path
) -> None:
    journal, go = tmp_path / "run" / "chains.jsonl", tmp_path / "go"
    child = subprocess.Popen(
        [
            sys.executable, "-m", "calvin_eval", "--ckpt", f"{policies}:Batched",
            "--num-chains", "60", "--out", "run", "protocol.steps=6", "engine=ray",
            "policy.options.fault=wait", f"policy.options.go={go}",
            f"engine.address={nodes.address}",
        ],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stderr is not None
        wait_until(lambda: journal.exists() and journal.stat().st_size, "a chain has its record")
        child.send_signal(signal.SIGINT)
        heard = iter(child.stderr.readline, "")
        assert any("stopping after the chains in progress" in line for line in heard)
        go.touch()
        _, err = child.communicate(timeout=LIMIT)
    finally:
        child.kill()
    assert child.returncode == 130, err
    assert json.loads((tmp_path / "run" / "header.json").read_text())["status"] == "interrupted"
    records = read_journal(journal)
    assert 0 < len(records) < 60
    assert all(record.status == "completed" for record in records)


def test_a_policy_that_a_node_cannot_load_is_one_error(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\nclass Policy: ...\n")
    with pytest.raises(CheckpointError, match=r"node .*nothing_of_that_name.*on every node"):
        run(tmp_path / "far", f"{tmp_path / 'broken.py'}:Policy", "engine=ray")
    recording = tmp_path / "actions.npz"
    np.savez(recording, chain0000_sub0_actions=np.zeros((3, 7)))
    real = os.getcwd

    def elsewhere() -> str:
        return f"{real()}/no/such/folder"

    monkeypatch.chdir(tmp_path)  # a relative path, and nodes that lack the folder
    monkeypatch.setattr("calvin_eval.rollouts.ray.workers.os.getcwd", elsewhere)
    with pytest.raises(CheckpointError, match=r"node .*actions\.npz.*at this path on every node"):
        run(tmp_path / "far", "actions.npz", "protocol.num_chains=1", "engine=ray")


def test_a_policy_object_of_this_process_is_refused(nodes: Nodes, tmp_path: Path) -> None:
    from calvin_eval.api import evaluate

    class Still:
        requirements: dict[str, list[str]] = {"rgb": []}  # noqa: RUF012

        def reset(self) -> None: ...

        def step(self, obs: Any, goal: str) -> Any:
            return np.zeros(7)

    with pytest.raises(UsageError, match="found an object of this process"):
        evaluate(Still(), overrides=["engine=ray"], out=str(tmp_path / "run"), quiet=True)


def spec(**changes: Any) -> ray_nodes.NodeSimulator:
    plain = SimulatorSpec(
        backend="calvin_eval", assets="builtin", scene="D", revision="pinned",
        render=RenderInfo(backend="none", requested="none"), cameras=(),
    )  # fmt: skip
    return replace(ray_nodes.NodeSimulator.of(plain), **changes)


def test_a_node_with_other_assets_is_refused(tmp_path: Path) -> None:
    spec().build().close()
    with pytest.raises(AssetError, match=r"node .*expected the pack 000000000000 .* at this path"):
        spec(fingerprint="0" * 64).build()
    with pytest.raises(AssetError, match=r"node .*nowhere.* at this path on every node"):
        spec(assets=str(tmp_path / "nowhere")).build()


def test_a_node_that_computes_other_bits_is_refused() -> None:
    with pytest.raises(UsageError, match=r"node .*computes other bits"):
        spec(bits="0" * 32).build()


def test_a_node_with_other_software_is_refused() -> None:
    other = tuple((name, f"{version}x") for name, version in ray_cluster.software())
    with pytest.raises(UsageError, match=r"node .*pybullet\S* .*x where the run was started"):
        spec(software=other).build()


def test_a_node_that_draws_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    there = RenderInfo(backend="egl", requested="auto", renderer="llvmpipe")
    here = replace(there, renderer="A100")
    monkeypatch.setattr(ray_nodes, "resolve_backend", lambda name, options: here)
    with pytest.raises(RenderError, match=r"node .*llvmpipe.*found , A100"):
        spec(render=there).build()


def test_a_light_policy_of_other_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "actions.npz"
    np.savez(path, chain0000_sub0_actions=np.zeros((3, 7)))
    policy = ray_nodes.NodePolicy(
        ckpt=str(path), trust=False, seed=0, options={}, metadata={"kind": "recording"}
    )
    with pytest.raises(CheckpointError, match=r"node .*differs in .*sha256 None there"):
        policy.load()


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install "calvin-eval\[ray\]"'):
        ray_cluster.connect("auto")


@pytest.mark.parametrize(
    ("address", "reason"), [("127.0.0.1:9", "refused"), ("somewhere", "not HOST:PORT")]
)
def test_without_a_cluster_the_error_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch, address: str, reason: str
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UsageError, match=rf"at {address}, found none: .*{reason}.*ray start"):
        ray_cluster.connect(address)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UsageError, match=rf"at {address}, found none"):
        ray_cluster.connect("auto")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["engine.address=host:6379"], "engine=ray beside it"),
        (["engine=ray", "engine.workers=0"], "1 worker or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compose_config(overrides, {"ckpt": "builtin:still"})


def test_the_settings_of_a_cluster() -> None:
    engine = compose_config(["engine=ray", "engine.address=10.0.0.1:6379"], {"ckpt": "x"}).engine
    assert (engine.name, engine.address, engine.workers) == ("ray", "10.0.0.1:6379", "auto")
    assert engine.retries == compose_config([], {"ckpt": "x"}).engine.retries
