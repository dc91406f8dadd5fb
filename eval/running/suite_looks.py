"""What a robustness suite shows beside its numbers: drawn once, kept in its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from calvin_eval.errors import CalvinEvalError
from calvin_eval.files import write_atomic
from calvin_eval.results.robustness.cells import CellName
from calvin_eval.results.robustness.looks import FRAMES, Film, Looks, to_film
from calvin_eval.results.robustness.suite import CLEAN, Suite
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.recorded import chain_ref, find_pack, simulator_spec
from calvin_eval.rollouts.shifted_pictures import CellOf, can_be_seen, pictures
from calvin_eval.rollouts.suite_films import PairJob, film_pairs
from calvin_eval.rollouts.video.films import FOLDER
from calvin_eval.running.verifying import workers_for
from calvin_eval.shifts import NO_SHIFTS
from calvin_eval.sim.env import PlayTableEnv
from calvin_eval.sim.render import resolve_backend

_CAMERAS = ("static", "gripper")


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Where pictures and films come from and go.

    Attributes:
        folder: of the suite.
        names: of its cells.
        seed: of the shifts.
        assets: of its runs.
        films: how many chains are filmed clean and shifted.
        note: is told of what could not be drawn.
    """

    folder: Path
    names: tuple[CellName, ...]
    seed: int
    assets: str
    films: int
    note: Callable[[str], None]

    def looks(self, suite: Suite) -> Looks:
        """Draw what is not there yet."""
        return Looks(frames=self._frames(), films=self._films(suite))

    def _frames(self) -> dict[str, bytes]:
        """By the folder of a cell that can be seen, or `clean`, its picture."""
        place = self.folder / FRAMES
        cells: dict[str, CellOf] = {CLEAN: None}
        cells |= {n.folder: (n.axis, n.level) for n in self.names if can_be_seen(n.axis)}
        kept = {name: place / f"{name}.jpg" for name in cells}
        missing = {name: cell for name, cell in cells.items() if not kept[name].is_file()}
        try:
            if missing:
                place.mkdir(exist_ok=True)
                for name, image in self._drawn(missing):
                    write_atomic(kept[name], image)
            return {name: path.read_bytes() for name, path in kept.items() if path.is_file()}
        except (CalvinEvalError, OSError) as error:
            self.note(f"no example frames: {error}")
            return {}

    def _drawn(self, cells: Mapping[str, CellOf]) -> Iterator[tuple[str, bytes]]:
        """Names and pictures, of the first chain that the clean run has."""
        run = RunFolder.open(self.folder / CLEAN)
        header, records = run.header(), run.records()
        first = min(records, key=lambda record: header.planned.index(record.chain), default=None)
        if first is None:
            return
        pack = find_pack(header, self.assets)
        chain = replace(chain_ref(header), shifts=NO_SHIFTS).chain(first, pack)
        spec = replace(simulator_spec(header, pack), backend="calvin_eval", cameras=_CAMERAS)
        env = replace(spec, render=resolve_backend("fast")).build()
        assert isinstance(env, PlayTableEnv)
        try:
            yield from pictures(env, chain, cells, self.seed)
        finally:
            env.close()

    def _films(self, suite: Suite) -> tuple[Film, ...]:
        """Film the chains that lost most, of the cells that lost most."""
        made = {}
        for cell, chain in to_film(suite, self.films):
            name = cell.name.folder
            film = Film(
                path=f"{FOLDER}/{name}-chain{chain:04d}.mp4", cell=str(cell.name), chain=chain,
                **cell.lengths_of(chain),
            )  # fmt: skip
            target = self.folder / film.path
            made[target] = film, PairJob(
                clean=self.folder / CLEAN, shifted=self.folder / name, label=film.cell,
                chain=chain, target=target,
            )  # fmt: skip
        jobs = [job for target, (_, job) in made.items() if not target.is_file()]
        try:
            lost = film_pairs(jobs, self.assets, workers_for(None, len(jobs)))
        except (CalvinEvalError, OSError) as error:
            lost = {job.target: str(error) for job in jobs}
        for target, reason in sorted(lost.items()):
            if reason:
                self.note(f"no film {target.name}: {reason}")
        return tuple(film for target, (film, _) in made.items() if target.is_file())
