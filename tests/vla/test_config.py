"""RoboVLMs configurations: parents, where things are looked for, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from requirements import skip

from calvin_eval.config.compose import compose_config
from calvin_eval.config.listing import render_configs
from calvin_eval.errors import CheckpointError, UnknownNameError, UsageError
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.config import (
    audit_lora,
    find_config,
    find_vlm,
    merge,
    read_compat,
    read_config,
)
from calvin_eval.vla.supported import MODEL_TYPES
from calvin_eval.wrappers.loaders import declared
from calvin_eval.wrappers.loaders.base import Source
from calvin_eval.wrappers.loaders.folders import folder_kind, robovlms_configs

BASE: dict[str, Any] = {
    "robovlm_name": "RoboKosMos",
    "vlm": {"type": "AutoModelForVision2Seq", "pretrained_model_name_or_path": ".vlms/k"},
    "act_head": {"type": "LSTMDecoder", "hidden_size": 1024, "history_type": "post"},
    "window_size": 8,
    "fwd_pred_next_n": 10,
    "trainer": {"precision": "16"},
}


def write(path: Path, **values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def source(ckpt: Path, **options: Any) -> Source:
    return Source(ckpt=str(ckpt), options=options)


def test_a_child_lies_over_its_parent_section_by_section(tmp_path: Path) -> None:
    write(tmp_path / "base" / "grandparent.json", **BASE)
    write(tmp_path / "base" / "parent.json", parent="grandparent.json", window_size=16)
    child = write(
        tmp_path / "child.json",
        parent="base/parent.json",
        act_head={"hidden_size": 16},
        vlm={"__override__": True, "name": "other"},
    )
    config = read_config(child)
    assert config.window == 16
    assert config.head == {"type": "LSTMDecoder", "hidden_size": 16, "history_type": "post"}
    assert config.values["vlm"] == {"name": "other"}
    assert [path.name for path in config.files] == ["child.json", "parent.json", "grandparent.json"]
    assert "parent" not in config.values


def test_a_parent_may_be_named_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "configs" / "base.json", **BASE)
    child = write(tmp_path / "runs" / "child.json", parent="configs/base.json")
    monkeypatch.chdir(tmp_path)
    assert read_config(child).chunk == 10


def test_merging_changes_neither_side() -> None:
    above = {"a": {"b": 1, "c": 2}, "d": {"e": 1}}
    below = {"a": {"b": 3}, "d": {"__override__": True, "f": {"__override__": True, "g": 1}}}
    assert merge(above, below) == {"a": {"b": 3, "c": 2}, "d": {"f": {"g": 1}}}
    assert above == {"a": {"b": 1, "c": 2}, "d": {"e": 1}}
    assert "__override__" in below["d"]


def test_a_circle_of_parents_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.json", parent="b.json", **BASE)
    write(tmp_path / "b.json", parent="a.json")
    with pytest.raises(CheckpointError, match=r"own parent: .*a\.json -> .*b\.json -> .*a\.json"):
        read_config(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"parent": "nowhere.json"}', r"its parent nowhere\.json is missing"),
        ('{"parent": 3}', "parent to be a path"),
        ("[1]", "expected a JSON object, found list"),
        ('{"a": ', "is not JSON"),
        ('{"robovlm_name": "RoboKosMos"}', "expected vlm to be a section, found nothing"),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        read_config(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_config(tmp_path / "absent.json")


def test_a_value_of_the_wrong_type_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", **{**BASE, "window_size": "8"})
    with pytest.raises(CheckpointError, match="window_size to be a whole number, found '8'"):
        read_config(path)


@pytest.mark.parametrize(
    ("precision", "compat", "strict"),
    [
        ("bf16", "bfloat16", "bfloat16"),
        ("fp16", "float16", "float16"),
        ("16", "float32", "float16"),
        ("16-mixed", "float32", "float16"),
        ("bf16-mixed", "float32", "bfloat16"),
        (32, "float32", "float32"),
    ],
)
def test_precision(tmp_path: Path, precision: Any, compat: str, strict: str) -> None:
    path = write(tmp_path / "c.json", **{**BASE, "trainer": {"precision": precision}})
    config = read_config(path)
    assert (config.dtype("compat"), config.dtype("strict")) == (compat, strict)


def test_the_configuration_is_found_beside_a_checkpoint(tmp_path: Path) -> None:
    config = write(tmp_path / "config.json", **BASE)
    write(tmp_path / "dataset_statistics.json", action={})
    (tmp_path / "epoch=0-step=5.ckpt").mkdir()
    assert find_config(source(tmp_path)) == config
    assert find_config(source(tmp_path / "model.pt")) == config
    assert find_config(source(tmp_path / "epoch=0-step=5.ckpt")) == config
    other = write(tmp_path / "sub" / "other.json", **BASE)
    assert find_config(source(tmp_path / "model.pt", config=str(other))) == other


def test_the_newest_of_several_project_files_is_taken(tmp_path: Path) -> None:
    write(tmp_path / "2024-01-01-project.json", **BASE)
    newest = write(tmp_path / "2024-02-01-project.json", **BASE)
    write(tmp_path / "a.json", **BASE)
    assert find_config(source(tmp_path)) == newest


def test_several_other_files_need_a_choice(tmp_path: Path) -> None:
    write(tmp_path / "a.json", **BASE)
    write(tmp_path / "b.json", **BASE)
    with pytest.raises(CheckpointError, match=r"a\.json, b\.json\): choose with policy\.options"):
        find_config(source(tmp_path))
    with pytest.raises(CheckpointError, match=r"no RoboVLMs configuration beside it"):
        find_config(source(tmp_path / "elsewhere" / "deeper" / "model.pt"))


def test_the_vlm_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_config(write(tmp_path / "run" / "c.json", model_url="https://x.org/k", **BASE))
    with pytest.raises(CheckpointError, match=r"get it from https://x\.org/k and give policy"):
        find_vlm(config)
    monkeypatch.chdir(tmp_path)
    here = write(Path(".vlms/k/config.json")).parent
    assert find_vlm(config) == here
    beside = write(tmp_path / "run" / ".vlms" / "k" / "config.json").parent
    assert find_vlm(config) == beside
    assert find_vlm(config, str(here)) == here
    with pytest.raises(CheckpointError, match=f"files, at {tmp_path}/empty"):
        find_vlm(config, str(tmp_path / "empty"))


def test_folders_are_recognised_by_their_configuration(tmp_path: Path) -> None:
    assert folder_kind(tmp_path) is None
    (tmp_path / "notes.json").write_text("{", encoding="utf-8")
    (tmp_path / "numbers.json").write_text("[1]", encoding="utf-8")
    assert folder_kind(tmp_path) is None
    child = write(tmp_path / "child.json", parent="base/parent.json")
    assert robovlms_configs(tmp_path) == [child]  # the missing parent is named later
    write(tmp_path / "base" / "parent.json", model="kosmos")
    assert folder_kind(tmp_path) is None
    write(tmp_path / "base" / "parent.json", **BASE)
    assert folder_kind(tmp_path) == "robovlms"


def test_a_circle_of_parents_does_not_hang_recognition(tmp_path: Path) -> None:
    write(tmp_path / "a.json", parent="a.json")
    assert folder_kind(tmp_path) is None


def test_compatibility_options(tmp_path: Path) -> None:
    assert read_compat(source(tmp_path)) == Compat()
    chosen = read_compat(source(tmp_path, pre_select="latest", device="cpu"))
    assert chosen == Compat(pre_select="latest")
    fixed = read_compat(source(tmp_path, compat="fixed", ensemble="first"))
    assert fixed.pre_select == "latest"
    assert fixed.ensemble == "first"
    with pytest.raises(UsageError, match="original or fixed, found 'new'"):
        read_compat(source(tmp_path, compat="new"))
    with pytest.raises(UnknownNameError, match="newest"):
        read_compat(source(tmp_path, pre_select="newest"))


def test_audit_counts_lora(tmp_path: Path) -> None:
    write(tmp_path / "a" / "on.json", **BASE, train_setup={"lora_enable": True})
    write(tmp_path / "off.json", **BASE, train_setup={"lora_enable": False})
    write(tmp_path / "inherits.json", parent="a/on.json")
    write(tmp_path / "silent.json", **BASE)
    write(tmp_path / "other.json", train_setup={"lora_enable": True})
    assert audit_lora(tmp_path) == {"true": 2, "false": 1, "absent": 1}


def test_audit_of_eleven_configurations_that_say_what_the_originals_say(
    tmp_path: Path,
) -> None:
    """RoboVLMs ships eight for CALVIN and three for Open X-Embodiment; Flamingo's lacks the key."""
    calvin = (
        "flamingo",
        "kosmos",
        "kosmos_hand",
        "llava",
        "moondream",
        "paligemma",
        "qwen",
        "uform",
    )
    names = [f"calvin_finetune/{name}" for name in calvin]
    names += [f"oxe_training/{name}" for name in ("bridge", "oxe", "rt")]
    for name in names:
        setup = {"predict_action": True, "lora_r": 64, "lora_alpha": 16}
        if not name.endswith("flamingo"):
            setup["lora_enable"] = False
        write(tmp_path / f"{name}.json", **BASE, train_setup=setup)
    assert len(names) == 11
    assert audit_lora(tmp_path) == {"true": 0, "false": 10, "absent": 1}


