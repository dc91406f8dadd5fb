"""Actions as words behind a question, and what of it is learned.

A sample's row is a prompt, the action ids and the end token, if the tokenizer has one; labels are
the ids where something is to be learned and `IGNORED` elsewhere (RoboVLMs, calvin_dataset and
base_action_prediction_dataset).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from calvin_eval.errors import UsageError
from calvin_eval.vla import prompts
from calvin_eval.vla.action_tokenizer import ActionTokenizer

IGNORED = -100


class Rows(NamedTuple):
    """What a language model reads and should answer.

    Attributes:
        ids: (..., L) int64.
        labels: (..., L) int64.
        mask: (..., L) bool, what attention may see.
    """

    ids: Tensor
    labels: Tensor
    mask: Tensor


@dataclass(frozen=True, kw_only=True)
class Writer:
    """Writes questions and actions as ids.

    Attributes:
        tokenizer: of the language model.
        chat: name that chooses the chat format, from `prompts.chat_name`.
        actions: ids of action values; None for a continuous model.
        predict_stop: whether the end token is learned.
        attend_actions: whether attention sees action ids in `answered`. RoboVLMs hides them
            there: in training a later action cannot see an earlier one, but at inference it does.
        prompt_steps: which number a CALVIN window's question names, see `Compat`.
    """

    tokenizer: Any
    chat: str
    actions: ActionTokenizer | None = None
    predict_stop: bool = True
    attend_actions: bool = False
    prompt_steps: str = "n_plus_1"

    @property
    def stops(self) -> bool:
        """Whether the tokenizer has an end token."""
        return self.tokenizer.eos_token is not None

    def text(self, asked: str) -> str:
        """A question in the chat format."""
        bos, eos = self.tokenizer.bos_token, self.tokenizer.eos_token
        return prompts.chat(self.chat, asked, bos, eos)

    def read(self, text: str, *, start: bool = True) -> list[int]:
        """Ids of a text; `start` says whether the tokenizer adds its special tokens."""
        return list(self.tokenizer(text, add_special_tokens=start).input_ids)

    def ended(self, ids: list[int]) -> list[int]:
        """Ids with the end token behind them, if there is one and they lack it."""
        if self.stops and (not ids or ids[-1] != self.tokenizer.eos_token_id):
            return [*ids, int(self.tokenizer.eos_token_id)]
        return ids

    def encode(self, actions: ArrayLike) -> list[int]:
        """Actions (k, 7) as 7 k ids.

        Raises:
            UsageError: a continuous model has none.
        """
        if self.actions is None:
            raise UsageError("discrete labels need an ActionTokenizer, found none")
        return [int(i) for i in self.actions.encode(np.asarray(actions)).ravel()]

    def prompt(self, instruction: str, chunk: int) -> tuple[list[int], list[int]]:
        """Ids of the question for chunks of n actions, and its last id if there is an end token."""
        asked = prompts.question(instruction, prompts.steps_named(chunk, self.prompt_steps))
        ids = self.read(self.text(asked))
        cut = len(ids) - (1 if self.stops else 0)
        return ids[:cut], ids[cut:]

    def with_past(self, instruction: str, history: list[int], count: int, steps: int) -> list[int]:
        """Ids of a question behind what has been done, with the end token last if there is one.

        Args:
            instruction: the sentence.
            history: ids of the past actions.
            count: how many they are; none is told of 0.
            steps: number that the question names.
        """
        asked = prompts.question(instruction, steps)
        if not count:
            return self.ended(self.read(self.text(asked)))
        past = prompts.past(count)
        text = self.text(past + asked)
        cut = text.find(past) + len(past)
        question = self.read(text[cut:], start=False)
        return self.ended(self.read(text[:cut]) + history + question)

    def window(
        self, instruction: str, actions: NDArray[Any], mask: NDArray[np.bool_], *, chunk: int
    ) -> Rows:
        """One row per frame of a CALVIN window.

        The last id of the prompt is moved behind the actions, whatever it is.

        Args:
            instruction: the sentence.
            actions: (W + n, 7), scaled, with a gripper of -1 or 1.
            mask: (W + n,) whether each is real.
            chunk: n.

        Returns:
            Rows (W, L).
        """
        prompt, end = self.prompt(instruction, chunk)
        stop = end if self.predict_stop else [IGNORED] * len(end)
        ids, labels = [], []
        for first in range(len(actions) - chunk):
            answer = self.encode(actions[first : first + chunk])
            padded = int((~mask[first : first + chunk]).sum()) * actions.shape[1]
            ids.append(prompt + answer + end)
            labels.append([IGNORED] * len(prompt) + _learned(answer, padded) + stop)
        rows = torch.tensor(ids)
        return Rows(rows, torch.tensor(labels), torch.ones_like(rows, dtype=torch.bool))

    def answered(self, prompt: list[int], actions: NDArray[Any], mask: NDArray[np.bool_]) -> Rows:
        """A prompt and its answer in one row, as for Open X-Embodiment.

        The end token is learned only if no action is padded.

        Args:
            prompt: ids, with the end token last if there is one.
            actions: (k, 7).
            mask: (k,) whether each is real.

        Returns:
            Rows (L,).
        """
        end = prompt[-1:] if self.stops else []
        prompt = prompt[: len(prompt) - len(end)]
        answer = self.encode(actions)
        padded = int((~mask).sum()) * actions.shape[-1]
        stop = [IGNORED] * len(end) if padded or not self.predict_stop else end
        labels = [IGNORED] * len(prompt) + _learned(answer, padded) + stop
        seen = [True] * len(prompt) + [self.attend_actions] * len(answer) + [True] * len(end)
        ids = torch.tensor(prompt + answer + end)
        return Rows(ids, torch.tensor(labels), torch.tensor(seen))


def _learned(answer: list[int], padded: int) -> list[int]:
    return answer[: len(answer) - padded] + [IGNORED] * padded
