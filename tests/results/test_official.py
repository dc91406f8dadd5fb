from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from calvin_eval.protocol import BENCHMARK, OFFICIAL, RealTime
from calvin_eval.results.official import RunFacts, departures, official_verdict

FACTS = RunFacts(
    protocol=OFFICIAL,
    pack=BENCHMARK.pack,
    scene="D",
    chain_list=BENCHMARK.chain_list,
    planned=1000,
    completed=1000,
    errors=0,
    instructions=BENCHMARK.instructions,
    renderer="egl",
    needs_images=True,
    privileged=False,
)


def with_rules(**changes: Any) -> dict[str, Any]:
    return {"protocol": replace(OFFICIAL, **changes)}


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
        ({"pack": "f2"}, "Fingerprint of the asset pack: expected a1ae2c2341e5, found f2."),
        (with_rules(revision="head"), "Revision of calvin_env: expected pinned, found head."),
        (
            {"chain_list": "c" * 64},
            "Hash of the chain list: expected 45250061baf5, found cccccccccccc.",
        ),
        ({"planned": 1001}, "Planned chains: expected 1000, found 1001."),
        ({"completed": 999}, "Completed chains: expected 1000, found 999."),
        ({"errors": 1}, "Chains that ended by an error: expected 0, found 1."),
        ({"instructions": ""}, "Hash of the instructions: expected 3bbd672982b9, found nothing."),
        (
            with_rules(budget="decisions"),
            "Budget per subtask: expected 360 env_steps, found 360 decisions.",
        ),
        (
            with_rules(policy_reset="chain"),
            "Reset of the policy per: expected subtask, found chain.",
        ),
        (
            with_rules(realtime=RealTime(latency=3)),
            "World while the policy thinks: expected waits, found goes on, latency 3 steps.",
        ),
        (with_rules(shift="start=2,layout=3"), "Shifts: expected none, found start=2,layout=3."),
        (
            {"instruction_text": "rewritten by observe.instruction"},
            "Instructions: expected as written, found rewritten by observe.instruction.",
        ),
        (with_rules(leftover="keep"), "Leftover actions of a subtask: expected drop, found keep."),
        ({"scene": "A"}, "Scene: expected D, found A."),
        (with_rules(world_reset="subtask"), "Fresh world per: expected chain, found subtask."),
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


def test_all_reasons_are_given() -> None:
    facts = replace(FACTS, completed=40, planned=50, errors=10, scene="B", renderer="tiny")
    assert len(official_verdict(facts).reasons) == 5


def test_departures_are_about_rules_and_not_about_chains_or_assets() -> None:
    assert departures(FACTS) == ()
    elsewhere: dict[str, Any] = {
        "pack": "f2", "chain_list": "c2", "planned": 20, "completed": 0,
        "errors": 3, "scene": "A", "renderer": "tiny", "instructions": "i2",
    }  # fmt: skip
    assert departures(replace(FACTS, **elsewhere)) == ()
    rules: dict[str, Any] = {
        "steps": 720, "policy_reset": "chain", "leftover": "keep", "world_reset": "subtask",
        "realtime": RealTime(latency="measured"), "revision": "head", "shift": "start=1",
    }  # fmt: skip
    seen = {"image_sizes": "static 224x224", "privileged": True, "instruction_text": "rewritten"}
    facts = replace(FACTS, **with_rules(**rules), **seen)
    assert len(departures(facts)) == len(rules) + len(seen)


def test_our_own_drawing_of_egls_images_is_official_and_says_how_near_it_is() -> None:
    assert official_verdict(FACTS).remarks == ()
    verdict = official_verdict(replace(FACTS, renderer="fast", fidelity="60 dB to EGL's images"))
    assert verdict.official
    assert verdict.remarks == ("The policy's images were drawn by fast: 60 dB to EGL's images.",)
