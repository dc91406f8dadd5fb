from __future__ import annotations

import re

import pytest

from calvin_eval.config.compose import compose_config
from calvin_eval.errors import UnknownNameError, UsageError

CKPT = "ckpt=builtin:still"


def test_the_defaults_are_the_official_protocol() -> None:
    config = compose_config([CKPT])
    protocol = config.protocol
    assert (protocol.chains, protocol.num_chains, protocol.steps) == ("official", None, 360)
    assert (protocol.budget, protocol.instructions) == ("env_steps", "pack")
    assert (config.protocol.revision, config.sim.backend) == ("pinned", "calvin_eval")
    assert (config.split, config.scene, config.seed) == ("D", "D", 0)


def test_keys_and_groups_override() -> None:
    config = compose_config([CKPT, "protocol.steps=60", "sim.revision=head", "protocol=quick"])
    assert config.protocol.steps == 60
    assert config.protocol.num_chains == 20
    assert config.protocol.revision == "head"
    assert compose_config([CKPT, "sim=calvin_env"]).sim.backend == "calvin_env"


@pytest.mark.parametrize(
    ("text", "split", "scene"),
    [("D", "D", "D"), ("ABC->D", "ABC_D", "D"), ("task_ABCD_D", "ABCD_D", "D"), ("b", "B", "B")],
)
def test_splits_name_what_was_trained_on_and_where_it_is_evaluated(
    text: str, split: str, scene: str
) -> None:
    config = compose_config([CKPT], {"split": text})
    assert (config.split, config.scene) == (split, scene)


@pytest.mark.parametrize(
    "value",
    ["a b", "it's", 'say "hi"', "back\\slash", "x=y,z", "${oc.env:HOME}", "[1]", "ws://h:1"],
)
def test_flags_take_any_text_literally(value: str) -> None:
    assert compose_config([CKPT], {"out": value}).out == value


@pytest.mark.parametrize(("text", "kept"), [("3,17,40-49", "3,17,40-49"), ("3", "3")])
def test_selections_survive_hydras_grammar(text: str, kept: str) -> None:
    assert compose_config([CKPT], {"protocol.select": text}).protocol.select == kept
    assert compose_config([CKPT, "protocol.select=[3,17]"]).protocol.select == "3,17"


def test_policy_options_are_free_form() -> None:
    config = compose_config([CKPT, "policy.options.device=cpu", "policy.options.size=3"])
    assert dict(config.policy.options) == {"device": "cpu", "size": 3}


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("protocl.steps=3", "protocol.steps"),
        ("steps=3", "protocol.steps"),
        ("sim.rendr=egl", "sim.render"),
        ("+protocol.stepz=3", "protocol.steps"),
        ("sim=calvin", "calvin_eval"),
    ],
)
def test_an_unknown_key_is_an_error_with_the_nearest_name(override: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        compose_config([CKPT, override])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("split=E", "unknown split"),
        ("sim.revision=pined", "Did you mean 'pinned'"),
        ("protocol.budget=minutes", "env_steps, decisions"),
        ("protocol.steps=0", "from 1 up; found 0"),
        ("protocol.steps=many", "found 'many'"),
        ("protocol.num_chains=-3", "found -3"),
        ("seed=-1", "seed to be a whole number from 0 up"),
        ("engine.workers=-1", "engine.workers"),
        ("engine.devices=gpu", "cuda:0,cuda:1"),
        ("shard=3/2", "i/n"),
        ("resume=true", "--out"),
        ("sim.deterministic=false", "calvin_env"),
        ("sim.draw.shadow_detail=much", "to be a number from 0 up; found 'much'"),
        ("sim.draw.first_frames_unshadowed=1", "to be true or false; found 1"),
        ("sim.draw.depth_bits=32", "expected one of 16, 24"),
        ("ckpt=null", "--ckpt PATH"),
        ("protocol.steps", "key=value"),
    ],
)
def test_a_value_that_cannot_be_meant_is_an_error(override: str, message: str) -> None:
    with pytest.raises((UsageError, UnknownNameError), match=message):
        compose_config([CKPT, override])


def test_paths_need_no_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    path = 'runs/epoch=4 "last".ckpt'
    given = [f"policy.options.base={path}", "policy.python=~/lerobot/bin/python"]
    config = compose_config(given, {"ckpt": "x:Y"})
    assert config.policy.options["base"] == path
    assert config.policy.python == "/home/me/lerobot/bin/python"
    quoted = compose_config(["policy.options.base='a=b'"], {"ckpt": "x:Y"})
    assert quoted.policy.options["base"] == "a=b"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("engine.devices=inf", "expected devices such as cpu or cuda:0,cuda:1; found 'inf'"),
        ("engine.devices=3", "expected devices such as cpu or cuda:0,cuda:1; found '3'"),
        ("policy.options=7", "expected options such as policy.options.NAME=VALUE; found"),
        ("policy.observe==", "expected stages such as policy.observe.NAME.OPTION=VALUE; found"),
    ],
)
def test_a_value_of_another_kind_is_named(override: str, expected: str) -> None:
    with pytest.raises(UsageError, match=re.escape(expected)):
        compose_config([override], {"ckpt": "x:Y"})
