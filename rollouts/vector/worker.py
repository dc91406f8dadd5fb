"""A process with some worlds of a vector environment. Never imports torch.

Starts of worlds wait until no other message does: stepping goes before building.
"""

from __future__ import annotations

import traceback
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from gymnasium.wrappers import TimeLimit

from calvin_eval.errors import CalvinEvalError
from calvin_eval.rollouts.processes import join_parent
from calvin_eval.rollouts.vector.messages import (
    ACTION,
    OBSERVED,
    REWARD,
    TERMINATED,
    TRUNCATED,
    Build,
    Draw,
    Failed,
    Info,
    Observation,
    Restart,
    Restarted,
    Share,
    Spaces,
    Step,
    Stepped,
)
from calvin_eval.rollouts.vector.shared import SharedArrays
from calvin_eval.sim.gym import PlayTable
from calvin_eval.sim.packs import load_pack

NEXT_STEP, SAME_STEP = "NextStep", "SameStep"


class _World:
    """One play table, whose random draws for a start that nobody has seen can be taken back."""

    def __init__(self, setup: Build, pack: Any) -> None:
        self.table = PlayTable(**{**setup.table, "assets": pack})
        self._limited = TimeLimit(self.table, setup.max_steps)
        self._before: Any = None
        self.serial = 0

    def reset(self, order: Restart) -> tuple[Observation, Info]:
        generator = self.table.np_random.bit_generator
        if order.instead and self._before is not None:
            generator.state = self._before
        self._before = generator.state
        return self._limited.reset(seed=order.seed, options=_plain(order.options))

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        self._before = None
        return self._limited.step(action)  # type: ignore[return-value]


class WorldsWorker:
    """The worker's side of its line to the vector environment."""

    def __init__(self, line: Connection[Any, Any]) -> None:
        self._line = line
        self._worlds: dict[int, _World] = {}
        self._starts: deque[Restart] = deque()

    def run(self) -> None:
        """Answer messages until the line is closed."""
        with suppress(EOFError, BrokenPipeError, ConnectionResetError):
            while True:
                if self._starts and not self._line.poll():
                    order = self._starts.popleft()
                    self._answer(self._restart, order, order.world, order.serial)
                else:
                    self._obey(self._line.recv())
        for world in self._worlds.values():
            world.table.close()

    def _obey(self, message: Any) -> None:
        if isinstance(message, Restart):
            if message.instead:
                self._starts = deque(s for s in self._starts if s.world != message.world)
            self._starts.append(message)
        elif isinstance(message, Build):
            self._answer(self._build, message)
        elif isinstance(message, Share):
            self._arrays = SharedArrays.take(self._line, message.fields).arrays
        elif isinstance(message, Step):
            self._answer(self._step, message)
        elif isinstance(message, Draw):
            self._answer(lambda _: [w.table.render() for w in self._worlds.values()], message)

    def _answer(self, work: Any, message: Any, world: int = -1, serial: int = -1) -> None:
        try:
            answer = work(message)
        except CalvinEvalError as error:
            answer = Failed(error=error, world=world, serial=serial)
        except Exception:
            trace = f"a world's process failed:\n{traceback.format_exc()}"
            answer = Failed(error=CalvinEvalError(trace), world=world, serial=serial)
        self._line.send(answer)

    def _build(self, message: Build) -> Spaces:
        self._setup = message
        pack = load_pack(message.table.get("assets", "builtin"), verify=False)
        self._worlds = {number: _World(message, pack) for number in message.worlds}
        table = next(iter(self._worlds.values())).table
        return Spaces(
            observation=table.observation_space, action=table.action_space, metadata=table.metadata
        )

    def _restart(self, order: Restart) -> Restarted:
        world = self._worlds[order.world]
        world.serial = order.serial
        obs, info = world.reset(order)
        return Restarted(world=order.world, serial=order.serial, obs=obs, info=info)

    def _step(self, message: Step) -> Stepped:
        return Stepped(infos={number: self._step_world(number) for number in message.worlds})

    def _step_world(self, number: int) -> Info:
        world, arrays = self._worlds[number], self._arrays
        obs, reward, terminated, truncated, info = world.step(arrays[ACTION][number])
        arrays[REWARD][number] = reward
        arrays[TERMINATED][number], arrays[TRUNCATED][number] = terminated, truncated
        if terminated or truncated:
            if self._setup.autoreset == SAME_STEP:
                final = {"final_obs": obs, "final_info": info}
                obs, info = world.reset(Restart(world=number, serial=world.serial))
                info = {**info, **final}
            elif self._setup.autoreset == NEXT_STEP and self._setup.eager:
                self._starts.append(Restart(world=number, serial=world.serial + 1))
        for name, value in obs.items():
            arrays[OBSERVED + name][number] = value
        return info


def _plain(options: Any) -> dict[str, Any] | None:
    return None if options is None else dict(options)


def main() -> None:
    """Serve the parent that started this process."""
    WorldsWorker(join_parent()).run()
