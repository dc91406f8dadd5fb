"""Draw the README's picture: all four built-in scenes through both cameras.

python -m tools.scene_picture [--render egl] [--assets builtin] [--out docs/images/scenes.png]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from calvin_eval.sim import load_chains, load_pack, make_env

SIZE, GAP = 320, 8  # pixels
CHAIN = 0  # LED and bulb on, drawer open: everything there is to see


def scene_images(scene: str, assets: str, render: str) -> list[NDArray[np.uint8]]:
    """The static and the gripper camera's image of one scene, SIZE x SIZE each."""
    pack = load_pack(assets)
    chain = load_chains("official", scene=pack.scene(scene))[CHAIN]
    cameras = [replace(pack.cameras[c], width=SIZE, height=SIZE) for c in ("static", "gripper")]
    with make_env(scene, assets=assets, render=render, cameras=cameras) as env:
        rgb = env.reset(chain.robot_obs, chain.scene_obs)["rgb_obs"]
    return [rgb["rgb_static"], rgb["rgb_gripper"]]


def contact_sheet(
    columns: Sequence[Sequence[NDArray[np.uint8]]], *, gap: int = GAP, paper: int = 255
) -> NDArray[np.uint8]:
    """Columns of square images of one size side by side, on a grey of 0 to 255."""
    size = len(columns[0][0])
    rows, cell = len(columns[0]), size + gap
    sheet = np.full((rows * cell - gap, len(columns) * cell - gap, 3), paper, np.uint8)
    for x, column in enumerate(columns):
        for y, image in enumerate(column):
            sheet[y * cell : y * cell + size, x * cell : x * cell + size] = image
    return sheet


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--render", default="egl")
    parser.add_argument("--assets", default="builtin")
    parser.add_argument("--out", type=Path, default=Path("docs/images/scenes.png"))
    options = parser.parse_args()
    columns = [scene_images(scene, options.assets, options.render) for scene in "ABCD"]
    iio.imwrite(options.out, contact_sheet(columns))


if __name__ == "__main__":
    main()
