"""Take what evaluation needs out of a training's folder, with weights of 16 bits.

python -m tools.ship_checkpoint runs/reference/model reference
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from calvin_eval.vla.checkpoint import find_checkpoint


def ship(run: Path, out: Path) -> Path:
    """Copy the newest checkpoint, its configuration and its tokenizer.

    Args:
        run: folder of a training.
        out: a new folder.

    Returns:
        The file with the weights, in float16: what they lose is far below what they were trained
        to.
    """
    out.mkdir(parents=True)
    shutil.copytree(run / "vlm", out / "vlm")
    project = sorted(run.glob("*-project.json"))[-1]
    shutil.copy2(project, out / project.name)
    newest = find_checkpoint(run, None).with_suffix(".safetensors")
    state = {name: value.to(torch.float16) for name, value in load_file(newest).items()}
    path = out / newest.name
    save_file(state, path, metadata={"format": "pt"})
    return path


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    print(ship(options.run, options.out))


if __name__ == "__main__":
    main()
