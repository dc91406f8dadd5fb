"""Video files: H.264 that browsers play, GIF or WebP; whole, or not there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from calvin_eval import files
from calvin_eval.rollouts.video.frames import Frame
from calvin_eval.sim.bullet import captured_output

# Colours as screens have them: without a word about it, players guess by the size of the image.
_COLOURS = (
    "scale=out_color_matrix=bt709:out_range=tv,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709"
)
# One palette, from the first frame and colours that may come later (badges, lights, blocks): what
# does not move stays the same then, which keeps files small, and no frames have to be kept.
_LATER = (
    *("0x22a559", "0xdc3d43", "0xd98a00", "0x4f9cf9", "0xffffff"),
    *("0xff0000", "0x00ff00", "0x0000ff", "0xff00ff", "0xffff00"),
)
_SWATCHES = ",".join(
    f"drawbox=x={40 * i}:y=ih-40:w=40:h=40:t=fill:color={colour}" for i, colour in enumerate(_LATER)
)
_PALETTE = (
    f"split[a][b];[a]trim=end_frame=1,pad=w=max(iw\\,400):h=ih+40,{_SWATCHES},"
    "palettegen=reserve_transparent=1[p];[b][p]paletteuse=dither=none:diff_mode=rectangle"
)
_ENCODERS: dict[str, dict[str, Any]] = {
    "mp4": {
        "codec": "libx264",
        "pixelformat": "yuv420p",
        "output_params": [
            *("-crf", "20", "-preset", "veryfast", "-movflags", "+faststart"),
            *("-vf", _COLOURS),
        ],
    },
    "gif": {
        "codec": "gif",
        "pixelformat": "pal8",
        "output_params": ["-filter_complex", _PALETTE, "-loop", "0"],
    },
    "webp": {
        "codec": "libwebp_anim",
        "pixelformat": "yuv420p",
        "output_params": ["-quality", "75", "-compression_level", "2", "-loop", "0"],
    },
}
FORMATS = tuple(_ENCODERS)

_TAIL = 300  # characters of the encoder's last output that an error quotes


class VideoFile:
    """A video that is being written; a context that removes it unless it is published.

    Args:
        path: the file to be; its ending is one of `FORMATS`.
        fps: frames per second.
    """

    def __init__(self, path: Path, fps: int) -> None:
        self._path = path
        # Hidden until it is whole; the ending still names the format.
        self._temporary = path.with_name(files.temporary_name(path.stem, path.suffix[1:]))
        self._fps = fps
        self._writer: Any = None
        self._words: IO[bytes] | None = None
        self._count = 0

    def add(self, frame: Frame, times: int = 1) -> None:
        """Append a frame (H, W, 3) uint8, with even H and W, once or more often.

        Raises:
            OSError: the encoder is gone, most often for want of space.
        """
        try:
            for _ in range(times):
                if self._writer is None:
                    self._start(frame)
                else:
                    self._writer.append_data(frame)
        except OSError as error:
            raise OSError(self._explain()) from error
        self._count += times

    def _start(self, frame: Frame) -> None:
        """Start imageio's encoder process with the first frame, and keep what it says."""
        import imageio.v3 as iio

        encoder = _ENCODERS[self._path.suffix[1:]]
        # imageio would refuse GIF and WebP by their names; the encoder goes by the true name.
        place = iio.imopen(
            os.path.abspath(self._temporary),
            "w",
            plugin="FFMPEG",
            extension=".mp4",
            legacy_mode=True,  # frames one by one
        )
        self._writer = place.legacy_get_writer(
            fps=self._fps,
            quality=None,
            macro_block_size=1,
            ffmpeg_log_level="error",
            **{**encoder, "output_params": ["-threads", "1", *encoder["output_params"]]},
        )
        with captured_output() as sink:  # the process inherits our stderr
            self._words = os.fdopen(os.dup(sink.fileno()), "rb")
            self._writer.append_data(frame)

    def publish(self) -> Path:
        """Finish the file, look whether it is whole, and give it its name.

        Raises:
            OSError: the encoder did not write what it was given.
        """
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if not self._whole():
            raise OSError(self._explain())
        os.replace(self._temporary, self._path)
        return self._path

    def _whole(self) -> bool:
        """Whether all frames can be read back; imageio does not tell how the encoder ended."""
        try:
            if self._path.suffix == ".webp":  # equal frames are merged, and few readers exist
                return _riff_is_whole(self._temporary)
            import imageio_ffmpeg

            frames, _ = imageio_ffmpeg.count_frames_and_secs(self._temporary)
        except (OSError, RuntimeError):
            return False
        return bool(frames == self._count)

    def _explain(self) -> str:
        words = ""
        if self._words is not None:
            words = os.pread(self._words.fileno(), 1 << 16, 0).decode(errors="replace").strip()
        reason = words[-_TAIL:] or "it did not say why"
        return f"the encoder could not write {self._path.name}: {reason}"

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._words is not None:
            self._words.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def _riff_is_whole(path: Path) -> bool:
    """Whether a RIFF file is as long as it says."""
    with open(path, "rb") as file:
        head = file.read(12)
    size = int.from_bytes(head[4:8], "little") + 8
    return head[:4] == b"RIFF" and head[8:] == b"WEBP" and path.stat().st_size == size


def has_videos(folder: Path, chain: int) -> bool:
    """Whether there is any video of a chain."""
    return any(folder.glob(_pattern(chain)))


def remove_videos(folder: Path, chain: int) -> None:
    """Remove the videos of a chain whose record is replaced: they show something else."""
    for path in folder.glob(_pattern(chain)):
        path.unlink(missing_ok=True)


def _pattern(chain: int) -> str:
    return f"chain{chain:04d}[._]*"


def remove_remains(folder: Path) -> None:
    """Remove what processes that are gone left of their videos, as far as that is allowed."""
    files.remove_remains(folder, ".chain*.*")
