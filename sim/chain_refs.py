"""Names of chain lists in records, and the chains that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from calvin_eval.errors import UsageError
from calvin_eval.shifts import NO_SHIFTS, Shifts
from calvin_eval.sim.chains import (
    DEV_SHA256,
    OFFICIAL_SHA256,
    Chain,
    ChainList,
    is_generated,
    load_chains,
    salt_of,
)
from calvin_eval.sim.packs import AssetPack, SceneSpec
from calvin_eval.sim.shifts.chains import shifted, variant_of


class AskedStart(Protocol):
    """The numbers of a start state."""

    @property
    def robot_obs(self) -> Sequence[float]:
        """15 numbers."""

    @property
    def scene_obs(self) -> Sequence[float]:
        """24 numbers."""


class AskedChain(Protocol):
    """What a record says of the chain that it is about."""

    @property
    def chain(self) -> int:
        """Its id."""

    @property
    def initial_state(self) -> Mapping[str, str | int]:
        """The symbolic state that it starts from."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Its subtasks."""

    @property
    def start(self) -> AskedStart | None:
        """The numbers that it starts from, if its list gives them."""


@dataclass(frozen=True, kw_only=True)
class ChainRef:
    """A chain list as a run names it: enough to make the run's chains again.

    Attributes:
        name: `ChainList.name`.
        sha256: `ChainList.sha256`, of the start states that were used.
        scene: A, B, C or D, in which the chains were run.
        layout: "scene" if start states are fitted to it, "upstream" if they are scene D's.
        shifts: of the run; neither the hash nor `load` knows of them, `chain` and `variant` do.
    """

    name: str
    sha256: str
    scene: str
    layout: str
    shifts: Shifts = NO_SHIFTS

    @property
    def needs_file(self) -> bool:
        """Whether the list is a file of the run's own, which no name can bring back."""
        return not is_generated(self._source)

    def load(self, pack: AssetPack, file: str | Path | None = None) -> ChainList:
        """Loads the list that the run used.

        Args:
            pack: the assets, for the scene that start states are fitted to.
            file: where a file of the run's own is now.

        Raises:
            UsageError: it is a file that is not named, it cannot be read, or it has another hash.
        """
        if file is None and self.needs_file:
            raise UsageError(
                f"expected the path of the chain list {self.name!r}, hash {self.sha256[:12]}, "
                "which the run read from a file; found none"
            )
        chains = load_chains(file or self._source, scene=self._fitted_to(pack))
        if chains.sha256 != self.sha256:
            raise UsageError(
                f"expected the chain list {self.sha256[:12]} that the run used, found "
                f"{chains.sha256[:12]} in {file or chains.name}"
            )
        return chains

    def chain(self, asked: AskedChain, pack: AssetPack) -> Chain:
        """Makes a run's chain from what its record says; the list itself is not needed.

        Args:
            asked: the record.
            pack: the assets, for the scene that start states are fitted to.

        Raises:
            UsageError: no chain can start in the recorded state.
        """
        if asked.start is not None:
            return Chain(
                id=asked.chain,
                initial_state=asked.initial_state,
                tasks=asked.tasks,
                robot_obs=np.array(asked.start.robot_obs, dtype=np.float64),
                scene_obs=np.array(asked.start.scene_obs, dtype=np.float64),
                given=True,
                variant=variant_of(asked.chain, self.shifts),
            )
        chain = Chain.draw(
            asked.chain,
            asked.initial_state,
            asked.tasks,
            salt=salt_of(self._source),
            scene=self._fitted_to(pack),
        )
        return self.variant(chain, pack)

    def variant(self, chain: Chain, pack: AssetPack) -> Chain:
        """Makes of a chain of the list what the run's shifts make of it.

        Raises:
            UsageError: its start state cannot be shifted so.
        """
        return shifted(chain, self.shifts, pack.scene(self.scene))

    @property
    def _source(self) -> str:
        """What `load_chains` takes: a file may have any name and hold a packaged list."""
        return {OFFICIAL_SHA256: "official", DEV_SHA256: "dev"}.get(self.sha256, self.name)

    def _fitted_to(self, pack: AssetPack) -> SceneSpec | None:
        return pack.scene(self.scene) if self.layout == "scene" else None
