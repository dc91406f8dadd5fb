"""The recorder of tests/golden: it knows every file, and what it writes is what was recorded."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
with pytest.MonkeyPatch.context() as path:
    path.syspath_prepend(str(ROOT))
    from tools.record_golden.files import differences, read_arrays, write_arrays, write_image
    from tools.record_golden.recordings import ACTION_FORMS, RECORDINGS

# Recorded from other sources, which the README names.
OTHERS = {"expert/builtin_D.npz", "robovlms_features.json", "robovlms_losses.json", "README.md"}
ARRAYS = {
    "chain_actions": np.array([[0.1, -0.0], [np.nan, 1e-300]]),
    "achieved": np.array([2**63 + 1], np.uint64),
    "task_names": np.array(["open_drawer", "x"]),
    "index": np.array("[[0, 1]]"),
}


def stored_files(golden: Path) -> set[str]:
    paths = (path for path in golden.rglob("*") if path.is_file())
    names = {path.relative_to(golden).as_posix() for path in paths}
    return {name for name in names - OTHERS if not name.startswith(("schema_", "headers/"))}


def test_every_stored_file_has_a_recorder(golden: Path) -> None:
    stored = stored_files(golden)
    assert {name for name in stored if not name.endswith(".png")} == set(RECORDINGS)
    for name in (name for name in stored if name.endswith(".png")):
        folder, picture = name.split("/")
        with np.load(golden / folder / f"depth_{picture.split('_')[0]}.npz") as depths:
            assert Path(picture).stem in depths.files


def test_arrays_come_back_to_the_last_bit_and_files_are_equal(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_arrays(tmp_path / name, ARRAYS)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    read = read_arrays(tmp_path / "a.npz")
    assert list(read) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        assert read[name].tobytes() == array.tobytes()
    assert list(differences(tmp_path / "a.npz", tmp_path / "b.npz")) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"achieved": np.array([2**63], np.uint64)}, "achieved: 100.00% of the values differ"),
        ({"achieved": np.array([1], np.int64)}, "achieved is int64"),
        ({"chain_actions": np.array([[0.1, 0.0], [np.nan, 1e-300]])}, "chain_actions"),
        ({"more": np.array(1)}, "more is only in the recording"),
    ],
)
def test_a_difference_is_found(tmp_path: Path, change: dict[str, np.ndarray], found: str) -> None:
    write_arrays(tmp_path / "new.npz", {**ARRAYS, **change})
    write_arrays(tmp_path / "old.npz", ARRAYS)
    (text,) = differences(tmp_path / "new.npz", tmp_path / "old.npz")
    assert found in text


def test_pictures_are_compared_by_pixel(tmp_path: Path) -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    write_image(tmp_path / "a.png", image)
    Image.fromarray(image).save(tmp_path / "b.png", compress_level=0)
    write_image(tmp_path / "c.png", image[::-1])
    assert list(differences(tmp_path / "a.png", tmp_path / "b.png")) == []
    assert list(differences(tmp_path / "a.png", tmp_path / "c.png"))
    assert list(differences(tmp_path / "a.png", tmp_path / "none.png")) == ["is not stored yet"]


@pytest.mark.slow
def test_the_recorder_does_not_need_the_package_that_it_proves() -> None:
    code = (
        "import sys, tools.record_golden.recordings as r;"
        "sys.exit(any(n.split('.')[0] == 'calvin_eval' for n in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("form", ["abs_euler", "abs_quat"])
def test_the_gripper_of_a_pose_is_an_int(golden: Path, form: str) -> None:
    """Upstream's head revision measures the length of any other gripper value."""
    with np.load(golden / "head" / "action_modes.npz") as stored:
        action = stored[f"{form}_chain0006_actions"][0]
    position, orientation, gripper = ACTION_FORMS[form](action)
    assert isinstance(gripper, int)
    assert np.array_equal([*position, *orientation, gripper], action)


def checkout() -> Path | None:
    """The checkout of mees/calvin that the installed calvin_env lies in."""
    spec = importlib.util.find_spec("calvin_env")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = Path(folders[0]).parents[1] if folders else None
    return found if found and (found / "calvin_models" / "calvin_agent").is_dir() else None


@pytest.mark.slow
@pytest.mark.skipif(not checkout(), reason="needs upstream's package calvin_env in a checkout")
def test_upstream_gives_the_stored_traces_again() -> None:
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tools.record_golden", str(checkout()),
         "--only", "pinned/sceneA", "head/action_modes"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stdout + child.stderr
    assert "equal" in child.stdout
