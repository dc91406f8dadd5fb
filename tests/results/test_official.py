from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from calvin_eval.results.official import ProtocolFacts, departures, official_verdict

FACTS = ProtocolFacts(
    pack_fingerprint="f1",
    official_fingerprint="f1",
    revision="pinned",
    chain_list_hash="c1",
    official_chain_list_hash="c1",
    planned=1000,
    completed=1000,
    errors=0,
    instructions_hash="i1",
    official_instructions_hash="i1",
    instruction_text="as written",
    step_budget="360 env_steps",
    policy_reset="subtask",
    world_reset="chain",
    leftover="drop",
    realtime="waits",
    scene="D",
    renderer="egl",
    needs_images=True,
    image_sizes="",
    privileged=False,
)


def test_the_official_protocol_is_official() -> None:
    verdict = official_verdict(FACTS)
    assert verdict.official
    assert verdict.reasons == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"image_sizes": "static 224x224"},
            "Size of the policy's images: expected static 200x200, gripper 84x84, "
            "found static 224x224.",
        ),
        ({"pack_fingerprint": "f2"}, "Fingerprint of the asset pack: expected f1, found f2."),
        ({"revision": "head"}, "Revision of calvin_env: expected pinned, found head."),
        ({"chain_list_hash": "c2"}, "Hash of the chain list: expected c1, found c2."),
        ({"planned": 1001}, "Planned chains: expected 1000, found 1001."),
        ({"completed": 999}, "Completed chains: expected 1000, found 999."),
        ({"errors": 1}, "Chains that ended by an error: expected 0, found 1."),
        ({"instructions_hash": "i2"}, "Hash of the instructions: expected i1, found i2."),
        (
            {"step_budget": "360 decisions"},
            "Budget per subtask: expected 360 env_steps, found 360 decisions.",
        ),
        ({"policy_reset": "chain"}, "Reset of the policy per: expected subtask, found chain."),
        (
            {"realtime": "goes on, latency 3 steps"},
            "World while the policy thinks: expected waits, found goes on, latency 3 steps.",
        ),
        (
            {"instruction_text": "rewritten by observe.instruction"},
            "Instructions: expected as written, found rewritten by observe.instruction.",
        ),
        ({"leftover": "keep"}, "Leftover actions of a subtask: expected drop, found keep."),
        ({"scene": "A"}, "Scene: expected D, found A."),
        ({"world_reset": "subtask"}, "Fresh world per: expected chain, found subtask."),
        *[
            (
                {"renderer": name},
                f"Renderer of the policy's images: expected egl or fast, found {name}.",
            )
            for name in ("tiny", "none", "gl", "fast, depth_bits=24")
        ],
        (
            {"privileged": True},
            "What the policy sees: expected observations only, found the simulator's own state.",
        ),
    ],
)
def test_each_deviation_is_named(changes: dict[str, Any], reason: str) -> None:
    verdict = official_verdict(replace(FACTS, **changes))
    assert not verdict.official
    assert verdict.reasons == (reason,)


def test_a_state_policy_needs_no_renderer() -> None:
    assert official_verdict(replace(FACTS, needs_images=False, renderer="none")).official
    assert official_verdict(replace(FACTS, needs_images=False)).official
    assert not official_verdict(replace(FACTS, needs_images=False, renderer="tiny")).official


def test_an_unknown_fingerprint_is_not_official_even_if_nothing_was_expected() -> None:
    facts = replace(FACTS, pack_fingerprint="", official_fingerprint="")
    assert not official_verdict(facts).official


def test_all_reasons_are_given() -> None:
    facts = replace(FACTS, completed=40, planned=50, errors=10, scene="B", renderer="tiny")
    assert len(official_verdict(facts).reasons) == 5


def test_departures_are_about_rules_and_not_about_chains_or_assets() -> None:
    assert departures(FACTS) == ()
    elsewhere: dict[str, Any] = {
        "pack_fingerprint": "f2", "chain_list_hash": "c2", "planned": 20, "completed": 0,
        "errors": 3, "scene": "A", "renderer": "tiny", "instructions_hash": "i2",
    }  # fmt: skip
    assert departures(replace(FACTS, **elsewhere)) == ()
    rules: dict[str, Any] = {
        "step_budget": "720 env_steps", "policy_reset": "chain", "leftover": "keep",
        "world_reset": "subtask", "image_sizes": "static 224x224", "privileged": True,
        "instruction_text": "rewritten", "realtime": "goes on", "revision": "head",
    }  # fmt: skip
    assert len(departures(replace(FACTS, **rules))) == len(rules)


def test_our_own_drawing_of_egls_images_is_official_and_says_how_near_it_is() -> None:
    assert official_verdict(FACTS).remarks == ()
    verdict = official_verdict(replace(FACTS, renderer="fast", fidelity="60 dB to EGL's images"))
    assert verdict.official
    assert verdict.remarks == ("The policy's images were drawn by fast: 60 dB to EGL's images.",)
