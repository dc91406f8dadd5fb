from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from ports import reserved_port
from waiting import LIMIT

from calvin_eval.errors import AssetError
from calvin_eval.protocol import BENCHMARK
from calvin_eval.sim.assets import store
from calvin_eval.sim.assets.manifest import builtin_manifest, folder_manifest, parse_manifest

pytestmark = pytest.mark.processes

REPO, COMMIT = "someone/pack", "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "LICENSE": b"do as you like\n",
    "calvin_env/data/big.bin": bytes(range(256)) * 1200,
    "calvin_env/data/a b/empty.txt": b"",
    "calvin_models/conf/x.yaml": b"a: 1\n",
}
FAST = store.DownloadOptions(timeout=LIMIT, attempts=4, backoff=0)


def manifest_of(files: dict[str, bytes]) -> store.Manifest:
    entries = [
        store.ManifestFile(
            path=path,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            repo=REPO,
            source=path,
        )
        for path, data in files.items()
    ]
    return store.Manifest(name="fake", files=tuple(entries), sources={REPO: COMMIT})


MANIFEST = manifest_of(FILES)


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def read_tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@dataclass
class Served:
    """A server's files and vices; `requests` collects path and Range of each request."""

    files: dict[str, bytes]
    url: str = ""
    ranges: bool = True
    drop_after: dict[str, list[int]] = field(default_factory=dict)  # bytes per attempt, then die
    statuses: dict[str, list[int]] = field(default_factory=dict)  # per attempt
    length: bool = True
    redirect: str = ""
    requests: list[tuple[str, str | None]] = field(default_factory=list)


def make_handler(served: Served) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            prefix = f"/{REPO}/{COMMIT}/"
            assert self.path.startswith(prefix), self.path
            path = self.path.removeprefix(prefix).replace("%20", " ")
            served.requests.append((path, self.headers["Range"]))
            statuses = served.statuses.get(path, [])
            if served.redirect:
                self.send_response(302)
                self.send_header("Location", served.redirect)
                self.end_headers()
            elif statuses:
                self.send_error(statuses.pop(0))
            elif path not in served.files:
                self.send_error(404)
            else:
                self.answer(path, served.files[path])

        def answer(self, path: str, data: bytes) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
            start = int(asked[1]) if asked and served.ranges else 0
            if start and start >= len(data):
                return self.send_error(416)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            if served.length:
                self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            drops = served.drop_after.get(path, [])
            body = data[start:]
            self.wfile.write(body[: drops.pop(0)] if drops else body)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


@pytest.fixture
def served() -> Iterator[Served]:
    state = Served(files=dict(FILES))
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(state))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(store.ASSETS_VARIABLE, raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def pull(served: Served, dest: Path, **changes: Any) -> Path:
    values = {"base_url": served.url, "manifest": MANIFEST, "options": FAST, **changes}
    return store.pull_pack(dest, **values)


# Where packs lie


def test_cache_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert store.cache_root() == tmp_path / "cache"
    monkeypatch.delenv(store.CACHE_VARIABLE)
    assert store.cache_root().name == "calvin-eval"


def test_candidates_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(store.ASSETS_VARIABLE, str(tmp_path / "named"))
    assert [(c.origin, c.path) for c in store.official_candidates(tmp_path / "given")] == [
        ("argument", tmp_path / "given"),
        ("environment", tmp_path / "named"),
        ("cache", tmp_path / "cache" / "official"),
    ]
    monkeypatch.delenv(store.ASSETS_VARIABLE)
    assert [c.origin for c in store.official_candidates()] == ["cache"]


def test_an_absent_pack_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"assets pull.*assets import PATH"):
        store.find_official()
    (tmp_path / "cache" / "official").mkdir(parents=True)
    assert store.find_official() == tmp_path / "cache" / "official"
    monkeypatch.setenv(store.ASSETS_VARIABLE, str(tmp_path / "typo"))
    with pytest.raises(AssetError, match="CALVIN_EVAL_ASSETS"):
        store.find_official()
    with pytest.raises(AssetError, match="Give the path of a checkout"):
        store.find_official(tmp_path / "other")


# Manifests


