"""Films of a robustness suite: a chain clean and shifted, next to each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from calvin_eval.errors import AssetError
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.pool import WorkerPool
from calvin_eval.rollouts.recorded import chain_ref, find_pack, simulator_spec
from calvin_eval.rollouts.replay import replay_record
from calvin_eval.rollouts.video.beside import SIDE, Shot, Side, film_beside, recorded_shots
from calvin_eval.rollouts.video.films import step_budget
from calvin_eval.rollouts.video.square import square
from calvin_eval.rollouts.worker import SimulatorSpec
from calvin_eval.sim.chains import Chain


@dataclass(frozen=True, kw_only=True)
class PairJob:
    """A film to make.

    Attributes:
        clean: the run folder on the left.
        shifted: the one on the right.
        label: of the right side.
        chain: the chain's id, which both have.
        target: the file.
    """

    clean: Path
    shifted: Path
    label: str
    chain: int
    target: Path


class PairFilmer:
    """Films chains of two runs side by side; a worker of `WorkerPool`.

    Args:
        assets: of both runs, where their headers' names are not enough, see `find_pack`.
    """

    def __init__(self, assets: str | None) -> None:
        self._assets = assets

    def close(self) -> None:
        """Nothing is held between two films."""

    def answer(self, job: PairJob) -> str:
        """Make a film; returns why there is none, or nothing if there is.

        Raises:
            AssetError: the assets are not here.
        """
        try:
            sides = [
                Side(label=label, shots=self._shots(folder, job.chain))
                for label, folder in (("clean", job.clean), (job.label, job.shifted))
            ]
            film_beside(job.target, sides)
        except AssetError:
            raise
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _shots(self, path: Path, chain: int) -> Iterator[Shot]:
        """The shots of one run's chain, in a simulator of their own."""
        folder = RunFolder.open(path)
        header = folder.header()
        pack = find_pack(header, self._assets)
        record = next(one for one in folder.records() if one.chain == chain)
        asked: Chain = chain_ref(header).chain(record, pack)
        spec: SimulatorSpec = square(simulator_spec(header, pack), SIDE)
        env = spec.build()
        try:
            actions = folder.read_actions(chain)
            steps = replay_record(env, asked, record, actions, header.protocol)
            yield from recorded_shots(steps, record, step_budget(header.protocol))
        finally:
            env.close()


def film_pairs(jobs: list[PairJob], assets: str | None, workers: int) -> dict[Path, str]:
    """Make films; returns by file why it could not be made, or nothing if it was.

    Args:
        jobs: the films.
        assets: see `PairFilmer`.
        workers: processes; 0 films in this one.

    Raises:
        AssetError: the assets are not here.
    """
    pool: WorkerPool[PairJob, str] = WorkerPool(PairFilmer, assets, workers, _died)
    return {job.target: reason for job, reason in pool.run(jobs)}


def _died(job: PairJob, how: str) -> str:
    return f"the process that filmed it died: {how}"
