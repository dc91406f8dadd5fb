"""Trainings with every loss there is, and the policies that they leave."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_clip
import torch
from tiny_training import TrainingNotes, differing, run, weights, write_data
from torch import Tensor

from calvin_eval.vla.extra_tokens import Shown
from calvin_eval.wrappers.loaders import resolve
from calvin_eval.wrappers.testing import fake_request

pytestmark = pytest.mark.slow
FORWARD = (
    "fwd_head={type:ImageDecoder,image_latent_num:2,pred_hand_image:true,hidden_size:8,"
    "num_layers:1,num_heads:2}",
    "train_setup.predict_forward=true", "fwd_loss_ratio=0.1",
)  # fmt: skip
EXTRA = {
    "train_text_l1_clip": 0.05, "train_loss_obs_fwd": 0.1, "train_loss_hand_obs_fwd": 0.1,
    "train_loss_arm_act": 1.0, "train_loss_gripper_act": 0.05,
}  # fmt: skip


@pytest.mark.parametrize("history", ["post", "pre"])
def test_a_training_with_every_loss_resumes_and_evaluates(tmp_path: Path, history: str) -> None:
    data, clip = write_data(tmp_path / "data"), tiny_clip.save_clip(tmp_path / "clip")
    lstm = ("act_head.type=LSTMDecoder", f"act_head.history_type={history}", "window_size=3")
    keys = (*FORWARD, *lstm, "use_state=true", "use_clip_norm=true", f"clip_text={clip}")
    notes = TrainingNotes()
    through = run(data, tmp_path / "one", *keys, "trainer.max_steps=4", notes=notes)
    for values in notes.values:
        total = sum(weight * values[name] for name, weight in EXTRA.items())
        assert values["train_loss"] == pytest.approx(total, rel=1e-4)
    if history == "pre":
        check_resumed(data, tmp_path / "two", keys, weights(through))
    assert notes.facts is not None
    assert {"state token", "forward head", "CLIP loss"} <= {p.part for p in notes.facts.parameters}
    check_policy(tmp_path / "one", history)


def check_resumed(data: Path, out: Path, keys: tuple[str, ...], wanted: dict[str, Tensor]) -> None:
    stopped = run(data, out, *keys, "trainer.max_steps=4", notes=TrainingNotes(stop_at(2)))
    assert stopped.interrupted
    assert not differing(wanted, weights(run(None, out)))


def stop_at(step: int) -> Any:
    def at(done: int) -> None:
        if done == step:
            signal.raise_signal(signal.SIGINT)

    return at


@torch.inference_mode()
def check_policy(run_folder: Path, history: str) -> None:
    """Features of a run of four steps are those of the window that training would show."""
    policy: Any = resolve(str(run_folder)).policy
    inner = policy.policy
    model = inner._model
    assert model.state_token is not None
    seen: list[dict[str, Any]] = []
    plain = model.features

    def noted(*given: Any, **more: Any) -> Any:
        seen.append({"given": given, **more})
        return plain(*given, **more)

    model.features = noted
    policy.reset(0, "push it")
    requests = [fake_request(policy.requirements, 0, 0, step) for step in range(4)]
    chunks = [policy.act([request])[0] for request in requests]
    robots = [torch.from_numpy(np.asarray(r.obs["robot_obs"], np.float32)) for r in requests]
    last = seen[-1]["state"]
    assert last.shape == (1, 3 if history == "pre" else 1, 7)
    assert torch.equal(last[0, -1, :6], robots[-1][:6])
    if history == "pre":
        assert torch.equal(last[0, 0, :6], robots[1][:6])
    changed = torch.ones_like(last)
    static, hand, ids, mask = seen[-1]["given"]
    one = model.read(Shown(static, hand, ids, mask, last)).features
    other = model.read(Shown(static, hand, ids, mask, changed)).features
    assert (one - other).abs().max() > 1e-6
    assert np.isfinite(chunks[-1]).all()
