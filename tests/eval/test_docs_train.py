"""docs/train.md: its commands are understood, its example runs, its table has today's values."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tiny_training import run, write_data

from calvin_eval.config.training import compose_training

PAGE = (Path(__file__).parents[2] / "docs" / "train.md").read_text(encoding="utf-8")
BLOCKS = "\n".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", "")
COMMANDS = re.findall(r"^\$ .*calvin[-_]eval train (?!audit )(.*)$", BLOCKS, re.MULTILINE)
RESUMING = [command for command in COMMANDS if "resume=true" in command]


def test_there_are_commands() -> None:
    assert len(COMMANDS) == 11
    assert len(RESUMING) == 1


def test_launchers_understand_their_lines() -> None:
    """Of their own parsers; what the module is given is among the commands below."""
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import get_args_parser

    lines = [shlex.split(line) for line in re.findall(r"^\$ (accel.*|torchrun.*)$", BLOCKS, re.M)]
    assert [words[0] for words in lines] == ["accelerate", "torchrun"]
    accelerate = launch_command_parser().parse_args(lines[0][2:])
    assert (accelerate.module, accelerate.multi_gpu, accelerate.num_processes) == (True, True, 4)
    torchrun = get_args_parser().parse_args(lines[1][1:])
    assert (torchrun.module, torchrun.standalone, torchrun.nproc_per_node) == (True, True, "4")
    for found in (accelerate, torchrun):
        assert found.training_script == "calvin_eval"
        assert found.training_script_args[0] == "train"


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in RESUMING])
def test_commands_are_understood(command: str) -> None:
    words = shlex.split(command, comments=True)
    config = compose_training(words)
    section = config.project["train_dataset"]
    rlds = section["type"] == "OpenVLADataset"
    assert section["data_dir"].endswith("/open-x-embodiment" if rlds else "/training")
    assert config.out.parts[0] == "runs"


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    data = write_data(tmp_path / "data")
    run(data, tmp_path / "runs/tiny", "trainer.max_steps=1")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code, names)
    batch = names["batch"]
    assert isinstance(batch, dict)
    assert batch["rgb"].shape == (4, 1, 3, 16, 16)


@pytest.mark.slow
def test_the_tables_defaults_are_those_of_the_configuration() -> None:
    plain = compose_training(["data=d", "model=smolvlm"]).project
    tiny = compose_training(["data=d"]).project
    row = r"^\| `(\w+)` \| `?([\w.-]+)`?.*? \| `?([\w.-]+)`? \|$"
    rows = re.findall(row, PAGE, re.MULTILINE)
    assert len(rows) >= 8
    for key, general, own in rows:
        for project, shown in ((plain, general), (tiny, own)):
            found = project[key]
            assert str(found).lower() == shown or float(found) == float(shown), key
