"""What a header says about the protocol of a run."""

from __future__ import annotations

from typing import Any

import pytest

from calvin_eval.results.conclude import facts_from_header
from calvin_eval.results.header import Header
from calvin_eval.results.metrics import summarize
from handmade import document_of


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
    header = Header.from_json(document_of(policy=policy, chains={"planned": [0]}))
    facts = facts_from_header(header, summarize((), 1))
    assert facts.protocol.policy_reset == expected
