"""What both simulators have in common: CALVIN's step interface, made of a few calls of their own.

`reset`, `step`, `get_obs` and `render` behave like upstream's environment
(docs/protocol.md#observations). Rollout engines use `start`, `advance` and `observe` instead,
which neither draw nor collect what nobody reads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import RenderError, UsageError
from calvin_eval.sim.shifts.variant import Variant
from calvin_eval.sim.world import Needs

Self = TypeVar("Self", bound="CalvinInterface")


class CalvinInterface(ABC):
    """CALVIN's own step interface.

    Attributes:
        cameras: names of the cameras that `get_obs` and `step` draw.
    """

    cameras: tuple[str, ...]

    @abstractmethod
    def start(
        self, robot_obs: Any = None, scene_obs: Any = None, variant: Variant | None = None
    ) -> None:
        """`reset` without observing; a variant shifts what the start state does not say."""

    @abstractmethod
    def place_robot(self, robot_obs: Any) -> None:
        """Put the robot alone into the given state (15,); table and blocks stay as they are."""

    @abstractmethod
    def advance(self, action: Any) -> None:
        """`step` without observing."""

    @abstractmethod
    def get_state_obs(self) -> dict[str, NDArray[np.float64]]:
        """`robot_obs` (15,) and `scene_obs` (24,) float64; never draws."""

    @abstractmethod
    def get_info(self, needs: Needs | None = None) -> dict[str, Any]:
        """Upstream's info for the task oracle, or at least the part of it that `needs` names."""

    @abstractmethod
    def close(self) -> None:
        """Free the physics server; a second call does nothing."""

    @abstractmethod
    def _require_reset(self) -> None:
        """Raise UsageError unless there is a state to observe."""

    @abstractmethod
    def _draw(self, names: Sequence[str]) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """Per camera colour (H, W, 3) uint8, contiguous, and depth (H, W) float32 in metres."""

    def reset(self, robot_obs: Any = None, scene_obs: Any = None) -> dict[str, Any]:
        """Put the world into the given state and observe it.

        Args:
            robot_obs: (15,) as `get_state_obs` gives it; the scene's own initial pose if absent.
            scene_obs: (24,); if absent, everything is closed and off and the blocks are sampled
                on the scene's surfaces.

        Raises:
            InvalidStateError: wrong length, NaN or infinity, or a light that is neither 0 nor 1.
        """
        self.start(robot_obs, scene_obs)
        return self.get_obs()

    def step(self, action: Any) -> tuple[dict[str, Any], int, bool, dict[str, Any]]:
        """Apply one action for a thirtieth of a second.

        Args:
            action: a relative 7-vector (x50 position, x20 euler, gripper -1/1), an absolute
                (position, orientation, gripper) tuple, or a dict with type and action. It is
                never modified.

        Returns:
            Observation, reward 0, done False, and the info, as upstream.

        Raises:
            InvalidActionError: the action cannot be meant; nothing has moved.
        """
        self.advance(action)
        return self.get_obs(), 0, False, self.get_info()

    def get_obs(self) -> dict[str, Any]:
        """CALVIN's observation with the images of every camera of this environment."""
        return self.observe(rgb=self.cameras, depth=self.cameras)

    def camera_matrices(self, names: Sequence[str]) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Per camera `intrinsic` (3, 3) and `extrinsic` (4, 4), see `sim.cameras.Camera`.

        Raises:
            RenderError: this simulator does not say.
        """
        raise RenderError(
            "expected sim.backend=calvin_eval for the matrices of cameras, which has the same "
            "images; calvin_env does not give them"
        )

    def observe(
        self,
        *,
        rgb: Collection[str] = (),
        depth: Collection[str] = (),
        matrices: bool = False,
    ) -> dict[str, Any]:
        """CALVIN's observation with the named images only; a camera is drawn at most once.

        Args:
            rgb: cameras whose colour images are wanted.
            depth: cameras whose depth images are wanted.
            matrices: whether the matrices of these cameras are.

        Returns:
            `rgb_obs` of `rgb_<camera>` (H, W, 3) uint8, `depth_obs` of `depth_<camera>` (H, W)
            float32 metres, `robot_obs` (15,) and `scene_obs` (24,) float64; with `matrices` also
            `cameras`, see `camera_matrices`.
        """
        self._require_reset()
        obs: dict[str, Any] = {"rgb_obs": {}, "depth_obs": {}}
        names = tuple(dict.fromkeys((*rgb, *depth)))
        images = self._draw(names) if names else []
        for name, (colour, distance) in zip(names, images, strict=True):
            if name in rgb:
                obs["rgb_obs"][f"rgb_{name}"] = colour
            if name in depth:
                obs["depth_obs"][f"depth_{name}"] = distance
        if matrices:
            obs["cameras"] = self.camera_matrices(names)
        return {**obs, **self.get_state_obs()}

    def render(self, mode: Literal["rgb_array"] = "rgb_array") -> NDArray[np.uint8]:
        """The static camera's image (200, 200, 3) uint8."""
        if mode != "rgb_array":
            raise UsageError(
                f"expected mode 'rgb_array' (no window is ever opened); found {mode!r}"
            )
        image: NDArray[np.uint8] = self.observe(rgb=("static",))["rgb_obs"]["rgb_static"]
        return image

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
