"""Draw the picture of docs/rendering.md: EGL's images, ours, what differs, and TinyRenderer's.

python -m tools.renderer_pictures [--assets builtin] [--out docs/images/rendering.png]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from calvin_eval.sim.drawing.fidelity import (
    Pictures,
    StateSelection,
    draw_states,
    draw_states_apart,
)
from tools.scene_picture import contact_sheet

SCENES = "AD"
STATE = 3  # of the five of a chain: the arm has moved
SIDE, GAP = 240, 6  # pixels
LOUDER = 255  # by which differences are multiplied: every one is black


def row(drawn: list[Pictures], camera: str) -> list[NDArray[np.uint8]]:
    """EGL's image, ours, where they differ, and TinyRenderer's, SIDE x SIDE each."""
    theirs, ours, tiny = (pictures[camera][0] for pictures in drawn)
    difference = abs(theirs.astype(int) - ours).max(axis=-1, keepdims=True) * LOUDER
    shown = np.repeat(255 - np.minimum(difference, 255), 3, axis=-1)
    nearest = np.arange(SIDE) * len(ours) // SIDE
    return [image[nearest][:, nearest].astype(np.uint8) for image in (theirs, ours, shown, tiny)]


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", default="builtin")
    parser.add_argument("--render", default="fast")
    parser.add_argument("--out", type=Path, default=Path("docs/images/rendering.png"))
    options = parser.parse_args()
    rows = []
    for scene in SCENES:
        selection = StateSelection(options.assets, 1, scene)
        drawn = [
            states[STATE]
            for states in (
                draw_states_apart(selection, "egl"),
                draw_states(selection, options.render),
                draw_states(selection, "tiny"),
            )
        ]
        rows += [row(drawn, camera) for camera in ("static", "gripper")]
    iio.imwrite(options.out, contact_sheet(list(zip(*rows, strict=True)), gap=GAP, paper=160))


if __name__ == "__main__":
    main()
