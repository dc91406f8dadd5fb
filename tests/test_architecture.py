"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Folder -> folders whose modules it may import.
MAY_IMPORT = {
    "results": set(),
    "sim": set(),
    "wrappers": {"sim"},
    "vla": {"wrappers"},
    "rollouts": {"sim", "wrappers", "results"},
}
# Modules and packages of `eval/` that are open to all, and what they may import themselves.
LEAVES = {
    "errors": set(),
    "checks": {"errors"},
    "extras": {"errors"},
    "files": set(),
    "foreign": {"errors", "foreign"},
    "plugins": {"errors"},
    "protocol": {"checks", "errors", "shifts"},
    "shifts": {"errors"},
}
MODULES = [path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Folders (or `eval`) that a module imports from, anywhere in its text."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours: set[str] = set()
    for name in names:
        parts = name.split(".")
        if parts[0] == "calvin_eval" and len(parts) > 1:
            ours.add(parts[1] if parts[1] in {*MAY_IMPORT, *LEAVES} else "eval")
    return ours


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    allowed = MAY_IMPORT[folder] | {folder, *LEAVES}
    assert imported(path) <= allowed, f"{folder} may import {sorted(allowed)} only"


@pytest.mark.slow
def test_only_the_simulator_knows_where_a_chain_starts() -> None:
    """Salts and fitting to a scene are a chain's own business; everybody else asks the chain."""
    private = {"calvin_eval.sim.initial_states", "calvin_eval.sim.layouts"}
    for top in ("eval", "results", "rollouts", "wrappers", "vla", "tools", "benchmarks"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom):
                    assert node.module not in private, path


@pytest.mark.parametrize("name", LEAVES)
def test_what_is_open_to_all_imports_nothing_else(name: str) -> None:
    folder = ROOT / "eval" / name
    for path in sorted(folder.rglob("*.py")) or [folder.with_suffix(".py")]:
        assert imported(path) <= LEAVES[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("calvin_eval", {"torch", "pybullet", "hydra"}),
        ("calvin_eval.cli.main", {"torch", "pybullet", "hydra"}),
        ("calvin_eval.wrappers.loaders", {"torch", "pybullet", "hydra"}),
        ("calvin_eval.running.run", {"torch", "scipy"}),
    ],
)
def test_the_front_door_loads_nothing_heavy(module: str, heavy: set[str]) -> None:
    script = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == ""


@pytest.mark.slow
def test_the_simulator_never_imports_torch() -> None:
    script = (
        "import sys; from calvin_eval.sim import make_env, TaskOracle, load_chains\n"
        "from calvin_eval.rollouts import chain\n"
        "env = make_env('D'); env.reset(); env.close(); TaskOracle(); load_chains('official')\n"
        "print('torch' in sys.modules)"
    )
    child = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == "False"


def test_every_folder_of_code_is_packaged() -> None:
    """A subpackage that the package list forgets works here and is missing from the wheel."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for top in ("eval", *MAY_IMPORT):
        for init in (ROOT / top).rglob("__init__.py"):
            assert f'"{init.parent.relative_to(ROOT)}"' in text, f"{init.parent} is not packaged"


@pytest.mark.slow
def test_no_folder_reaches_another_by_a_string() -> None:
    """`import_module` of a name of ours would be an import that the test above cannot see."""
    for top in ("eval", *MAY_IMPORT):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                    continue
                module = re.fullmatch(r"calvin_eval\.([a-z_]+)\.[\w.:]+", node.value)
                if module is None or top == "eval":
                    continue
                assert module[1] in MAY_IMPORT[top] | {top}, f"{path}: {node.value}"
