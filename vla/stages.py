"""What RoboVLMs does between its network and the simulator, as stages."""

from __future__ import annotations

from typing import Any

from calvin_eval.errors import CheckpointError, UsageError
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.config import Config
from calvin_eval.wrappers.stages import Settings


def action_stages(config: Config, compat: Compat, raw_calvin: Any = True) -> Settings:
    """Action stages in the order of RoboVLMs' evaluation (CALVIN's model wrapper).

    Where its order surprises it is kept: the frame is changed and chunks are reduced to one
    action while actions are still companded and normalised, as in training; the gripper is
    thresholded to 0 or 1 before it is un-normalised with the arm. Only an average over chunks
    needs the gripper's probability, so the threshold comes behind it.

    Args:
        config: `tcp_rel`, `use_mu_law`, `norm_action` and what they need.
        compat: behaviour of the family.
        raw_calvin: whether actions are CALVIN's own relative ones; otherwise they are motions in
            metres and radians in the TCP frame. As `--raw_calvin`; discrete models ignore it.

    Raises:
        CheckpointError: a bound that the configuration does not have.
        UsageError: `raw_calvin` is neither true nor false.
    """
    if not isinstance(raw_calvin, bool):
        raise UsageError(f"policy.options.raw_calvin: expected true or false, found {raw_calvin!r}")
    stages: dict[str, dict[str, Any]] = {}
    if config.values.get("tcp_rel"):
        stages["tcp_to_world"] = {}
    if compat.ensemble == "first":
        stages["ensemble"] = {"method": "first"}
    else:
        stages["ensemble"] = {"method": "exponential", "decay": 1.0}
        stages["execute"] = {"steps": 1}
    if not config.discrete:
        high = "open" if compat.gripper_convention == "1_open" else "close"
        stages["split"] = {
            "use": "gripper", "input": "probability", "high": high, "output": "zero_one",
        }  # fmt: skip
    stages |= _physical(config, compat)
    if not raw_calvin and not config.discrete:
        stages["state_relative"] = {"euler_wrap": compat.euler_wrap}
        stages["scale"] = {}
    stages["gripper"] = {"input": "signed" if config.discrete else "zero_one"}
    return stages


def _physical(config: Config, compat: Compat) -> dict[str, dict[str, Any]]:
    """What undoes companding, regularising and normalisation."""
    values = config.values
    stages: dict[str, dict[str, Any]] = {}
    if values.get("use_mu_law"):
        stages["mu_law"] = {"mu": float(values.get("mu_val", 255))}
    if values.get("regular_action") and compat.regular_action == "undone":
        stages["unregularize"] = {
            "use": "unnormalize",
            "method": "mean_std",
            "mean": float(values.get("x_mean", 0)),
            "std": float(values.get("x_std", 1)),
            "eps": 1e-6,
        }
    if values.get("norm_action"):
        stages["unnormalize"] = {
            "low": _bound(config, "norm_min"),
            "high": _bound(config, "norm_max"),
            "gripper": compat.gripper_unnorm,
        }
    return stages


def _bound(config: Config, key: str) -> float:
    value = config.values.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CheckpointError(
            f"{config.path}: norm_action is on, so expected {key} to be a number, found {value!r}."
        )
    return float(value)
