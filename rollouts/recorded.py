"""What a recorded run was made with, read from its header: chains, rules, assets, simulator."""

from __future__ import annotations

from calvin_eval.errors import AssetError
from calvin_eval.results.header import Header
from calvin_eval.rollouts.worker import SimulatorSpec
from calvin_eval.sim.chain_refs import ChainRef
from calvin_eval.sim.packs import AssetPack, load_pack
from calvin_eval.sim.render import resolve_backend

_NAMED_PACKS = ("builtin", "official")


def chain_ref(header: Header) -> ChainRef:
    """Returns the chain list that a run used."""
    return ChainRef(
        name=header.chains.list,
        sha256=header.chains.sha256,
        scene=header.scene,
        layout=header.protocol.layout,
        shifts=header.protocol.shifts,
    )


def simulator_spec(header: Header, pack: AssetPack) -> SimulatorSpec:
    """Returns the simulator of a run, without cameras and renderer.

    Args:
        header: of the run.
        pack: the run's assets, see `find_pack`.
    """
    return SimulatorSpec(
        backend=header.config.sim.backend,
        assets=pack.location,
        scene=header.scene,
        revision=header.revision,
        render=resolve_backend("none"),
        cameras=(),
        deterministic=header.protocol.deterministic,
    )


def find_pack(header: Header, assets: str | None = None) -> AssetPack:
    """Returns the asset pack of a run.

    Args:
        header: of the run.
        assets: `builtin`, `official`, or the path of a checkout; by the header's name if None,
            which finds the first two only.

    Raises:
        AssetError: there is no such pack here, or it is not the run's.
    """
    name, wanted = header.assets.name, header.assets.fingerprint
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
