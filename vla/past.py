"""Questions to a discrete model that tell what the robot has done, as its training told it.

Two forms (RoboVLMs, base_action_prediction_dataset and calvin_dataset): "segment" names the past
actions in the question about the present frame; "interleave" shows every past frame with its own
question and answer in front of the present one. RoboVLMs itself trains on both and evaluates with
neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calvin_eval.vla import prompts
from calvin_eval.vla.config import Config
from calvin_eval.vla.data.actions import ActionTransform, one_or
from calvin_eval.vla.data.labels import Writer
from calvin_eval.vla.fusion import Fused
from calvin_eval.vla.preprocess import pad
from calvin_eval.wrappers.policy import Executed, Request


@dataclass(frozen=True)
class PastAnswer:
    """What a model answered at one frame.

    Attributes:
        rows: (n, 7), scaled as in training, gripper -1 or 1.
        position: of the subtask.
        step: in it.
    """

    rows: NDArray[np.float64]
    position: int
    step: int


class PastActions:
    """Writes such questions for one model.

    Args:
        model: a discrete `RoboVLM`.
        config: window, chunk, and what is done to actions before a network learns them.
    """

    def __init__(self, model: Any, config: Config) -> None:
        self._model = model
        self._interleaves = bool(model.compat.action_history == "interleave")
        self._before, self._chunk = config.window - 1, config.chunk
        self._steps = prompts.steps_named(config.chunk, model.compat.prompt_steps)
        self._actions = ActionTransform.from_config(config.values, model.compat)
        kept = self._actions.moments is not None and model.compat.regular_action == "kept"
        self._raw = self._actions.tcp or kept
        self._writer = Writer(
            tokenizer=model.preprocess.tokenizer,
            chat=prompts.chat_name(config.values),
            actions=model.action_tokenizer,
            prompt_steps=model.compat.prompt_steps,
        )

    @property
    def interleaves(self) -> bool:
        """Whether past frames are shown with their own questions and answers."""
        return self._interleaves

    @property
    def reads(self) -> int:
        """Executed actions that a question can tell."""
        return self._before * (self._chunk if self._interleaves else 1)

    def segment(self, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
        """Questions that name the last W - 1 actions.

        Returns:
            Ids (B, L) int64, padded on the right, and their mask (B, L) bool.
        """
        rows = [self._question(request) for request in requests]
        return pad(rows, self._model.preprocess.tokenizer.pad_token_id)

    def _question(self, request: Request) -> list[int]:
        executed = request.executed[-self._before :] if self._before else ()
        found = [row for row in map(self._row, executed) if row is not None]
        done = one_or(np.stack(found), 0) if found else np.zeros((0, 7))
        history = self._writer.encode(done)
        ids = self._writer.with_past(request.instruction, history, len(done), self._steps)
        return ids[:-1] if self._writer.stops else ids

    def interleaved(
        self, frames: Sequence[Tensor], answers: Sequence[PastAnswer], request: Request
    ) -> Fused:
        """One sequence (1, L): the last W - 1 frames with their answers, then the present one.

        Of an answer what has been executed since stands there as it was executed.

        Args:
            frames: images (cameras, 3, S, S), oldest first, the present last.
            answers: to all frames but the last.
            request: about the present.
        """
        prompt, end = self._writer.prompt(request.instruction, self._chunk)
        rows = [prompt + self._writer.encode(self._done(a, request)) + end for a in answers]
        present = self._shown(frames[-1:], [prompt])
        if not rows:
            return present
        return self._shown(frames[:-1], rows).join(len(rows)).then(present)

    def _shown(self, frames: Sequence[Tensor], rows: Sequence[list[int]]) -> Fused:
        """Rows of ids with one frame each."""
        images = torch.stack(list(frames)).unsqueeze(1).to(self._model.device, self._model.dtype)
        hand = images[:, :, 1] if images.shape[2] > 1 else None
        ids = torch.tensor(list(rows))
        fused: Fused = self._model.prompt(images[:, :, 0], hand, ids, torch.ones_like(ids).bool())
        return fused

    def _done(self, answer: PastAnswer, request: Request) -> NDArray[np.float64]:
        rows = answer.rows.copy()
        since = request.step - answer.step if answer.position == request.position else 0
        for row in range(min(since, len(rows))):
            back = since - row
            done = self._row(request.executed[-back]) if back <= len(request.executed) else None
            if done is not None:
                rows[row] = done
        return rows

    def _row(self, done: Executed) -> NDArray[np.float64] | None:
        """An executed action (7,) as training scales it; None where that is not known.

        In the TCP frame only the network itself knows, since the pose that an action was relative
        to is gone; and regularising that evaluation does not undo must not be done
        twice.
        """
        if self._raw:
            return None if done.raw is None else np.asarray(done.raw, np.float64)
        scaled = self._actions.scaled(np.asarray(done.sent, np.float64)[None])
        return np.asarray(scaled[0], np.float64)
