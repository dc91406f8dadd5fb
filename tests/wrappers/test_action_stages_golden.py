"""Held against the numbers that the original code gives.

`action_golden.json` was written by running RoboVLMs at 8adc1d2 (`normalize_action`,
`unnoramalize_action`, `mu_law_companding` and its inverse, `regularize_action` and its inverse,
`world_to_tcp_frame`, `tcp_to_world_frame`, and `CustomModel.step` around a network that returns
the stored chunk) and calvin_env's `to_relative_action`, all on random inputs, some of them near a
roll of pi.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from action_contexts import context_at, request_at
from requirements import need_package

from calvin_eval.wrappers.pipeline import Pipeline
from calvin_eval.wrappers.policy import Requirements
from calvin_eval.wrappers.stages import ACTION_STAGES, build_stages
from calvin_eval.wrappers.stages.companding import compress, expand
from calvin_eval.wrappers.stages.frames import tcp_to_world, world_to_tcp
from calvin_eval.wrappers.stages.normalize import (
    normalize,
    standardize,
    unnormalize,
    unstandardize,
)
from calvin_eval.wrappers.stages.poses import Accumulate, Orientation, Relative
from calvin_eval.wrappers.stages.rotations import convert
from calvin_eval.wrappers.stages.scale import Clip, Scale

GOLDEN = json.loads((Path(__file__).parent / "action_golden.json").read_text(encoding="utf-8"))


def settings(config: dict[str, Any], raw: bool) -> dict[str, dict[str, Any]]:
    """The stages that RoboVLMs' evaluation amounts to."""
    stages: dict[str, dict[str, Any]] = {"split": {"use": "gripper", "input": "logit"}}
    stages["split"]["output"] = "zero_one"
    if config.get("tcp_rel"):
        stages["tcp_to_world"] = {}
    stages["ensemble"] = {"method": "first"}
    if config.get("use_mu_law"):
        stages["mu_law"] = {}
    if config.get("norm_action"):
        bounds = {"low": config["norm_min"], "high": config["norm_max"]}
        stages["unnormalize"] = {**bounds, "gripper": "scaled"}
    if not raw:
        stages |= {"state_relative": {}, "scale": {}}
    stages["gripper"] = {"input": "zero_one"}
    return stages


class Echo:
    """A network that returns one chunk."""

    requirements = Requirements()

    def __init__(self, chunk: Any) -> None:
        self.chunk = chunk

    def reset(self, session: int, instruction: str) -> None:
        pass

    def act(self, requests: Any) -> list[Any]:
        return [self.chunk for _ in requests]


@pytest.mark.parametrize("case", GOLDEN["wrapper"], ids=lambda c: f"{c['raw']}-{c['config']}")
def test_the_pipeline_gives_what_robovlms_gives_to_the_simulator(case: dict[str, Any]) -> None:
    chunk = np.array(case["chunk"], np.float32)
    actions = build_stages(settings(case["config"], case["raw"]), ACTION_STAGES, "here")
    pipeline = Pipeline(Echo(chunk), observe={}, actions=actions)
    pipeline.reset(0, "go")
    [result] = pipeline.act([request_at(case["robot_obs"])])
    result = np.asarray(result)
    assert result.shape == (1, 7)
    assert result.dtype == case["dtype"]
    # In the TCP frame the original multiplies rounding errors of float32 by 100, and in the
    # state-relative branch it takes sines in float32; ours are in double precision.
    exact = case["raw"] and not case["config"].keys() & {"tcp_rel", "use_mu_law"}
    tolerance = 1e-4 if "tcp_rel" in case["config"] else 1e-6
    np.testing.assert_allclose(
        result[0], case["action"], rtol=0 if exact else 1e-6, atol=0 if exact else tolerance
    )


def test_the_golden_cases_hold_the_quirks() -> None:
    """A turn of 2 pi x 20, and a gripper that opens although its logit says close."""
    cases = GOLDEN["wrapper"]
    assert any(abs(case["action"][3]) > 100 for case in cases)
    assert any(case["chunk"][0][6] < 0 and case["action"][6] == 1 for case in cases)


