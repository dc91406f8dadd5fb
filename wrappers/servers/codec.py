"""msgpack with NumPy arrays, in the two spellings that policy servers use.

An array travels as a map with a marker, its bytes, its type and its shape. openpi writes the keys
of that map as bytes, vla-eval as text, and neither reads the other's. Nothing is ever unpickled,
and an array whose bytes do not fit its type and shape is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import PolicyError

_NUMBERS = "biuf"
_TEXT = "US"
_LONGEST_TYPE = 16  # characters of a plain type such as "<f4" or "<U1000"


class WireError(PolicyError):
    """A message that cannot be read."""


@dataclass(frozen=True)
class Codec:
    """One spelling.

    Attributes:
        binary_keys: whether the keys of an array's map are bytes instead of text.
        scalars: whether NumPy's scalars keep their type; otherwise they become plain numbers.
        kinds: NumPy's letters of the kinds of types that may travel.
    """

    binary_keys: bool
    scalars: bool
    kinds: str

    def pack(self, content: Any) -> bytes:
        """Maps, lists, text, bytes, numbers and arrays as one message.

        Raises:
            WireError: something in it cannot travel.
        """
        try:
            packed: bytes = msgpack.packb(content, default=self._encode)
        except (TypeError, ValueError, OverflowError) as error:
            raise WireError(f"a message cannot be packed: {error}") from error
        return packed

    def unpack(self, message: bytes) -> Any:
        """The inverse; arrays are writable copies in this machine's byte order.

        Raises:
            WireError: it is cut off, or not of this form.
        """
        try:
            return msgpack.unpackb(message, object_hook=self._decode, ext_hook=_refuse)
        except WireError:
            raise
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise WireError(
                f"expected a msgpack message, found {len(message)} bytes that are none: {error}"
            ) from error

    def _key(self, name: str) -> str | bytes:
        return name.encode() if self.binary_keys else name

    def _encode(self, value: Any) -> Any:
        if isinstance(value, np.generic) and not self.scalars and value.dtype.kind in _NUMBERS:
            return value.item()
        if not isinstance(value, np.ndarray | np.generic):
            raise TypeError(f"values of type {type(value).__name__} have no form in it")
        if value.dtype.kind not in self.kinds:
            raise TypeError(f"arrays of {value.dtype} have no form in it")
        if isinstance(value, np.generic):
            return {
                self._key("__npgeneric__"): True,
                self._key("data"): value.item(),
                self._key("dtype"): value.dtype.str,
            }
        return {
            self._key("__ndarray__"): True,
            self._key("data"): value.tobytes(),
            self._key("dtype"): value.dtype.str,
            self._key("shape"): list(value.shape),
        }

    def _decode(self, found: dict[Any, Any]) -> Any:
        if self._key("__ndarray__") in found:
            return self._array(found)
        if self.scalars and self._key("__npgeneric__") in found:
            return self._scalar(found)
        return found

    def _scalar(self, found: dict[Any, Any]) -> Any:
        value = found.get(self._key("data"))
        if not isinstance(value, bool | int | float | str):
            raise WireError(f"expected a number, found {type(value).__name__}")
        return self._type(found).type(value)

    def _array(self, found: dict[Any, Any]) -> NDArray[Any]:
        kind = self._type(found)
        data, shape = found.get(self._key("data")), found.get(self._key("shape"))
        if not isinstance(data, bytes) or not isinstance(shape, list):
            raise WireError("expected an array's data and shape, found a map without them")
        if not all(type(side) is int and side >= 0 for side in shape):
            raise WireError(f"expected an array's shape, found {str(shape)[:100]}")
        if not kind.itemsize or math.prod(shape) * kind.itemsize != len(data):
            raise WireError(
                f"expected {math.prod(shape)} x {kind.itemsize} bytes for an array of shape "
                f"{str(shape)[:100]} and type {kind}, found {len(data)}"
            )
        native = kind.newbyteorder("=")
        return np.frombuffer(data, kind).reshape(shape).astype(native, copy=True)

    def _type(self, found: dict[Any, Any]) -> np.dtype[Any]:
        name = found.get(self._key("dtype"))
        if not isinstance(name, str) or len(name) > _LONGEST_TYPE:
            raise WireError(f"expected the name of an array's type, found {str(name)[:100]}")
        try:
            kind = np.dtype(name)
        except Exception as error:  # NumPy evaluates the text and raises what that raises
            raise WireError(f"expected the name of an array's type, found {name!r}") from error
        if kind.kind not in self.kinds:
            raise WireError(f"arrays of type {name!r} are not accepted")
        return kind


def _refuse(code: int, data: bytes) -> Any:
    raise WireError(f"expected plain msgpack, found an extension of type {code}")


OPENPI = Codec(binary_keys=True, scalars=True, kinds=_NUMBERS + _TEXT)
"""As openpi's client and server write it (openpi_client, msgpack_numpy)."""

VLA_EVAL = Codec(binary_keys=False, scalars=False, kinds=_NUMBERS)
"""As vla-eval 0.7 and 0.8 write it (vla_eval, protocol/numpy_codec)."""
