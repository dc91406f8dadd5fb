"""Open X-Embodiment's files: frames, messages, episodes, and training on them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tfrecords import crc32c, episode, example, field, varint, write_records
from tiny_training import SMALL, TrainingNotes

from calvin_eval.config.training import compose_training
from calvin_eval.errors import UsageError
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.data.rlds import LAYOUTS, Bounds, EpisodeLayout, find_records, read_episodes
from calvin_eval.vla.data.tfrecord import masked_crc, parse_example, read_record, records
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.training.data import make_loader
from calvin_eval.vla.training.loop import train

NAME = "toy_data"


def write(root: Path, *episodes: dict[str, Any], name: str = NAME, split: str = "train") -> Path:
    path = root / name / "0.1.0" / f"{name}-{split}.tfrecord-00000-of-00001"
    return write_records(path, [example(content) for content in episodes])


def test_the_checksum_is_the_published_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert masked_crc(b"123456789") == (
        (0xE3069283 >> 15 | 0xE3069283 << 17 & 0xFFFFFFFF) + 0xA282EAD8
    ) & 0xFFFFFFFF  # fmt: skip


def test_messages_come_back(tmp_path: Path) -> None:
    first = {"a": [b"x", b""], "b": np.array([0.5, -2.0], np.float32), "c": np.array([1, -3, 300])}
    path = write_records(tmp_path / "f", [example(first), example({"a": []})])
    one, two = records(path)
    found = parse_example(read_record(one, check=True))
    assert found["a"] == [b"x", b""]
    assert np.array_equal(found["b"], first["b"])
    assert np.array_equal(found["c"], first["c"])
    assert parse_example(read_record(one), ("c",)).keys() == {"c"}
    assert parse_example(read_record(two)) == {"a": []}
    # Numbers one by one, as older writers have them.
    loose = field(2, varint(1 << 3 | 5) + np.float32(1.5).tobytes())
    message = field(1, field(1, field(1, b"b") + field(2, loose)))
    assert np.asarray(parse_example(message)["b"]).tolist() == [1.5]


def test_damage_is_an_error_and_never_a_crash(tmp_path: Path) -> None:
    good = write_records(tmp_path / "good", [example(episode(3))]).read_bytes()
    path, draw = tmp_path / "bad", np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(good)
        for at in draw.integers(0, len(data), 3):
            data[at] = draw.integers(256)
        path.write_bytes(bytes(data[: draw.integers(len(data))]))
        with contextlib.suppress(UsageError):
            for found in read_episodes([path], EpisodeLayout()):
                found.images([0, 1, 2])
    with pytest.raises(UsageError, match="no record at byte 0"):
        list(records(write_and_return(path, b"x" * 40)))
    flipped = bytearray(good)
    flipped[40] ^= 1
    (place,) = records(write_and_return(path, bytes(flipped)))
    with pytest.raises(UsageError, match="broken record"):
        read_record(place, check=True)


def write_and_return(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_an_episode_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, episode(4, " lift it\n"), episode(3, ""), episode(5, "push", seed=2))
    assert find_records(tmp_path, NAME, "train") == [path]
    one, two = read_episodes([path], EpisodeLayout())  # that without a text is left out
    assert (one.text, two.text, len(two.actions)) == ("lift it", "push", 5)
    assert np.array_equal(one.actions.ravel(), episode(4)["steps/action"])
    assert [image[0, 0, 0] for image in two.images([4, 0])] == [24, 20]
    with pytest.raises(UsageError, match="nothing is downloaded"):
        find_records(tmp_path, "other", "train")


def parts(steps: int, gripper: str, values: Any, **more: Any) -> dict[str, Any]:
    made = episode(steps, **more)
    actions = made.pop("steps/action").reshape(-1, 7)
    made["steps/observation/natural_language_instruction"] = made.pop("steps/language_instruction")
    return {
        **made, "steps/action/world_vector": actions[:, :3].ravel(),
        "steps/action/rotation_delta": actions[:, 3:6].ravel(), f"steps/action/{gripper}": values,
    }  # fmt: skip


def test_movements_of_a_gripper_become_what_it_is(tmp_path: Path) -> None:
    """RT-1: closing is above 0, in between it stays; before the first movement the opposite."""
    moves = np.array([0, 0, 1, 0, -1, 0], np.float32)
    content = parts(6, "gripper_closedness_action", moves)
    path = write(tmp_path, content, name="fractal20220817_data")
    (found,) = read_episodes([path], LAYOUTS["fractal20220817_data"])
    assert found.actions[:, 6].tolist() == [1, 1, 0, 0, 1, 1]
    moves[:] = 0
    (still,) = read_episodes([write(tmp_path, {**content})], LAYOUTS["fractal20220817_data"])
    assert still.actions[:, 6].tolist() == [1] * 6


def test_bridge_moves_from_state_to_state(tmp_path: Path) -> None:
    state = np.arange(5 * 7, dtype=np.float32).reshape(5, 7) ** 2
    opened = np.array([0, 1, 1, 0, 0])
    content = parts(5, "open_gripper", opened)
    path = write(tmp_path, {**content, "steps/observation/state": state.ravel()})
    (found,) = read_episodes([path], LAYOUTS["bridge_oxe"])
    assert np.allclose(found.actions[:, :6], state[2:, :6] - state[1:-1, :6])
    assert found.actions[:, 6].tolist() == [1, 1, 0]
    assert found.images([0])[0][0, 0, 0] == 1
    settled = episode(5, **{"steps/observation/state": state.ravel()})
    settled["steps/action"] = np.eye(7, dtype=np.float32)[[6] * 5]
    settled["steps/action"][:, 6] = [0.5, 1.0, 0.5, 0.0, 0.6]
    settled["steps/action"] = settled["steps/action"].ravel()
    (found,) = read_episodes([write(tmp_path, settled)], LAYOUTS["bridge_orig"])
    assert found.actions[:, 6].tolist() == [1, 0, 0]


def test_actions_are_brought_between_their_quantiles(tmp_path: Path) -> None:
    (found,) = read_episodes([write(tmp_path, episode(200))], EpisodeLayout())
    found.actions[:, 2] = 0.3
    made = Bounds.of_actions([found]).apply(found.actions)
    for column in (0, 1, 3, 4, 5):
        values = found.actions[:, column]
        low, high = np.quantile(values, 0.01), np.quantile(values, 0.99)
        expected = np.clip(2 * (values - low) / (high - low + 1e-8) - 1, -1, 1)
        assert np.allclose(made[:, column], expected, atol=1e-5)
    assert not made[:, 2].any()
    assert np.array_equal(made[:, 6], found.actions[:, 6])


WORDS = (
    "act_head.type=DiscreteDecoder", "act_head.action_space=discrete",
    "train_dataset.organize_type=segment",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), WORDS])
def test_open_x_embodiment_is_trained_on(tmp_path: Path, words: tuple[str, ...]) -> None:
    write(tmp_path, episode(9), episode(6, "push the block", seed=1))
    keys = [
        f"out={tmp_path / 'run'}", *SMALL, "train_dataset.type=OpenVLADataset", "window_size=3",
        f"train_dataset.data_root_dir={tmp_path}", f"train_dataset.data_mix={NAME}",
        "use_hand_rgb=false", "trainer.max_steps=3", "act_head.type=LSTMDecoder", *words,
    ]  # fmt: skip
    project = compose_training(keys).project
    notes = TrainingNotes()
    outcome = train(project, tmp_path / "run", notes)
    assert outcome.position.step == 3
    assert all(np.isfinite(values["train_loss_arm_act"]) for values in notes.values)
    model = RoboVLM.build(project, tmp_path / "run" / "vlm", Compat())
    loader = make_loader(project, model.preprocess, "train")
    batch = next(iter(loader))
    assert batch["rgb"].dtype == torch.float32
    if not words:
        # Windows of W frames whose last one is in the episode: T - W + 1 of each.
        assert len(loader.dataset) == (9 - 2) + (6 - 2)  # type: ignore[arg-type]
        sample = loader.dataset[6]
        assert sample["action_chunk"].shape == (3, 2, 7)
        assert sample["action_chunk_mask"][-1].tolist() == [True, False]
