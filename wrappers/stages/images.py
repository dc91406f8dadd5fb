"""Images as a network wants them: cut, resized, and in its range and layout."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import UsageError
from calvin_eval.wrappers.stages.base import Context, Observation, ObservationStage
from calvin_eval.wrappers.stages.options import choice

FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
"""Pillow's filters; all but nearest widen with the scale where an image shrinks."""

STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "clip": (
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and standard deviation per RGB channel of values in [0, 1] (the models' own cards)."""

CHOICES = {
    "fit": ("stretch", "pad"),
    "filter": FILTERS,
    "values": ("uint8", "unit", "signed"),
    "layout": ("hwc", "chw"),
    "order": ("rgb", "bgr"),
    "requantize": ("none", "truncate"),
}


@dataclass(frozen=True, kw_only=True)
class Images(ObservationStage):
    """Preprocess colour images, in the order of the options below.

    Without options it changes nothing: uint8 (H, W, 3), RGB. An image with leading axes, as
    `history` makes them, is treated one by one. What comes next must take the result: TorchScript
    and torch.export policies of the tensor contract expect the benchmark's own uint8 images.

    Attributes:
        cameras: names such as `static`; all that the policy looks through if None.
        requantize: "truncate" takes uint8 through [-1, 1] in float32 and back without rounding,
            as vla-eval's CALVIN benchmark does; 63 of the 256 levels come back one lower.
        jpeg: quality 1..100 of an encoding and decoding; none if None.
        crop: what is kept: a fraction of each side around the centre, (low, high) in pixels of
            both axes, or (left, top, right, bottom).
        size: side, or (width, height), in pixels; as it is if None.
        fit: "stretch" ignores the aspect ratio; "pad" keeps it, centred on black.
        filter: how it is resized, see `FILTERS`.
        values: "uint8" 0..255, "unit" float32 [0, 1], "signed" float32 [-1, 1].
        normalize: name in `STATISTICS`, or `mean` and `std` per RGB channel of values in [0, 1];
            gives float32, whatever `values` says.
        order: channels as "rgb" or "bgr".
        layout: axes as "hwc" or "chw".
    """

    cameras: Sequence[str] | None = None
    requantize: str = "none"
    jpeg: int | None = None
    crop: float | Sequence[int] | None = None
    size: int | Sequence[int] | None = None
    fit: str = "stretch"
    filter: str = "bilinear"
    values: str = "uint8"
    normalize: str | Mapping[str, Sequence[float]] | None = None
    order: str = "rgb"
    layout: str = "hwc"

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            choice(f"{name} of images", getattr(self, name), choices)
        if self.jpeg is not None and not 1 <= self.jpeg <= 100:
            raise UsageError(f"images: expected a jpeg quality from 1 to 100, found {self.jpeg}")
        if self.size is not None and (len(_pair(self.size)) != 2 or min(_pair(self.size)) < 1):
            raise UsageError(f"images: expected size as side or [width, height], found {self.size}")
        _check_crop(self.crop)
        _statistics(self.normalize)

    def __call__(self, frames: Sequence[Observation], context: Context) -> Sequence[Observation]:
        """The frames with their `rgb_obs` preprocessed."""
        return [self._frame(frame) for frame in frames]

    def _frame(self, frame: Observation) -> Observation:
        images = {
            key: self._stack(image) if self._chosen(key) else image
            for key, image in frame.get("rgb_obs", {}).items()
        }
        return {**frame, "rgb_obs": images}

    def _chosen(self, key: str) -> bool:
        return self.cameras is None or key.removeprefix("rgb_") in self.cameras

    def _stack(self, image: NDArray[Any]) -> NDArray[Any]:
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim < 3 or image.shape[-1] != 3:
            raise UsageError(
                f"images: expected uint8 images (H, W, 3), found {image.dtype} {image.shape}: "
                "use one stage per camera, before stages that change type or layout"
            )
        if image.ndim == 3:
            return self._image(image)
        return np.stack([self._stack(one) for one in image])

    def _image(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        if self.requantize == "truncate":
            signed = (image.astype(np.float32) / 255 - 0.5) / 0.5
            image = ((signed + 1) / 2 * 255).astype(np.uint8)
        if self.jpeg is not None:
            image = jpeg_round_trip(image, self.jpeg)
        if self.crop is not None:
            left, top, right, bottom = crop_box(self.crop, image.shape[1], image.shape[0])
            image = image[top:bottom, left:right]
        if self.size is not None:
            image = resize(image, _pair(self.size), self.filter, pad=self.fit == "pad")
        values = self._scaled(image)
        if self.order == "bgr":
            values = values[..., ::-1]
        return np.ascontiguousarray(values if self.layout == "hwc" else np.moveaxis(values, -1, 0))

    def _scaled(self, image: NDArray[np.uint8]) -> NDArray[Any]:
        """In the range that `values` or `normalize` asks for."""
        if self.normalize is not None:
            mean, std = (np.asarray(v, np.float32) for v in _statistics(self.normalize))
            return np.asarray((image.astype(np.float32) / 255 - mean) / std)
        if self.values == "uint8":
            return image
        unit = image.astype(np.float32) / 255
        return unit if self.values == "unit" else unit * 2 - 1


def resize(
    image: NDArray[np.uint8], size: tuple[int, ...], filter: str, *, pad: bool
) -> NDArray[np.uint8]:
    """Resize with Pillow.

    Args:
        image: (H, W, 3).
        size: width and height in pixels.
        filter: see `FILTERS`.
        pad: whether to keep the aspect ratio and centre the image on black; sides are truncated
            to whole pixels and an odd margin goes to the right and the bottom, as in
            openpi-client's `image_tools`.

    Returns:
        (height, width, 3).
    """
    from PIL import Image

    width, height = size
    method = Image.Resampling[filter.upper()]
    whole = Image.fromarray(image)
    if not pad:
        return np.asarray(whole.resize((width, height), method))
    ratio = max(whole.width / width, whole.height / height)
    inner = whole.resize((int(whole.width / ratio), int(whole.height / ratio)), method)
    canvas = Image.new("RGB", (width, height))
    canvas.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
    return np.asarray(canvas)


def jpeg_round_trip(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Encode and decode with Pillow's JPEG (4:2:0): what a network saw in compressed data."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(buffer))


def crop_box(crop: float | Sequence[int], width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom in pixels of what `Images.crop` keeps.

    Raises:
        UsageError: the box does not lie in the image.
    """
    if isinstance(crop, int | float):
        kept = round(width * crop), round(height * crop)
        left, top = (width - kept[0]) // 2, (height - kept[1]) // 2
        return left, top, left + kept[0], top + kept[1]
    box = (crop[0], crop[0], crop[1], crop[1]) if len(crop) == 2 else tuple(crop)
    left, top, right, bottom = box
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise UsageError(f"images: expected a crop within {width}x{height} pixels, found {crop}")
    return left, top, right, bottom


def _check_crop(crop: float | Sequence[int] | None) -> None:
    if crop is None:
        return
    fraction = isinstance(crop, int | float)
    if not (0 < crop <= 1 if fraction else len(crop) in (2, 4)):  # type: ignore[operator, arg-type]
        raise UsageError(
            "images: expected crop as a fraction in (0, 1], [low, high], or [left, top, right, "
            f"bottom]; found {crop}"
        )


def _pair(size: int | Sequence[int]) -> tuple[int, ...]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _statistics(normalize: Any) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation per channel; raises for what is no such thing."""
    if normalize is None:
        return (), ()
    if isinstance(normalize, str):
        choice("normalize of images", normalize, STATISTICS)
        return STATISTICS[normalize]
    if not isinstance(normalize, Mapping) or set(normalize) != {"mean", "std"}:
        raise UsageError(
            f"images: expected normalize as one of {', '.join(STATISTICS)}, or mean and std; "
            f"found {normalize}"
        )
    if len(normalize["mean"]) != 3 or len(normalize["std"]) != 3 or min(normalize["std"]) <= 0:
        raise UsageError("images: expected three numbers each in mean and std, std above zero")
    return normalize["mean"], normalize["std"]
