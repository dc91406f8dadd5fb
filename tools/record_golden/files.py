"""Reading, writing and comparing recorded files, so that equal content gives equal bytes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Arrays = dict[str, NDArray[Any]]


def read_arrays(path: Path) -> Arrays:
    """Returns all arrays of an npz file by name."""
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an npz file that `np.load` reads, compressed by LZMA and without times in it.

    LZMA takes about 15 % less room than the deflate of `np.savez_compressed`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asanyarray(array), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_LZMA
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, buffer.getvalue())


def write_image(path: Path, image: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) uint8 RGB as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, optimize=True)


def differences(recorded: Path, stored: Path) -> Iterator[str]:
    """Yields a sentence for everything in which two files differ, down to dtype and last bit."""
    if not stored.is_file():
        yield "is not stored yet"
    elif recorded.suffix == ".npz":
        yield from _array_differences(read_arrays(recorded), read_arrays(stored))
    elif recorded.suffix == ".png":
        images = [np.asarray(Image.open(path)) for path in (recorded, stored)]
        yield from _array_differences({"image": images[0]}, {"image": images[1]})
    elif recorded.read_bytes() != stored.read_bytes():
        yield "differs"


def _array_differences(recorded: Arrays, stored: Arrays) -> Iterator[str]:
    for name in sorted(recorded.keys() ^ stored.keys()):
        yield f"{name} is only in the {'recording' if name in recorded else 'stored file'}"
    if [n for n in recorded if n in stored] != [n for n in stored if n in recorded]:
        yield "the arrays have another order"
    for name in recorded.keys() & stored.keys():
        ours, theirs = recorded[name], stored[name]
        if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
            yield f"{name} is {ours.dtype}{ours.shape}, stored {theirs.dtype}{theirs.shape}"
        elif ours.tobytes() != theirs.tobytes():
            yield f"{name}: {np.mean(ours != theirs):.2%} of the values differ"
