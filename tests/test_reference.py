"""The trained policy that is part of the repository, and how it is made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from requirements import need_package

from calvin_eval import evaluate
from calvin_eval.wrappers.loaders import resolve

need_package("peft", "the extra vla")

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "reference"


def test_it_is_a_few_megabytes() -> None:
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()) < 8 << 20


def test_it_loads_without_options_or_trust() -> None:
    loaded = resolve(str(FOLDER))
    assert loaded.kind == "robovlms"
    assert loaded.policy.requirements.rgb == ("static", "gripper")


@pytest.mark.slow
def test_it_opens_drawers_from_images_and_words(tmp_path: Path) -> None:
    run = evaluate(
        str(FOLDER),
        overrides=["protocol.chains=single:4:open_drawer", "protocol.steps=120"],
        out=str(tmp_path / "run"),
        workers=1,
        quiet=True,
    )
    # The commonest score by far is 4; rounding differs between processors.
    assert run.summary.average_length >= 0.5


@pytest.mark.slow
def test_verdicts_under_our_renderer_are_those_under_egl(egl: None, tmp_path: Path) -> None:
    tasks = "close_drawer+turn_on_led+turn_off_led+turn_on_lightbulb"
    verdicts = {
        render: evaluate(
            str(FOLDER),
            overrides=[
                f"protocol.chains=single:1:{tasks}",
                "protocol.steps=150",
                "protocol.execute=5",
                "policy.actions.ensemble=null",
            ],
            out=str(tmp_path / render),
            render=render,
            workers=1,
            quiet=True,
        ).records
        for render in ("fast", "egl")
    }
    fast, egl = (  # type: ignore[assignment]
        [(r.chain, [s.success for s in r.subtasks]) for r in sorted(v, key=lambda r: r.chain)]
        for v in verdicts.values()
    )
    assert fast == egl
    assert len(fast) == 4


def test_make_reference_names_commands_that_exist() -> None:
    said = subprocess.run(
        ["make", "--dry-run", "reference", "REFERENCE=somewhere"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "record --out somewhere/data" in said
    assert "train out=somewhere/model" in said
    assert "single:25:open_drawer+close_drawer+move_slider_left" in said
