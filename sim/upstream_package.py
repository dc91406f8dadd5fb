"""The user's installation of `calvin_env`: finding it, telling its revision, configuring it.

Facts: `mees/calvin_env` 1431a46 ("pinned") and 797142c ("head").
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf

from calvin_eval.errors import AssetError, UsageError
from calvin_eval.sim.bullet import captured_output
from calvin_eval.sim.cameras import resolve_cameras
from calvin_eval.sim.packs import AssetPack, CameraSpec

MODIFIED: Final = "modified"
TACTILE: Final = "tactile"

# The files that physics and images follow from, and the SHA-256 over them at both revisions.
_SOURCES: Final = (
    *(f"camera/{name}.py" for name in ("camera", "gripper_camera", "static_camera")),
    "envs/play_table_env.py",
    *(f"robot/{name}.py" for name in ("mixed_ik", "robot")),
    "scene/play_table_scene.py",
    *(
        f"scene/objects/{name}.py"
        for name in (
            *("base_object", "button", "door", "fixed_object"),
            *("light", "movable_object", "switch"),
        )
    ),
)
_SOURCE_SHA256: Final[Mapping[str, str]] = {
    "c47a0bbd04aa53c1d689eeff80ffd1d95185a9dd273208b4d95a2013318884c1": "pinned",
    "1903856d8f39678927d5914e48bbeb87ca005729fbb9e0a6474fee68e920c8e9": "head",
}


def package_folder() -> Path:
    """Where the installed `calvin_env` lies."""
    import calvin_env

    return Path(str(calvin_env.__file__)).parent


def installed_revision() -> str:
    """Returns `pinned` or `head` if the installed files are that revision's, else `modified`."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        path = package_folder() / name
        content = path.read_bytes() if path.is_file() else b""
        digest.update(name.encode() + b"\0" + content.replace(b"\r\n", b"\n") + b"\0")
    return _SOURCE_SHA256.get(digest.hexdigest(), MODIFIED)


def import_upstream() -> ModuleType:
    """Import upstream's environment without its side effects on this process."""
    try:
        # Gym and Hydra complain on import, of things that a user of this project cannot change.
        silent = contextlib.redirect_stderr(io.StringIO())
        with _same_excepthook(), warnings.catch_warnings(), silent:
            warnings.simplefilter("ignore")
            from calvin_env.envs import play_table_env
    except ImportError as error:
        raise UsageError(
            f"expected upstream's package calvin_env to be importable; found: {error}. Install it "
            "and what it needs (pip install -e calvin/calvin_env in a checkout of mees/calvin with "
            "its submodule), or use this project's own simulator."
        ) from error
    module: ModuleType = play_table_env
    return module


@contextlib.contextmanager
def without_git(module: ModuleType) -> Iterator[None]:
    """Let upstream's constructor run where it does not lie in a git checkout.

    It asks git for its own revision in order to log it, and fails where there is none to ask.
    """
    asked = module.get_git_commit_hash
    module.get_git_commit_hash = lambda _: f"revision {installed_revision()}"  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.get_git_commit_hash = asked  # type: ignore[attr-defined]


@contextlib.contextmanager
def _same_excepthook() -> Iterator[None]:
    """Keep the way in which uncaught exceptions are shown: upstream installs another one."""
    hook = sys.excepthook
    try:
        yield
    finally:
        sys.excepthook = hook


def configuration(pack: AssetPack, scene: str, cameras: Sequence[str | CameraSpec]) -> DictConfig:
    """Upstream's configuration for one scene, from the pack's own files."""
    if pack.name == "builtin":
        raise AssetError(
            "expected upstream's own assets for calvin_env, which cannot read the built-in pack. "
            "Give the path of a mees/calvin checkout, or run `calvin-eval assets pull`."
        )
    conf = pack.root / "calvin_env" / "conf"
    robot = _load(conf / "robot" / "panda_longer_finger.yaml")
    bases = [_load(conf / "robot" / f"{base}.yaml") for base in robot.pop("defaults", [])]
    tactile = [str(camera) for camera in cameras if camera == TACTILE]
    specs = resolve_cameras(pack, [camera for camera in cameras if camera != TACTILE])
    config = OmegaConf.create(
        {
            "data_path": str((pack.root / "calvin_env" / "data").absolute()),
            "robot": OmegaConf.merge(*bases, robot),
            "scene": _load(conf / "scene" / f"calvin_scene_{scene}.yaml"),
            "cameras": {
                **{spec.name: camera_configuration(spec) for spec in specs},
                **{name: _load(conf / "cameras/cameras/tactile.yaml") for name in tactile},
            },
        }
    )
    if tactile:
        config.cameras.tactile.visualize_gui = False
    OmegaConf.resolve(config)
    return config


def _load(path: Path) -> DictConfig:
    try:
        config = OmegaConf.load(path)
    except OSError as error:
        raise AssetError(
            f"expected the asset file {path}; it cannot be read ({error.strerror}). "
            "Run `calvin-eval assets verify` to see what else is wrong with this pack."
        ) from error
    if not isinstance(config, DictConfig):
        raise AssetError(f"expected a mapping in {path}; found a list")
    return config


def camera_configuration(spec: CameraSpec) -> dict[str, Any]:
    """A camera in upstream's terms."""
    common = {
        "name": spec.name,
        "fov": spec.fov,
        "aspect": spec.aspect,
        "nearval": spec.near,
        "farval": spec.far,
        "width": spec.width,
        "height": spec.height,
    }
    if spec.look_from is None or spec.look_at is None or spec.up is None:
        return {"_target_": "calvin_env.camera.gripper_camera.GripperCamera", **common}
    return {
        "_target_": "calvin_env.camera.static_camera.StaticCamera",
        **common,
        "look_from": list(spec.look_from),
        "look_at": list(spec.look_at),
        "up_vector": list(spec.up),
    }


def disconnect(sim: Any) -> None:
    """Close upstream's environment, silently and once.

    Its destructor closes it again, and would take down whoever has its server's number by then.
    """
    with contextlib.redirect_stdout(io.StringIO()), captured_output():
        sim.close()
    sim.close = lambda: None
