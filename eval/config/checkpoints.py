"""Several checkpoints in one command: which they are, and what their runs are called."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from calvin_eval.config.schema import policy_name


def expand(ckpts: Sequence[str]) -> list[str]:
    """The checkpoints that `--ckpt` names, each once, in the order given.

    One that is no path but matches files stands for them. Of several, links are followed, and what
    was named before under another name is left out.
    """
    named = [name for ckpt in ckpts for name in _matches(ckpt)]
    if len(named) == 1:
        return named
    found: dict[str, str] = {}
    for name in named:
        found.setdefault(_identity(name), _followed(name))
    return list(found.values())


def run_names(ckpts: Sequence[str]) -> list[str]:
    """Names for the run folders of different checkpoints.

    Paths are called by the parts in which they differ: of `train/a/checkpoints/1` and
    `train/b/checkpoints/2`, `a-1` and `b-2`.
    """
    paths = [ckpt for ckpt in ckpts if Path(ckpt).exists()]
    parts = {ckpt: Path(ckpt).absolute().parts for ckpt in paths}
    common = set.intersection(*map(set, parts.values())) if len(paths) > 1 else set()
    names = []
    for ckpt in ckpts:
        own = [part for part in parts.get(ckpt, ()) if part not in common]
        joined = re.sub(r"[^\w.]+", "-", "-".join(own), flags=re.ASCII).strip("-.")
        names.append(joined if common and joined else policy_name(ckpt))
    return [n if names.count(n) == 1 else f"{i:02d}-{n}" for i, n in enumerate(names, 1)]


def _matches(ckpt: str) -> list[str]:
    if Path(ckpt).exists() or not any(c in ckpt for c in "*?["):
        return [ckpt]
    return sorted(glob(ckpt)) or [ckpt]


def _identity(ckpt: str) -> str:
    """What two names of one checkpoint have in common."""
    return os.path.realpath(ckpt) if os.path.exists(ckpt) else ckpt


def _followed(ckpt: str) -> str:
    """The path behind all links, relative to the current folder if it was so."""
    if not os.path.exists(ckpt):
        return ckpt
    real, here = os.path.realpath(ckpt), os.path.realpath(os.curdir)
    if os.path.isabs(ckpt) or os.path.commonpath([real, here]) != here:
        return real
    return os.path.relpath(real, here)
