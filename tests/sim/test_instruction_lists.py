"""Sentences per chain are for one chain list, and are refused for any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from calvin_eval.errors import UsageError
from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.instruction_lists import require_own_chains
from calvin_eval.sim.instructions import load_instructions
from calvin_eval.sim.packs import load_pack
from calvin_eval.sim.symbolic import TASK_NAMES

SENTENCES = [[f"chain {i} position {k}" for k in range(5)] for i in range(4)]
OFFICIAL = load_chains("official")


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def check(tmp_path: Path, content: Any, chains: str | Path, ids: range = range(4)) -> None:
    instructions = load_instructions(write(tmp_path / "mine.json", content), {})
    chain_list = load_chains(chains)
    require_own_chains(instructions, chain_list, [chain_list[i] for i in ids])


@pytest.mark.parametrize(
    ("content", "chains"),
    [
        (SENTENCES, "official"),
        (dict(enumerate(SENTENCES)), "official"),
        ({"chain_list": "dev", "sentences": SENTENCES}, "dev"),
        ({"chain_list": "upstream:7", "sentences": SENTENCES}, "upstream:7"),
        ({"chain_list": load_chains("dev").sha256, "sentences": SENTENCES}, "dev"),
        ({"chain_list": OFFICIAL.sha256[:12], "sentences": {"2": SENTENCES[2]}}, "official"),
    ],
)
def test_the_chains_that_sentences_were_written_for(
    tmp_path: Path, content: Any, chains: str
) -> None:
    check(tmp_path, content, chains)


@pytest.mark.parametrize(
    ("content", "chains", "message"),
    [
        (SENTENCES, "dev", "these to 'official' .*whose chain 0 asks for .*list 'dev' it asks"),
        (SENTENCES, "single:3:open_drawer", "it asks for open_drawer. Evaluate that list"),
        ({"chain_list": "dev", "sentences": SENTENCES}, "official", "these to 'dev', whose chain"),
        ({"chain_list": "single:1", "sentences": SENTENCES}, "official", "chain 0 asks for"),
        (
            {"chain_list": "ab" * 32, "sentences": SENTENCES},
            "official",
            "list 'official', 45250061",
        ),
        ({"chain_list": "offical", "sentences": SENTENCES}, "official", "found 'offical'"),
    ],
)
def test_other_chains_are_refused_with_the_reason(
    tmp_path: Path, content: Any, chains: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        check(tmp_path, content, chains, range(3))


def test_a_list_that_is_a_file_beside_the_sentences(tmp_path: Path) -> None:
    mine = [[dict(chain.initial_state), list(chain.tasks)] for chain in load_chains("dev")][:4]
    chains = write(tmp_path / "chains.json", mine)
    named = {"chain_list": "chains.json", "sentences": SENTENCES}
    check(tmp_path, named, chains)
    check(tmp_path, named, "dev")  # begins with the same chains
    with pytest.raises(UsageError, match=r"whose chain 0 asks for"):
        check(tmp_path, named, "official")
    with pytest.raises(UsageError, match="chain 4 does not exist"):
        check(tmp_path, named, "dev", range(4, 5))


def test_the_first_chains_of_the_official_list_and_an_edited_one(tmp_path: Path) -> None:
    """An edited list has the official tasks in most of its chains, and not in all."""
    mine = [[dict(chain.initial_state), list(chain.tasks)] for chain in OFFICIAL][:4]
    check(tmp_path, SENTENCES, write(tmp_path / "first.json", mine))
    mine[2][1] = [*mine[2][1][1:], mine[2][1][0]]
    with pytest.raises(UsageError, match="whose chain 2 asks for"):
        check(tmp_path, SENTENCES, write(tmp_path / "edited.json", mine))


def test_start_states_fitted_to_another_scene_are_the_same_chains(tmp_path: Path) -> None:
    fitted = load_chains("official", scene=load_pack("builtin").scene("B"))
    assert fitted.sha256 != OFFICIAL.sha256
    for owner in ("official", OFFICIAL.sha256, fitted.sha256):
        content = {"chain_list": owner, "sentences": SENTENCES}
        instructions = load_instructions(write(tmp_path / "mine.json", content), {})
        require_own_chains(instructions, fitted, fitted.chains[:4])


def test_sentences_per_task_fit_every_list(tmp_path: Path) -> None:
    check(tmp_path, {task: "do it" for task in TASK_NAMES}, "single:3:open_drawer", range(3))
