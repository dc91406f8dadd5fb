"""What a stranger's TorchScript file can do without trust: nothing but compute."""

from __future__ import annotations

import io
import json
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from calvin_eval.errors import CheckpointError
from calvin_eval.wrappers.loaders import resolve
from calvin_eval.wrappers.loaders.detect import open_archive
from calvin_eval.wrappers.loaders.torchscript import import_script, may_run_at_loading
from calvin_eval.wrappers.testing import check_policy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

MODULES = '''
import warnings
from typing import Dict, List, Optional, Tuple

import torch

TARGET = "@target@"


class Honest(torch.nn.Module):
    def forward(self, robot_obs: torch.Tensor) -> torch.Tensor:
        return torch.tanh(robot_obs[:, :7])


class Mapped(torch.nn.Module):
    """Writes 24 bytes through a file that is mapped into memory."""

    def forward(self, robot_obs: torch.Tensor) -> torch.Tensor:
        shared = torch.from_file("@target@", True, 3, dtype=torch.double)
        shared.fill_(1.0)
        return torch.tanh(robot_obs[:, :7]) * shared[0].float()


class Saved(torch.nn.Module):
    def forward(self, robot_obs: torch.Tensor) -> torch.Tensor:
        torch.save(robot_obs, "@target@")
        return torch.tanh(robot_obs[:, :7])


class Forked(torch.nn.Module):
    def forward(self, robot_obs: torch.Tensor) -> torch.Tensor:
        return torch.jit.wait(torch.jit.fork(write, robot_obs))


def write(x: torch.Tensor) -> torch.Tensor:
    torch.save(x, "@target@")
    return torch.tanh(x[:, :7])


@torch.jit.script
class Helper:
    def __init__(self, x: torch.Tensor):
        self.x = x

    def put(self) -> torch.Tensor:
        torch.save(self.x, "@target@")
        return torch.tanh(self.x[:, :7])


class Helped(torch.nn.Module):
    def forward(self, robot_obs: torch.Tensor) -> torch.Tensor:
        return Helper(robot_obs).put()


class Printer(torch.nn.Module):
    def forward(self, robot_obs: torch.Tensor) -> torch.Tensor:
        print("\\x1b[2Jverified")
        return torch.tanh(robot_obs[:, :7])


class Warner(torch.nn.Module):
    def forward(self, robot_obs: torch.Tensor) -> torch.Tensor:
        warnings.warn("\\x1b[2Jverified")
        return torch.tanh(robot_obs[:, :7])


def whisper(x: torch.Tensor) -> torch.Tensor:
    warnings.warn("\\x1b[2Jverified")
    return torch.tanh(x[:, :7])


class Whisper(torch.nn.Module):
    def forward(self, robot_obs: torch.Tensor) -> torch.Tensor:
        return torch.jit.wait(torch.jit.fork(whisper, robot_obs))


class AtLoading(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.zeros(3)

    @torch.jit.export
    def __getstate__(self) -> Tuple[torch.Tensor, bool]:
        return (self.w, self.training)

    @torch.jit.export
    def __setstate__(self, state: Tuple[torch.Tensor, bool]) -> None:
        self.w = state[0]
        self.training = state[1]
        torch.save(self.w, "@target@")

    def forward(self, robot_obs: torch.Tensor) -> torch.Tensor:
        return torch.tanh(robot_obs[:, :7])


class Restored(torch.nn.Module):
    """An honest use of code that runs at loading."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.zeros(3)

    @torch.jit.export
    def __getstate__(self) -> Tuple[torch.Tensor, bool]:
        return (self.w, self.training)

    @torch.jit.export
    def __setstate__(self, state: Tuple[torch.Tensor, bool]) -> None:
        self.w = state[0] + 1
        self.training = state[1]

    def forward(self, robot_obs: torch.Tensor) -> torch.Tensor:
        return torch.tanh(robot_obs[:, :7]) * self.w[0]


class Rich(torch.nn.Module):
    """What honest policies are made of."""

    names: Dict[str, int]

    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(16, 2, batch_first=True)
        self.memory = torch.nn.LSTM(16, 16, batch_first=True)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(16, 16), torch.nn.GELU("tanh")])
        self.image = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding="same", padding_mode="reflect"),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
        )
        self.encoder = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.names = {"a": 1}

    def forward(self, robot_obs: torch.Tensor, rgb_static: torch.Tensor) -> torch.Tensor:
        picture = rgb_static.permute(0, 3, 1, 2).float() / 255
        picture = torch.nn.functional.interpolate(
            picture, size=[16, 16], mode="bilinear", antialias=True
        )
        picture = self.image(picture).flatten(1).repeat(1, 2)
        x = torch.nn.functional.pad(robot_obs, [0, 1])[:, None] + picture[:, None]
        x, _ = self.attention(x, x, x)
        x, _ = self.memory(x)
        x = self.encoder(x)
        for layer in self.layers:
            x = layer(x)
        seen: List[str] = []
        for name, factor in self.names.items():
            seen.append(f"{name}: {factor}")
            x = x * factor
        if len(",".join(seen)) > 99:
            raise ValueError("too many " + str(len(seen)))
        text: Optional[str] = None if len(seen) else "none"
        if text is not None:
            torch._assert(x.dim() == 3, text)
        x = torch.einsum("bti,ij->btj", x, torch.eye(16))
        x = torch.div(x, 3, rounding_mode="trunc") + x
        return torch.tanh(x[..., :7])
'''


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """The networks above; the harmful ones write `target`."""
    folder = tmp_path_factory.mktemp("nets")
    target = folder / "target"
    (folder / "nets_that_write.py").write_text(MODULES.replace("@target@", str(target)))
    sys.path.insert(0, str(folder))
    import nets_that_write

    yield nets_that_write
    sys.path.remove(str(folder))
    del sys.modules["nets_that_write"]


