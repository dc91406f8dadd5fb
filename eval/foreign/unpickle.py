"""CALVIN's annotations are a pickled dict: read without running what else a pickle may hold."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from calvin_eval.errors import UsageError


def _latin1(text: str, encoding: str) -> bytes:
    """What old pickles call to make bytes; other codecs could unpack a bomb."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"codec {encoding}")
    return text.encode("latin1")


def _from_buffer(buffer: bytes, dtype: np.dtype[Any], shape: Any, order: Any) -> Any:
    """How pickle's protocol 5 rebuilds an array."""
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


@cache
def _allowed() -> Mapping[tuple[str, str], Callable[..., Any]]:
    """Names that NumPy writes for plain arrays and numbers, of old and new versions."""
    rebuild: Any = np.empty(0).__reduce__()[0]
    scalar: Any = np.float64(0).__reduce__()[0]
    names: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[core, "_reconstruct"] = rebuild
        names[core, "scalar"] = scalar
    for core in ("numpy.core.numeric", "numpy._core.numeric"):
        names[core, "_frombuffer"] = _from_buffer
    return names


class PlainUnpickler(pickle.Unpickler):
    """Knows arrays, numbers, texts and the containers that pickles have by themselves."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the pickle, if it is one of NumPy's own."""
        try:
            return _allowed()[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None


def load_plain(path: Path) -> Any:
    """The object in a `.npy` file, if it consists of plain values and arrays.

    Raises:
        UsageError: the file is missing, damaged, or holds anything else; nothing of it ran.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0
            if version[0] != 1:
                read = np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            if not dtype.hasobject:
                raise UsageError(
                    f"{path}: expected a pickled dict, found an array {dtype} of shape {shape}"
                )
            loaded = PlainUnpickler(file, encoding="latin1").load()
    except UsageError:
        raise
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{path}: expected a dict of plain values and arrays; found {error} in it, which may "
            "run code. Do not open it with allow_pickle."
        ) from error
    except Exception as error:  # a damaged pickle raises anything
        raise UsageError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    return loaded.item() if isinstance(loaded, np.ndarray) and loaded.shape == () else loaded
