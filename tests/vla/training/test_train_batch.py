"""Batches as a training step reads them."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_vlm
import torch
from tiny_batch import batch, with_rows

from calvin_eval.errors import UsageError
from calvin_eval.vla.action_tokenizer import ActionTokenizer
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.model import RoboVLM
from calvin_eval.vla.training.batch import TrainingBatch
from calvin_eval.vla.training.forward import Trainee

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="module")
def trainee(tmp_path_factory: pytest.TempPathFactory) -> Trainee:
    folder = tiny_vlm.save_vlm(tmp_path_factory.mktemp("vlm"), "kosmos")
    config = tiny_vlm.project("kosmos", window_size=3, fwd_pred_next_n=2)
    model = RoboVLM.build(config, folder, Compat())
    tiny_vlm.set_weights(model)
    return Trainee(model)


def forms() -> dict[str, dict[str, Any]]:
    """The same batch, given in other ways."""
    given = batch()
    later = {key: torch.cat([given[key], torch.zeros_like(given[key])], 1)
             for key in ("rgb", "hand_rgb", "action_chunck", "chunck_mask")}  # fmt: skip
    readme = {key.replace("chunck", "chunk"): value for key, value in given.items()}
    return {
        "code": given,
        "readme": readme,
        "lists": {**given, "rgb": list(given["rgb"]), "hand_rgb": tuple(given["hand_rgb"])},
        "longer than a window": {**given, **later},
        "a list of sources": {**given, "data_source": ["calvin_action", "calvin_action"]},
        "double": {**given, "rgb": given["rgb"].double()},
        "boolean mask": {**given, "chunck_mask": given["chunck_mask"].bool()},
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", forms())
@torch.no_grad()
def test_the_same_batch_gives_the_same_loss(trainee: Trainee, form: str, device: str) -> None:
    expected = trainee.to("cpu")(batch())["loss"].item()
    loss = trainee.to(device)(forms()[form])["loss"]
    assert loss.device.type == device
    exact = {"abs": 0, "rel": 0} if device == "cpu" else {"abs": 1e-5}
    assert loss.item() == pytest.approx(expected, **exact)
    trainee.to("cpu")


@torch.no_grad()
def test_images_without_time_are_one_frame(trainee: Trainee) -> None:
    given = batch(window=1)
    flat = {**given, "rgb": given["rgb"][:, 0], "hand_rgb": list(given["hand_rgb"][:, 0])}
    read = TrainingBatch.read(flat, window=3)
    assert read.static.shape == (2, 1, 3, 28, 28)
    assert read.hand is not None
    assert read.hand.shape == (2, 1, 3, 28, 28)
    assert trainee(flat)["loss"].item() == trainee(given)["loss"].item()


def test_what_is_read() -> None:
    given = with_rows(batch(), ActionTokenizer(646))
    read = TrainingBatch.read(given, window=2, dtype=torch.bfloat16)
    assert read.static.shape == (2, 2, 3, 28, 28)
    assert read.static.dtype == torch.bfloat16
    assert read.chunk is not None
    assert read.chunk.dtype == torch.float32
    assert read.chunk.shape == (2, 2, 2, 7)
    assert read.chunk_mask is not None
    assert read.chunk_mask.dtype == torch.bool
    assert read.rows is not None
    assert {part.shape for part in read.rows} == {torch.Size([2, 2, 23])}
    whole = TrainingBatch.read({**given, "chunck_mask": None}, window=2)
    assert whole.chunk_mask is not None
    assert whole.chunk_mask.all()


def test_one_row_of_ids_is_that_of_every_frame() -> None:
    given = with_rows(batch(), ActionTokenizer(646))
    names = [f"instr_and_action_{name}" for name in ("ids", "labels", "mask")]
    flat = {**given, **{name: given[name][:, 1] for name in names}}
    read = TrainingBatch.read(flat, window=3)
    assert read.rows is not None
    for frame in range(3):
        assert torch.equal(read.rows.ids[:, frame], given[names[0]][:, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rgb": torch.zeros(2, 28, 28)}, r"rgb of shape \(B, T, 3, S, S\).*\(2, 28, 28\)"),
        ({"rgb": torch.zeros(2, 3, 1, 28, 28)}, r"found \(2, 3, 1, 28, 28\)"),
        ({"rgb": torch.zeros(2, 3, 3, 28, 28, dtype=torch.uint8)}, "normalised floats in rgb"),
        ({"rgb": [torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)]}, "images of one shape"),
        ({"rgb": None}, "images under 'rgb'"),
        ({"hand_rgb": torch.zeros(2, 2, 3, 28, 28)}, "as many frames in hand_rgb"),
        ({"text": ["open it", "lift it"]}, "found plain text"),
        ({"text_mask": torch.ones(2, 4)}, "text and text_mask"),
        ({"action_chunck": torch.zeros(2, 3, 7)}, r"action_chunk of shape \(2, 3, n, 7\)"),
        ({"action_chunck": torch.zeros(2, 2, 2, 7)}, r"found \(2, 2, 2, 7\)"),
        ({"chunck_mask": torch.ones(2, 3)}, "chunk_mask of shape"),
        ({"data_source": "vl_pretrain"}, "data_source with 'action'"),
        ({"action_chunk": torch.zeros(2, 3, 2, 7)}, "expected one spelling"),
    ],
)
def test_what_does_not_fit_is_an_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainingBatch.read({**batch(), **change}, window=3)


def test_rows_of_another_length_are_an_error() -> None:
    given = with_rows(batch(), ActionTokenizer(646))
    given["instr_and_action_mask"] = given["instr_and_action_mask"][..., :-1]
    with pytest.raises(UsageError, match=r"shape \(2, 3, L\)"):
        TrainingBatch.read(given, window=3)
