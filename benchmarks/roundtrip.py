"""One decision by a policy in another process, and what of it is the line between them.

    python benchmarks/roundtrip.py [--json roundtrip.json]

The request carries both images, as every step of a policy that looks does; the policy costs
nothing. Beside it: the same bytes to a process that sends a short answer and does nothing else.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import time
from collections.abc import Callable
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from calvin_eval.rollouts.batching import BatchRules
from calvin_eval.rollouts.hosts import LocalPolicyHost
from calvin_eval.rollouts.service import PolicySpec
from calvin_eval.rollouts.worker import connect
from calvin_eval.wrappers.policy import Request

POLICY = f"{Path(__file__).with_name('policies.py')}:Wander"
GOAL = 0.15  # milliseconds
ROUNDS, TIMES = 7, 200


def request(step: int) -> Request:
    """What a worker asks at a step."""
    images = {"static": (200, 200, 3), "gripper": (84, 84, 3)}
    rgb = {f"rgb_{name}": np.full(shape, step % 256, np.uint8) for name, shape in images.items()}
    obs = {"rgb_obs": rgb, "robot_obs": np.zeros(15)}
    return Request(session=1, instruction="open the drawer", position=0, step=step, obs=obs)


def echo(line: Connection[Any, Any]) -> None:
    """Answer every message by a few bytes."""
    while line.recv_bytes():
        line.send_bytes(b"0" * 64)


def round_trips(ask: Callable[[int], object]) -> float:
    """Milliseconds of one, the median of some rounds' fastest quarters."""
    rounds = []
    for _ in range(ROUNDS):
        times = []
        for step in range(TIMES):
            start = time.perf_counter()
            ask(step)
            times.append(time.perf_counter() - start)
        rounds.append(1000 * statistics.fmean(sorted(times)[: TIMES // 4]))
    return statistics.median(rounds)


def main() -> None:
    """Print the times and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("roundtrip.json"))
    options = parser.parse_args()
    host = LocalPolicyHost(
        PolicySpec(ckpt=POLICY, trust=True, seed=0, options={}), None, BatchRules(seed=0)
    )
    policy = connect(host.link)
    policy.reset(1, "open the drawer")
    asked = round_trips(lambda step: policy.act([request(step)]))
    policy.end(1)
    host.close()
    ours, theirs = Pipe()
    other = Process(target=echo, args=(theirs,), daemon=True)
    other.start()

    def bare(step: int) -> None:
        ours.send_bytes(pickle.dumps(request(step)))
        ours.recv_bytes()

    line = round_trips(bare)
    ours.send_bytes(b"")
    other.join()
    print(f"a decision of another process {asked:.3f} ms (goal {GOAL} ms)")
    print(f"the line and pickling alone   {line:.3f} ms")
    options.json.write_text(json.dumps({"decision": asked, "line": line, "goal": GOAL}) + "\n")


if __name__ == "__main__":
    main()
