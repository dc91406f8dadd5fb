from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calvin_eval.errors import CalvinEvalError, CheckpointError, UnknownNameError, UsageError
from calvin_eval.wrappers.builtin import RandomPolicy, ReplayPolicy, StillPolicy
from calvin_eval.wrappers.loaders import FILES, resolve
from calvin_eval.wrappers.loaders.base import jsonable, readable_size
from calvin_eval.wrappers.loaders.detect import detect


def write_recording(path: Path) -> Path:
    np.savez(path, chain0002_sub0_actions=np.zeros((3, 7)), chain0002_sub1_actions=np.ones((4, 7)))
    return path


def write_safetensors(path: Path) -> Path:
    header = {"__metadata__": {}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    return path


@pytest.mark.slow
def test_imports_are_light():
    code = (
        "import sys\n"
        "import calvin_eval.wrappers.loaders, calvin_eval.wrappers.custom\n"
        "import calvin_eval.wrappers.builtin, calvin_eval.wrappers.testing\n"
        "calvin_eval.wrappers.loaders.resolve('builtin:random')\n"
        "heavy = {'torch', 'pybullet', 'hydra'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class TestBuiltin:
    @pytest.mark.parametrize(("name", "kind"), [("random", RandomPolicy), ("still", StillPolicy)])
    def test_names(self, name, kind):
        loaded = resolve(f"builtin:{name}", seed=3)
        assert type(loaded.policy) is kind
        assert loaded.kind == loaded.metadata["kind"] == "builtin"
        assert name in loaded.description
        assert "\n" not in loaded.description

    def test_seed_and_options_reach_the_policy(self):
        loaded = resolve("builtin:random", seed=3, options={"hold": 4})
        assert (loaded.policy.seed, loaded.policy.hold) == (3, 4)  # type: ignore[attr-defined]
        assert loaded.metadata == {
            "kind": "builtin",
            "ckpt": "builtin:random",
            "options": {"hold": 4},
            "seed": 3,
            "hold": 4,
        }

    @pytest.mark.parametrize(
        ("ckpt", "options", "error", "message"),
        [
            ("builtin:radnom", {}, UnknownNameError, "Did you mean 'random'"),
            ("builtin:", {}, UnknownNameError, "random, still, replay"),
            ("builtin:random", {"holt": 3}, UnknownNameError, "Did you mean 'hold'"),
            ("builtin:still", {"hold": 3}, UnknownNameError, r"\(none\)"),
            ("builtin:replay", {}, UsageError, "policy.options.file=PATH"),
            ("builtin:replay", {"file": "none.npz"}, CheckpointError, "no such file: none.npz"),
        ],
    )
    def test_mistakes_are_explained(self, ckpt, options, error, message):
        with pytest.raises(error, match=message):
            resolve(ckpt, options=options)

    def test_recording_by_path_and_by_name(self, tmp_path):
        file = str(write_recording(tmp_path / "r.npz"))
        by_path = resolve(file, options={"chunk": 2})
        by_name = resolve("builtin:replay", options={"file": file, "chunk": 2})
        for loaded in (by_path, by_name):
            assert isinstance(loaded.policy, ReplayPolicy)
            assert loaded.policy.chunk == 2
            assert loaded.kind == "recording"
            assert "2 subtasks of 1 chains" in loaded.description
            assert loaded.metadata["sha256"][:12] in loaded.description
            json.dumps(loaded.metadata)


class TestRecognition:
    @pytest.mark.parametrize(
        ("ckpt", "message"),
        [
            ("ws://localhost:port", "expected ws://HOST:PORT"),
            ("https://example.org/policy.pt", "calvin-eval downloads nothing"),
            ("no/such/policy.pt", "no such file or policy: 'no/such/policy.pt'"),
            ("policy.pt", "no such file or policy"),
            ("", "no such file or policy"),
        ],
    )
    def test_what_is_not_there(self, tmp_path, monkeypatch, ckpt, message):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(CheckpointError, match=message):
            resolve(ckpt)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("empty.pt", b"", "is empty"),
            ("noise.pt", b"\x00\x01\x02" * 100, "of no kind that calvin-eval knows"),
            ("text.txt", b"hello", "of no kind"),
            (
                "lfs.pt",
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                "git lfs pull",
            ),
            ("code.py", b"class A: ...", r"code.py:Class"),
            ("cut.pt", b"PK\x03\x04" + bytes(50), "truncated or damaged"),
            ("cut.safetensors", (500).to_bytes(8, "little") + b'{"w": ', "damaged safetensors"),
            ("cut.pkl", b"\x80\x04", "truncated or damaged"),
            ("plain.pkl", pickle.dumps({"a": 1}), "torch.save did not write"),
        ],
    )
    def test_unusable_files(self, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message) as caught:
            resolve(str(tmp_path / name))
        assert "\n" not in str(caught.value)

    def test_the_name_does_not_matter(self, tmp_path):
        renamed = write_recording(tmp_path / "r.npz").rename(tmp_path / "weights.safetensors")
        assert resolve(str(renamed)).kind == "recording"

    def test_folder(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"is a folder.*a TorchScript file"):
            resolve(str(tmp_path))

    def test_safetensors(self, tmp_path):
        path = write_safetensors(tmp_path / "w.safetensors")
        with pytest.raises(
            CheckpointError, match=r"without an architecture \(1 tensors, such as 'w'"
        ):
            resolve(str(path), trust=True)

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            (["a.npy", "b.npy"], "NumPy archive without actions"),
            (["readme.txt"], "unknown layout"),
            ([], "damaged|unknown layout|no kind"),
            (["p/data/aotinductor/model/a.so"], "AOTInductor"),
        ],
    )
    def test_other_archives(self, tmp_path, members, message):
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
            for member in members:
                archive.writestr(member, b"x")
        with pytest.raises(CheckpointError, match=message):
            resolve(str(tmp_path / "x.pt"))

    @pytest.mark.parametrize("program", ["serialized_exported_program.json", "p/models/model.json"])
    def test_both_layouts_of_torch_export(self, tmp_path, program):
        with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
            archive.writestr(program, b"{}")
        with pytest.raises(CheckpointError, match=r"torch.export archive.*--trust"):
            resolve(str(tmp_path / "x.pt"))

    def test_plain_pickles_are_never_executed(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "sprung",))

        for trust in (False, True):
            (tmp_path / "trap.pkl").write_bytes(pickle.dumps(Trap()))
            with pytest.raises(CheckpointError):
                resolve(str(tmp_path / "trap.pkl"), trust=trust)
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.slow
    @given(data=st.data())
    def test_damaged_files_give_an_error_of_ours_or_still_load(self, tmp_path_factory, data):
        folder = tmp_path_factory.mktemp("damaged")
        write = data.draw(st.sampled_from([write_recording, write_safetensors]))
        path = write(folder / "x.npz")
        content = bytearray(path.read_bytes())
        cut = data.draw(st.integers(0, len(content)))
        content = content[:cut]
        for index in data.draw(st.lists(st.integers(0, max(0, cut - 1)), max_size=3)):
            if content:
                content[index] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            loaded = resolve(str(path))
        except CalvinEvalError:
            return
        assert loaded.kind == "recording"

    @given(st.binary(max_size=200))
    def test_any_bytes_are_a_known_kind_or_an_error_of_ours(self, tmp_path_factory, content):
        path = tmp_path_factory.mktemp("noise") / "x"
        path.write_bytes(content)
        with contextlib.suppress(CheckpointError):
            assert detect(path) in FILES


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (3_140_000, "3.1 MB"), (7 * 10**9, "7.0 GB")],
)
def test_readable_size(size, text):
    assert readable_size(size) == text


def test_jsonable():
    assert jsonable({"a": [1, None]}) == {"a": [1, None]}
    assert jsonable(float("nan")) == "nan"
    assert jsonable({1, 2}) == "{1, 2}"
