"""The vision-language-action model of the RoboVLMs family.

    model = RoboVLM.build(config, vlm_folder, Compat())
    model.load_state_dict(...)  # names: `act_head.…`, `action_token`, `backbone.…`
    static = model.preprocess.images(frames)  # (B, 3, S, S); stack them to (B, T, 3, S, S)

    ids, mask = model.preprocess.text(instructions)  # continuous and down_sample
    window = model.features(static, hand, ids, mask)  # (B, T, K, D)
    arm, gripper = model.act_head(window)  # (B, T, n, 6), (B, T, n, 1)

    ids, mask = model.preprocess.prompt(instructions)  # discrete
    actions = model.generate(static, hand, ids, mask)  # (B, steps, 7)

With history "post" a caller keeps the features (K, D) of a session's last W frames and gives the
head the window; with "pre" it keeps images and gives `features` up to W frames. Windows are padded
on the right if their lengths differ: nothing looks ahead. A batch gives what its rows give alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calvin_eval.errors import PolicyError
from calvin_eval.vla.action_tokenizer import ActionTokenizer
from calvin_eval.vla.backbones import Backbone, build_backbone
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.decoding import greedy
from calvin_eval.vla.extra_tokens import OLD_NAMES, Reading, Shown, StateToken
from calvin_eval.vla.forward_head import ForwardHead
from calvin_eval.vla.fusion import Fused
from calvin_eval.vla.heads import build_head, pool
from calvin_eval.vla.images import cameras
from calvin_eval.vla.preprocess import Preprocess
from calvin_eval.vla.resampler import PerceiverResampler
from calvin_eval.vla.supported import check_supported


class RoboVLM(nn.Module):
    """A vision-language model, learned action tokens, and a policy head.

    Args:
        config: the project configuration, parents merged and checked.
        parts: the vision-language model.
        preprocess: images and texts for it.
        compat: behaviour of the family.

    Attributes:
        backbone: the vision-language model as transformers makes it.
        parts: the same, taken apart; not a module.
        preprocess: see `Preprocess`.
        act_head: see `calvin_eval.vla.heads`.
        action_token: (D,), the continuous action token, of which K go into a sequence.
        vision_resampler: behind the projector, with `use_vision_resampler`; else None.
        state_token: of the robot's state, with `use_state`; else None.
        fwd_head: predicts images, with `fwd_head`; else None.
        clip_norm_head: of a loss, put there by training with `use_clip_norm`; else None.
        action_tokenizer: of a discrete model, else None.
        space: "continuous", "down_sample" or "discrete".
        history: "post" (frames apart, the head remembers), "pre" (frames in one sequence) or
            "video" (frames as one picture).
        window: W, frames that count.
        steps: n, actions of a chunk.
        use_hand: whether the gripper camera is looked at.
    """

    def __init__(
        self, config: Mapping[str, Any], parts: Backbone, preprocess: Preprocess, compat: Compat
    ) -> None:
        super().__init__()
        head = config["act_head"]
        self.parts, self.preprocess, self.compat = parts, preprocess, compat
        self.backbone: nn.Module = parts.model
        self.window, self.steps = int(config["window_size"]), int(config["fwd_pred_next_n"])
        self.use_hand = bool(config.get("use_hand_rgb", False))
        self.space = str(head.get("action_space", "continuous"))
        self.history = str(head.get("history_type", "post"))
        self.latent = int(head.get("latent", 1))
        self.action_dim = int(head.get("action_dim", 7))
        self._source = str(head.get("token_source", "all"))
        self._fill_zero = bool(head.get("fill_zero", False))
        tokenizer = preprocess.tokenizer
        self._start = int(tokenizer.bos_token is not None)
        self._end = int(tokenizer.eos_token is not None)
        self.act_head = build_head(head, parts.hidden_size, self.steps, self.window)
        self.vision_resampler: PerceiverResampler | None = None
        if config.get("use_vision_resampler"):
            self.vision_resampler = PerceiverResampler(parts.hidden_size)
        if self.space == "continuous":
            self.action_token = nn.Parameter(torch.zeros(parts.hidden_size))
        self.state_token = StateToken.of_config(config, compat, parts)
        self.fwd_head = ForwardHead.of_config(config, parts, preprocess.size)
        self.clip_norm_head: nn.Module | None = None
        self.action_tokenizer: ActionTokenizer | None = None
        if self.space == "discrete":
            self.action_tokenizer = ActionTokenizer.from_tokenizer(tokenizer, head, compat)

    @classmethod
    def build(cls, config: Mapping[str, Any], vlm_folder: Path, compat: Compat) -> RoboVLM:
        """Make the model of a configuration, with random weights and in evaluation mode.

        Args:
            config: the project configuration, parents merged.
            vlm_folder: of the vision-language model: `config.json`, tokenizer, image processor.
            compat: behaviour of the family.

        Raises:
            CheckpointError: a folder or a configuration that cannot be used, or asks for what is
                not built.
            UsageError: options that do not go together.
        """
        check_supported(config)
        parts = build_backbone(vlm_folder, config)
        preprocess = Preprocess(config, vlm_folder, parts, compat)
        parts.fit_tokenizer(preprocess.tokenizer)
        return cls(config, parts, preprocess, compat).eval()

    def required_keys(self) -> frozenset[str]:
        """Parameters that a checkpoint must have: the head's and the action token's."""
        own = ("act_head.", "state_token.")
        return frozenset(n for n in self.state_dict() if n == "action_token" or n.startswith(own))

    def rename_old_key(self, key: str) -> str:
        """A parameter's name as older releases of transformers wrote it to its name here.

        Args:
            key: without the leading `model.` of a checkpoint's names.
        """
        if key.partition(".")[0] in OLD_NAMES:
            return f"state_token.{key}"
        return self.parts.own_key(key)

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the weights."""
        return self.parts.words.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.parts.words.weight.device

    def features(
        self,
        static: Tensor,
        hand: Tensor | None,
        ids: Tensor,
        mask: Tensor,
        *,
        state: Tensor | None = None,
        per_row: bool = True,
    ) -> Tensor:
        """Features (B, T, K, D) for the policy head; see `Shown` and `read`."""
        return self.read(Shown(static, hand, ids, mask, state), per_row=per_row).features

    def read(self, shown: Shown, *, per_row: bool = True, asked: bool = False) -> Reading:
        """What the language model makes of frames and an instruction.

        Args:
            shown: what it looks at; the gripper camera only with `use_hand`.
            per_row: whether each row is laid out as if it were alone, as RoboVLMs runs at
                evaluation. False is the layout of its training batches with
                `act_insert="column"`: the same column for all rows, padding left where it is.
            asked: whether the tokens of `fwd_head` are read. They lie behind the action tokens,
                which do not see them; only with history "pre" do later frames, and so they are
                always there.

        Returns:
            Features (B, T, K, D); T is 1 with history "video". Pooled already where the head
            pools, over the positions of each row's own text.

        Raises:
            PolicyError: a discrete model, or images that do not fit.
        """
        if self.space == "discrete":
            raise PolicyError("features: expected a continuous model; a discrete one generates")
        rows, frames = shown.static.shape[:2]
        if self.parts.crosses:
            return Reading(self._crossed(shown, per_row=per_row), None)
        fused = self._sequence(shown, per_row=per_row)
        if self.fwd_head is not None and (asked or self.history == "pre"):
            fused = self.fwd_head.ask(fused, fused.before_end(self._end, per_row=per_row))
        counts = fused.marked.sum(1)
        if self.history == "pre":
            fused = fused.join(frames)
            fused = fused.pad_right() if per_row else fused
        hidden = self.parts.decode(fused.embeds, fused.mask)
        shape = (rows, 1 if self.history == "video" else frames)
        found = None
        if fused.asked is not None:
            found = hidden[fused.asked].reshape(*shape, -1, hidden.shape[-1])
        return Reading(self._read(hidden[fused.marked], counts, shape), found)

    def _crossed(self, shown: Shown, *, per_row: bool) -> Tensor:
        """Features (B, T, K, D) of words that look at the cameras' latents, frame by frame."""
        shape = (shown.static.shape[0], shown.static.shape[1])
        ids, mask = (
            part.to(self.device).repeat_interleave(shape[1], 0) for part in (shown.ids, shown.mask)
        )
        both = cameras(shown.static, shown.hand, self.use_hand)
        images = [camera.flatten(0, 1).unsqueeze(1) for camera in both]
        media = torch.cat([self.tokens(camera) for camera in images], 1)
        hidden = self.parts.decode_crossed(ids, mask.bool(), media)
        read = mask.bool() if per_row else torch.ones_like(mask, dtype=torch.bool)
        return self._read(hidden[read], read.sum(1), shape)

    def _sequence(self, shown: Shown, *, per_row: bool) -> Fused:
        """One sequence per frame, (B * T, L), or per row with history "video"; reads marked."""
        ids, mask = shown.ids, shown.mask
        images = cameras(shown.static, shown.hand, self.use_hand)
        if self.history != "video":
            ids, mask = (part.repeat_interleave(shown.static.shape[1], 0) for part in (ids, mask))
            images = [camera.flatten(0, 1).unsqueeze(1) for camera in images]
        fused = self._words(ids, mask)
        for camera in images:
            fused = fused.insert(self.tokens(camera), self._start)
        if self.state_token is not None:
            end = fused.before_end(self._end, per_row=per_row)
            fused = self.state_token.into(fused, shown.state, end, hide=self._fill_zero)
        if self.space == "continuous":
            block = self.action_token.expand(len(ids), self.latent, -1)
            end = fused.before_end(self._end, per_row=per_row)
            return fused.insert(block, end, fill_zero=self._fill_zero)
        return replace(fused, marked=self._spans(fused, ids.shape[1], per_row=per_row))

    def _spans(self, fused: Fused, words: int, *, per_row: bool) -> Tensor:
        """Positions (B, L) bool whose hidden states a down-sampling head reads."""
        length = fused.mask.shape[1]
        column = torch.arange(length, device=fused.mask.device).expand_as(fused.mask)
        text = self._start + length - words
        end = fused.before_end(self._end, per_row=per_row)
        end = end.unsqueeze(1) if isinstance(end, Tensor) else end
        spans = {
            "all": fused.present if per_row else torch.ones_like(fused.present),
            "text": (column >= text) & (column < end),
            "vision": (column >= self._start) & (column < text),
        }
        return spans[self._source]

    def _read(self, flat: Tensor, counts: Tensor, shape: tuple[int, int]) -> Tensor:
        """Marked hidden states (sum of counts, D), row by row, to features (B, T, K, D)."""
        pools = getattr(self.act_head, "down_sample", "none") == "pooling"
        number = counts.tolist()
        if len(set(number)) == 1:
            tokens = flat.reshape(*shape, number[0], -1)
            return pool(tokens, self.latent) if pools else tokens
        if not pools:
            raise PolicyError(
                "features: instructions of different lengths give different numbers of tokens, "
                "which act_head.down_sample 'none' cannot read together"
            )
        frames = [pool(part[None, None], self.latent) for part in torch.split(flat, number)]
        return torch.cat(frames).reshape(*shape, self.latent, -1)

    @torch.no_grad()
    def generate(
        self, static: Tensor, hand: Tensor | None, ids: Tensor, mask: Tensor
    ) -> NDArray[np.float64]:
        """Actions of a discrete model, greedily decoded word by word.

        Args:
            static: images of the static camera, (B, T, 3, S, S); all frames go into one block
                before the question.
            hand: those of the gripper camera, or None; not looked at unless `use_hand`.
            ids: prompt, (B, L) int64, padded on the right.
            mask: of the prompt, (B, L).

        Returns:
            (B, steps, 7) with the gripper in {-1, 1}, 1 open; steps is 1, or n with
            `discrete_steps="n"`.

        Raises:
            PolicyError: a continuous model, or images that do not fit.
        """
        if self.action_tokenizer is None:
            raise PolicyError("generate: expected a discrete model; a continuous one has features")
        return self.answer(self.prompt(static, hand, ids, mask))

    def prepare_inputs_for_generation(self, *arguments: Any, **keywords: Any) -> Any:
        """The backbone's; PEFT wants it of a causal language model that it adapts."""
        backbone: Any = self.backbone
        return backbone.prepare_inputs_for_generation(*arguments, **keywords)

    @torch.no_grad()
    def answer(self, asked: Fused) -> NDArray[np.float64]:
        """Actions (B, steps, 7) of a discrete model to what it reads, see `generate`."""
        assert self.action_tokenizer is not None
        steps = self.steps if self.compat.discrete_steps == "n" else 1
        allowed = self.action_tokenizer.ids if self.compat.constrained_decode else None
        found = greedy(self.parts, asked.pad_left(), steps * self.action_dim, allowed)
        values = self.action_tokenizer.decode(found.cpu().numpy())
        actions = values.reshape(len(found), steps, self.action_dim)
        actions[..., -1] = np.where(actions[..., -1] > 0, 1.0, -1.0)
        return actions

    def prompt(
        self,
        static: Tensor,
        hand: Tensor | None,
        ids: Tensor,
        mask: Tensor,
        labels: Tensor | None = None,
    ) -> Fused:
        """What a discrete model reads: words with images in front of the second one.

        Args:
            static: images of the static camera, (B, T, 3, S, S); all T go into one block.
            hand: those of the gripper camera, or None; not looked at unless `use_hand`.
            ids: (B, L) int64: a prompt, in training with actions behind it.
            mask: (B, L), False where attention may not look.
            labels: (B, L) int64, or None.
        """
        fused = self._words(ids, mask, labels)
        for camera in cameras(static, hand, self.use_hand):
            # Index 1 whether or not the prompt starts with a start token.
            fused = fused.insert(self.tokens(camera), 1)
        return fused

    def _words(self, ids: Tensor, mask: Tensor, labels: Tensor | None = None) -> Fused:
        ids, mask = ids.to(self.device), mask.to(self.device).bool()
        # The id of an added padding token may lie outside the embedding matrix.
        outside = ids >= self.parts.words.num_embeddings
        return Fused.words(self.parts.embed(ids.masked_fill(outside & ~mask, 0)), mask, labels)

    def tokens(self, images: Tensor) -> Tensor:
        """Images (B, T, 3, S, S) to their tokens, one after the other: (B, T * N, D)."""
        tokens = self.parts.encode_images(images.flatten(0, 1).to(self.device, self.dtype))
        if self.vision_resampler is not None:
            tokens = self.vision_resampler(tokens)
        tokens = self.parts.wrap_images(tokens)
        return tokens.reshape(len(images), -1, tokens.shape[-1])