@pytest.fixture
def target(nets) -> Path:
    path = Path(nets.TARGET)
    path.unlink(missing_ok=True)
    return path


def saved(module, folder: str = "archive", inputs=("robot_obs",)) -> dict[str, bytes]:
    """The members of the file that torch.jit.save writes."""
    stream = io.BytesIO()
    declared = {"calvin_eval.json": json.dumps({"inputs": list(inputs)})}
    torch.jit.save(torch.jit.script(module), stream, _extra_files=declared)
    with zipfile.ZipFile(stream) as archive:
        return {
            f"{folder}/{name.partition('/')[2]}": archive.read(name) for name in archive.namelist()
        }


def write(path: Path, *members: tuple[str, bytes]) -> str:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore", UserWarning)  # about names that are there twice
        for name, content in members:
            archive.writestr(name, content)
    return str(path)


def code_of(members: dict[str, bytes]) -> str:
    return next(name for name in members if name.endswith("nets_that_write.py"))


def refused(path: str, match: str, target: Path) -> None:
    with pytest.raises(CheckpointError, match=match):
        resolve(path)
    assert not target.exists()


def test_pytorch_would_run_another_member_than_zipfile_shows(nets, tmp_path, target) -> None:
    harmful, honest = saved(nets.Mapped()), saved(nets.Honest())
    code = code_of(harmful)
    text = honest[code].replace(b"Honest", b"Mapped")
    shown = []
    for place in range(len(harmful) + 1):  # which of the two runs depends on all the others
        members = list(harmful.items())
        members.insert(place, (code, text))
        path = write(tmp_path / "twice.pt", *members)
        refused(path, "every member once", target)

        torch.jit.load(path)(torch.zeros(1, 15))  # what the check is for
        with zipfile.ZipFile(path) as archive:
            shown.append((archive.read(code) == text, target.exists()))
        target.unlink(missing_ok=True)
    assert (True, True) in shown, "zipfile never shows the honest code while PyTorch runs the other"


def test_pytorch_would_run_the_first_of_two_folders(nets, tmp_path, target) -> None:
    harmful, honest = saved(nets.Mapped(), "ff"), saved(nets.Honest(), "gg")
    decoys = {name.removeprefix("gg/"): content for name, content in honest.items()}
    path = write(tmp_path / "folders.pt", *harmful.items(), *decoys.items())
    refused(path, "one folder", target)
    path = write(tmp_path / "folders2.pt", *harmful.items(), ("code/decoy.py", b""))
    refused(path, "one folder", target)

    torch.jit.load(path)(torch.zeros(1, 15))
    assert target.exists()


