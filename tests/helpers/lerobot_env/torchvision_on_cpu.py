"""Let torchvision's Python part be imported beside a PyTorch without CUDA.

PyPI's torchvision for Linux has operators that need CUDA's libraries. Without them its import
fails on two declarations; LeRobot's ACT and diffusion policies never call these operators.
"""

import importlib.abc
import sys
from importlib.machinery import PathFinder
from pathlib import Path

OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class Finder(importlib.abc.MetaPathFinder):
    """Looks at torchvision just before it is imported, and finds nothing itself."""

    def find_spec(self, fullname, path, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            self._declare()
        return None

    def _declare(self):
        import torch

        spec = PathFinder.find_spec("torchvision")
        libraries = Path(spec.origin).parent.glob("_C*.so") if spec and spec.origin else ()
        for library in libraries:
            try:
                torch.ops.load_library(library)
            except OSError:
                for name in OPERATORS:
                    torch.library.define(f"torchvision::{name}", SCHEMA)


sys.meta_path.insert(0, Finder())
