"""The benchmark's rules in one place: defaults, keys, sentences and what older headers mean."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from typing import Any

import pytest

from calvin_eval.checks import choices
from calvin_eval.config.compose import compose_config
from calvin_eval.errors import UsageError
from calvin_eval.protocol import BENCHMARK, OFFICIAL, RULES, Protocol, RealTime
from calvin_eval.results.official import rule_departures
from calvin_eval.sim.chains import load_chains

OTHERS: dict[str, Any] = {
    "revision": "head", "chains": "dev", "layout": "upstream", "num_chains": 3, "select": "1,2",
    "steps": 20, "budget": "decisions", "instructions": "mine.yaml",
    "instruction_lines": "first", "instruction_draw": 4, "policy_reset": "chain",
    "world_reset": "subtask", "execute": 4, "leftover": "keep",
    "realtime": RealTime(latency=3, ask="ahead"), "shift": "start=2,layout=3",
    "deterministic": False,
}  # fmt: skip


def test_the_numbers_of_the_benchmark() -> None:
    assert (OFFICIAL.steps, OFFICIAL.budget, OFFICIAL.revision) == (360, "env_steps", "pinned")
    assert (BENCHMARK.chains, BENCHMARK.chain_length, BENCHMARK.scene) == (1000, 5, "D")
    official = load_chains("official")
    assert official.sha256 == BENCHMARK.chain_list
    assert {len(chain.tasks) for chain in official} == {BENCHMARK.chain_length}
    assert len(official) == BENCHMARK.chains


def test_the_configuration_without_overrides_is_official() -> None:
    assert compose_config(["ckpt=builtin:still"]).protocol == OFFICIAL


@pytest.mark.slow
@pytest.mark.parametrize("name", [entry.name for entry in fields(Protocol)])
def test_every_rule_is_a_key_of_the_configuration(name: str) -> None:
    section, value = RULES[name].section, OTHERS[name]
    text = "{latency:3,ask:ahead}" if name == "realtime" else str(value)
    text = f"'{text}'" if name == "select" else text
    extra = [] if name != "deterministic" else ["sim=calvin_env"]
    config = compose_config(["ckpt=builtin:still", f"{section}.{name}={text}", *extra])
    assert config.protocol == replace(OFFICIAL, **{name: value})
    assert config.as_dict()[section][name] == config.protocol.to_config()[section][name]
    assert Protocol.from_config(config.as_dict()) == config.protocol


@pytest.mark.parametrize("name", [entry.name for entry in fields(Protocol)])
def test_every_rule_is_judged_by_a_sentence_or_says_by_what(name: str) -> None:
    """A rule that nobody judges would let a result pass that is not official."""
    rule, found = RULES[name], list(rule_departures(replace(OFFICIAL, **{name: OTHERS[name]})))
    if rule.subject:
        assert [departure.field for departure in found] == [name]
        assert not rule.judged_by
    elif rule.judged_by.startswith("the sentence on"):
        assert f"the sentence on `{found[0].field}`" == rule.judged_by
    else:
        assert rule.judged_by
        assert found == []


def test_every_rule_is_documented() -> None:
    for kind in (Protocol, RealTime):
        docstring = inspect.cleandoc(str(kind.__doc__))
        for entry in fields(kind):
            assert f"\n    {entry.name}: " in docstring, entry.name


@pytest.mark.parametrize("name", ["policy_reset", "budget", "layout", "leftover", "revision"])
def test_every_choice_of_a_rule_is_possible_and_no_other(name: str) -> None:
    for value in choices(Protocol, name):
        assert getattr(replace(OFFICIAL, **{name: value}), name) == value
    with pytest.raises(UsageError, match="'x': expected one of"):
        replace(OFFICIAL, **{name: "x"})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 0, "a whole number from 1 up; found 0"),
        ("steps", True, "a whole number from 1 up; found True"),
        ("steps", None, "found None"),
        ("execute", 1.0, "found 1.0"),
        ("chains", 3, "expected protocol.chains to be text; found 3"),
        ("deterministic", "no", "expected sim.deterministic to be true or false; found 'no'"),
        ("realtime", None, "expected protocol.realtime to be RealTime; found None"),
    ],
)
def test_an_impossible_value_is_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(OFFICIAL, **{name: value})


def test_a_header_from_before_a_rule_means_what_was_done_then() -> None:
    config = OFFICIAL.to_config()
    del config["protocol"]["layout"], config["protocol"]["realtime"]
    older = Protocol.from_config(config)
    assert older == replace(OFFICIAL, layout="upstream", realtime=RealTime())
    del config["protocol"]["steps"]
    with pytest.raises(UsageError, match=r"expected protocol\.steps, found nothing"):
        Protocol.from_config(config)


def test_a_realtime_of_other_keys_is_refused() -> None:
    config: dict[str, Any] = OFFICIAL.to_config()
    config["protocol"]["realtime"] = {"latency": 3}
    with pytest.raises(UsageError, match=r"protocol\.realtime to be null or"):
        Protocol.from_config(config)
    config["protocol"] = None
    with pytest.raises(UsageError, match="expected a section protocol, found None"):
        Protocol.from_config(config)
