"""How near a renderer's images are to those of Bullet's EGL plugin, over states of all scenes.

`python -m calvin_eval.sim.drawing.fidelity --assets official --renders fast gl` prints the table
of docs/rendering.md. EGL draws in a separate process: its plugin has one world per process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval.sim.chains import load_chains
from calvin_eval.sim.drawing.options import DrawOptions
from calvin_eval.sim.env import PlayTableEnv, make_env

CAMERAS = ("static", "gripper")
STEPS = (0, 25, 50, 75, 100)
"""At which steps of a chain its state is drawn."""
_WIDE = 2  # a difference above this is counted: more than two roundings
_SWING = 25  # steps after which the gripper opens or closes

Pictures: TypeAlias = dict[str, tuple[NDArray[np.uint8], NDArray[np.float32]]]  # by camera


@dataclass(frozen=True)
class StateSelection:
    """Which states are drawn: of each scene the first chains, moved by smooth random actions.

    Attributes:
        assets: the pack.
        chains: how many per scene; each gives a state per entry of `STEPS`.
        scenes: their letters.
    """

    assets: str
    chains: int
    scenes: str = "ABCD"


@dataclass(frozen=True)
class Fidelity:
    """One camera's images against EGL's.

    Attributes:
        images: how many were compared.
        pooled: PSNR in dB over all pixels of all images.
        worst: PSNR in dB of the worst image.
        equal: share of pixels that are equal.
        wide: share of pixels of which a channel is off by more than 2 of 255.
        largest: the largest difference of a channel.
        depth_equal: share of pixels whose 16-bit depths are equal.
    """

    images: int
    pooled: float
    worst: float
    equal: float
    wide: float
    largest: int
    depth_equal: float


def draw_states(
    selection: StateSelection, render: str, options: DrawOptions | None = None
) -> list[Pictures]:
    """The images of all states of a selection by one renderer; depth is the distance in metres."""
    pictures = []
    for scene in selection.scenes:
        with make_env(scene, assets=selection.assets, render=render, draw=options) as env:
            for _ in visit(env, selection.chains, ord(scene)):
                seen = env.observe(rgb=CAMERAS, depth=CAMERAS)
                pictures.append(
                    {
                        camera: (
                            seen["rgb_obs"][f"rgb_{camera}"],
                            seen["depth_obs"][f"depth_{camera}"],
                        )
                        for camera in CAMERAS
                    }
                )
    return pictures


def draw_states_apart(selection: StateSelection, render: str) -> list[Pictures]:
    """`draw_states` in a separate process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(draw_states, selection, render).result()


def visit(env: PlayTableEnv, chains: int, seed: int) -> Iterator[None]:
    """Bring an environment into one state after the other; the same ones for every renderer."""
    for number, chain in zip(range(chains), load_chains("official"), strict=False):
        rng = np.random.default_rng((seed, number))
        velocity = np.zeros(6)
        env.start(chain.robot_obs, chain.scene_obs)
        for step in range(STEPS[-1] + 1):
            if step in STEPS:
                yield
            velocity = 0.9 * velocity + 0.1 * rng.normal(0, 1.5, 6)
            gripper = 1 if step // _SWING % 2 == 0 else -1
            env.advance([*np.clip(velocity, -1, 1), gripper])


def compare(reference: Sequence[Pictures], pictures: Sequence[Pictures]) -> dict[str, Fidelity]:
    """How near the pictures are to the reference, by camera."""
    return {
        camera: _compare([pair[camera] for pair in reference], [pair[camera] for pair in pictures])
        for camera in CAMERAS
    }


def _compare(
    reference: Sequence[tuple[NDArray[np.uint8], NDArray[np.float32]]],
    pictures: Sequence[tuple[NDArray[np.uint8], NDArray[np.float32]]],
) -> Fidelity:
    expected, found = (
        np.stack([image for image, _ in side]).astype(int) for side in (reference, pictures)
    )
    difference = np.abs(expected - found)
    widest = difference.max(axis=-1)
    squares = (difference**2).mean(axis=(1, 2, 3))
    far, farther = (np.stack([depth for _, depth in side]) for side in (reference, pictures))
    same_depth = np.isclose(far, farther, rtol=1e-6)  # two 16-bit steps are never so near
    return Fidelity(
        images=len(expected),
        pooled=_decibels(float(squares.mean())),
        worst=_decibels(float(squares.max())),
        equal=float((widest == 0).mean()),
        wide=float((widest > _WIDE).mean()),
        largest=int(widest.max()),
        depth_equal=float(same_depth.mean()),
    )


def _decibels(square: float) -> float:
    """PSNR of a mean square error; 99 for none."""
    return 99.0 if square == 0 else min(99.0, 10 * float(np.log10(255**2 / square)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the comparison as a table or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", default="builtin")
    parser.add_argument("--chains", type=int, default=25, help="per scene; five states each")
    parser.add_argument("--scenes", default="ABCD")
    parser.add_argument("--renders", nargs="+", default=["fast"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    selection = StateSelection(options.assets, options.chains, options.scenes)
    reference = draw_states_apart(selection, "egl")
    found = {
        render: compare(reference, draw_states(selection, render)) for render in options.renders
    }
    if options.json:
        document = {name: {c: asdict(f) for c, f in one.items()} for name, one in found.items()}
        print(json.dumps(document, indent=1))
        return
    print("renderer camera  images pooled  worst  equal     off by > 2  largest  depth equal")
    for name, cameras in found.items():
        for camera, one in cameras.items():
            print(
                f"{name:8} {camera:7} {one.images:6} {one.pooled:6.1f} {one.worst:6.1f} "
                f"{one.equal:8.3%} {one.wide:10.4%} {one.largest:8} {one.depth_equal:11.3%}"
            )


if __name__ == "__main__":
    main()
