"""The commands of the pages below are run, one after the other, as a reader would.

What a reader has and this machine has not is stood in for: a policy of the reader's is one that
stands still, a GPU is the CPU, official assets are the built-in ones, and runs are a few steps of
one or two chains long. Left out is what `ELSEWHERE` names, with the reason. Policies, servers, the
convention check and training have tests of their own (`test_docs_policies`, `test_docs_servers`,
`test_cli_check`, `test_docs_train`).
"""

from __future__ import annotations

import glob
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from docs_commands import ROOT, calls, words_of

from calvin_eval.cli.main import main

PAGES = (
    "README.md", "chains.md", "ci.md", "clusters.md", "compare.md", "configuration.md",
    "diagnose.md", "expert.md", "quickstart.md", "realtime.md", "record.md", "report.md",
    "running.md", "verify.md",
)  # fmt: skip
ELSEWHERE = {
    "assets pull": "downloads",
    "engine=ray": "needs a cluster; tests marked `cluster`",
    "ws://": "needs a server; test_docs_servers",
    "export-lerobot": "needs the extra lerobot; test_dataset_checks",
    "--signers": "needs the reader's own list of keys; test_signatures",
    "eval_logs/": "needs logs of upstream's; test_published",
    "--expect": "needs a card of the same policy; test_card",
    "merge ": "needs shards; test_merge",
    "--from-dataset": "needs a data set with labels; test_from_dataset",
    "runs/vla": "needs a trained policy; test_recording_correction",
    "calvin_lerobot": "needs a conversion of CALVIN's data; tests of dataset_lerobot",
    "mine.zip --workers": "needs the bundle that verify.md makes; test_cli_diagnose",
}
DONE, FAILED, UNDECIDED = 0, 1, 4
"""Exit codes; a gate over few short chains may say no, or leave its question open."""
INSTRUCTIONS = ROOT / "sim/builtin/calvin_models/conf/annotations/new_playtable.yaml"
CARD = re.compile(r"```yaml\n(# model\.yaml\n.*?)```", re.DOTALL)


def wanted(page: str) -> list[str]:
    """The arguments of a page's commands that are run, in its order."""
    found = [arguments for name, arguments in calls() if name == page]
    return [a for a in found if not any(mark in a for mark in ELSEWHERE)]


def stood_in(words: list[str]) -> list[str]:
    """The words with what a reader has replaced by what is here, and globs by what they find."""
    plain = ["builtin" if word == "official" else word for word in words]
    plain = [re.sub(r"cuda(:\d)?", "cpu", word) for word in plain]
    for theirs, ours in (("7/7", "1/2"), ("~/.ssh/", ""), ("task_D_D", "data/d")):
        plain = [word.replace(theirs, ours) for word in plain]
    # Starting processes is the subject of other tests, and takes longer than these commands.
    if plain[0] in ("diagnose", "record", "verify") or plain[:2] == ["dataset", "replay"]:
        plain += ["--workers", "0"]
    if plain[0] == "record":
        return [*plain, "--episodes", "1", "--validation", "1", "--length", "1"]
    plain = ["3" if word == "3,17,40-49" else word for word in plain]
    if not plain[0].startswith("--"):
        return [found for word in plain for found in sorted(glob.glob(word)) or [word]]
    at = plain.index("--ckpt") + 1
    if not plain[at].startswith("builtin:") and plain[at] != "actions.npz":
        plain[at] = "builtin:still"
    plain = [word.replace("runs/mine", "runs/again") for word in plain]
    if "--out" not in plain:  # the name that a run has otherwise ends in the second of its start
        plain += ["--out", f"runs/{uuid4().hex}"]
    return [*plain, "--num-chains", "1", "--workers", "0", "protocol.steps=12"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the runs and files that the pages speak of; the working directory."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CALVIN_EVAL_ASSETS", "builtin")
        quick = ["--num-chains", "4", "--workers", "1", "--quiet", "protocol.steps=40"]
        run = ["--ckpt", "builtin:expert", "--split", "ABC_D", "--out", "runs/mine"]
        assert main([*run, *quick]) == DONE
        assert main(["card", "runs/mine", "--out", "card.json"]) == DONE
        for name in ("a", "b", "c", "old", "new", "latency-0"):
            shutil.copytree("runs/mine", f"runs/{name}")
        shutil.copy("runs/mine/results.json", "results.json")
        shutil.copy(INSTRUCTIONS, "sentences.yaml")
        (card,) = CARD.findall((ROOT / "docs" / "verify.md").read_text(encoding="utf-8"))
        Path("model.yaml").write_text(card)
        np.savez("actions.npz", chain0000_sub0_actions=np.tile([0.0] * 6 + [1.0], (40, 1)))
        for name in ("id_ed25519", "board"):
            key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name]
            subprocess.run(key, check=True)
        yield folder


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page: str, folder: Path) -> None:
    """One test a page: later commands work on what earlier ones have made."""
    assert wanted(page)
    for arguments in wanted(page):
        allowed = {DONE, FAILED, UNDECIDED} if "gate" in arguments else {DONE}
        assert main(stood_in(words_of(arguments))) in allowed, arguments


def test_what_is_left_out_is_on_a_page() -> None:
    found = [arguments for page, arguments in calls() if page in PAGES]
    for mark in ELSEWHERE:
        assert any(mark in arguments for arguments in found), mark
