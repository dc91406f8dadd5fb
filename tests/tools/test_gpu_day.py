from __future__ import annotations

import json
from pathlib import Path

import pytest
from tooling import load_tool

tool = load_tool("gpu_day")


def stage(code: str, share: float = 1.0, *more: str) -> object:
    return tool.Stage(code[:20], ("-c", code, *more), share)


def test_all_cores_and_all_worlds_are_measured() -> None:
    names = [found.name for found in tool.stages(16)]
    assert [n for n in names if n.endswith("workers")] == [
        f"End to end, {n} workers" for n in (1, 2, 4, 8, 16)
    ]
    assert [n for n in names if "worlds" in n] == [
        f"OpenGL, {n} worlds in a process" for n in (1, 8, 32, 128)
    ]
    assert sum(found.share for found in tool.stages(16)) <= 1


@pytest.mark.processes
def test_a_stage_gives_what_it_prints_or_writes_or_why_not(tmp_path: Path) -> None:
    printed = tool.run_stage(stage("print('hello'); print('{\"rate\": 2.5}')"), tmp_path, 60)
    assert printed["result"] == {"rate": 2.5}
    code = "import sys; open(sys.argv[1], 'w').write('{\"rate\": 3}')"
    assert tool.run_stage(stage(code, 1.0, "{json}"), tmp_path, 60)["result"] == {"rate": 3}
    failed = tool.run_stage(stage("raise ValueError('no driver')"), tmp_path, 60)
    assert failed["error"] == "ValueError: no driver"
    assert tool.run_stage(stage("print('hello')"), tmp_path, 60)["error"] == "it printed no result"
    late = tool.run_stage(stage("import time; time.sleep(60)"), tmp_path, 0.2)
    assert "not done after" in late["error"]


@pytest.mark.processes
def test_the_page_says_what_was_measured_and_what_not(tmp_path: Path) -> None:
    plan = [
        stage("print('{\"steps_per_second\": 2100.0}')"),
        stage("raise SystemExit('no | device')"),
    ]
    told: list[str] = []
    results = tool.measure(plan, tmp_path / "day", 2, "", told.append)
    assert json.loads((tmp_path / "day" / "results.json").read_text()) == results
    page = (tmp_path / "day" / "page.md").read_text()
    assert "No GPU: a rehearsal on the CPU" in page
    assert "steps_per_second 2100" in page
    assert "not measured: no / device" in page
    assert "goal 2000 reached" in page
    assert len(told) == 2