def test_fingerprint_is_the_hash_of_sorted_lines() -> None:
    lines = sorted(f"{hashlib.sha256(data).hexdigest()}  {path}" for path, data in FILES.items())
    expected = hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()
    assert store.fingerprint(MANIFEST) == expected
    backwards = store.Manifest(name="x", files=MANIFEST.files[::-1], sources={REPO: COMMIT})
    assert store.fingerprint(backwards) == expected


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../b", "a//b", "", "a\\b", "C:/x", "a/.", ".hidden", "a/\0"]
)
def test_paths_that_leave_the_pack_cannot_be_written_down(path: str) -> None:
    with pytest.raises(AssetError, match="relative path of plain names"):
        store.ManifestFile(path=path, sha256="0" * 64, size=0)
    with pytest.raises(AssetError, match="source path"):
        store.ManifestFile(path="x", sha256="0" * 64, size=0, repo=REPO, source=path)


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": "0" * 63},
        {"sha256": "G" * 64},
        {"size": -1},
        {"size": 1.0},
        {"repo": "evil.com/a/b", "source": "x"},
        {"repo": "nameless", "source": "x"},
        {"source": "x"},
    ],
)
def test_nonsense_in_a_manifest_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(AssetError, match="manifest: expected"):
        store.ManifestFile(**{"path": "x", "sha256": "0" * 64, "size": 0, **changes})


def test_manifests_are_read_strictly() -> None:
    entry = {"path": "x", "sha256": "0" * 64, "size": 0, "repo": REPO, "source": "x"}
    data: dict[str, Any] = {
        "schema": 1,
        "name": "x",
        "license": "MIT",
        "sources": {REPO: COMMIT},
        "files": [entry],
    }
    assert parse_manifest(data, "here").files[0].path == "x"
    for broken, message in [
        ({**data, "schema": 2}, "manifest of schema 1"),
        ({**data, "extra": 1}, "manifest of schema 1"),
        ({**data, "files": [{**entry, "mode": 1}]}, "not a manifest"),
        ({**data, "files": [entry, entry]}, "each path once"),
        ({**data, "sources": {REPO: "main"}}, "commit of 40 hex"),
        ({**data, "sources": {}}, "repository among the sources"),
        ([], "manifest of schema 1"),
    ]:
        with pytest.raises(AssetError, match=message):
            parse_manifest(broken, "here")


def test_verify_finds_missing_and_altered_and_ignores_extra(tmp_path: Path) -> None:
    write_tree(tmp_path, {**FILES, "calvin_models/conf/x.yaml": b"a: 2\n", "extra": b""})
    (tmp_path / "LICENSE").unlink()
    missing, altered = store.verify_pack(tmp_path, MANIFEST)
    assert (missing.path, missing.kind, missing.found) == ("LICENSE", "missing", None)
    assert (altered.path, altered.kind) == ("calvin_models/conf/x.yaml", "altered")
    assert altered.expected == hashlib.sha256(b"a: 1\n").hexdigest()
    assert altered.found == hashlib.sha256(b"a: 2\n").hexdigest()
    assert altered.found in str(altered)
    assert altered.expected in str(altered)


def test_the_builtin_manifest_includes_borrowed_meshes(tmp_path: Path) -> None:
    urdf = '<mesh filename="package://pybullet_data/franka_panda/meshes/visual/link1.obj"/>'
    write_tree(
        tmp_path,
        {
            "calvin_env/data/robot.urdf": urdf.encode(),
            "calvin_env/data/mesh.obj": b"o x\n",
            "calvin_env/data/.hidden": b"",
            "make.py": b"pass\n",
        },
    )
    manifest = builtin_manifest(tmp_path)
    assert [entry.path for entry in manifest.files] == [
        "calvin_env/data/mesh.obj",
        "calvin_env/data/robot.urdf",
        "pybullet_data/franka_panda/meshes/visual/colors.png",
        "pybullet_data/franka_panda/meshes/visual/link1.mtl",
        "pybullet_data/franka_panda/meshes/visual/link1.obj",
    ]
    assert store.verify_pack(tmp_path, manifest) == []
    before = store.fingerprint(manifest)
    (tmp_path / "calvin_env/data/mesh.obj").write_bytes(b"o y\n")
    assert store.fingerprint(builtin_manifest(tmp_path)) != before
    assert [p.path for p in store.verify_pack(tmp_path, manifest)] == ["calvin_env/data/mesh.obj"]


