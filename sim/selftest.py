"""Does this machine compute what the reference machine computed, to the last bit?

A fixed trace is replayed. Hashes of states are compared with stored ones, TinyRenderer's images
with stored hashes, and those of EGL, whose drivers differ, with stored images. References are
kept by the pack's fingerprint; the images are of the built-in pack, since upstream's are
not part of this package.

`python -m calvin_eval.sim.selftest --write --assets PATH` records all of them anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval.protocol import OFFICIAL, REVISIONS, SCENES, Revision
from calvin_eval.sim.machine import differences, machine_facts
from calvin_eval.sim.packs import AssetPack, load_pack
from calvin_eval.sim.render import resolve_backend
from calvin_eval.sim.selftest_trace import (
    DRAWN_STEP,
    FULL_STEPS,
    QUICK_STEPS,
    image_hash,
    psnr,
    replay,
)

SelftestOutcome: TypeAlias = Literal["same", "near", "different", "unknown"]
Kind: TypeAlias = Literal["physics", "image"]

SAME_DB: Final = 35.0
"""From here on two drivers draw alike: Mesa's versions, other rounding of the same image."""
NEAR_DB: Final = 20.0
"""From here on the scene is right and its edges differ: a 24-bit depth buffer gives about 28."""

_DATA: Final = Path(__file__).parent / "data"
_REFERENCES: Final = _DATA / "selftest.json"
_FRAMES: Final = _DATA / "selftest_frames.npz"
_FRAMES_SCENE: Final = "D"


