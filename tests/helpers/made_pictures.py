"""Pictures of failures made by hand, as large as real ones."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from calvin_eval.results.diagnosis import Failure
from calvin_eval.results.illustrations import Illustration, Moment, Pictures, Stretch

NAMES = ("start", "closest", "contact", "best", "end", "expert")


def made_strip() -> bytes:
    """A strip of grey fields, WebP."""
    fields: Any = np.repeat(np.linspace(40, 220, 6), 96).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(np.tile(fields[None, :, None], (96, 1, 3))).save(file, "WEBP", quality=40)
    return file.getvalue()


def made_stretch(task: str, *, success: bool, steps: int = 360) -> Stretch:
    """A subtask in which the hand closed and touched something every 40 steps."""
    times = tuple((at, at + 15) for at in range(10, steps - 15, 40))
    return Stretch(
        task=task, success=success, steps=steps, progress=tuple(np.linspace(0, 0.9, 30).round(3)),
        target=times, other=tuple((a + 16, b + 10) for a, b in times), closed=times,
    )  # fmt: skip


def made_pictures(failures: Iterable[Failure], strip: bytes = b"") -> Pictures:
    """Pictures of all of them."""
    image = strip or made_strip()
    moments = tuple(Moment(name=name, note=f"step {i}") for i, name in enumerate(NAMES))
    return Pictures(illustrations={
        failure.chain: Illustration(
            chain=failure.chain, strip=image, moments=moments,
            course=(
                *(made_stretch("turn_on_led", success=True, steps=80)
                  for _ in range(failure.position)),
                made_stretch(failure.task, success=False),
            ),
        )
        for failure in failures
    })  # fmt: skip