@pytest.mark.parametrize("name", ["nowhere.obj", "../../../etc/passwd"])
def test_a_mesh_that_pybullet_lacks_is_an_error(tmp_path: Path, name: str) -> None:
    write_tree(tmp_path, {"r.urdf": f'<mesh filename="package://pybullet_data/{name}"/>'.encode()})
    with pytest.raises(AssetError):
        builtin_manifest(tmp_path)


def test_no_heavy_import() -> None:
    code = (
        "import sys; from calvin_eval.sim.assets import store;"
        "store.identify('builtin'); assert not {'torch', 'pybullet'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Import


def test_import_copies_the_manifests_files_only(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "src", {**FILES, "calvin_env/secret.py": b"", "README": b""})
    seen: list[tuple[str, int, int]] = []
    folder = store.import_pack(source, progress=lambda *a: seen.append(a), manifest=MANIFEST)
    assert folder == tmp_path / "cache" / "official"
    assert read_tree(folder) == FILES
    assert seen[-1][1:] == (MANIFEST.size, MANIFEST.size)
    assert [s[0] for s in seen] == list(FILES)
    assert sorted(p.name for p in folder.parent.iterdir()) == ["official", "official.lock"]
    assert os.stat(folder).st_mode & 0o777 == os.stat(source).st_mode & 0o777


def test_import_refuses_a_wrong_source_and_changes_nothing(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "src", {**FILES, "LICENSE": b"all rights reserved\n"})
    with pytest.raises(AssetError, match=r"1 of 4 files missing or altered:\n  LICENSE: altered"):
        store.import_pack(source, tmp_path / "dest", manifest=MANIFEST)
    assert not (tmp_path / "dest").exists()
    with pytest.raises(AssetError, match="found no such folder"):
        store.import_pack(tmp_path / "nowhere", manifest=MANIFEST)


def test_a_checkout_without_its_submodule_is_recognised(tmp_path: Path) -> None:
    source = write_tree(tmp_path, {k: v for k, v in FILES.items() if "calvin_env" not in k})
    with pytest.raises(AssetError, match="git submodule update --init"):
        store.import_pack(source, tmp_path / "dest", manifest=MANIFEST)


def test_many_problems_are_summed_up(tmp_path: Path) -> None:
    manifest = manifest_of({f"f{i}": b"x" for i in range(9)})
    with pytest.raises(AssetError, match=r"9 of 9 files[\s\S]*\.\.\. and 4 more[\s\S]*assets pull"):
        store.import_pack(tmp_path, tmp_path / "dest", manifest=manifest)


def test_import_repairs_a_damaged_pack_and_leaves_a_sound_one(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "src", FILES)
    folder = store.import_pack(source, manifest=MANIFEST)
    inode = os.stat(folder).st_ino
    assert store.import_pack(source, manifest=MANIFEST) == folder
    assert os.stat(folder).st_ino == inode
    (folder / "LICENSE").write_bytes(b"?")
    (folder / "calvin_models/conf/x.yaml").unlink()
    store.import_pack(source, manifest=MANIFEST)
    assert read_tree(folder) == FILES


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "src", FILES)
    dest = write_tree(tmp_path / "home", {"LICENSE": b"?", "thesis.tex": b"..."})
    with pytest.raises(AssetError, match=r"thesis\.tex there"):
        store.import_pack(source, dest, manifest=MANIFEST)
    assert read_tree(dest) == {"LICENSE": b"?", "thesis.tex": b"..."}