@dataclass(frozen=True, kw_only=True)
class SelftestResult:
    """One comparison with a reference.

    Attributes:
        kind: whether a state or an image was compared.
        subject: which one.
        outcome: `same`; `near` for an image that is not the reference but shows the scene;
            `different`; `unknown` where there is no reference for this pack.
        expected: a hash, or the least decibels; empty if unknown.
        found: likewise.
        causes: what differs between this machine and the reference's and can explain it.
    """

    kind: Kind
    subject: str
    outcome: SelftestOutcome
    expected: str
    found: str
    causes: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """Expected, found, why, and what to do, in one paragraph."""
        if self.outcome == "same":
            return f"{self.kind}, {self.subject}: as expected ({self.found})"
        if self.outcome == "unknown":
            return f"{self.kind}, {self.subject}: no reference for this pack, found {self.found}"
        why = "; ".join(self.causes) or (
            "unknown, since nothing that is known to matter differs from the reference machine; "
            "PyBullet may have been built with other compiler flags"
        )
        return (
            f"{self.kind}, {self.subject}: expected {self.expected}, found {self.found}. "
            f"Likely cause: {why}. Run `calvin-eval doctor` for a remedy."
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {**asdict(self), "causes": list(self.causes)}


def has_reference(pack: AssetPack) -> bool:
    """Whether states of this very pack are stored."""
    return pack.fingerprint in references()["packs"]


def quick_selftest(
    pack: AssetPack, scene: str, revision: Revision = OFFICIAL.revision
) -> SelftestResult:
    """Replay the first 25 steps, without images, and compare the state.

    Args:
        pack: the assets of the run.
        scene: A, B, C or D.
        revision: of calvin_env.

    Raises:
        AssetError: Bullet cannot load the pack.
    """
    done = replay(pack, scene, revision, steps=QUICK_STEPS)
    return _physics(scene, revision, done.hashes, _stored(pack))


def full_selftest(pack: AssetPack, render: str = "tiny") -> list[SelftestResult]:
    """Replay the whole trace in every scene and revision, and compare images.

    Args:
        pack: the assets.
        render: `tiny` (every image of every scene, exactly), `egl`, `fast` or `gl` (scene D of
            the built-in pack, by its distance from EGL's images) or `none`.

    Raises:
        AssetError, RenderError: the pack cannot be loaded or nothing can be drawn here.
    """
    results = []
    stored = _stored(pack)
    for scene in SCENES:
        for revision in REVISIONS:
            draw = render == "tiny" and revision == REVISIONS[0]
            done = replay(pack, scene, revision, render="tiny" if draw else "none")
            results.append(_physics(scene, revision, done.hashes, stored))
            results += [
                _tiny_image(pack, scene, name, image) for name, image in done.images.items()
            ]
    return results + (_like_egl(render) if render in ("egl", "fast", "gl") else [])


def _stored(pack: AssetPack) -> dict[str, Any]:
    """A pack's references; nothing for a pack that was never recorded."""
    stored: dict[str, Any] = references()["packs"].get(pack.fingerprint, {})
    return stored


def _physics(
    scene: str, revision: str, found: Mapping[str, str], stored: Mapping[str, Any]
) -> SelftestResult:
    """Compares the first part that differs, or else the last: later parts follow from earlier."""
    expected = stored["physics"][scene][revision] if stored else dict.fromkeys(found, "")
    part = next((name for name in found if found[name] != expected[name]), list(found)[-1])
    steps = QUICK_STEPS if part == "quick" else FULL_STEPS
    subject = f"scene {scene} ({revision}) after {steps} steps"
    return _compared("physics", subject, expected[part], found[part])


def _compared(kind: Kind, subject: str, expected: str, found: str) -> SelftestResult:
    outcome: SelftestOutcome = (
        "unknown" if not expected else "same" if found == expected else "different"
    )
    return SelftestResult(
        kind=kind,
        subject=subject,
        outcome=outcome,
        expected=expected,
        found=found,
        causes=_causes() if outcome == "different" else (),
    )


def _causes() -> tuple[str, ...]:
    return differences(references()["recorded"]["machine"])


def _tiny_image(pack: AssetPack, scene: str, name: str, image: NDArray[Any]) -> SelftestResult:
    stored = _stored(pack)
    expected = stored["tiny"][scene][name] if stored else ""
    result = _compared(
        "image", f"{name} of scene {scene} by TinyRenderer", expected, image_hash(image)
    )
    reference = frames().get(f"tiny_{name}") if pack.name == "builtin" else None
    if result.outcome != "different" or scene != _FRAMES_SCENE or reference is None:
        return result
    decibels = psnr(reference, image)  # an image is stored: say how far this one is from it
    outcome: SelftestOutcome = "near" if decibels >= NEAR_DB else "different"
    return replace(result, outcome=outcome, found=f"{result.found}, {decibels:.1f} dB from it")


def _like_egl(render: str) -> list[SelftestResult]:
    """Both cameras over the built-in scene: a test of the renderer, not of the pack in use."""
    done = replay(load_pack("builtin"), _FRAMES_SCENE, steps=DRAWN_STEP, render=render)
    driver = references()["recorded"]["egl"]
    return [
        _image_like_egl(f"{name} by {render}", frames()[f"egl_{name}"], image, driver["version"])
        for name, image in done.images.items()
        if name.startswith("rgb_")
    ]


def _image_like_egl(
    subject: str, reference: NDArray[Any], image: NDArray[Any], driver: str
) -> SelftestResult:
    decibels = psnr(reference, image)
    outcome: SelftestOutcome = "near" if decibels >= NEAR_DB else "different"
    if decibels >= SAME_DB:
        outcome = "same"
    return SelftestResult(
        kind="image",
        subject=subject,
        outcome=outcome,
        expected=f"at least {SAME_DB:.0f} dB",
        found="every bit" if np.isinf(decibels) else f"{decibels:.1f} dB",
        causes=() if outcome == "same" else (f"the reference was drawn by {driver}",),
    )


@lru_cache(maxsize=1)
def references() -> dict[str, Any]:
    """The stored hashes by fingerprint, and what they were recorded with."""
    stored: dict[str, Any] = json.loads(_REFERENCES.read_text(encoding="utf-8"))
    return stored


@lru_cache(maxsize=1)
def frames() -> dict[str, NDArray[np.uint8]]:
    """The stored images: `tiny_rgb_static` (200, 200, 3) uint8, `egl_rgb_gripper` and so on."""
    with np.load(_FRAMES) as stored:
        return dict(stored)


def _record(pack: AssetPack) -> dict[str, Any]:
    """A pack's references, as this machine computes them."""
    entry: dict[str, Any] = {"name": pack.name, "physics": {}, "tiny": {}}
    for scene in SCENES:
        drawn = replay(pack, scene, render="tiny", steps=DRAWN_STEP).images
        entry["tiny"][scene] = {name: image_hash(image) for name, image in drawn.items()}
        entry["physics"][scene] = {
            revision: dict(replay(pack, scene, revision).hashes) for revision in REVISIONS
        }
    return entry


def _write(packs: Sequence[AssetPack]) -> None:
    """Replace the references of these packs; those of packs by other names are kept."""
    old = references()["packs"] if _REFERENCES.exists() else {}
    names = {pack.name for pack in packs}
    kept = {key: entry for key, entry in old.items() if entry["name"] not in names}
    content = {
        "schema": 1,
        "recorded": {"machine": machine_facts(), "egl": resolve_backend("egl").as_dict()},
        "packs": {**kept, **{pack.fingerprint: _record(pack) for pack in packs}},
    }
    _REFERENCES.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    pack = load_pack("builtin")
    images = {
        f"{render}_{name}": image
        for render in ("tiny", "egl")
        for name, image in replay(
            pack, _FRAMES_SCENE, steps=DRAWN_STEP, render=render
        ).images.items()
        if name.startswith("rgb_")
    }
    np.savez_compressed(_FRAMES, allow_pickle=False, **images)
    references.cache_clear()
    frames.cache_clear()


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare this machine with the references, or with `--write` replace them."""
    parser = argparse.ArgumentParser(prog="python -m calvin_eval.sim.selftest")
    parser.add_argument("--write", action="store_true", help="record the references anew")
    parser.add_argument("--assets", action="append", default=[], help="a pack besides our own")
    given = parser.parse_args(arguments)
    packs = [load_pack("builtin"), *map(load_pack, given.assets)]
    if given.write:
        _write(packs)
    results = [result for pack in packs for result in full_selftest(pack)]
    wrong = [result.message for result in results if result.outcome != "same"]
    sys.stderr.write("".join(f"{message}\n" for message in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
