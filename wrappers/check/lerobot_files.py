"""Files of a data set in LeRobot's format: tables, videos and images, read within bounds.

Facts of the format: LeRobot, `LeRobotDataset`, versions 2.1 and 3.0. Tables are parquet files
(extra `calvin-eval[parquet]`).
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calvin_eval.errors import UsageError
from calvin_eval.extras import require

MAX_TABLE: Final = 2 * 2**30
"""Bytes of the wanted columns of a file, unpacked; CALVIN's largest split has 0.4 GB of states."""
MAX_PIXELS: Final = 4096 * 4096
WINDOW: Final = 128
"""Frames of a video that are decoded at one go."""

_FIELD: Final = re.compile(r"\{(\w+)(?::0?(\d{1,2})d)?\}")


def read_table(path: Path, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """Columns of a parquet file as plain values.

    Args:
        path: the file.
        columns: names; those that the file lacks are left out. All if None.

    Raises:
        UsageError: it is missing, damaged or too large.
        MissingExtraError: pyarrow is not installed.
    """
    return {name: column.to_pylist() for name, column in _columns(path, columns).items()}


def _columns(path: Path, columns: Sequence[str] | None) -> dict[str, Any]:
    """Columns of a file as pyarrow has them."""
    require("parquet", f"reading {path.name}")
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            wanted = [name for name in names if columns is None or name in columns]
            _check_size(file, path, wanted)
            table = file.read(columns=wanted)
    except UsageError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    return {name: table.column(name) for name in wanted}


def read_numbers(path: Path, columns: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Columns of numbers, or of lists of numbers of one length, as float64 arrays.

    Raises:
        UsageError: as `read_table`, or a column holds something else.
    """
    found = {}
    for name, column in _columns(path, columns).items():
        try:
            found[name] = _as_array(column)
        except (TypeError, ValueError, NotImplementedError) as error:
            raise UsageError(f"{path}: {name}: expected numbers ({error})") from error
    return found


def _as_array(column: Any) -> NDArray[np.float64]:
    """A column of numbers (n,), or of lists of one length (n, length)."""
    import pyarrow

    cells = column.combine_chunks()
    kinds = pyarrow.types
    nested = kinds.is_list(cells.type) or kinds.is_fixed_size_list(cells.type)
    numbers = cells.flatten() if nested else cells
    flat = np.asarray(numbers.to_numpy(zero_copy_only=False), np.float64)
    if not nested:
        return flat
    length = len(cells[0]) if len(cells) else 0
    return flat.reshape(len(cells), length)  # lists of several lengths do not fit


def read_image(path: Path, column: str, row: int) -> NDArray[np.uint8]:
    """An image (H, W, 3) that stands in a table as a PNG or JPEG file.

    Raises:
        UsageError: there is none, or it is damaged or too large.
    """
    try:
        cells = _images(path, path.stat().st_mtime_ns, column, row // WINDOW)
        cell = cells[row % WINDOW]
        with Image.open(io.BytesIO(cell["bytes"])) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UsageError(f"expected up to {MAX_PIXELS} pixels, found {image.size}")
            return np.asarray(image.convert("RGB"), np.uint8)
    except (OSError, TypeError, KeyError, IndexError, SyntaxError, UsageError) as error:
        raise UsageError(f"{path}: {column}, row {row}: cannot be read ({error})") from error


@lru_cache(maxsize=4)
def _images(path: Path, changed: int, column: str, window: int) -> list[Any]:
    """The cells of some rows; other rows of the file are not kept."""
    require("parquet", f"reading {path.name}")
    import pyarrow
    from pyarrow import parquet

    cells: list[Any] = []
    first, seen = window * WINDOW, 0
    try:
        with parquet.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                raise UsageError(f"no column {column}")
            for batch in file.iter_batches(batch_size=WINDOW, columns=[column]):
                start = max(first - seen, 0)
                cells += batch.column(0).slice(start, WINDOW - len(cells)).to_pylist()
                seen += batch.num_rows
                if len(cells) >= WINDOW:
                    break
    except pyarrow.ArrowException as error:
        raise UsageError(f"{type(error).__name__}: {error}") from error
    return cells


def read_video(path: Path, number: int, fps: float, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame (H, W, 3) of a video.

    Args:
        path: the file.
        number: of the frame, from 0.
        fps: frames per second.
        size: height and width that it is said to have.

    Raises:
        UsageError: there is no such frame, or the file cannot be decoded.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error})") from error
    frames = _video(path, changed, number // WINDOW, fps, size)
    if number % WINDOW >= len(frames):
        raise UsageError(f"{path}: there is no frame {number}")
    return frames[number % WINDOW]


@lru_cache(maxsize=4)
def _video(
    path: Path, changed: int, window: int, fps: float, size: tuple[int, int]
) -> list[NDArray[np.uint8]]:
    import imageio_ffmpeg

    height, width = size
    if not 0 < height * width <= MAX_PIXELS or not 0 < fps <= 1000:
        raise UsageError(f"{path}: expected images and a rate, found {size} at {fps} a second")
    # Half a frame earlier than the first one: times are rounded in the file.
    start = max(0.0, (window * WINDOW - 0.5) / fps)
    reader = imageio_ffmpeg.read_frames(
        str(path), input_params=["-ss", f"{start:.6f}"], output_params=["-frames:v", str(WINDOW)]
    )
    try:
        found = tuple(next(reader)["source_size"])
        if found != (width, height):
            raise UsageError(f"expected images of {width}x{height}, found {found}")
        shape = (height, width, 3)
        return [np.frombuffer(frame, np.uint8).reshape(shape) for frame in reader]
    except (OSError, RuntimeError, StopIteration, KeyError, ValueError, UsageError) as error:
        raise UsageError(f"{path} cannot be decoded ({str(error).strip()[:300]})") from error
    finally:
        reader.close()


def fill(template: str, root: Path, **values: Any) -> Path:
    """The path that a template of `info.json` stands for, below the data set's folder.

    Args:
        template: with fields such as `{episode_index:06d}`.
        root: the folder.
        values: of the fields.

    Raises:
        UsageError: a field that is not known, or a path that leads out of the folder.
    """

    def put(field: re.Match[str]) -> str:
        value = values.get(field[1])
        if value is None:
            raise UsageError(f"expected the fields {', '.join(values)}, found {{{field[1]}}}")
        return f"{int(value):0{int(field[2])}d}" if field[2] else str(value)

    path = root / _FIELD.sub(put, template)
    # By name only: files in a cache of downloads are links to somewhere else.
    inside = Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root))
    if not inside or "\0" in str(path):
        raise UsageError(f"expected a path below {root}, found {template!r}")
    return path


def _check_size(file: Any, path: Path, wanted: Sequence[str]) -> None:
    metadata: Any = file.metadata
    total = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group)
        for column in range(rows.num_columns):
            chunk = rows.column(column)
            if chunk.path_in_schema.split(".")[0] in wanted or chunk.path_in_schema in wanted:
                total += chunk.total_uncompressed_size
    if total > MAX_TABLE or metadata.num_rows > MAX_TABLE // 8:
        raise UsageError(f"{path}: expected at most {MAX_TABLE} bytes, found {total}")


def as_mapping(value: Any, what: str) -> Mapping[str, Any]:
    """A JSON object.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"{what}: expected an object, found {str(value)[:40]!r}")
    return value
