"""What training does to actions and frames, evaluation undoes and shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from robovlms_reference import make_run
from tiny_vlm import project, save_vlm

from calvin_eval.vla.compat import Compat
from calvin_eval.vla.data.actions import ActionTransform
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.stages import action_stages
from calvin_eval.wrappers.loaders import resolve
from calvin_eval.wrappers.policy import Request, Requirements
from calvin_eval.wrappers.stages import ACTION_STAGES, build_stages
from calvin_eval.wrappers.stages.base import Context
from calvin_eval.wrappers.testing import fake_request

CAMERAS = Requirements(rgb=("static", "gripper"))


@pytest.mark.parametrize("mu_law", [False, True])
def test_regularised_actions_come_back(tmp_path: Path, mu_law: bool) -> None:
    """Normalised, regularised and companded, then through the stages of the evaluation."""
    from calvin_eval.vla.config import read_config

    values = project(
        "kosmos", regular_action=True, x_mean=0.1, x_std=1.7, use_mu_law=mu_law, mu_val=255
    )
    path = tmp_path / "project.json"
    path.write_text(json.dumps(values))
    config = read_config(path)
    draw = np.random.default_rng(0)
    actions = draw.uniform(-0.6, 0.6, (1, 7))
    actions[:, 6] = 1.0
    compat = Compat.fixed()
    learned = ActionTransform.from_config(values, compat).scaled(actions)
    declared = dict(action_stages(config, compat))
    for averaging in ("ensemble", "execute"):
        del declared[averaging]
    asked = Request(session=0, instruction="x", position=0, step=0, obs={})
    found: Any = learned
    for stage in build_stages(declared, ACTION_STAGES, "actions").values():
        found = stage(found, Context(asked))
    np.testing.assert_allclose(found, actions, atol=1e-9)
    kept = action_stages(config, Compat())
    assert "unregularize" not in kept, "the original leaves them as they are"
    order = [name for name in declared if name in ("mu_law", "unregularize", "unnormalize")]
    assert order == ["mu_law", "unregularize", "unnormalize"][not mu_law :]


VIDEO = {"history_type": "video", "type": "FCDecoder"}


@pytest.mark.slow
@pytest.mark.parametrize(("frames", "counts"), [("one", [1] * 6), ("window", [1, 2, 3, 4, 4, 4])])
def test_a_video_model_is_shown_as_many_frames_as_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: str, counts: list[int]
) -> None:
    run = make_run(tmp_path, "kosmos", act_head=VIDEO)
    policy: Any = resolve(str(run), options={"video_frames": frames}).policy
    model = policy.policy._model
    seen: list[Any] = []
    plain = model.features

    def features(*given: Any) -> Any:
        seen.append(given[0])
        return plain(*given)

    monkeypatch.setattr(model, "features", features)
    policy.reset(0, "push it")
    for step in range(6):
        policy.act([fake_request(CAMERAS, 0, 0, step)])
    assert [static.shape[1] for static in seen] == counts
    if frames == "window":
        assert np.array_equal(seen[-1][0, 0], seen[2][0, -1])  # the oldest is that of step 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "key", ["use_state", "use_mim_obs_loss", "use_clip_norm", "act_encoder", "fwd_head"]
)
def test_what_evaluation_does_not_use_is_accepted(tmp_path: Path, key: str) -> None:
    config = project(
        "kosmos", **{key: {"type": "X"} if key in ("act_encoder", "fwd_head") else True}
    )
    folder = save_vlm(tmp_path / "vlm", "kosmos")
    names = set(RoboVLM.build(config, folder, Compat()).state_dict())
    assert names == set(RoboVLM.build(project("kosmos"), folder, Compat()).state_dict())
