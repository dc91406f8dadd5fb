"""The example in docs/dataset.md runs as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from calvin_folder import write_split

PAGE = Path(__file__).parents[2] / "docs" / "dataset.md"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    write_split(tmp_path / "task_ABCD_D" / "training")
    monkeypatch.chdir(tmp_path)
    # Workers are tested elsewhere, and four of them take seconds to start.
    names: dict[str, object] = {}
    exec(code.replace("num_workers=4", "num_workers=0"), names)
    batch = names["batch"]
    assert isinstance(batch, dict)
    assert batch["rgb"].shape == (4, 8, 3, 224, 224)
    assert batch["action_chunck"].shape == (4, 8, 10, 7)
    assert set(batch["raw_text"]) <= {"open the drawer", "push the slider left"}
