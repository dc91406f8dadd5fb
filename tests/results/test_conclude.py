"""What a header says about the protocol of a run."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from calvin_eval.errors import RunFolderError
from calvin_eval.results.conclude import facts_from_header
from calvin_eval.results.metrics import summarize
from handmade import HEADER


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"protocol": "vla_eval", "options": {"reset": "chain"}}, "chain"),
        ({"protocol": "vla_eval", "options": {}}, "subtask"),
        ({"protocol": "openpi", "options": {"reset": "chain"}}, "subtask"),
    ],
)
def test_resets_that_a_servers_client_keeps_to_itself_are_told(
    policy: dict[str, Any], expected: str
) -> None:
    header: dict[str, Any] = deepcopy(dict(HEADER))
    header["policy"].update(policy, requirements={"rgb": [], "depth": [], "privileged": False})
    header["chains"]["planned"] = [0]
    facts = facts_from_header(header, summarize((), 1))
    assert facts.protocol.policy_reset == expected


def test_the_revision_that_counts_is_the_one_that_a_run_is_simulated_with_again() -> None:
    header: dict[str, Any] = deepcopy(dict(HEADER))
    header["policy"]["requirements"] = {"rgb": [], "depth": [], "privileged": False}
    header["revision"] = "head"
    assert facts_from_header(header, summarize((), 0)).protocol.revision == "head"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("steps", 0, r"expected protocol\.steps to be a whole number from 1 up; found 0"),
        ("leftover", "some", r"unknown protocol\.leftover 'some': expected one of drop, keep"),
        ("budget", None, r"unknown protocol\.budget 'None'"),
    ],
)
def test_rules_that_there_are_not_are_an_error(key: str, value: object, message: str) -> None:
    header: dict[str, Any] = deepcopy(dict(HEADER))
    header["policy"]["requirements"] = {"rgb": [], "depth": [], "privileged": False}
    header["config"]["protocol"][key] = value
    with pytest.raises(RunFolderError, match=f"header.json: {message}.*another version"):
        facts_from_header(header, summarize((), 0))
