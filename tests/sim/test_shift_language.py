"""The axis `language`: other wordings of the instructions, and probes."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import yaml

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.shifts import AXES, LEVELS, Shifts
from calvin_eval.sim.chains import Chain, load_chains
from calvin_eval.sim.instructions import InstructionSet, load_instructions
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.shifts.chains import shifted
from calvin_eval.sim.shifts.language import check_instructions, instruction_of, told_task
from calvin_eval.sim.shifts.wordings import STEPS, mistyped, wordings
from calvin_eval.sim.symbolic import TASK_CATEGORIES, TASK_NAMES, SymbolicState, outcomes

ROOT = Path(__file__).resolve().parents[2]
UPSTREAM = ROOT.parent / "shared" / "calvin"
PACK = load_pack("builtin")
OWN = load_instructions("pack", PACK.instructions)
OFFICIAL = load_chains("official")


def chain(text: str, number: int = 3) -> Chain:
    return shifted(OFFICIAL[number], Shifts.parse(text), PACK.scene("D"))


def said(text: str, numbers: range = range(10)) -> list[str]:
    return [
        instruction_of(chain(text, number), position, OWN)
        for number in numbers
        for position in range(5)
    ]


def test_every_task_has_ten_sentences_of_every_level_that_no_other_task_has() -> None:
    meaning: dict[str, str] = {}
    for task in TASK_NAMES:
        found = [sentence for level in LEVELS for sentence in wordings(task, level)]
        assert len(set(found)) == len(found), task
        assert all(meaning.setdefault(sentence, task) == task for sentence in found), task
        for level in LEVELS:
            assert len(wordings(task, level)) >= 10, (task, level)
    for sentence in meaning:
        assert not re.search(r"[{}()|]|  ", sentence), sentence
        assert sentence == sentence.strip()


def test_sentences_name_colour_and_side_and_no_others() -> None:
    """Whatever the language; what the third level compares with has a colour of its own."""
    words = yaml.safe_load((ROOT / "sim/data/wordings.yaml").read_text(encoding="utf-8"))["words"]

    @cache
    def named(kind: str) -> list[str]:
        entry = words[kind]
        plain = [text for key, text in entry.items() if key != "thing"]
        return [kind, *plain, *entry.get("thing", [])]

    for task in TASK_NAMES:
        for group in (("red", "blue", "pink"), ("left", "right")):
            wanted = {kind for kind in group if kind in task.split("_")}
            search = {kind: re.compile(rf"\b({'|'.join(named(kind))})").search for kind in group}
            for level in (1, 2, 3, 4):
                for sentence in wordings(task, level):
                    found = {kind for kind in group if search[kind](sentence)}
                    assert found == wanted, (task, sentence)
            for sentence in wordings(task, 5)[-3:]:  # "rosa" is both German and Spanish
                assert all(any(w in sentence for w in named(kind)) for kind in wanted), sentence


@pytest.mark.skipif(not UPSTREAM.is_dir(), reason="needs upstream's sentences in ../shared/calvin")
def test_no_sentence_is_upstreams() -> None:
    files = [
        path
        for path in UPSTREAM.rglob("new_playtable*.yaml")
        if not path.name.endswith("tasks.yaml")
    ]
    theirs: set[str] = set()
    for path in files:
        for sentences in yaml.safe_load(path.read_text(encoding="utf-8")).values():
            every = [sentences] if isinstance(sentences, str) else sentences
            theirs |= {sentence.strip().lower() for sentence in every}
    assert len(theirs) > 300
    ours = {s.lower() for task in TASK_NAMES for level in LEVELS for s in wordings(task, level)}
    assert not ours & theirs


def test_no_sentence_is_the_packs() -> None:
    packs = {s.lower() for sentences in PACK.instructions.values() for s in sentences}
    ours = {s.lower() for task in TASK_NAMES for level in LEVELS for s in wordings(task, level)}
    assert not ours & packs


def test_typing_errors_follow_from_the_sentence_and_leave_it_readable() -> None:
    sentence = "spin the red block to the right"
    assert mistyped(sentence) == mistyped(sentence) != sentence
    for before, after in zip(sentence.split(), mistyped(sentence).split(), strict=True):
        assert (before[0], before[-1]) == (after[0], after[-1])
        assert abs(len(before) - len(after)) <= 1
        assert len(before) > 3 or before == after


def test_a_subtask_is_told_one_of_its_tasks_sentences() -> None:
    for level in LEVELS:
        told = said(f"language={level}")
        tasks = [task for number in range(10) for task in OFFICIAL[number].tasks]
        assert all(s in wordings(t, level) for s, t in zip(told, tasks, strict=True))
        assert len(set(told)) > 40
        assert said(f"language={level},start=2") == told
        assert said(f"language={level},seed=1") != told


def test_sentences_that_no_release_may_change() -> None:
    assert said("language=1", range(3, 4))[:2] == [
        "twist the blue block to the right",
        "fetch the pink block from the tabletop",
    ]
    assert said("language=5", range(3, 4))[:2] == [
        "siwvel the bllue block to the right",
        "fettch the pink block form the tabletop",
    ]


def test_probes_say_nothing_of_the_task() -> None:
    own = [OWN.text(t, 0, 0) for number in range(10) for t in OFFICIAL[number].tasks]
    assert set(said("language=empty")) == {""}
    shuffled, nonsense = said("language=shuffled"), said("language=nonsense")
    for before, mixed, empty in zip(own, shuffled, nonsense, strict=True):
        assert sorted(before.split()) == sorted(mixed.split())
        assert before != mixed
        assert len(empty.split()) == len(before.split())
        assert not set(empty.split()) & set(before.split())


def test_another_task_is_of_another_kind_and_could_be_done() -> None:
    possible = 0
    for number in range(40):
        asked = chain("language=another", number)
        state = SymbolicState.initial(asked.initial_state)
        for position, task in enumerate(asked.tasks):
            told = told_task(asked, position)
            assert TASK_CATEGORIES[told] != TASK_CATEGORIES[task]
            kinds = TASK_CATEGORIES[task]
            if any(outcomes(state, t) for t in TASK_NAMES if TASK_CATEGORIES[t] != kinds):
                possible += 1
                assert outcomes(state, told)
            assert instruction_of(asked, position, OWN) == OWN.text(told, number, position)
            (state,) = outcomes(state, task)
    assert possible > 180
    unknown = replace(chain("language=another"), initial_state={})
    assert told_task(unknown, 0) in TASK_NAMES


def test_start_states_and_physics_are_those_of_the_chain() -> None:
    assert chain("language=3").robot_obs.tolist() == OFFICIAL[3].robot_obs.tolist()
    assert not chain("language=3").given
    assert instruction_of(OFFICIAL[3], 0, OWN) == OWN.text(OFFICIAL[3].tasks[0], 3, 0)


def test_what_does_not_go_together_is_refused() -> None:
    chains = InstructionSet(name="mine.json", by_task={}, by_chain={3: ("a",) * 5})
    for level in (1, "another"):
        with pytest.raises(UsageError, match=r"found mine\.json"):
            check_instructions(Shifts.parse(f"language={level}"), chains)
    check_instructions(Shifts.parse("language=shuffled"), chains)
    check_instructions(Shifts.parse("start=1"), chains)
    with pytest.raises(UnknownNameError, match="dance"):
        instruction_of(replace(chain("language=1"), tasks=("dance",)), 0, OWN)


def test_steps_and_probes_stand_in_the_docs() -> None:
    page = (ROOT / "docs/shifts.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(STEPS[level] for level in LEVELS)} |" in page
    for level in AXES["language"].levels:
        assert f"| `language={level}` | " in page
