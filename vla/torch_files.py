"""Files that torch.save wrote, read without running anything that they name."""

from __future__ import annotations

import _compat_pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from calvin_eval.errors import CheckpointError
from calvin_eval.wrappers.loaders.weights import pickled_names

DICTIONARIES = ("collections.defaultdict",)


class Placeholder:
    """Stands for an object of a class that is not loaded: it keeps its arguments, nothing else.

    Training leaves such objects in its checkpoints: hyper-parameters, schedulers, DeepSpeed's
    settings. No weight depends on them.
    """

    args: tuple[Any, ...]

    def __new__(cls, *args: Any, **kwargs: Any) -> Placeholder:
        """Keep the arguments."""
        self = super().__new__(cls)
        self.args = args
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Accept what the class would."""

    def __setstate__(self, state: Any) -> None:
        """Forget the state."""


def _dictionary(*args: Any) -> dict[Any, Any]:
    return {}


def _today(name: str) -> str:
    """Old pickle protocols write Python 2's names, `__builtin__` for `builtins`."""
    module, _, attribute = name.rpartition(".")
    module, attribute = _compat_pickle.NAME_MAPPING.get((module, attribute), (module, attribute))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{attribute}"


def read_torch_file(path: Path) -> Any:
    """Read a file with PyTorch's weights-only unpickler, tensors mapped from disk.

    Every class that PyTorch does not itself count as harmless becomes a `Placeholder`; nothing
    is imported for it and none of its code runs.

    Raises:
        CheckpointError: damaged, or built in a way that cannot be read so.
    """
    names = {_today(name) for name in pickled_names(path)}
    known: list[Any] = [
        (_dictionary if name in DICTIONARIES else Placeholder, name) for name in sorted(names)
    ]
    with path.open("rb") as file:
        mapped = file.read(2) == b"PK"  # the legacy format cannot be mapped
    try:
        with torch.serialization.safe_globals(known), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged file makes the reader raise anything
        reason = str(error).partition("WeightsUnpickler error:")[2] or str(error)
        raise CheckpointError(
            f"{path} cannot be read without running code from it ({type(error).__name__}: "
            f"{reason.strip().splitlines()[0] if reason.strip() else ''}): it is damaged, or holds "
            "more than weights: save its state dict alone."
        ) from error
