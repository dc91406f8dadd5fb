"""Which cameras' images a model looks at."""

from __future__ import annotations

from torch import Tensor

from calvin_eval.errors import PolicyError


def cameras(static: Tensor, hand: Tensor | None, use_hand: bool) -> list[Tensor]:
    """Cameras in the order of their insertion: the last one ends up in front.

    Args:
        static: images of the static camera, (B, T, 3, S, S).
        hand: those of the gripper camera, or None.
        use_hand: whether they are looked at.

    Raises:
        PolicyError: images that are missing or do not fit.
    """
    if not use_hand:
        hand = None
    elif hand is None:
        raise PolicyError("use_hand_rgb: expected images of the gripper camera, found none")
    shown = [static] if hand is None else [static, hand]
    for camera in shown:
        if camera.dim() != 5 or camera.shape[:2] != static.shape[:2]:
            raise PolicyError(
                f"images: expected (B, T, 3, S, S), the same B and T for both cameras, found "
                f"{tuple(camera.shape)}"
            )
    return shown
