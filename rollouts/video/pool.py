"""Videos beside a run: a queue of finished chains, filmed by processes of low priority.

Nothing that happens to a video reaches the run: an error, a full disk or a killed process costs
that video and makes a note.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
from calvin_eval.rollouts.processes import Child
from calvin_eval.rollouts.video.files import has_videos, remove_remains, remove_videos
from calvin_eval.rollouts.video.films import FOLDER, VideoSpec, choose_renderer, wanted
from calvin_eval.rollouts.video.fonts import VARIABLE, find_font
from calvin_eval.rollouts.video.worker import Drawn, Filmed, FilmJob, FilmLost, VideoSetup
from calvin_eval.rollouts.worker import SimulatorSpec, worker_environment
from calvin_eval.sim.cameras import resolve_cameras
from calvin_eval.sim.packs import load_pack

_ATTEMPTS = 2  # per chain, if its process dies
_GIVE_UP = 5  # chains lost in a row, after which no more are tried
_TICK = 0.5  # seconds between looks at the progress
_HANG_SECONDS = 600.0  # without a message, after which a process counts as hanging


class VideoPool:
    """Films chains of one run in child processes, which start when they are needed.

    Args:
        spec: what is filmed, and how.
        folder: the run; its actions and its header are read.
        simulator: what the run used; the renderer is decided by `choose_renderer`.
        note: called with losses, always in the thread that calls a method of the pool.
        workers: processes.
        out: where the files go; the run's `videos/` if None.

    Raises:
        UnknownNameError: a camera that the run's assets do not have.

    Attributes:
        files: what was made so far.
        lost: ids of the chains that lack a video which was wanted.
    """

    def __init__(
        self,
        spec: VideoSpec,
        folder: RunFolder,
        simulator: SimulatorSpec,
        note: Callable[[str], None],
        *,
        workers: int = 1,
        out: Path | None = None,
    ) -> None:
        resolve_cameras(load_pack(simulator.assets, verify=False), spec.cameras)  # exist at all
        self._run, self._simulator = folder.path, simulator
        self._spec, self._note = spec, note
        self._workers = workers
        self._out = out or folder.path / FOLDER
        self._planned = folder.header().planned
        self._jobs: queue.SimpleQueue[FilmJob | None] = queue.SimpleQueue()
        self._notes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._threads: list[_WorkerThread] = []
        self._setup: VideoSetup | None = None
        self._lock = threading.Lock()
        self._drawn = self._asked = self._lost_in_a_row = 0  # the first two count frames
        self._unreadable = False
        self.stopping = False
        self.files: list[Path] = []
        self.lost: list[int] = []

    def submit(self, record: ChainRecord) -> None:
        """Queue a chain that has just got its record, if videos of it are wanted."""
        try:
            remove_videos(self._out, record.chain)  # of an earlier attempt at this chain
        except OSError as error:
            self._notes.put(f"an old video of chain {record.chain} stays: {error}")
        self.add(record)

    def catch_up(self, records: Iterable[ChainRecord]) -> None:
        """Film what an earlier session of the run left out, of chains that it had finished."""
        for record in records:
            if not has_videos(self._out, record.chain):
                self.add(record)

    def add(self, record: ChainRecord) -> bool:
        """Queue a chain; False if nothing of it is wanted."""
        self._pass_notes_on()
        positions = wanted(self._spec, record, self._planned)
        if not positions:
            return False
        self._check_captions(record)
        job = FilmJob(record=record, positions=positions)
        with self._lock:
            self._asked += job.steps
        self._jobs.put(job)
        if len(self._threads) < self._workers:
            self._threads.append(_WorkerThread(self, self._jobs, self._make_setup(), self._out))
            self._threads[-1].start()
        return True

    def _check_captions(self, record: ChainRecord) -> None:
        """Make a note, once, if no font here has the letters of an instruction."""
        said = [subtask.instruction for subtask in record.subtasks]
        if self._unreadable or all(text.isascii() for text in said):
            return
        if any(find_font(text) is None for text in said):
            self._unreadable = True
            self._notes.put(
                "no font on this machine has all letters of the instructions, so captions leave "
                "them out: install one (fonts-noto-cjk has Chinese, Japanese and Korean), or name "
                f"a font file by {VARIABLE}"
            )

    def close(
        self, *, wait: bool = True, show: Callable[[int, int], None] = lambda drawn, asked: None
    ) -> None:
        """End the processes; a second call does nothing.

        Args:
            wait: until all queued videos are made. Otherwise, and after Ctrl-C, they are given up.
            show: called now and then with the number of frames drawn, and of all.

        Raises:
            KeyboardInterrupt: after everything was ended.
        """
        threads, self._threads = self._threads, []
        for _ in threads:
            self._jobs.put(None)
        try:
            for thread in threads:
                ended = not wait
                while not ended:
                    ended = thread.ended.wait(_TICK)
                    self._pass_notes_on()
                    show(self._drawn, self._asked)
        finally:
            self.stopping = True
            for thread in threads:
                thread.kill()
            for thread in threads:
                thread.ended.wait()
            if self.lost and threads:
                chains = ",".join(map(str, sorted(self.lost)))
                self._notes.put(
                    f"chains without their videos: {chains}. To make them: "
                    f"calvin-eval video {self._run} --chains {chains}"
                )
            self._pass_notes_on()

    def drew(self, steps: int) -> None:
        """Count frames; called by threads."""
        with self._lock:
            self._drawn += steps

    def finished(self, job: FilmJob, answer: Filmed | FilmLost) -> None:
        """Store the result of a job; called by threads."""
        with self._lock:
            if isinstance(answer, Filmed):
                self.files += answer.files
                self._lost_in_a_row = 0
                return
            self.lost.append(job.record.chain)
            self._lost_in_a_row += 1
            if self.stopping or self._lost_in_a_row > _GIVE_UP:
                return
            self._notes.put(f"no video of chain {job.record.chain}: {answer.reason}")
            if self._lost_in_a_row == _GIVE_UP:
                self._notes.put(f"no more videos are tried: {_GIVE_UP} in a row were lost")

    @property
    def left(self) -> int:
        """Frames that are asked for and not drawn yet."""
        with self._lock:
            return self._asked - self._drawn

    @property
    def gave_up(self) -> bool:
        """Whether what is still queued should be dropped."""
        return self.stopping or self._lost_in_a_row >= _GIVE_UP

    def _make_setup(self) -> VideoSetup:
        if self._setup is None:
            remove_remains(self._out)  # of a run that was killed
            simulator = replace(self._simulator, render=choose_renderer(self._simulator))
            self._setup = VideoSetup(
                spec=self._spec, run=self._run, simulator=simulator, out=self._out
            )
        return self._setup

    def _pass_notes_on(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._note(self._notes.get_nowait())


class _WorkerThread(threading.Thread):
    """A thread that feeds one process and replaces it when it dies.

    Linux ends a child when the thread that started it ends, so each process has its own.

    Attributes:
        ended: set at the end. To be waited for instead of `join`, which after Ctrl-C
            reports that the thread has ended (in Python up to 3.12).
    """

    def __init__(
        self, pool: VideoPool, jobs: queue.SimpleQueue[FilmJob | None], setup: VideoSetup, out: Path
    ) -> None:
        super().__init__(name="videos", daemon=True)
        self._pool = pool
        self._jobs = jobs
        self._setup = setup
        self._out = out
        self._lock = threading.Lock()
        self._child: Child | None = None
        self.ended = threading.Event()

    def run(self) -> None:
        """Work until the queue says that nothing more comes."""
        try:
            while (job := self._jobs.get()) is not None:
                self._pool.finished(job, self._film(job))
        finally:
            with self._lock:
                child, self._child = self._child, None
            if child is not None:
                child.stop()
            self.ended.set()

    def kill(self) -> None:
        """End the process at once, from another thread."""
        with self._lock:
            if self._child is not None:
                os.kill(self._child.pid, signal.SIGKILL)  # its thread does the rest

    def _film(self, job: FilmJob) -> Filmed | FilmLost:
        answer: Filmed | FilmLost = FilmLost(reason="given up")
        drawn = 0
        for _ in range(_ATTEMPTS):
            if self._pool.gave_up:
                break
            try:
                child = self._child or self._spawn()
                child.connection.send(job)
                while child.connection.poll(_HANG_SECONDS):
                    message: Drawn | Filmed | FilmLost = child.connection.recv()
                    if not isinstance(message, Drawn):
                        self._pool.drew(job.steps - drawn)
                        return message
                    drawn += message.steps
                    self._pool.drew(message.steps)
                answer = FilmLost(
                    reason=self._discard_child(f"no message for {_HANG_SECONDS:g} s", hung=True)
                )
            except Exception as error:  # most often the line's end
                answer = FilmLost(reason=self._discard_child(str(error)))
        self._pool.drew(job.steps - drawn)
        return answer

    def _spawn(self) -> Child:
        child = Child("calvin_eval.rollouts.video.worker", worker_environment(2))
        with self._lock:
            self._child = child
        if self._pool.stopping:  # too late for `kill` to have seen it
            raise EOFError("given up")
        child.connection.send(self._setup)
        return child

    def _discard_child(self, reason: str, *, hung: bool = False) -> str:
        """Kill the process if need be and free its resources; returns how it ended."""
        if hung:
            self.kill()
        with self._lock:
            child, self._child = self._child, None
        if child is None:  # it could not even start
            return reason
        if not self._pool.stopping and not hung:
            reason = f"its process died: {child.exit_report()}"
        child.kill()
        remove_remains(self._out)
        return reason
