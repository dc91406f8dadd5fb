"""LeRobot policies as policies of ours: batches of requests in, chunks of actions out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calvin_eval.errors import PolicyError
from calvin_eval.wrappers.loaders.lerobot.features import Declared
from calvin_eval.wrappers.policy import BasePolicy, Chunk, Request, Requirements
from calvin_eval.wrappers.stages.proprioception import STATE


class Network:
    """A LeRobot policy between the processors of its folder.

    Args:
        policy: a `PreTrainedPolicy`.
        preprocess: observations of the policy's features -> what its network reads.
        postprocess: normalised action (B, d) -> action (B, d) on the CPU.
        declared: what the folder says.
        seed: of the run.
    """

    def __init__(
        self, policy: Any, preprocess: Any, postprocess: Any, declared: Declared, seed: int
    ) -> None:
        self.declared = declared
        self.requirements = Requirements(rgb=tuple(dict.fromkeys(declared.cameras.values())))
        self._policy = policy
        self._preprocess = preprocess
        self._postprocess = postprocess
        self._seed = seed
        self._device = torch.device(policy.config.device)
        self._mixed = bool(policy.config.use_amp) and self._device.type == "cuda"

    @property
    def stateless(self) -> bool:
        """Whether a chunk depends on its own observation alone."""
        config = self._policy.config
        steps = (*self._preprocess.steps, *self._postprocess.steps)
        return (
            hasattr(config, "chunk_size")
            and config.n_obs_steps == 1
            and getattr(config, "temporal_ensemble_coeff", None) is None
            and not any("reset" in vars(type(step)) for step in steps)
        )

    def reset(self) -> None:
        """Forget everything: observations, queued actions, ensembles."""
        for part in (self._policy, self._preprocess, self._postprocess):
            part.reset()

    def chunks(self, requests: Sequence[Request]) -> NDArray[np.float32]:
        """Actions (B, n_action_steps, d) of B requests that share one forward."""
        self.reset()
        with self._forward(requests[0]):
            actions = self._policy.predict_action_chunk(self._batch(requests))
            actions = actions[:, : self._policy.config.n_action_steps]
            # One by one, as LeRobot does: steps of a postprocessor may expect (B, d).
            rows = [self._postprocess(actions[:, step]) for step in range(actions.shape[1])]
        return self._checked(torch.stack(rows, dim=1))

    def action(self, request: Request) -> NDArray[np.float32]:
        """The next action (1, d) of the one session that was last reset."""
        with self._forward(request):
            action = self._postprocess(self._policy.select_action(self._batch([request])))
        return self._checked(action)

    def draws(self, request: Request) -> bool:
        """Whether a forward pass takes random numbers from PyTorch."""
        with self._forward(request):
            before = self._random_state()
            self._policy.predict_action_chunk(self._batch([request]))
            return not torch.equal(before, self._random_state())

    def _random_state(self) -> torch.Tensor:
        states = [torch.get_rng_state()]
        if self._device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self._device))
        return torch.cat(states)

    @contextlib.contextmanager
    def _forward(self, request: Request) -> Iterator[None]:
        """Random numbers that depend on the run's seed and the request; no gradients."""
        devices = [self._device] if self._device.type == "cuda" else []
        key = (self._seed, request.session, request.position, request.step)
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
            with torch.autocast(self._device.type, enabled=self._mixed):
                yield

    def _batch(self, requests: Sequence[Request]) -> Any:
        batch: dict[str, Any] = {
            feature: self._images(requests, feature, camera)
            for feature, camera in self.declared.cameras.items()
        }
        if self.declared.state is not None:
            batch[self.declared.state[0]] = self._states(requests, self.declared.state[1])
        batch["task"] = [request.instruction for request in requests]
        return self._preprocess(batch)

    def _images(self, requests: Sequence[Request], feature: str, camera: str) -> torch.Tensor:
        """Float32 (B, 3, H, W) in [0, 1]; LeRobot itself would take any size without a word."""
        images = np.stack([np.asarray(r.obs["rgb_obs"][f"rgb_{camera}"]) for r in requests])
        expected = (*self.declared.sizes[feature], 3)
        if images.shape[1:] != expected or images.dtype != np.uint8:
            raise PolicyError(
                f"{feature}: expected uint8 images {expected}, found {images.dtype} "
                f"{images.shape[1:]}: the stages under policy.observe change the {camera} "
                "camera's size or type."
            )
        return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).contiguous()

    def _states(self, requests: Sequence[Request], width: int) -> torch.Tensor:
        """Float32 (B, width)."""
        if any(STATE not in request.obs for request in requests):
            raise PolicyError(
                "expected a state from the stage proprioception: set its options under "
                "policy.observe.proprioception."
            )
        states = np.stack([np.asarray(r.obs[STATE], dtype=np.float32) for r in requests])
        if states.shape[1:] != (width,):
            raise PolicyError(
                f"expected a state of {width} numbers, found {states.shape[1:]}: change the "
                "fields or the orientation under policy.observe.proprioception."
            )
        return torch.from_numpy(states)

    def _checked(self, actions: torch.Tensor) -> NDArray[np.float32]:
        width = self.declared.action_width
        if actions.shape[-1] != width:
            raise PolicyError(
                f"expected actions of {width} numbers, as config.json declares, found "
                f"{actions.shape[-1]}."
            )
        return actions.float().cpu().numpy()


class ChunkPolicy(BasePolicy):
    """Many sessions at once: a chunk depends on its own request alone.

    Args:
        network: the network, with a state that may be lost between calls.
        max_batch: most requests in one forward; any number if None.
    """

    def __init__(self, network: Network, max_batch: int | None) -> None:
        self.requirements = network.requirements
        self._network = network
        self._most = max_batch

    def act(self, requests: Sequence[Request]) -> list[Chunk]:
        """Decide for every request: chunks of shape (n_action_steps, d)."""
        most = self._most or max(len(requests), 1)
        groups = [requests[start : start + most] for start in range(0, len(requests), most)]
        return [chunk for group in groups for chunk in self._network.chunks(group)]


class StepPolicy(BasePolicy):
    """One session at a time, one action per request, with LeRobot's own queues.

    It sees every observation, which a history needs.
    """

    def __init__(self, network: Network) -> None:
        self.requirements = replace(network.requirements, max_sessions=1)
        self._network = network
        self._session: int | None = None

    def reset(self, session: int, instruction: str) -> None:
        """Start a subtask: the policy forgets whatever it served before."""
        self._session = session
        self._network.reset()

    def end(self, session: int) -> None:
        """Free the queues, if they are of this session."""
        if session == self._session:
            self._session = None
            self._network.reset()

    def act(self, requests: Sequence[Request]) -> list[Chunk]:
        """Decide for exactly one request: a chunk of shape (1, d).

        Raises:
            PolicyError: several requests came at once, or one of a session that was not the last
                one to be reset.
        """
        sessions = [request.session for request in requests]
        if sessions != [self._session]:
            raise PolicyError(
                f"this policy keeps its history for one session at a time: expected a request of "
                f"session {self._session}, found {sessions}. Give every worker its own instance."
            )
        return [self._network.action(requests[0])]
