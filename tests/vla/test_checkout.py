"""The user's own checkout of RoboVLMs, whose wrapper runs the checkpoint."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import their_checkout
from numpy.typing import NDArray

from calvin_eval.config.compose import compose_config
from calvin_eval.config.listing import render_configs
from calvin_eval.errors import CheckpointError, PolicyError, UnknownNameError
from calvin_eval.wrappers.loaders import resolve
from calvin_eval.wrappers.loaders.base import LoadedPolicy
from calvin_eval.wrappers.policy import Request

GOALS = ("open the drawer", "push the sliding door to the left")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return their_checkout.write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return their_checkout.write_checkout(tmp_path_factory.mktemp("RoboVLMs"))


def load(run: Path, checkout: Path, *, trust: bool = True, **options: Any) -> LoadedPolicy:
    return resolve(str(run), trust=trust, options={"robovlms_checkout": str(checkout), **options})


def request(session: int, step: int) -> Request:
    rng = np.random.default_rng([session, step])
    obs = {
        "rgb_obs": {"rgb_static": rng.integers(0, 256, (200, 200, 3), np.uint8)},
        "robot_obs": np.zeros(15),
        "scene_obs": np.zeros(24),
    }
    return Request(session=session, instruction=GOALS[session], position=0, step=step, obs=obs)


def alone(policy: Any, session: int, steps: int) -> list[NDArray[Any]]:
    policy.reset(session, GOALS[session])
    return [np.asarray(policy.act([request(session, step)])[0]) for step in range(steps)]


def test_chains_that_are_decided_together_are_those_that_are_alone(
    run: Path, checkout: Path
) -> None:
    policy = load(run, checkout).policy
    apart = [alone(policy, session, 5) for session in (0, 1)]
    for session in (0, 1):
        policy.reset(session, GOALS[session])
    for step in range(5):
        chunks = policy.act([request(session, step) for session in (1, 0)])
        for session, chunk in zip((1, 0), chunks, strict=True):
            np.testing.assert_array_equal(chunk, apart[session][step])
    assert np.abs(np.subtract(apart[0], apart[1])).max() > 1e-3, "the two chains differ at all"
    policy.end(0)
    with pytest.raises(PolicyError, match="chain 0 asked before its reset"):
        policy.act([request(0, 5)])


def test_a_reset_beside_a_running_chain_leaves_that_alone(run: Path, checkout: Path) -> None:
    """The wrapper empties its queue in place."""
    policy = load(run, checkout).policy
    expected = alone(policy, 0, 4)
    policy.reset(0, GOALS[0])
    found = []
    for step in range(4):
        policy.reset(1, GOALS[1])
        found.append(np.asarray(policy.act([request(0, step)])[0]))
    np.testing.assert_array_equal(found, expected)


def test_the_wrapper_is_constructed_as_its_script_does_it(run: Path, checkout: Path) -> None:
    before, folder = list(sys.path), Path.cwd()
    loaded = load(run, checkout, raw_calvin=False)
    wrapper = loaded.policy._wrapper  # type: ignore[attr-defined]
    assert wrapper.raw_calvin is False
    assert str(wrapper.device) == "cpu"
    assert wrapper.configs["window_size"] == 2
    assert loaded.kind == "robovlms"
    assert loaded.policy.requirements.rgb == ("static",)
    assert loaded.metadata["checkout"]["path"] == str(checkout)
    assert (sys.path, Path.cwd()) == (before, folder)


def test_a_second_checkout_is_not_the_first(run: Path, checkout: Path, tmp_path: Path) -> None:
    load(run, checkout)
    other = their_checkout.write_checkout(tmp_path / "other")
    (other / "eval/calvin/eval_utils.py").write_text("def shorten(hidden):\n    return 0 * hidden")
    (action,) = alone(load(run, other).policy, 0, 1)
    assert not action[0, :4].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trust": False}, "runs the code in .*: pass --trust if you know"),
        ({"checkout": "nowhere"}, "expected a checkout of RoboVLMs, found none with eval/calvin"),
        ({"extra": "import not_there\n"}, r"model_wrapper.py:1: No module named 'not_there'"),
    ],
)
def test_what_cannot_run_says_why(
    run: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    their_checkout.write_checkout(tmp_path / "made", extra=change.get("extra", ""))
    place = tmp_path / change.get("checkout", "made")
    with pytest.raises(CheckpointError, match=message):
        load(run, place, trust=change.get("trust", True))


def test_options_of_our_own_models_are_unknown(run: Path, checkout: Path) -> None:
    with pytest.raises(UnknownNameError, match="merge"):
        load(run, checkout, merge=True)


def test_the_printed_configuration_names_the_checkout(run: Path, checkout: Path) -> None:
    given = [f"ckpt={run}", f"policy.robovlms_checkout={checkout}"]
    text = render_configs([compose_config([*given, "policy.trust=true"])])
    assert f"robovlms_checkout: {checkout}" in text
    with pytest.raises(CheckpointError, match="--trust"):
        render_configs([compose_config(given)])
    assert "robovlms_checkout" not in render_configs([compose_config(["ckpt=builtin:still"])])


@pytest.mark.processes
@pytest.mark.slow
def test_it_runs_in_its_own_environment(run: Path, tmp_path: Path) -> None:
    """Two workers at one wrapper; what it raises is a fault of the chain, with its traceback."""
    import subprocess

    from calvin_eval.results.journal import read_journal

    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    for name, fail in (("RoboVLMs", False), ("Broken", True)):
        checkout = their_checkout.write_checkout(tmp_path / name, fail=fail)
        command = [
            sys.executable, "-m", "calvin_eval", "--ckpt", str(run), "--num-chains", "2",
            f"policy.robovlms_checkout={checkout}", f"policy.python={python}", "--trust",
            "--out", f"run-{name}", "protocol.steps=3", "engine.workers=2",
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
        records = read_journal(tmp_path / f"run-{name}" / "chains.jsonl")
        if fail:
            assert done.returncode == 3, done.stderr
            assert all("a mistake of the wrapper's" in str(record.error) for record in records)
        else:
            assert done.returncode == 0, done.stderr
            assert [record.status for record in records] == ["completed", "completed"]
            assert "step 3" in (tmp_path / f"run-{name}" / "policy.log").read_text()