def test_audit_of_the_original_configurations(tmp_path: Path) -> None:
    mirror = os.environ.get("CALVIN_EVAL_ROBOVLMS_GIT")
    if not mirror:
        skip("RoboVLMs' history")
    git = ["git", f"--git-dir={mirror}"]
    names = subprocess.run(
        [*git, "ls-tree", "-r", "--name-only", "HEAD", "configs"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for name in names:
        if "/finetune_" in name:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shown = subprocess.run([*git, "show", f"HEAD:{name}"], capture_output=True, check=True)
            path.write_bytes(shown.stdout)
    assert audit_lora(tmp_path) == {"true": 0, "false": 10, "absent": 1}


FOREIGN = [
    {"robovlm_name": "RoboQwen", "model": "qwen", "vlm": {"pretrained_model_name_or_path": "v/Q"}},
    {"vlm": {"pretrained_model_name_or_path": ".vlms/Qwen-VL-Chat"}},
    {"robovlm_name": "RoboMoonDream", "model": "moondream"},
    {"robovlm_name": "RoboFlamingo", "vlm": {"pretrained_model_name_or_path": "mpt_7b"}},
    {"robovlm_name": "RoboUform"},
]


@pytest.mark.parametrize("config", FOREIGN)
def test_models_with_code_of_their_own_are_refused_by_their_names(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    """Before anybody is told where to get their weights, and where a configuration is printed."""
    write(tmp_path / "c.json", **{**BASE, **config}, model_url="https://example.org/weights")
    with pytest.raises(
        CheckpointError, match=r"that a model brings is not run; .*robovlms_checkout=PATH"
    ) as caught:
        declared(source(tmp_path))
    assert "example.org" not in str(caught.value)
    with pytest.raises(CheckpointError, match="that a model brings is not run"):
        render_configs([compose_config([], {"ckpt": str(tmp_path)})])


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"robovlm_name": "RoboQwen", "model": "qwen2_5_vl"},
        {"robovlm_name": "RoboQwen", "vlm": {"pretrained_model_name_or_path": "Qwen2-VL-2B"}},
        {"robovlm_name": "RoboLLaVA", "vlm": {"pretrained_model_name_or_path": "llava-1.5-7b"}},
        {"robovlm_name": "RoboLLaVA", "vlm": {"pretrained_model_name_or_path": "v/LLaVA-MPT-7B"}},
        {"robovlm_name": "RoboPaligemma", "model": "paligemma"},
    ],
)
def test_models_of_transformers_are_not(tmp_path: Path, config: dict[str, Any]) -> None:
    write(tmp_path / "c.json", **{**BASE, **config})
    assert declared(source(tmp_path)) is not None


def test_the_models_own_folder_decides(tmp_path: Path) -> None:
    write(tmp_path / "c.json", **{**BASE, "robovlm_name": "RoboQwen", "model": "qwen"})
    write(tmp_path / "vlm" / "config.json", model_type="qwen2_vl")
    assert declared(source(tmp_path, vlm=str(tmp_path / "vlm"))) is not None
    write(tmp_path / "vlm" / "config.json", model_type="chatglm")
    write(tmp_path / "c.json", **BASE)
    with pytest.raises(CheckpointError, match="found the model_type 'chatglm'"):
        declared(source(tmp_path, vlm=str(tmp_path / "vlm")))


def test_a_head_that_predicts_images_is_no_reason_to_refuse_a_checkpoint(tmp_path: Path) -> None:
    write(tmp_path / "c.json", **BASE, fwd_head={"type": "X"})
    assert declared(source(tmp_path)) is not None


@pytest.mark.needs("vla")
def test_the_names_of_families_are_those_that_are_built() -> None:
    from calvin_eval.vla.backbones import FAMILIES

    assert tuple(FAMILIES) == MODEL_TYPES
