"""A policy's options from a YAML file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from calvin_eval.config.compose import compose_config
from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.running.prepare import policy_spec

POLICY = """
class Model:
    requirements = {}

    def __init__(self, path, config, depth=1):
        self.path, self.config, self.depth = path, config, depth

    def reset(self):
        pass

    def step(self, obs, goal):
        return [0, 0, 0, 0, 0, 0, 1]
"""

ARGUMENTS = """
path: weights/last.pt
config:
  encoder: {width: 8, layers: [1, 2]}
  name: ${not_read}
depth: 2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(POLICY)
    (tmp_path / "args.yaml").write_text(ARGUMENTS)
    return tmp_path


def test_a_class_gets_the_files_values_below_explicit_ones(folder: Path) -> None:
    config = compose_config(
        [
            "ckpt=mine.py:Model", "policy.arguments=args.yaml", "policy.options.depth=3",
            "policy.options.config.encoder.width=16",
        ]
    )  # fmt: skip
    model = policy_spec(config).load().policy.model
    assert model.path == "weights/last.pt"
    assert model.depth == 3
    assert model.config == {"encoder": {"width": 16, "layers": [1, 2]}, "name": "${not_read}"}
    decisive = config.decisive()["policy"]
    assert decisive["arguments_sha256"] == hashlib.sha256(ARGUMENTS.encode()).hexdigest()
    assert decisive["options"]["config"] == model.config


def test_names_that_the_class_does_not_take_are_errors(folder: Path) -> None:
    (folder / "args.yaml").write_text("path: a\nconfig: b\ndept: 2\n")
    config = compose_config(["ckpt=mine.py:Model", "policy.arguments=args.yaml"])
    with pytest.raises(UnknownNameError, match="depth"):
        policy_spec(config).load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n- 2\n", "expected a table of names and values.* found list"),
        ("1: 2\n", "expected a table"),
        ("path: [1\n", "cannot be read: while parsing"),
        ("a: !!python/object/apply:os.system [ls]\n", "cannot be read: could not determine"),
        ("\udcff", "cannot be read"),
    ],
)
def test_what_is_no_table_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "args.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError, match=message):
        compose_config(["ckpt=mine.py:Model", "policy.arguments=args.yaml"])


def test_a_missing_file_is_named_and_an_empty_one_is_empty(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"policy\.arguments=none\.yaml .*No such file"):
        compose_config(["ckpt=mine.py:Model", "policy.arguments=none.yaml"])
    (folder / "empty.yaml").write_text("# nothing\n")
    config = compose_config(["ckpt=mine.py:Model", "policy.arguments=empty.yaml"])
    assert dict(config.policy.options) == {}
