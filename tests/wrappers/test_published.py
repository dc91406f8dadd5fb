"""Folders of published families, and names of what is not here: what is said of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from calvin_eval.config.compose import compose_config
from calvin_eval.config.listing import render_configs
from calvin_eval.config.presets import check_kind
from calvin_eval.errors import CheckpointError
from calvin_eval.wrappers.loaders import kind_of, resolve
from calvin_eval.wrappers.loaders.detect import detect
from calvin_eval.wrappers.loaders.elsewhere import explain_elsewhere, explain_missing
from calvin_eval.wrappers.loaders.published import explain


def folder_of(where: Path, config: object = None, *files: str) -> Path:
    where.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (where / "config.json").write_text(json.dumps(config))
    for name in files:
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_text("{}")
    return where


@pytest.mark.parametrize(
    ("config", "files", "said"),
    [
        ({"model_type": "openvla"}, (), "OpenVLA or OpenVLA-OFT.*vla-eval"),
        ({"model_type": "llama", "architectures": ["OpenVLAForActionPrediction"]}, (), "OpenVLA"),
        ({"model_type": "xvla", "architectures": ["XVLA"]}, (), "X-VLA.*--policy xvla"),
        ({"model_type": "gr00t_n1_5"}, (), "GR00T"),
        ({"model_type": "Gr00tN1d6"}, (), "GR00T"),
        (None, ("experiment_cfg/metadata.json",), "GR00T"),
        ({"model_type": "dexbotic_cogact", "architectures": ["CogACTForCausalLM"]}, (), "dexbotic"),
        ({"model_type": "dexbotic_pi0"}, ("norm_stats.json",), "dexbotic"),
        (None, ("config.yaml", "dataset_statistics.json"), "--policy starvla"),
        (None, ("params/_METADATA", "assets/x/norm_stats.json"), "--policy openpi --ckpt ws://"),
        (None, ("model.safetensors", "assets/a/b/norm_stats.json"), "openpi"),
        (None, ("20000/params/_METADATA",), "choose one of its steps"),
        ({"model_type": "spatialvla"}, (), "transformers library .model_type 'spatialvla'"),
    ],
)
def test_folders_of_published_families(
    tmp_path: Path, config: object, files: tuple[str, ...], said: str
) -> None:
    folder = folder_of(tmp_path / "ckpt", config, *files)
    with pytest.raises(CheckpointError, match=said) as caught:
        resolve(str(folder))
    assert str(folder) in str(caught.value)


@pytest.mark.needs("vla")
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base_model_name_or_path": "openvla/openvla-7b"}, "peft for openvla/openvla-7b, with no"),
        ({}, "peft for a model that it does not name"),
        ([1], "peft for a model that it does not name"),
    ],
)
def test_an_adapter_of_another_model_is_answered_with_what_it_is(
    tmp_path: Path, settings: object, said: str
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=rf"{said}.*merge it into its model"):
        resolve(str(folder))


def test_flower_by_its_configuration(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run", None, ".hydra/config.yaml")
    (folder / ".hydra/config.yaml").write_text("model:\n  _target_: flower.models.flower.FLOWERVLA")
    assert "--policy flower" in str(explain(folder))


def test_the_weights_inside_are_answered_like_the_folder(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    run = folder_of(tmp_path / "run", None, "config.yaml", "dataset_statistics.json")
    (run / "checkpoints").mkdir()
    weights = run / "checkpoints" / "steps_10_pytorch_model.pt"
    torch.save({"a": torch.zeros(1)}, weights)
    with pytest.raises(CheckpointError, match=r"starVLA.*--policy starvla"):
        resolve(str(weights))


def test_what_is_none_of_them(tmp_path: Path) -> None:
    assert explain(folder_of(tmp_path / "a")) is None
    assert explain(folder_of(tmp_path / "b", ["no", "map"])) is None
    assert (
        explain(folder_of(tmp_path / "c", {"architectures": [{"x": 1}], "model_type": 3})) is None
    )
    (folder_of(tmp_path / "d") / "config.json").write_text("{" * 100)
    assert explain(tmp_path / "d") is None


def test_a_folder_that_holds_checkpoints_names_one(tmp_path: Path) -> None:
    policy = {"type": "act", "input_features": {}, "output_features": {}}
    for step in ("010000", "020000"):
        folder_of(tmp_path / "checkpoints" / step / "pretrained_model", policy)
    with pytest.raises(CheckpointError, match=r"with 2 in it.*checkpoints/020000, or all"):
        detect(tmp_path / "checkpoints")


def test_lerobots_runs_mean_their_last_step(tmp_path: Path) -> None:
    from calvin_eval.wrappers.loaders.folders import lerobot_folder

    policy = {"type": "act", "input_features": {}, "output_features": {}}
    step = folder_of(tmp_path / "act_a/checkpoints/040000/pretrained_model", policy)
    folder_of(tmp_path / "act_a/checkpoints/020000/pretrained_model", policy)
    assert lerobot_folder(tmp_path / "act_a") is None
    (tmp_path / "act_a/checkpoints/last").symlink_to("040000")
    for name in ("act_a", "act_a/checkpoints"):
        assert detect(tmp_path / name) == "lerobot"
        assert lerobot_folder(tmp_path / name) == step.resolve()


@pytest.mark.parametrize(
    ("ckpt", "said"),
    [
        ("hf://owner/model_abc", "hf download owner/model_abc --local-dir model_abc"),
        (
            "https://huggingface.co/owner/model.v1",
            "hf download owner/model.v1 --local-dir ",
        ),
        ("https://huggingface.co/owner/model/tree/main/x", "hf download owner/model "),
        ("https://hf.co/owner/model", "run --ckpt model"),
        ("gs://bucket/checkpoints/pi0", "gcloud storage cp -r gs://bucket/checkpoints/pi0 pi0"),
        ("s3://bucket/x", "aws s3 cp --recursive"),
        ("https://example.org/files/policy.pt", "a page or a file of the web"),
    ],
)
def test_addresses_of_the_web_are_not_fetched(ckpt: str, said: str) -> None:
    for call in (kind_of, resolve):
        with pytest.raises(CheckpointError, match="downloads nothing") as caught:
            call(ckpt)  # type: ignore[operator]
        assert said in str(caught.value)
    with pytest.raises(CheckpointError, match="downloads nothing"):
        render_configs([compose_config([], {"ckpt": ckpt})])


@pytest.mark.parametrize("address", ["ws://a:1", "http://a:8000", "http://a:1/act", "tcp://a:5"])
def test_addresses_of_servers_are_none_of_them(address: str) -> None:
    assert explain_elsewhere(address) is None


def test_names_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no such file.*hf download owner/flower_abc"):
        resolve("owner/flower_abc")
    for other in ("policies/mine.pt", "a/b/c", "/owner/name", "name", "package.module:Class"):
        assert explain_missing(other) is None


@pytest.mark.parametrize("ckpt", ["127.0.0.1:8000", "localhost:8000", "gpu-machine.lab:80/act"])
def test_an_address_without_a_scheme_is_told_the_schemes(ckpt: str) -> None:
    with pytest.raises(CheckpointError, match=r"the address of a server: expected ws://HOST:PORT"):
        resolve(ckpt)


def test_other_schemes_are_told_the_presets() -> None:
    with pytest.raises(CheckpointError, match=r"--policy openpi.*--policy\s+starvla"):
        resolve("grpc://127.0.0.1:5555")


@pytest.mark.parametrize(
    ("ckpt", "preset"), [("http://127.0.0.1:8000", "xvla"), ("tcp://127.0.0.1:5555", "gr00t")]
)
def test_a_server_that_does_not_say_what_it_speaks_needs_a_preset(ckpt: str, preset: str) -> None:
    config = compose_config([], {"ckpt": ckpt})
    for call in (check_kind, lambda config: render_configs([config])):
        with pytest.raises(CheckpointError, match=rf"expected a preset.*\(--policy {preset}\)"):
            call(config)
    check_kind(compose_config([f"policy={preset}"], {"ckpt": ckpt}))
