"""A RoboVLMs model as a policy: what it remembers from decision to decision, per session."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calvin_eval.errors import PolicyError
from calvin_eval.vla.config import Config
from calvin_eval.vla.data.collate import robot_state
from calvin_eval.vla.fusion import Fused
from calvin_eval.vla.past import PastActions, PastAnswer
from calvin_eval.wrappers.policy import BasePolicy, Request, Requirements

CAMERAS = ("static", "gripper")


@dataclass(frozen=True)
class Memory:
    """What a session remembers: at most W entries of one decision each, the oldest first.

    Attributes:
        frames: images (cameras, 3, S, S) of past decisions, with history "pre" or "video", or
            interleaved questions.
        features: (K, D) of past decisions, with any other history.
        answers: that were given at those frames, for interleaved questions.
        states: of the robot, (7,) each, of the frames that the model is shown next, for a model
            that reads them.
    """

    frames: tuple[Tensor, ...] = ()
    features: tuple[Tensor, ...] = ()
    answers: tuple[PastAnswer, ...] = ()
    states: tuple[Tensor, ...] = ()


class RoboVLMsPolicy(BasePolicy):
    """Decides with a RoboVLMs model, many sessions at once (RoboVLMs, CALVIN's model wrapper).

    A continuous model's chunk is (n, 7) float32: the arm as the head gives it, and the
    probability that the gripper opens. A discrete model's is (1, 7) or (n, 7) float64, its
    gripper -1 or 1. Everything after the network is a stage, see `stages.action_stages`.

    The memory holds one frame, or its features, per decision. With one action per decision, the
    default, these are the last W steps, as in training; with more they lie further apart.

    Args:
        model: a `RoboVLM`, on its device, in its floating type.
        config: window, history, action space.
        pre_select: with history "pre", whose frame's actions are taken: "oldest" or "latest".
        max_batch: most sessions in one forward pass; all that wait if None.
    """

    def __init__(
        self, model: Any, config: Config, *, pre_select: str, max_batch: int | None = None
    ) -> None:
        reads = config.discrete and model.compat.action_history != "none"
        self._past = PastActions(model, config) if reads else None
        self.requirements = Requirements(
            rgb=CAMERAS if config.hand else CAMERAS[:1],
            actions=0 if self._past is None else self._past.reads,
        )
        self._model = model
        self._config = config
        video = config.history == "video" and model.compat.video_frames == "window"
        self._windows = video or config.history == "pre"
        self._reads_state = getattr(model, "state_token", None) is not None
        self._row = 0 if pre_select == "oldest" else -1
        self._most = max_batch
        self._memories: dict[int, Memory] = {}
        parameter = next(model.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype

    def reset(self, session: int, instruction: str) -> None:
        """Forget the session: nothing crosses subtasks."""
        self._memories[session] = Memory()

    def end(self, session: int) -> None:
        """Free the session's memory."""
        self._memories.pop(session, None)

    @torch.inference_mode()
    def act(self, requests: Sequence[Request]) -> list[NDArray[Any]]:
        """One chunk per request.

        Raises:
            PolicyError: a request in the middle of a subtask whose session was not reset, or
                has ended.
        """
        groups: dict[int, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[len(self._memory(request).frames)].append(index)
        chunks: dict[int, NDArray[Any]] = {}
        memories: dict[int, Memory] = {}
        most = self._most or len(requests)
        for indices in groups.values():  # windows of images cannot be padded
            for start in range(0, len(indices), most):
                batch = indices[start : start + most]
                found, kept = self._decide([requests[index] for index in batch])
                chunks.update(zip(batch, found, strict=True))
                memories.update(
                    (requests[index].session, memory)
                    for index, memory in zip(batch, kept, strict=True)
                )
        # Only now: a batch that fails is asked again, one request at a time.
        self._memories.update(memories)
        return [chunks[index] for index in range(len(requests))]

    def _memory(self, request: Request) -> Memory:
        if request.session not in self._memories and request.step > 0:
            raise PolicyError(
                f"session {request.session} is unknown at step {request.step}: expected a reset "
                "at the start of its subtask, and no end of the session since."
            )
        return self._memories.setdefault(request.session, Memory())

    def _decide(self, requests: Sequence[Request]) -> tuple[list[NDArray[Any]], list[Memory]]:
        """Chunks of sessions that remember equally many frames, and what they remember next."""
        images = self._preprocessed(requests)
        memories = [self._memory(request) for request in requests]
        if self._past is not None and self._past.interleaves:
            return self._interleaved(self._past, images, requests, memories)
        if self._reads_state:
            memories = [self._with_state(m, r) for m, r in zip(memories, requests, strict=True)]
        if self._windows:
            frames = [self._last((*m.frames, i)) for m, i in zip(memories, images, strict=True)]
            images = torch.stack([torch.stack(window) for window in frames])
            memories = [
                replace(memory, frames=window)
                for memory, window in zip(memories, frames, strict=True)
            ]
        else:
            images = images.unsqueeze(1)
        static = images[:, :, 0].to(self._device, self._dtype)
        hand = images[:, :, 1].to(self._device, self._dtype) if self._config.hand else None
        if self._config.discrete:
            chunks = self._generated(static, hand, requests)
        else:
            features = self._model.features(
                static, hand, *self._text(requests), **self._states(requests, memories)
            )
            chunks, memories = self._headed(features, memories)
        return chunks, memories

    def _interleaved(
        self,
        past: PastActions,
        images: Tensor,
        requests: Sequence[Request],
        memories: Sequence[Memory],
    ) -> tuple[list[NDArray[Any]], list[Memory]]:
        """Chunks of a model that is shown past frames with their answers."""
        frames = [self._last((*m.frames, i)) for m, i in zip(memories, images, strict=True)]
        answers = [
            memory.answers[len(memory.answers) - len(window) + 1 :]
            for memory, window in zip(memories, frames, strict=True)
        ]
        asked = [past.interleaved(*row) for row in zip(frames, answers, requests, strict=True)]
        chunks = list(self._model.answer(Fused.stack(asked)))
        given = [
            PastAnswer(chunk.copy(), request.position, request.step)
            for chunk, request in zip(chunks, requests, strict=True)
        ]
        kept = [
            Memory(frames=window, answers=(*old, new))
            for window, old, new in zip(frames, answers, given, strict=True)
        ]
        return chunks, kept

    def _last(self, entries: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return entries[-self._config.window :]

    def _with_state(self, memory: Memory, request: Request) -> Memory:
        robot = torch.from_numpy(np.asarray(request.obs["robot_obs"], np.float32))
        states = self._last((*memory.states, robot_state(robot)))
        return replace(memory, states=states if self._windows else states[-1:])

    def _states(self, requests: Sequence[Request], memories: Sequence[Memory]) -> dict[str, Tensor]:
        """States (B, T, 7) of the frames that the model is shown, if it reads them."""
        if not self._reads_state:
            return {}
        return {"state": torch.stack([torch.stack(memory.states) for memory in memories])}

    def _preprocessed(self, requests: Sequence[Request]) -> Tensor:
        """Images (B, cameras, 3, S, S) float32, on the CPU."""
        columns = [
            self._model.preprocess.images([r.obs["rgb_obs"][f"rgb_{camera}"] for r in requests])
            for camera in self.requirements.rgb
        ]
        return torch.stack(columns, dim=1)

    def _text(self, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
        prepare = self._model.preprocess
        texts = [request.instruction for request in requests]
        if self._past is not None:
            ids, mask = self._past.segment(requests)
        else:
            ids, mask = (prepare.prompt if self._config.discrete else prepare.text)(texts)
        return ids.to(self._device), mask.to(self._device)

    def _generated(
        self, static: Tensor, hand: Tensor | None, requests: Sequence[Request]
    ) -> list[NDArray[Any]]:
        actions = self._model.generate(static, hand, *self._text(requests))
        return list(np.asarray(actions, np.float64))

    def _headed(
        self, features: Tensor, memories: Sequence[Memory]
    ) -> tuple[list[NDArray[Any]], list[Memory]]:
        """Chunks from features (B, T, K, D), and what is remembered afterwards.

        The head always starts from zero: over the frames of the window with history "pre", else
        over the last W features. The original carries a hidden state for the first W steps and
        starts over afterwards, which gives the same numbers.
        """
        if self._config.history == "pre":
            arm, logit = self._model.act_head(features)
            return _chunks(arm[:, self._row], logit[:, self._row]), list(memories)
        windows = [
            self._last((*memory.features, new[0]))
            for memory, new in zip(memories, features, strict=True)
        ]
        length = max(map(len, windows))
        padded = features.new_zeros(len(windows), length, *features.shape[2:])
        for row, window in enumerate(windows):
            padded[row, : len(window)] = torch.stack(window)
        arm, logit = self._model.act_head(padded)  # causal: padding behind changes nothing
        rows = torch.arange(len(windows))
        ends = torch.tensor([len(window) - 1 for window in windows])
        chunks = _chunks(arm[rows, ends], logit[rows, ends])
        kept = zip(memories, windows, strict=True)
        return chunks, [replace(memory, features=window) for memory, window in kept]


def _chunks(arm: Tensor, logit: Tensor) -> list[NDArray[Any]]:
    """Arm (B, n, 6) and gripper logit (B, n, 1) to chunks (n, 7) float32.

    The sigmoid is taken in the network's own type: in half precision a small positive logit
    becomes exactly 0.5, which the threshold behind takes for closed, as the original does.
    """
    joined = torch.cat([arm.float(), torch.sigmoid(logit).float()], dim=-1)
    return list(joined.cpu().numpy())
