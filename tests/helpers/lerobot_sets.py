"""A small writer of data sets in LeRobot's formats 2.1 and 3.0, from splits in CALVIN's format."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from calvin_eval.foreign.splits import SplitFolder

FPS = 30
KEYS = {
    "rel_actions": "action",
    "robot_obs": "observation.state",
    "scene_obs": "observation.environment_state",
    "rgb_static": "observation.images.static",
    "rgb_gripper": "observation.images.wrist",
}
"""CALVIN's names -> features, as LeRobot's own tools call them."""


def write_lerobot(
    split: SplitFolder,
    out: Path,
    *,
    version: str,
    keys: Mapping[str, str] | None = None,
    videos: bool = False,
    state: Sequence[int] = range(15),
) -> Path:
    """Write every annotation of a split as an episode; returns `out`.

    Args:
        version: `v2.1` or `v3.0`.
        keys: which arrays there are, and what they are called.
        videos: images as videos, otherwise as PNG in the tables.
        state: which numbers of robot_obs there are.
    """
    import pyarrow
    from pyarrow import parquet

    keys = KEYS if keys is None else keys
    annotations = split.annotations or ()
    tasks = sorted({a.text for a in annotations})
    rows: list[list[dict[str, Any]]] = []
    index = 0
    for number, a in enumerate(annotations):
        rows.append([])
        for step, frame in enumerate(range(a.first, a.last + 1)):
            arrays = split.read(frame)
            row: dict[str, Any] = {
                "index": index, "frame_index": step, "episode_index": number,
                "timestamp": step / FPS, "task_index": tasks.index(a.text),
            }  # fmt: skip
            for name, feature in keys.items():
                row[feature] = value_of(arrays[name], name, state, videos=videos)
            rows[-1].append(row)
            index += 1

    films = [k for n, k in keys.items() if n.startswith("rgb_") and videos]
    two = version.startswith("v2")
    write_info(out, version, keys, rows, state=state, videos=videos)
    table = [{k: v for k, v in row.items() if k not in films} for e in rows for row in e]
    columns = [[row for row in table if row["episode_index"] == n] for n in range(len(rows))]
    for number, part in enumerate(columns if two else [table]):
        path = out / (f"data/chunk-000/episode_{number:06d}.parquet" if two
                      else "data/chunk-000/file-000.parquet")  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(part), path, row_group_size=50)
    for feature in films:
        clips = [[row[feature] for row in e] for e in rows]
        for number, clip in enumerate(clips if two else [[*chain(*clips)]]):
            place = (f"videos/chunk-000/{feature}/episode_{number:06d}.mp4" if two
                     else f"videos/{feature}/chunk-000/file-000.mp4")  # fmt: skip
            write_video(out / place, clip)
    if two:
        lines = [
            {"episode_index": n, "tasks": [a.text], "length": len(rows[n])}
            for n, a in enumerate(annotations)
        ]
        (out / "meta/episodes.jsonl").write_text("".join(f"{json.dumps(x)}\n" for x in lines))
    else:
        write_episodes(out, [a.text for a in annotations], list(map(len, rows)), films)
    return out


def value_of(array: Any, name: str, state: Sequence[int], *, videos: bool) -> Any:
    """An array as a cell of a table, or a frame of a video."""
    if not name.startswith("rgb_"):
        numbers = array[list(state)] if name == "robot_obs" else array
        return [float(x) for x in numbers.astype(np.float32)]
    if videos:
        return array
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": None}


def write_info(
    out: Path, version: str, keys: Mapping[str, str], rows: list[list[dict[str, Any]]], **how: Any
) -> None:
    shapes = {"rel_actions": [7], "robot_obs": [len(how["state"])], "scene_obs": [24]}
    sizes = {"rgb_static": [200, 200, 3], "rgb_gripper": [84, 84, 3]}
    kind = "video" if how["videos"] else "image"
    features = {
        feature: {"dtype": "float32", "shape": shapes[name], "names": None}
        if name in shapes
        else {"dtype": kind, "shape": sizes[name], "names": ["height", "width", "channels"]}
        for name, feature in keys.items()
    }
    two = version.startswith("v2")
    info = {
        "codebase_version": version,
        "fps": FPS,
        "chunks_size": 1000,
        "total_episodes": len(rows),
        "features": features,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet" if two
        else "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
        if two else "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }  # fmt: skip
    (out / "meta").mkdir(parents=True)
    (out / "meta/info.json").write_text(json.dumps(info), encoding="utf-8")


def write_episodes(out: Path, texts: list[str], lengths: list[int], films: list[str]) -> None:
    """Version 3's table of episodes."""
    import pyarrow
    from pyarrow import parquet

    starts = np.cumsum([0, *lengths])[:-1].tolist()
    table: dict[str, list[Any]] = {
        "episode_index": list(range(len(texts))),
        "tasks": [[text] for text in texts],
        "length": lengths,
        "dataset_from_index": starts,
        "dataset_to_index": [a + n for a, n in zip(starts, lengths, strict=True)],
        "data/chunk_index": [0] * len(texts),
        "data/file_index": [0] * len(texts),
    }
    for feature in films:
        table[f"videos/{feature}/chunk_index"] = [0] * len(texts)
        table[f"videos/{feature}/file_index"] = [0] * len(texts)
        table[f"videos/{feature}/from_timestamp"] = [start / FPS for start in starts]
    path = out / "meta/episodes/chunk-000/file-000.parquet"
    path.parent.mkdir(parents=True)
    parquet.write_table(pyarrow.table(table), path)


def write_video(path: Path, frames: Sequence[Any]) -> None:
    import imageio_ffmpeg

    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=FPS, codec="libx264", quality=9, macro_block_size=1,
        pix_fmt_out="yuv444p",
    )  # fmt: skip
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
