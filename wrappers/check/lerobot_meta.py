"""What a data set in LeRobot's format says of itself: features, episodes, and where they lie.

Facts of the format: LeRobot, `LeRobotDataset`. Version 2.1 has a table and a video per episode,
and `episodes.jsonl`; version 3.0 has many episodes in one file, and tables of episodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from calvin_eval.errors import UsageError
from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.wrappers.check.lerobot_files import as_mapping, fill, read_table

INFO: Final = "meta/info.json"

_MAX_FRAMES: Final = 10_000_000  # CALVIN has 2.4 million
_V2, _V3 = "v2.", "v3."


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Where the images of an episode lie.

    Attributes:
        path: the video.
        first: number of the episode's first frame in it.
    """

    path: Path
    first: int


@dataclass(frozen=True, kw_only=True)
class EpisodeMeta:
    """An episode.

    Attributes:
        first: number of its first frame in the data set.
        length: frames.
        sentence: what it shows.
        table: the file that its frames' numbers are in.
            clips: by feature, for those that are videos.
    """

    first: int
    length: int
    sentence: str
    table: Path
    clips: Mapping[str, Clip] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LeRobotMeta:
    """A data set.

    Attributes:
        version: `v2.1`, `v3.0` or another of these families.
        fps: frames per second.
        features: name -> `dtype`, `shape`, as `info.json` has them.
        episodes: in their order.
    """

    version: str
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    episodes: tuple[EpisodeMeta, ...]


def is_lerobot(path: Path) -> bool:
    """Says whether a folder holds a data set in LeRobot's format."""
    return (path / INFO).is_file()


def read_meta(root: Path) -> LeRobotMeta:
    """Reads what lies in `meta`.

    Raises:
        UsageError: a file is missing or damaged, or the version is none of 2.x and 3.x.
        MissingExtraError: version 3 needs pyarrow, which is not installed.
    """
    info = as_mapping(_json(root / INFO), str(root / INFO))
    version = str(info.get("codebase_version", ""))
    readers = {_V2: _episodes_2, _V3: _episodes_3}
    read = next((r for start, r in readers.items() if version.startswith(start)), None)
    if read is None:
        raise UsageError(f"{root / INFO}: expected LeRobot's format 2.x or 3.x, found {version!r}")
    features = {
        str(name): as_mapping(value, f"{root / INFO}: the feature {name}")
        for name, value in as_mapping(info.get("features"), f"{root / INFO}: features").items()
    }
    try:
        fps = float(info["fps"])
        episodes = tuple(read(root, info, features))
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError) as error:
        raise UsageError(f"{root / 'meta'}: damaged, or of another version ({error!r})") from error
    if sum(episode.length for episode in episodes) > _MAX_FRAMES:
        raise UsageError(f"{root / 'meta'}: expected at most {_MAX_FRAMES} frames, found more")
    if not episodes:
        raise UsageError(f"{root / 'meta'}: expected episodes, found none")
    return LeRobotMeta(version=version, fps=fps, features=features, episodes=episodes)


def _videos(features: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [name for name, feature in features.items() if feature.get("dtype") == "video"]


def _episodes_2(
    root: Path, info: Mapping[str, Any], features: Mapping[str, Mapping[str, Any]]
) -> Iterator[EpisodeMeta]:
    """Version 2: a line, a table and a video per camera for every episode."""
    first, size = 0, int(info["chunks_size"])
    for line in _lines(root / "meta/episodes.jsonl"):
        number, length = int(line["episode_index"]), _length(line["length"])
        place = {"episode_index": number, "episode_chunk": number // size}
        yield EpisodeMeta(
            first=first,
            length=length,
            sentence=_sentence(line["tasks"]),
            table=fill(info["data_path"], root, **place),
            clips={
                name: Clip(path=fill(info["video_path"], root, video_key=name, **place), first=0)
                for name in _videos(features)
            },
        )
        first += length


def _episodes_3(
    root: Path, info: Mapping[str, Any], features: Mapping[str, Mapping[str, Any]]
) -> Iterator[EpisodeMeta]:
    """Version 3: tables of episodes, which say where in which file each lies."""
    files = sorted((root / "meta/episodes").glob("*/*.parquet"))
    if not files:
        raise UsageError(f"expected {root / 'meta/episodes'} to hold tables, found none")
    videos, fps = _videos(features), float(info["fps"])
    names = ["length", "tasks", "dataset_from_index", "data/chunk_index", "data/file_index"]
    parts = ("chunk_index", "file_index", "from_timestamp")
    columns = [*names, *(f"videos/{video}/{part}" for video in videos for part in parts)]
    for file in files:
        table = read_table(file, columns)
        for row in range(len(table["length"])):
            cell = {name: values[row] for name, values in table.items()}
            yield EpisodeMeta(
                first=int(cell["dataset_from_index"]),
                length=_length(cell["length"]),
                sentence=_sentence(cell["tasks"]),
                table=_filled(root, info["data_path"], cell, "data"),
                clips={
                    video: Clip(
                        path=_filled(root, info["video_path"], cell, f"videos/{video}", video),
                        first=round(float(cell[f"videos/{video}/from_timestamp"]) * fps),
                    )
                    for video in videos
                },
            )


def _filled(
    root: Path, template: str, cell: Mapping[str, Any], where: str, video: str = ""
) -> Path:
    place = {part: cell[f"{where}/{part}"] for part in ("chunk_index", "file_index")}
    return fill(template, root, video_key=video, **place)


def _length(value: Any) -> int:
    if not 0 < int(value) <= _MAX_FRAMES:
        raise ValueError(f"an episode of {value} frames")
    return int(value)


def _sentence(tasks: Any) -> str:
    """The first of an episode's sentences; LeRobot allows several."""
    return str(tasks[0]) if isinstance(tasks, list) and tasks else ""


def _json(path: Path) -> Any:
    try:
        return parse_json(path.read_bytes(), strict=False)
    except (OSError, DocumentError) as error:
        raise UsageError(f"{path} cannot be read ({error})") from error


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        for line in path.read_bytes().splitlines():
            if line.strip():
                yield as_mapping(parse_json(line, strict=False), str(path))
    except (OSError, DocumentError) as error:
        raise UsageError(f"{path} cannot be read ({error})") from error
