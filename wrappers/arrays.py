"""NumPy arrays from whatever a network returns; torch is recognised without importing it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_tensor(value: object) -> bool:
    """Whether this is a torch tensor, or something that can be brought to the CPU like one."""
    return hasattr(value, "detach") and hasattr(value, "cpu")


def to_numpy(value: Any) -> NDArray[Any]:
    """An array of the same floating type; bfloat16, which NumPy lacks, becomes float32.

    Args:
        value: an array, a tensor on any device, a number, or nested sequences of these.

    Raises:
        TypeError, ValueError, RuntimeError: it is nothing that an array can be made of.
    """
    if is_tensor(value):
        value = value.detach().cpu()
        return np.asarray(value.float() if str(value.dtype) == "torch.bfloat16" else value)
    if isinstance(value, list | tuple):
        value = [to_numpy(entry) if is_tensor(entry) else entry for entry in value]
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