@pytest.mark.parametrize(
    ("name", "function"), [("world_to_tcp", world_to_tcp), ("tcp_to_world", tcp_to_world)]
)
def test_frames(name: str, function: Any) -> None:
    golden = GOLDEN["frames"]
    euler = np.array(golden["euler"], np.float32).astype(np.float64)
    result = function(np.array(golden["actions"], np.float32), euler)
    np.testing.assert_allclose(result, golden[name], atol=2e-4)


def test_normalising_and_companding() -> None:
    golden = GOLDEN["normalize"]
    x = np.array(golden["actions"], np.float32)
    ours = {
        "normalize_keep": normalize(x, -0.65, 0.65),
        "unnormalize": unnormalize(x, -0.65, 0.65, keep="nothing"),
        "unnormalize_keep": unnormalize(x, -0.3, 0.65),
        "mu_forward_chunk": compress(x, keep="last_row"),
        "mu_inverse_chunk": expand(x, keep="last_row"),
        "mu_inverse_vector": expand(x[0], 100),
        "regularize_chunk": standardize(x, 0.1, 0.3, keep="last_row"),
        "unregularize_chunk": unstandardize(x, 0.1, 0.3, keep="last_row"),
    }
    assert set(ours) == set(golden) - {"actions"}
    for name, values in ours.items():
        assert values.dtype == np.float32
        theirs = np.array(golden[name], np.float32)
        # Un-normalising is arithmetic alone; logarithms may round differently elsewhere.
        tolerance = 0 if name.startswith("unnormalize") else 5e-7
        np.testing.assert_allclose(values, theirs, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("case", GOLDEN["calvin_relative"], ids=lambda c: str(c["robot_obs"][3]))
def test_relative_actions_are_made_as_calvin_made_its_own(case: dict[str, Any]) -> None:
    values: Any = np.array(case["action"])[None]
    for stage in (Relative(), Scale(), Clip()):
        values = stage(values, context_at(case["robot_obs"]))
    np.testing.assert_allclose(values[0], case["relative"], atol=1e-9)


def test_rotations_as_vla_eval_reads_them() -> None:
    theirs = need_package("vla_eval.rotation", "vla-eval")
    draw = np.random.default_rng(5)
    for _ in range(20):
        axis, six = draw.normal(size=3), draw.normal(size=6)
        expected = theirs.matrix_to_euler_xyz(theirs.axisangle_to_matrix(axis))
        pose = np.concatenate([[0.3, 0.1, 0.5], axis, [1]])[None]
        result = Orientation(source="axis_angle")(pose, context_at())[0]
        np.testing.assert_allclose(result[3:6], expected, atol=1e-6)
        for layout, name in (("interleaved", "interleaved"), ("columns", "contiguous")):
            matrix = getattr(theirs, f"rot6d_{name}_to_matrix")(six)
            result = convert(six, f"rotation_6d_{layout}", "euler_xyz")
            np.testing.assert_allclose(result, theirs.matrix_to_euler_xyz(matrix), atol=1e-6)


def test_commands_add_up_as_in_vla_eval() -> None:
    """Its delta mode: components added to the last command, angles taken modulo a turn."""
    draw = np.random.default_rng(6)
    memory: dict[str, Any] = {}
    last = np.array([0.1, -0.1, 0.5, 3.09, -0.02, 1.5])
    stage = Accumulate()
    for step in range(20):
        delta = draw.uniform(-0.1, 0.1, 7)
        measured = last if step == 0 else draw.uniform(-1, 1, 6)
        result = stage(delta[None], context_at(measured, step=step, memory=memory))[0]
        last = last + delta[:6]
        last[3:] = (last[3:] + np.pi) % (2 * np.pi) - np.pi
        np.testing.assert_allclose(result, [*last, delta[6]], atol=1e-12)
