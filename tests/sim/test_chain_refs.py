"""Chain lists by name and hash: every kind of list in every scene comes back from its record."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calvin_eval.errors import UsageError
from calvin_eval.sim.chain_refs import ChainRef
from calvin_eval.sim.chains import Chain, ChainList, load_chains
from calvin_eval.sim.packs import load_pack

PACK = load_pack("builtin")
LISTS = ("official", "dev", "upstream:7", "single:1", "mine.json")


@dataclass(frozen=True)
class Asked:
    """A record, as far as it says what was asked."""

    chain: int
    initial_state: Any
    tasks: tuple[str, ...]
    start: Any = None


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lists") / "mine.json"
    entries = [[dict(c.initial_state), list(c.tasks[:2])] for c in load_chains("dev").chains[:3]]
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def reference(chains: ChainList, scene: str, layout: str = "scene") -> ChainRef:
    return ChainRef(name=chains.name, sha256=chains.sha256, scene=scene, layout=layout)


def same(one: Chain, other: Chain) -> bool:
    states = (one.initial_state, one.tasks) == (other.initial_state, other.tasks)
    arrays = np.array_equal(one.scene_obs, other.scene_obs)
    return states and arrays and np.array_equal(one.robot_obs, other.robot_obs)


@pytest.mark.parametrize("layout", ["scene", "upstream"])
@pytest.mark.parametrize("scene", list("ABCD"))
@pytest.mark.parametrize("name", LISTS)
def test_a_list_comes_back_whole_and_chain_by_chain(
    mine: Path, name: str, scene: str, layout: str
) -> None:
    file = mine if name == mine.name else None
    used = load_chains(file or name, scene=PACK.scene(scene) if layout == "scene" else None)
    ref = reference(used, scene, layout)
    assert ref.needs_file == (file is not None)
    assert ref.load(PACK, file).sha256 == used.sha256
    for chain in used.chains[:5]:
        # As JSON brings it back: no class of ours, and the keys in any order.
        state = dict(reversed(dict(chain.initial_state).items()))
        made = ref.chain(Asked(chain.id, state, chain.tasks), PACK)
        assert same(made, chain)
        assert made.id == chain.id


def test_a_file_that_is_not_named_is_asked_for(mine: Path) -> None:
    with pytest.raises(UsageError, match=r"path of the chain list 'mine\.json'"):
        reference(load_chains(mine), "D").load(PACK)


@pytest.mark.parametrize("name", ["dev", "upstream:7", "single:1", "mine.json"])
def test_a_list_of_another_hash_is_refused(mine: Path, name: str) -> None:
    used = load_chains(mine if name == mine.name else name)
    other = ChainRef(name=used.name, sha256="ab" * 32, scene="D", layout="scene")
    with pytest.raises(UsageError, match=f"chain list abababababab .* found {used.sha256[:12]}"):
        other.load(PACK, mine if name == mine.name else None)


def test_what_counts_of_an_official_list_is_its_hash(tmp_path: Path) -> None:
    official = load_chains("official")
    ref = ChainRef(name="copy.json", sha256=official.sha256, scene="D", layout="scene")
    assert ref.load(PACK) is official


@pytest.mark.parametrize("name", ["dev", "single:1"])
def test_a_file_with_the_name_of_a_list_is_a_file(tmp_path: Path, mine: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(mine.read_bytes())
    chains = load_chains(path)
    assert chains.name == f"./{name}"
    assert chains.sha256 == load_chains(mine).sha256
    ref = reference(chains, "D")
    assert ref.needs_file
    assert same(ref.chain(Asked(0, chains[0].initial_state, chains[0].tasks), PACK), chains[0])


def test_a_record_of_a_state_that_no_chain_starts_in_is_refused() -> None:
    ref = reference(load_chains("dev"), "B")
    with pytest.raises(UsageError, match="initial state"):
        ref.chain(Asked(0, {"led": 7}, ("open_drawer",)), PACK)
