"""No forgery that attacks have tried earns a bundle a badge, whatever record lies beside it."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from forging import FORGERIES, bundled, chance_run, edit_header, forged_bundle, pressed_run

from calvin_eval.cli.main import main
from calvin_eval.errors import CalvinEvalError
from calvin_eval.results.badge import Badge, badge_of
from calvin_eval.results.store import RunFolder
from calvin_eval.results.verification_record import digest_of, read_record
from calvin_eval.rollouts.verify.inputs import Sources
from calvin_eval.running.verifying import Scope, record_of, verify_path

pytestmark = [pytest.mark.processes, pytest.mark.slow]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {"press": pressed_run(root), "random": chance_run(root)}


def badge(bundle: Path, chain_list: Path) -> Badge:
    """What a board gives a bundle that it verifies now."""
    own = chain_list.exists()
    try:
        found = verify_path(
            bundle, Scope(everything=True), workers=0,
            sources=Sources(chains=str(chain_list) if own else None),
        )  # fmt: skip
    except CalvinEvalError:
        return badge_of(None, digest_of(bundle))
    return badge_of(record_of(bundle, found), digest_of(bundle))


@pytest.mark.parametrize("name", ["press", "random"])
def test_an_honest_bundle_has_one(runs: dict[str, Path], name: str, tmp_path: Path) -> None:
    chains = runs[name].parent / ("list.json" if name == "press" else "none")
    for packed in (bundled, forged_bundle):
        assert badge(packed(runs[name], tmp_path / "run.zip"), chains).level == "all"


def test_a_list_that_is_not_at_hand_costs_the_badge(runs: dict[str, Path], tmp_path: Path) -> None:
    found = badge(bundled(runs["press"], tmp_path / "run.zip"), tmp_path / "none")
    assert found.why == "its chain list could not be looked at"


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_bundle_has_none(runs: dict[str, Path], name: str, tmp_path: Path) -> None:
    """Of the run with successes on a list that is at hand; of an official one."""
    kind = "random" if "sentences' hash" in name or "list's" in name else "press"
    folder = RunFolder.open(shutil.copytree(runs[kind], tmp_path / kind))
    FORGERIES[name](folder)
    bundle = forged_bundle(folder.path, tmp_path / "forged.zip")
    honest = forged_bundle(runs[kind], tmp_path / "honest.zip")
    with zipfile.ZipFile(bundle) as one, zipfile.ZipFile(honest) as other:
        assert one.read("manifest.json") != other.read("manifest.json"), "nothing was forged"
    assert badge(bundle, runs[kind].parent / ("list.json" if kind == "press" else "none")).why


def test_a_card_for_another_split_makes_no_bundle(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(CalvinEvalError, match="training_split"):
        bundled(runs["random"], tmp_path / "run.zip", training_split="ABC_D")


def test_verify_stores_what_it_found(runs: dict[str, Path], tmp_path: Path) -> None:
    bundle = bundled(runs["random"], tmp_path / "run.zip")
    out = tmp_path / "records" / "run.json"
    command = ["verify", str(bundle), "--all", "--workers", "0", "--record", str(out)]
    assert main(command) == 0
    record = read_record(out)
    assert record.bundle == digest_of(bundle)
    assert (record.count, record.planned, record.status) == (2, 2, "verified")
    assert main([*command[:3], "--workers", "0", "--record", str(tmp_path / "two.json")]) == 0
    assert (tmp_path / "two.json").read_bytes() == out.read_bytes()


def test_a_forgery_is_stored_as_one(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = RunFolder.open(shutil.copytree(runs["random"], tmp_path / "run"))
    edit_header(folder, {"config.seed": 7})
    bundle, out = bundled(folder.path, tmp_path / "run.zip"), tmp_path / "record.json"
    assert main(["verify", str(bundle), "--workers", "0", "--record", str(out)]) == 1
    assert read_record(out).status == "deviates"
    assert "policy.seed" in json.loads(out.read_bytes())["problems"][0]


def test_only_a_bundle_has_a_record(runs: dict[str, Path], tmp_path: Path) -> None:
    out = str(tmp_path / "record.json")
    assert main(["verify", str(runs["random"]), "--record", out]) == 2
    bundle = bundled(runs["random"], tmp_path / "run.zip")
    assert main(["verify", str(bundle), "--sign", str(tmp_path / "key")]) == 2
    assert not Path(out).exists()