def test_one_filler_at_a_time(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    source = write_tree(tmp_path / "src", FILES)
    with open(tmp_path / "dest.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(AssetError, match="another process"):
            store.import_pack(source, tmp_path / "dest", manifest=MANIFEST)
    store.import_pack(source, tmp_path / "dest", manifest=MANIFEST)


def test_a_disk_that_refuses_is_an_asset_error(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "src", FILES)
    (tmp_path / "file").write_text("")
    with pytest.raises(AssetError, match=r"cannot fill .*CALVIN_EVAL_CACHE"):
        store.import_pack(source, tmp_path / "file" / "dest", manifest=MANIFEST)


# Pull


def test_pull_downloads_everything_once(served: Served, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    folder = pull(served, tmp_path / "dest", progress=lambda *a: seen.append(a))
    assert read_tree(folder) == FILES
    assert [path for path, _ in served.requests] == list(FILES)
    counts = [done for _, done, _ in seen]
    assert counts == sorted(counts)
    assert counts[-1] == MANIFEST.size
    pull(served, tmp_path / "dest")
    assert len(served.requests) == len(FILES), "a sound pack is not fetched again"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dest", "dest.lock"]


def test_pull_with_a_template_and_into_the_cache(served: Served, tmp_path: Path) -> None:
    template = served.url + "/{repo}/{commit}/{path}"
    folder = store.pull_pack(base_url=template, manifest=MANIFEST, options=FAST)
    assert folder == tmp_path / "cache" / "official"
    assert read_tree(folder) == FILES


def test_a_server_that_dies_is_continued_where_it_stopped(served: Served, tmp_path: Path) -> None:
    big = "calvin_env/data/big.bin"
    served.drop_after[big] = [100_000, 50_000]
    assert read_tree(pull(served, tmp_path / "dest")) == FILES
    ranges = [asked for path, asked in served.requests if path == big]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize("length", [True, False])
def test_a_server_without_ranges_is_asked_again_from_the_start(
    served: Served, tmp_path: Path, length: bool
) -> None:
    served.ranges, served.length = False, length
    served.drop_after["calvin_env/data/big.bin"] = [100_000, 50_000]
    assert read_tree(pull(served, tmp_path / "dest")) == FILES


def test_a_pull_that_failed_is_continued_by_the_next(served: Served, tmp_path: Path) -> None:
    big = "calvin_env/data/big.bin"
    served.drop_after[big] = [1000] * 3
    with pytest.raises(AssetError, match=r"after 3 attempts: .*3000 of 307200.*pull` again"):
        pull(served, tmp_path / "dest", options=store.DownloadOptions(attempts=3, backoff=0))
    assert not (tmp_path / "dest").exists()
    served.requests.clear()
    assert read_tree(pull(served, tmp_path / "dest")) == FILES
    assert served.requests[0] == (big, "bytes=3000-")
    assert "LICENSE" not in [path for path, _ in served.requests], "it was there already"


def test_an_altered_file_is_refused_and_removed(served: Served, tmp_path: Path) -> None:
    served.files["calvin_models/conf/x.yaml"] = b"a: 2\n"
    with pytest.raises(AssetError) as caught:
        pull(served, tmp_path / "dest")
    for text in ("a: 1\n", "a: 2\n"):
        assert hashlib.sha256(text.encode()).hexdigest() in str(caught.value)
    assert "--base-url" in str(caught.value)
    assert not (tmp_path / "dest").exists()
    assert not list((tmp_path / "dest.partial").rglob("x.yaml*"))
    assert [path for path, _ in served.requests].count("calvin_models/conf/x.yaml") == 1


@pytest.mark.parametrize("data", [b"a: 1\n" * 1000, b"a"])
@pytest.mark.parametrize("length", [True, False])
def test_a_file_of_another_size_is_refused(
    served: Served, tmp_path: Path, data: bytes, length: bool
) -> None:
    served.files["calvin_models/conf/x.yaml"] = data
    served.length = length
    with pytest.raises(AssetError, match=r"x\.yaml"):
        pull(served, tmp_path / "dest")
    assert not (tmp_path / "dest").exists()
    if length:  # a short body that was announced is wrong; one that was not may go on
        assert [path for path, _ in served.requests].count("calvin_models/conf/x.yaml") == 1


def test_an_endless_file_is_cut_off(served: Served, tmp_path: Path) -> None:
    served.files["LICENSE"] = b"x" * 50_000_000
    with pytest.raises(AssetError, match="more bytes than that"):
        pull(served, tmp_path / "dest")
    assert read_tree(tmp_path / "dest.partial") == {}


@pytest.mark.parametrize("size", [100, 307_200, 400_000])
def test_a_wrong_partial_file_is_thrown_away(served: Served, tmp_path: Path, size: int) -> None:
    write_tree(tmp_path / "dest.partial", {"calvin_env/data/big.bin.part": b"!" * size})
    assert read_tree(pull(served, tmp_path / "dest")) == FILES


def test_leftovers_of_another_pack_are_not_installed(served: Served, tmp_path: Path) -> None:
    write_tree(tmp_path / "dest.partial", {"old/file": b"", "old/other.part": b"", "LICENSE": b"?"})
    assert read_tree(pull(served, tmp_path / "dest")) == FILES


def test_a_damaged_pack_is_repaired_by_its_damaged_files(served: Served, tmp_path: Path) -> None:
    write_tree(tmp_path / "dest", {**FILES, "LICENSE": b"?"})
    assert read_tree(pull(served, tmp_path / "dest")) == FILES
    assert served.requests == [("LICENSE", None)]


def test_a_missing_file_is_not_retried(served: Served, tmp_path: Path) -> None:
    del served.files["LICENSE"]
    with pytest.raises(AssetError, match=r"LICENSE, found HTTP 404.*--base-url.*assets import"):
        pull(served, tmp_path / "dest")
    assert len(served.requests) == 1


def test_passing_trouble_is_retried(served: Served, tmp_path: Path) -> None:
    served.statuses["LICENSE"] = [503, 429, 500]
    assert read_tree(pull(served, tmp_path / "dest")) == FILES
    served.statuses["LICENSE"] = [503] * 9
    with pytest.raises(AssetError, match="after 4 attempts: HTTP 503"):
        pull(served, tmp_path / "other")


def test_waits_grow_between_attempts(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("calvin_eval.sim.assets.download.time.sleep", waits.append)
    served.statuses["LICENSE"] = [503] * 9
    options = store.DownloadOptions(attempts=4, backoff=0.5)
    with pytest.raises(AssetError):
        pull(served, tmp_path / "dest", options=options)
    assert waits == [0.5, 1.0, 2.0]


def test_nobody_there_is_an_asset_error(served: Served, tmp_path: Path) -> None:
    options = store.DownloadOptions(attempts=1, timeout=LIMIT)
    with reserved_port() as port, pytest.raises(AssetError, match="after 1 attempts"):
        pull(served, tmp_path / "dest", base_url=f"http://127.0.0.1:{port}", options=options)


@pytest.mark.parametrize("url", ["file:///etc", "ftp://x/y", "/srv/mirror", "{path}"])
def test_only_web_addresses_are_pulled_from(served: Served, tmp_path: Path, url: str) -> None:
    with pytest.raises(AssetError, match="begins with https"):
        pull(served, tmp_path / "dest", base_url=url)


def test_redirects_stay_on_the_web(served: Served, tmp_path: Path) -> None:
    served.redirect = "file:///etc/passwd"
    with pytest.raises(AssetError, match="302"):
        pull(served, tmp_path / "dest")
    served.redirect = "ftp://127.0.0.1/x"
    with pytest.raises(AssetError, match="redirect to ftp"):
        pull(served, tmp_path / "dest")


def test_redirects_never_leave_https() -> None:
    from email.message import Message
    from http.client import HTTPMessage
    from io import BytesIO
    from urllib.request import Request

    from calvin_eval.sim.assets.download import _Redirects

    headers = HTTPMessage()
    assert isinstance(headers, Message)
    secure = Request("https://a.example/x")
    arguments = (BytesIO(), 302, "Found", headers)
    with pytest.raises(AssetError, match="stay on https"):
        _Redirects().redirect_request(secure, *arguments, "http://a.example/x")
    onward = _Redirects().redirect_request(secure, *arguments, "https://b.example/x")
    assert onward is not None
    assert onward.full_url == "https://b.example/x"


@pytest.mark.parametrize("changes", [{"timeout": 0}, {"attempts": 0}, {"backoff": -1}])
def test_impossible_options_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="attempts >= 1"):
        store.DownloadOptions(**changes)


# The official pack


def test_the_official_manifest_is_the_one_that_scores_are_held_against() -> None:
    manifest = store.official_manifest()
    assert store.fingerprint(manifest) == BENCHMARK.pack
    assert manifest.sources == {
        "mees/calvin": "fa03f01f19c65920e18cf37398a9ce859274af76",
        "mees/calvin_env": "1431a46bd36bde5903fb6345e68b5ccc30def666",
    }
    for entry in manifest.files:
        inner = entry.path.removeprefix("calvin_env/")
        repo = "mees/calvin" if inner == entry.path else "mees/calvin_env"
        assert (entry.repo, entry.source) == (repo, inner)


def referred(checkout: Path) -> set[str]:
    """Every file of the checkout that the four scenes and the robot lead to."""
    data = checkout / "calvin_env" / "data"
    todo = [data / "franka_panda/panda_longer_finger.urdf", data / "plane/plane.urdf"]
    for scene in "ABCD":
        path = checkout / f"calvin_env/conf/scene/calvin_scene_{scene}.yaml"
        for objects in yaml.safe_load(path.read_text())["objects"].values():
            todo += [data / spec["file"] for spec in objects.values()]
    found: set[str] = set()
    while todo:
        path = Path(os.path.normpath(todo.pop()))
        name = path.relative_to(checkout).as_posix()
        if name in found or not path.is_file():
            continue
        found.add(name)
        names: list[str] = []
        if path.suffix == ".urdf":
            meshes = (element.get("filename") for element in ET.parse(path).iter())
            names = [mesh.removeprefix("package://") for mesh in meshes if mesh]
            assert all((path.parent / name).is_file() for name in names)
        elif path.suffix in (".obj", ".mtl"):
            names = re.findall(r"(?m)^\s*(?:mtllib|map_\w+)\s+(\S+)", path.read_text())
        todo += [path.parent / name for name in names]
    return found


def test_the_official_manifest_is_closed_under_references(official: str) -> None:
    manifest = store.official_manifest()
    paths = {entry.path for entry in manifest.files}
    needed = referred(Path(official))
    assert needed <= paths
    rest = paths - needed
    assert {path for path in rest if path.startswith("calvin_env/data")} == {
        "calvin_env/data/franka_panda/LICENSE.txt"
    }
    assert {path for path in rest if not path.startswith("calvin_env/data")} == {
        "LICENSE",
        "calvin_env/LICENSE",
        *(f"calvin_env/conf/scene/calvin_scene_{scene}.yaml" for scene in "ABCD"),
        *(f"calvin_env/conf/robot/panda{kind}.yaml" for kind in ("", "_longer_finger")),
        *(f"calvin_env/conf/cameras/cameras/{name}.yaml" for name in ("static", "gripper")),
        *(f"calvin_models/conf/annotations/new_playtable{s}.yaml" for s in ("", "_validation")),
        "calvin_models/conf/callbacks/rollout/tasks/new_playtable_tasks.yaml",
    }


def test_the_checkout_is_the_official_pack_and_can_be_imported(official: str) -> None:
    fingerprint = BENCHMARK.pack
    assert store.identify(official) == ("official", Path(official), fingerprint)
    folder = store.import_pack(official)
    assert store.identify("official") == ("official", folder, fingerprint)
    assert set(read_tree(folder)) == {entry.path for entry in store.official_manifest().files}


def test_a_changed_pack_is_refused_or_has_another_name(official: str) -> None:
    folder = store.import_pack(official)
    scene = folder / "calvin_env/conf/scene/calvin_scene_D.yaml"
    scene.write_text(scene.read_text() + "\n")
    with pytest.raises(AssetError, match=r"calvin_scene_D\.yaml: altered"):
        store.identify(folder)
    name, root, fingerprint = store.identify(folder, verify=False)
    assert (name, root) == ("custom", folder)
    assert fingerprint == store.fingerprint(folder_manifest("custom", folder))
    assert fingerprint != BENCHMARK.pack
    assert store.identify(official, verify=False)[0] == "official"


def test_the_builtin_pack_is_identified() -> None:
    name, root, fingerprint = store.identify()
    assert name == "builtin"
    assert root.name == "builtin"
    assert fingerprint == store.identify("builtin", verify=False)[2]
    assert fingerprint != BENCHMARK.pack
    with pytest.raises(AssetError, match="no such folder"):
        store.identify("/nowhere/at/all", verify=False)
