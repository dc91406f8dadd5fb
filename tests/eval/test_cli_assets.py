from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from command_line import runner

from calvin_eval.cli.assets import assets
from calvin_eval.errors import AssetError
from calvin_eval.protocol import BENCHMARK
from calvin_eval.sim.assets import store


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(store.ASSETS_VARIABLE, raising=False)
    monkeypatch.setenv("COLUMNS", "200")


def call(*arguments: str) -> Result:
    return runner().invoke(assets, arguments)


def test_list_without_an_official_pack() -> None:
    result = call("list")
    assert result.exit_code == 0
    rows = [line for line in result.stdout.splitlines() if line.startswith("│")]
    assert "builtin" in rows[0]
    assert " ok " in rows[0]
    assert "official" in rows[1]
    assert " absent " in rows[1]


def test_verify_builtin() -> None:
    result = call("verify", "builtin")
    assert result.exit_code == 0
    assert f"fingerprint  {store.identify('builtin')[2]}\n" in result.stdout


def test_path_prints_nothing_but_the_path() -> None:
    assert call("path", "builtin").stdout == f"{store.identify('builtin')[1]}\n"
    assert isinstance(call("path").exception, AssetError)


def test_a_wrong_pack_is_an_error_of_the_user(tmp_path: Path) -> None:
    result = call("verify", str(tmp_path))
    assert isinstance(result.exception, AssetError)
    assert result.exception.exit_code == 2
    assert "LICENSE" in result.stdout
    assert "missing" in result.stdout
    assert "... and 113 more" in result.stdout
    assert isinstance(call("import", str(tmp_path)).exception, AssetError)


def test_pull_refuses_a_base_url_off_the_web() -> None:
    result = call("pull", "--base-url", "file:///srv")
    assert isinstance(result.exception, AssetError)


def test_import_then_verify_list_and_path(
    official: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache" / "official"
    result = call("import", official)
    assert result.exit_code == 0, result.exception
    assert result.stdout == f"{folder}\n"
    assert "importing" in result.stderr
    assert f"fingerprint  {BENCHMARK.pack}\n" in call("verify").stdout
    assert BENCHMARK.pack[:12] in call("list").stdout
    assert call("path", "official").stdout == f"{folder}\n"
    monkeypatch.setenv(store.ASSETS_VARIABLE, official)
    assert "used instead" in call("import", official).stderr


def test_help_is_light() -> None:
    code = (
        "import sys; from calvin_eval.cli.assets import assets;"
        "assets(['--help'], standalone_mode=False);"
        "assert not {'torch', 'pybullet', 'numpy', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
