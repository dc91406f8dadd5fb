"""A discrete model is asked at evaluation what its training asked, past actions included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from robovlms_reference import make_run

from calvin_eval.errors import UsageError
from calvin_eval.vla import prompts
from calvin_eval.vla.data.actions import ActionTransform
from calvin_eval.vla.data.collate import CalvinCollator
from calvin_eval.vla.data.labels import IGNORED, Writer
from calvin_eval.vla.data.transform import ActionPredictionTransform, SampleLayout
from calvin_eval.vla.training.batch import TrainingBatch
from calvin_eval.vla.training.forward import answered
from calvin_eval.wrappers.loaders import resolve
from calvin_eval.wrappers.policy import Executed, Request, Requirements
from calvin_eval.wrappers.testing import check_policy, fake_request

pytestmark = pytest.mark.slow

WINDOW, CHUNK = 4, 3  # of `tiny_vlm.project`
GOAL = "push the red block"
CAMERAS = Requirements(rgb=("static", "gripper"))
DISCRETE = {
    "type": "DiscreteDecoder", "action_space": "discrete", "n_bin": 256, "min_action": -1,
    "max_action": 1,
}  # fmt: skip


def request(step: int) -> Request:
    return replace(fake_request(CAMERAS, 3, 0, step), instruction=GOAL)


def loaded(folder: Path, **options: Any) -> tuple[Any, Any, Any]:
    """The whole policy, that behind its stages, and the model."""
    run = make_run(folder, "kosmos", act_head=DISCRETE)
    given = {"discrete_steps": "n", "constrained_decode": True, **options}
    found = resolve(str(run), options=given)
    inner: Any = found.policy.policy  # type: ignore[attr-defined]
    return found.policy, inner, inner._model


def writer(model: Any, inner: Any, **options: Any) -> Writer:
    return Writer(
        tokenizer=model.preprocess.tokenizer,
        chat=prompts.chat_name(inner._config.values),
        actions=model.action_tokenizer,
        **options,
    )


def steps(policy: Any, count: int) -> list[Any]:
    """Run a session as the chain loop would: requests, told what was executed."""
    policy.reset(3, GOAL)
    executed: list[Executed] = []
    asked = []
    for step in range(count):
        told = tuple(executed[-policy.requirements.actions :])
        asked.append(replace(request(step), executed=told))
        (chunk,) = policy.act([asked[-1]])
        executed.append(Executed(sent=np.asarray(chunk)[0], decision=(0, step)))
    return executed


def test_a_segment_names_what_its_training_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, inner, model = loaded(tmp_path, action_history="segment", prompt_steps="n")
    assert policy.requirements.actions == WINDOW - 1
    seen: list[Any] = []
    plain = model.generate

    def generate(*given: Any) -> Any:
        seen.append(given[2:])
        return plain(*given)

    monkeypatch.setattr(model, "generate", generate)
    executed = steps(policy, 6)
    transform = ActionPredictionTransform(
        layout=SampleLayout(window=WINDOW, chunk=CHUNK, organise="segment", discrete=True,
                      image_history=False),
        writer=writer(model, inner),
        images=lambda frames: torch.zeros(len(frames), 3, 28, 28),
        actions=ActionTransform.from_config(inner._config.values, model.compat),
    )  # fmt: skip
    texts = set()
    for now, (ids, mask) in enumerate(seen):
        # A training window that ends with this frame's chunk; before the start it is padding.
        at = range(now - WINDOW + 1, now + CHUNK + 1)
        actions = np.stack([executed[i].sent if 0 <= i < 6 else np.zeros(7) for i in at])
        real = np.array([i >= 0 for i in at])
        images = np.zeros((len(at), 28, 28, 3), np.uint8)
        sample = transform(GOAL, actions, real, images)
        labels, trained = sample["labels"], sample["input_ids"]
        assert labels is not None
        assert trained is not None
        first = int((labels != IGNORED).nonzero()[0])
        assert ids[0].tolist() == trained[:first].tolist()
        assert mask.all()
        texts.add(model.preprocess.tokenizer.decode(ids[0]))
    assert len(texts) >= WINDOW  # none, one, two, three past actions, at least


@pytest.mark.parametrize("answers", ["recorded", "others"])
def test_interleaved_frames_are_those_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: str
) -> None:
    """What the network says of steps to come stands in for what training knows of them."""
    policy, inner, model = loaded(tmp_path, action_history="interleave", act_insert="per_row")
    transform = ActionTransform.from_config(inner._config.values, model.compat)
    draw = np.random.default_rng(5)
    recorded = draw.uniform(-0.65, 0.65, (WINDOW + CHUNK, 7))
    recorded[:, 6] = draw.choice([-1.0, 1.0], WINDOW + CHUNK)
    scaled = transform.scaled(recorded)
    seen: list[Any] = []

    def answer(asked: Any) -> Any:
        at = len(seen)
        seen.append(asked)
        said = scaled[at : at + CHUNK].copy()
        if answers == "others":
            said[:, :6] *= -0.5
        return said[None]

    monkeypatch.setattr(model, "answer", answer)
    policy.reset(3, GOAL)
    asked = [request(step) for step in range(WINDOW)]
    for step, one in enumerate(asked):
        told = tuple(Executed(sent=row) for row in recorded[:step])
        inner.act([replace(one, executed=told)])
    sample = {
        "actions": torch.tensor(recorded),
        "robot_obs": torch.zeros(WINDOW + CHUNK, 15),
        "mask": torch.ones(WINDOW + CHUNK, dtype=torch.bool),
        "text": GOAL,
        **{
            f"rgb_{c}": model.preprocess.images([one.obs["rgb_obs"][f"rgb_{c}"] for one in asked])
            for c in ("static", "gripper")
        },
    }
    collate = CalvinCollator(
        window=WINDOW, chunk=CHUNK, text=model.preprocess.text, actions=transform,
        writer=writer(model, inner),
    )  # fmt: skip
    trained = answered(model, TrainingBatch.read(collate([sample]), window=WINDOW))
    found = seen[-1].embeds
    expected = trained.embeds[:, : found.shape[1]]
    assert found.shape[1] == trained.embeds.shape[1] - CHUNK * 7 - 1
    assert seen[-1].mask.all()
    per_frame = trained.embeds.shape[1] // WINDOW
    same = (found - expected).abs().amax(-1)[0] < 1e-6
    if answers == "recorded":
        assert same.all()
        return
    # Of each past frame's answer, what was executed since is told as it was executed.
    for frame in range(WINDOW - 1):
        start = (frame + 1) * per_frame - CHUNK * 7 - 1
        known = min(WINDOW - 1 - frame, CHUNK)
        rows = same[start : start + CHUNK * 7].reshape(CHUNK, 7)
        assert rows[:known].all()
        assert known == CHUNK or not rows[known:, :6].all()


def test_sessions_of_different_ages_are_answered_as_if_alone(tmp_path: Path) -> None:
    for told in ("segment", "interleave"):
        (tmp_path / told).mkdir()
        policy, _, _ = loaded(tmp_path / told, action_history=told)
        check_policy(policy)


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        ({}, {"action_history": "segment"}, "expected a discrete model"),
        (DISCRETE, {"action_history": "interleave"}, "expected discrete_steps=n"),
    ],
)
def test_what_cannot_be_told_is_refused(
    tmp_path: Path, head: Any, options: Any, message: str
) -> None:
    run = make_run(tmp_path, "kosmos", act_head=head)
    with pytest.raises(UsageError, match=message):
        resolve(str(run), options=options)
