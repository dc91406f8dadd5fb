"""The data set reader against a plain loop over numpy.load, in one run.

    python benchmarks/dataset.py [--frames 390] [--render tiny] [--json bench.json]

The frames are the simulator's own pictures with depth, compressed as CALVIN's are, and lie in the
page cache. Both sides make the same samples: W + n = 8 + 10 frames of both images, state and
actions, images left at their recorded size. Windows are drawn at random, as in training.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import best_assets, seconds
from numpy.typing import NDArray
from PIL import Image
from policies import Wander
from torch.utils.data import DataLoader

from calvin_eval.sim import make_env
from calvin_eval.vla.data.annotations import Segment
from calvin_eval.vla.data.collate import CalvinCollator
from calvin_eval.vla.data.dataset import CalvinDataset, ReadOptions, raw_images
from calvin_eval.wrappers.policy import Request

ROUNDS, SPAN = 3, 65


def write_frames(folder: Path, count: int, render: str) -> None:
    """Frames of an arm that moves about."""
    env, policy = make_env("D", assets=best_assets(), render=render), Wander()
    obs = env.reset()
    for number in range(count):
        request = Request(session=0, instruction="", position=0, step=number, obs={})
        action = policy.act([request])[0][0]
        np.savez_compressed(
            folder / f"episode_{number:07d}.npz",
            actions=action,
            rel_actions=action,
            robot_obs=obs["robot_obs"],
            scene_obs=obs["scene_obs"],
            **obs["rgb_obs"],
            **obs["depth_obs"],
        )
        obs = env.step(action)[0]
    env.close()


def plain_loop(dataset: CalvinDataset, order: Sequence[int]) -> None:
    """What the original does per sample, with nothing but NumPy."""
    for index in order:
        numbers = dataset.windows[index].frames
        frames = [np.load(dataset.frames.path(number)) for number in numbers]
        for name in (*dataset.options.cameras, *dataset.options.arrays):
            np.stack([frame[name] for frame in frames])


def resized(images: Sequence[NDArray[np.uint8]]) -> torch.Tensor:
    """A network's images: bicubic, 224 x 224, float32."""
    made = [Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC) for image in images]
    return raw_images([np.asarray(image) for image in made]) / 255


def no_text(sentences: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """No tokenizer: its time is not the reader's."""
    return torch.zeros(len(sentences), 1), torch.zeros(len(sentences), 1)


def drain(loader: DataLoader[Any]) -> None:
    """All batches."""
    for _ in loader:
        pass


def main() -> None:
    """Measure, print a table, and write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=390)
    parser.add_argument("--render", default="tiny", choices=["tiny", "egl", "auto"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_frames(folder, options.frames, options.render)
        sizes = [path.stat().st_size for path in folder.iterdir()]
        rows = measure(folder, options.frames)
    result = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "kilobytes_per_frame": statistics.mean(sizes) / 1e3,
        "samples_per_second": rows,
    }
    print(f"{result['machine']}; {result['kilobytes_per_frame']:.0f} kB per frame")
    for label, rate in rows.items():
        frames = 8 if "future" in label or "batches" in label else 18
        images = "" if "state" in label else f"{rate * 2 * frames:9.0f} images/s"
        print(f"{label:42} {rate:8.1f} samples/s {images}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(folder: Path, count: int) -> dict[str, float]:
    """Samples per second of every case, the cases in turn and the median of the rounds."""
    segments = [Segment(first, first + SPAN - 1, "") for first in range(0, count - SPAN, SPAN)]

    def reader(**options: Any) -> CalvinDataset:
        # Of a large data set drawn at random a process never meets a remembered frame again.
        return CalvinDataset(folder, ReadOptions(**{"remember": 18, **options}), segments=segments)

    full, ordered, state = reader(), reader(remember=64), reader(cameras=())
    present = reader(future_images=False)
    training = CalvinDataset(folder, present.options, segments=segments, images=resized)
    order = np.random.default_rng(0).permutation(len(full)).tolist()
    images, states, batched = order[:64], order[:128], order[:96]
    collate = CalvinCollator(window=8, chunk=10, text=no_text)

    def loaded(workers: int) -> Callable[[], None]:
        drawn = torch.utils.data.Subset(training, batched)
        loader = DataLoader(
            drawn, 4, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0
        )
        drain(loader)
        return lambda: drain(loader)

    cases: dict[str, tuple[Callable[[], Any], int]] = {
        "numpy.load, images": (lambda: plain_loop(full, images), len(images)),
        "reader, images": (lambda: [full[i] for i in images], len(images)),
        "reader, images in order": (lambda: [ordered[i] for i in range(len(full))], len(full)),
        "reader, no future images": (lambda: [present[i] for i in images], len(images)),
        "numpy.load, state": (lambda: plain_loop(state, states), len(states)),
        "reader, state": (lambda: [state[i] for i in states], len(states)),
        **{
            f"batches of 4 at 224 pixels, {workers} workers": (loaded(workers), len(batched))
            for workers in (0, 1, 2)
        },
    }
    times = [{label: seconds(work) for label, (work, _) in cases.items()} for _ in range(ROUNDS)]
    return {
        label: samples / statistics.median(row[label] for row in times)
        for label, (_, samples) in cases.items()
    }


if __name__ == "__main__":
    main()
