"""What a recorded run was made with, read from its header: chains, rules, assets, simulator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from calvin_eval.errors import AssetError, RunFolderError
from calvin_eval.results.protocol import recorded_protocol
from calvin_eval.results.store import HEADER
from calvin_eval.rollouts.worker import SimulatorSpec
from calvin_eval.sim.chain_refs import ChainRef
from calvin_eval.sim.packs import SCENES, AssetPack, load_pack
from calvin_eval.sim.render import resolve_backend

_NAMED_PACKS = ("builtin", "official")


def chain_ref(header: Mapping[str, Any]) -> ChainRef:
    """Returns the chain list that a run used; raises RunFolderError if the header lacks it."""
    return ChainRef(
        name=entry(header, str, "chains", "list"),
        sha256=entry(header, str, "chains", "sha256"),
        scene=_choice(header, SCENES, "scene"),
        layout=recorded_protocol(header).layout,
    )


def simulator_spec(header: Mapping[str, Any], pack: AssetPack) -> SimulatorSpec:
    """Returns the simulator of a run, without cameras and renderer.

    Args:
        header: of the run.
        pack: the run's assets, see `find_pack`.

    Raises:
        RunFolderError: the header lacks a part of it.
    """
    rules = recorded_protocol(header)
    return SimulatorSpec(
        backend=_choice(header, ("calvin_eval", "calvin_env"), "config", "sim", "backend"),
        assets=pack.location,
        scene=_choice(header, SCENES, "scene"),
        revision=rules.revision,
        render=resolve_backend("none"),
        cameras=(),
        deterministic=rules.deterministic,
    )


def find_pack(header: Mapping[str, Any], assets: str | None = None) -> AssetPack:
    """Returns the asset pack of a run.

    Args:
        header: of the run.
        assets: `builtin`, `official`, or the path of a checkout; by the header's name if None,
            which finds the first two only.

    Raises:
        AssetError: there is no such pack here, or it is not the run's.
        RunFolderError: the header names no pack.
    """
    name = entry(header, str, "assets", "name")
    wanted = entry(header, str, "assets", "fingerprint")
    asked = assets or name
    if assets is None and name not in _NAMED_PACKS:
        raise AssetError(
            f"expected the asset pack {name!r} {wanted[:12]} that the run used, found nothing of "
            "that name; name its folder by --assets"
        )
    pack = load_pack(asked, verify=asked in _NAMED_PACKS)
    if pack.fingerprint != wanted:
        raise AssetError(
            f"expected the {name} asset pack {wanted[:12]} that the run used, found the "
            f"{pack.name} asset pack {pack.fingerprint[:12]} in {pack.root}; name another by "
            "--assets"
        )
    return pack


def entry(header: Mapping[str, Any], kind: type, *path: str) -> Any:
    """Returns an entry of a header; raises RunFolderError if it is missing or of another kind."""
    found: Any = header
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(found, kind) or isinstance(found, bool):
        raise RunFolderError(
            f"expected {'.'.join(path)} in {HEADER} to be a {kind.__name__}, found "
            f"{str(found)[:60]!r}. Was the run written by another version of calvin-eval?"
        )
    return found


def _choice(header: Mapping[str, Any], known: Sequence[str], *path: str) -> Any:
    """Returns an entry that is one of a few words; raises RunFolderError for any other."""
    found = entry(header, str, *path)
    if found not in known:
        raise RunFolderError(
            f"expected {'.'.join(path)} in {HEADER} to be one of {', '.join(known)}, found "
            f"{found[:60]!r}. Was the run written by another version of calvin-eval?"
        )
    return found
