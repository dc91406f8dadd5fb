"""RLDS data sets written by hand: TFRecord frames around protocol buffers."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

POLYNOMIAL = 0x82F63B78


def crc32c(data: bytes) -> int:
    """CRC-32C, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(features: Mapping[str, Any]) -> bytes:
    """A tf.train.Example of bytes, float32 and whole numbers."""
    entries = b""
    for name, values in features.items():
        if isinstance(values, list):
            kind, body = 1, b"".join(field(1, value) for value in values)
        elif np.asarray(values).dtype.kind == "f":
            kind, body = 2, field(1, np.asarray(values, "<f4").tobytes())
        else:
            kind, body = 3, field(1, b"".join(varint(int(v)) for v in np.ravel(values)))
        entries += field(1, field(1, name.encode()) + field(2, field(kind, body)))
    return field(1, entries)


def write_records(path: Path, messages: Sequence[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [(struct.pack("<Q", len(m)), m) for m in messages]
    path.write_bytes(b"".join(head + masked(head) + m + masked(m) for head, m in parts))
    return path


def picture(number: int, size: int = 20) -> bytes:
    """A PNG whose grey is the number of its step."""
    out = io.BytesIO()
    Image.new("RGB", (size, size), (number, number, number)).save(out, "PNG")
    return out.getvalue()


def episode(steps: int, text: str = "lift it", seed: int = 0, **changes: Any) -> dict[str, Any]:
    """An episode with actions of seven numbers, the gripper open in its first half."""
    draw = np.random.default_rng(seed)
    actions = draw.normal(size=(steps, 7)).astype(np.float32)
    actions[:, 6] = np.arange(steps) < steps // 2
    return {
        "steps/action": actions.ravel(),
        "steps/observation/image": [picture(10 * seed + i) for i in range(steps)],
        "steps/language_instruction": [text.encode()] * steps,
        "steps/is_first": np.arange(steps) == 0,
        **changes,
    }
