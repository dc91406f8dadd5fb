"""docs/stages.md names every action stage with its options, and its examples can be built."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from calvin_eval.wrappers.stages import ACTION_STAGES, OBSERVATION_STAGES, build_stages

PAGE = Path(__file__).parents[2] / "docs" / "stages.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
ROWS = {
    name: row
    for row in re.findall(r"^\| (`.*) \|$", TEXT, re.MULTILINE)
    for name in re.findall(r"`(\w+)`", row.split(" | ")[0])
}


@pytest.mark.parametrize("name", sorted(ACTION_STAGES))
def test_the_table_names_every_option_of_an_action_stage(name: str) -> None:
    options = ROWS[name].split(" | ")[1]
    documented = set(re.findall(r"`(\w+)`", options))
    assert documented == {field.name for field in fields(ACTION_STAGES[name])}


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_build(text: str) -> None:
    policy = yaml.safe_load(text)["policy"]
    assert policy
    build_stages(policy.get("actions", {}), ACTION_STAGES, "policy.actions")
    build_stages(policy.get("observe", {}), OBSERVATION_STAGES, "policy.observe")


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4