def test_pytorch_would_run_code_of_another_spelling(nets, tmp_path, target) -> None:
    harmful = saved(nets.Mapped())
    members = {name.replace("/code/", "/CODE/"): data for name, data in harmful.items()}
    refused(write(tmp_path / "case.pt", *members.items()), "'from_file'", target)
    honest = saved(nets.Honest())
    decoy = honest[code_of(honest)].replace(b"Honest", b"Mapped")
    twice = [*members.items(), (code_of(harmful), decoy)]
    refused(write(tmp_path / "case2.pt", *twice), "every member once", target)


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("Mapped", "from_file"),
        ("Saved", "save"),
        ("Forked", "save"),
        ("Helped", "save"),
        ("Printer", "Print"),
    ],
)
def test_operators_are_found_wherever_they_are(nets, tmp_path, target, name, operator) -> None:
    path = write(tmp_path / "m.pt", *saved(getattr(nets, name)()).items())
    refused(path, rf"m\.pt calls '{operator}'.*--trust", target)
    resolve(path, trust=True)
    assert target.exists() == (name != "Printer")


@pytest.mark.slow
def test_what_runs_at_loading_can_open_nothing(nets, tmp_path, target) -> None:
    path = write(tmp_path / "m.pt", *saved(nets.AtLoading()).items())
    assert not target.exists()
    refused(path, "could|cannot be loaded apart|'save'", target)
    import_script(Path(path), "cpu")  # what would have happened
    assert target.exists()


@pytest.mark.slow
def test_honest_code_may_run_at_loading(nets, tmp_path) -> None:
    path = write(tmp_path / "m.pt", *saved(nets.Restored()).items())
    assert may_run_at_loading(open_archive(Path(path)))
    check_policy(resolve(path).policy)


def test_honest_networks_need_no_trust(nets, tmp_path) -> None:
    members = saved(nets.Rich(), inputs=("robot_obs", "rgb_static"))
    path = write(tmp_path / "m.pt", *members.items())
    assert not may_run_at_loading(open_archive(Path(path)))
    check_policy(resolve(path).policy)


@pytest.mark.slow
def test_quantized_networks_need_no_trust(tmp_path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(15, 7), torch.nn.Tanh()).eval()
    quantized = torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear})
    traced = torch.jit.trace(quantized, torch.zeros(1, 15))
    path = tmp_path / "m.pt"
    declared = {"calvin_eval.json": json.dumps({"inputs": ["robot_obs"]})}
    torch.jit.save(traced, path, _extra_files=declared)
    assert resolve(str(path)).kind == "torchscript"


def test_objects_of_other_compiled_classes_need_trust(nets, tmp_path, target) -> None:
    members = saved(nets.Honest())
    data = members["archive/data.pkl"]
    evil = data.replace(b"c__torch__", b"c__torch__.torch.classes.c10d.x\nStore\n0c__torch__", 1)
    path = write(tmp_path / "m.pt", *{**members, "archive/data.pkl": evil}.items())
    assert evil != data
    refused(path, "object of a compiled class", target)


def test_the_oldest_layout_needs_trust(nets, tmp_path, target) -> None:
    members = {**saved(nets.Honest()), "archive/Model.json": b"{}"}
    refused(write(tmp_path / "m.pt", *members.items()), "before 1.4", target)


def test_warnings_in_the_background_need_trust(nets, tmp_path, target) -> None:
    path = write(tmp_path / "m.pt", *saved(nets.Whisper()).items())
    refused(path, "calls 'warn' in the background", target)


def test_warnings_are_shown_and_not_obeyed(nets, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    path = write(tmp_path / "m.pt", *saved(nets.Warner()).items())
    with pytest.warns(UserWarning, match="verified"):
        resolve(path)
    shown = warnings.formatwarning(UserWarning("\x1b[2J"), UserWarning, "code.py", 1)
    assert shown == "code.py:1: UserWarning: \\x1b[2J\n"
