"""What a header says about the protocol of a run."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from calvin_eval.results.conclude import OfficialHashes, facts_from_header
from calvin_eval.results.metrics import summarize
from handmade import HEADER

OFFICIAL = OfficialHashes(pack="a" * 64, chains="b" * 64, instructions="c" * 64)


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
    facts = facts_from_header(header, summarize((), 1), OFFICIAL)
    assert facts.policy_reset == expected
