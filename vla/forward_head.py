"""A head that predicts images: those to come, or what is hidden of the present one.

RoboVLMs asks for such a head (`fwd_head`) and does not ship the module that it imports
(base_backbone, `robovlms.model.forward_head`), never puts the tokens that it makes for it into a
sequence, and reads `use_pixel_loss`, `vision_masked_ratio` and `use_tube_mask` nowhere. So keys,
weights of losses and the shares of hidden patches are its own; the head itself is ours: a small
transformer in which one query per patch looks at the language model's answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from calvin_eval.errors import UsageError
from calvin_eval.vla.fusion import Fused

TYPE = "ImageDecoder"
"""`fwd_head.type` of the head that there is; with any other name nothing is built."""


@dataclass(frozen=True, kw_only=True)
class ForwardOptions:
    """What is predicted (`fwd_head` and keys beside it).

    Attributes:
        latents: tokens per image in the language model's sequence (`image_latent_num`).
        images: how many images: n, or `global_frame_num` - 1; 1 with `masked`.
        hand: whether those of the gripper camera too (`pred_hand_image`).
        patch: side of a patch, in pixels.
        pixels: whether pixels are predicted, each patch brought to mean 0 and deviation 1, or the
            tokens that the model itself makes of the image (`use_pixel_loss`).
        masked: whether the present image is predicted where it is hidden (`use_mim_obs_loss`),
            and no image to come.
        ratio: share of its patches that are hidden (`vision_masked_ratio`).
        tube: whether the same ones in all frames of a window (`use_tube_mask`).
        learned: whether training computes losses of it (`train_setup.predict_forward`).
        width: of the transformer (`hidden_size`).
        layers: of it (`num_layers`).
        heads: of its attention (`num_heads`).
    """

    images: int
    patch: int
    latents: int = 8
    hand: bool = False
    pixels: bool = True
    masked: bool = False
    ratio: float = 0.9
    tube: bool = False
    learned: bool = False
    width: int = 256
    layers: int = 2
    heads: int = 4

    @classmethod
    def of_config(cls, config: Mapping[str, Any], patch: int) -> ForwardOptions:
        """What a configuration says.

        Args:
            config: the project configuration.
            patch: side of the vision tower's patches, in pixels.

        Raises:
            UsageError: a number out of its range.
        """
        head, steps = config["fwd_head"], int(config["fwd_pred_next_n"])
        frames = int(_given(head, "global_frame_num", -1))
        masked = bool(config.get("use_mim_obs_loss"))
        made = cls(
            images=1 if masked else steps if frames == -1 else frames - 1,
            patch=int(_given(head, "patch_size", patch)),
            latents=int(_given(head, "image_latent_num", 8)),
            hand=bool(head.get("pred_hand_image")) and bool(config.get("use_hand_rgb")),
            pixels=config.get("use_pixel_loss") is not False,
            masked=masked,
            ratio=float(_given(config, "vision_masked_ratio", 0.9)),
            tube=bool(config.get("use_tube_mask")),
            learned=bool((config.get("train_setup") or {}).get("predict_forward")),
            width=int(_given(head, "hidden_size", 256)),
            layers=int(_given(head, "num_layers", 2)),
            heads=int(_given(head, "num_heads", 4)),
        )
        if not 1 <= made.images <= steps:
            raise UsageError(
                f"fwd_head.global_frame_num: expected -1 or 2 to {steps + 1} (fwd_pred_next_n + 1)"
                f", found {frames}"
            )
        if min(made.patch, made.latents, made.layers, made.heads) < 1 or not 0 <= made.ratio <= 1:
            raise UsageError(
                "fwd_head: expected sizes from 1 up and vision_masked_ratio in [0, 1], found "
                f"patch_size {made.patch}, image_latent_num {made.latents}, num_layers "
                f"{made.layers}, num_heads {made.heads} and {made.ratio}"
            )
        return made


class ForwardHead(nn.Module):
    """Learned tokens that ask for images, and what decodes the answers.

    Args:
        options: what is predicted.
        width: D, of the language model.

    Attributes:
        options: as given.
        static_image_tokens: (images * latents, D), 0 at first, as RoboVLMs makes them.
        hand_image_tokens: the same for the gripper camera, or None.
    """

    def __init__(self, options: ForwardOptions, width: int) -> None:
        super().__init__()
        self.options = options
        count = options.images * options.latents
        self.static_image_tokens = nn.Parameter(torch.zeros(count, width))
        self.hand_image_tokens: nn.Parameter | None = None
        if options.hand:
            self.hand_image_tokens = nn.Parameter(torch.zeros(count, width))
        inner = options.width
        self.read = nn.Linear(width, inner)
        self.query = nn.Parameter(torch.randn(inner) * 0.02)
        layer = nn.TransformerEncoderLayer(
            inner, options.heads, 4 * inner, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, options.layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(inner)
        self.write = nn.Linear(inner, 3 * options.patch**2 if options.pixels else width)

    @classmethod
    def of_config(cls, config: Mapping[str, Any], parts: Any, size: int) -> ForwardHead | None:
        """The head that a configuration asks for.

        None for none, for one of another name than `TYPE`, for a discrete model and for one with
        cross attention: RoboVLMs does not ship the first and asks the others for none, and no
        action depends on it.

        Args:
            config: the project configuration.
            parts: the `Backbone`.
            size: side of the images, in pixels.

        Raises:
            UsageError: a number out of its range, or patches that do not fill an image.
        """
        discrete = config["act_head"].get("action_space") == "discrete"
        if discrete or parts.crosses or (config.get("fwd_head") or {}).get("type") != TYPE:
            return None
        tower = getattr(parts.vision, "config", None)
        options = ForwardOptions.of_config(config, int(getattr(tower, "patch_size", 0) or 16))
        if size % options.patch:
            raise UsageError(
                f"fwd_head.patch_size: expected a divisor of the image's {size} pixels, found "
                f"{options.patch}"
            )
        return cls(options, parts.hidden_size)

    def ask(self, fused: Fused, end: int | Tensor) -> Fused:
        """Sequences with the tokens put in front of their end, see `Fused.before_end`."""
        kinds = [self.static_image_tokens, self.hand_image_tokens]
        tokens = torch.cat([part for part in kinds if part is not None])
        return fused.ask(tokens.expand(len(fused.mask), -1, -1), end)

    def forward(self, asked: Tensor, count: int) -> list[Tensor]:
        """What the language model says at the tokens to predicted patches.

        Args:
            asked: (B, T, M, D), M the tokens of all cameras.
            count: N, patches or tokens of an image.

        Returns:
            For the static camera, and for the gripper camera if there is one: (B, T, images, N, C).
        """
        options = self.options
        place = _waves(count, options.width).to(asked.device, asked.dtype)
        found = []
        for camera in torch.split(asked, options.images * options.latents, 2):
            answers = self.read(torch.unflatten(camera, 2, (options.images, options.latents)))
            flat = answers.flatten(0, 2)
            queries = (self.query + place).expand(len(flat), -1, -1)
            hidden = self.layers(torch.cat([flat, queries], 1))[:, options.latents :]
            said: Tensor = self.write(self.norm(hidden))
            found.append(torch.unflatten(said, 0, answers.shape[:3]))
        return found


def patches(images: Tensor, side: int) -> Tensor:
    """Images (..., 3, S, S) to patches (..., N, side * side * 3), row by row."""
    rows = images.shape[-1] // side
    cut = torch.unflatten(torch.unflatten(images, -1, (rows, side)), -3, (rows, side))
    moved = cut.movedim((-4, -2), (-5, -4))  # (..., rows, columns, 3, side, side)
    return moved.movedim(-3, -1).flatten(-3).flatten(-3, -2)


def evened(values: Tensor) -> Tensor:
    """Patches (..., N, C), each brought to mean 0 and deviation 1."""
    mean, variance = values.mean(-1, keepdim=True), values.var(-1, keepdim=True)
    return (values - mean) / (variance + 1e-6).sqrt()


def hidden_patches(shape: tuple[int, int], count: int, ratio: float, *, tube: bool) -> Tensor:
    """Which patches a model does not see, drawn from torch's generator.

    Args:
        shape: B samples, T frames.
        count: N, patches of an image.
        ratio: share of them that is hidden, rounded down (RoboVLMs, it_dataset).
        tube: whether the same ones in all frames of a sample.

    Returns:
        (B, T, N) bool, True where hidden.
    """
    rows, frames = shape
    drawn = torch.rand(rows, 1 if tube else frames, count).argsort(-1).argsort(-1)
    return (drawn < int(ratio * count)).expand(rows, frames, count)


def without(images: Tensor, hidden: Tensor, side: int) -> Tensor:
    """Images (B, T, 3, S, S) with hidden patches (B, T, N) set to 0, the mean colour."""
    rows = images.shape[-1] // side
    grid = torch.unflatten(hidden, -1, (rows, rows))
    wide = grid.repeat_interleave(side, -1).repeat_interleave(side, -2)
    return images.masked_fill(wide.unsqueeze(2).to(images.device), 0)


def _waves(count: int, width: int) -> Tensor:
    """Positions (count, width) as sines and cosines."""
    half = width // 2
    speed = torch.exp(-math.log(10000.0) * torch.arange(half) / half)
    angle = torch.arange(count).unsqueeze(1) * speed
    waves = torch.cat([angle.sin(), angle.cos()], 1)
    return nn.functional.pad(waves, (0, width - 2 * half))


def _given(values: Mapping[str, Any], key: str, default: Any) -> Any:
    value = values.get(key)
    return default if value is None else value
