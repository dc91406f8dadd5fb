"""Configurations are composed inside programs that use Hydra themselves, threads and forks."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra

from calvin_eval.config.compose import compose_config
from calvin_eval.errors import UsageError

pytestmark = pytest.mark.slow

PRESET = "policy: {source: a test}\nprotocol: {steps: 33}\n"


def test_hydras_global_state_is_put_back(tmp_path: Path) -> None:
    from hydra import compose, initialize

    (tmp_path / "mine.yaml").write_text(PRESET)
    with initialize(config_path=None, version_base="1.3"):
        host, nodes = GlobalHydra.instance().hydra, str(ConfigStore.instance().repo)
        config = compose_config([f"policy={tmp_path}/mine.yaml"], {"ckpt": "builtin:still"})
        assert config.protocol.steps == 33
        with pytest.raises(UsageError):
            compose_config(["protocol.stepz=1"], {"ckpt": "builtin:still"})
        assert GlobalHydra.instance().hydra is host
        assert str(ConfigStore.instance().repo) == nodes
        compose(overrides=["+a=1"])  # the host's own Hydra still works
    assert not GlobalHydra.instance().is_initialized()


def test_evaluate_runs_inside_a_hydra_program(tmp_path: Path) -> None:
    (tmp_path / "conf.yaml").write_text("steps: 3\n")
    (tmp_path / "program.py").write_text(
        "import hydra, calvin_eval\n"
        "from hydra.core.hydra_config import HydraConfig\n"
        "@hydra.main(config_path='.', config_name='conf', version_base='1.3')\n"
        "def main(cfg):\n"
        "    run = calvin_eval.evaluate('builtin:still', num_chains=1, workers=0, quiet=True,\n"
        "        overrides=[f'protocol.steps={cfg.steps}'], out='evaluation')\n"
        "    print('chains', run.summary.completed, HydraConfig.get().job.name)\n"
        "main()\n"
    )
    child = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert child.stdout.strip() == "chains 1 program", child.stderr


def _steps(steps: int) -> int:
    return compose_config([f"protocol.steps={steps}"], {"ckpt": "builtin:still"}).protocol.steps


def test_threads_compose_at_once() -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(_steps, range(1, 21))) == list(range(1, 21))


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_a_forked_worker_composes() -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_steps, (7,)) == 7


def test_an_event_loop_composes() -> None:
    import asyncio

    async def cell() -> int:
        return _steps(5)

    assert asyncio.run(cell()) == 5


def test_a_second_configuration_of_a_process_is_composed_like_the_first() -> None:
    script = (
        "from calvin_eval.config.compose import compose_config\n"
        "for _ in range(2): print(compose_config([], {'ckpt': 'builtin:still'}).protocol.steps)"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert child.stdout.split() == ["360", "360"], child.stderr
