"""What is learned from actions: losses, measures beside them, and how losses are weighed.

What each loss is: RoboVLMs, base_policy; names and weights: its trainer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from calvin_eval.errors import UsageError
from calvin_eval.vla.action_tokenizer import ActionTokenizer
from calvin_eval.vla.fusion import IGNORED

Losses = dict[str, Tensor]


def action_losses(arm: Tensor, gripper_logit: Tensor, chunk: Tensor, mask: Tensor) -> Losses:
    """Losses of a continuous head.

    Args:
        arm: (B, T, n, 6) in [-1, 1].
        gripper_logit: (B, T, n, 1).
        chunk: (B, T, n, 7), the gripper in {0, 1}.
        mask: (B, T, n) bool, False where an action is padded. If no action counts the losses are
            0, where the original gives NaN.

    Returns:
        float32 scalars: `loss_arm_act`, Huber with delta 1; `loss_gripper_act`, binary cross
        entropy; `acc_gripper_act`, the share of right signs, without a gradient.
    """
    logit, wanted = gripper_logit.squeeze(-1).float(), chunk[..., -1].float()
    huber = F.huber_loss(arm.float(), chunk[..., :-1].float(), reduction="none").mean(-1)
    entropy = F.binary_cross_entropy_with_logits(logit, wanted, reduction="none")
    # The original asks whether the sigmoid is above one half.
    right = ((logit.detach() > 0) == (wanted > 0.5)).float()
    return {
        "loss_arm_act": _masked_mean(huber, mask),
        "loss_gripper_act": _masked_mean(entropy, mask),
        "acc_gripper_act": _masked_mean(right, mask),
    }


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(~mask, 0).sum() / mask.sum().clamp(min=1)


def token_losses(
    logits: Tensor, labels: Tensor, tokenizer: ActionTokenizer, action_dim: int = 7
) -> Losses:
    """Losses of a discrete model.

    Args:
        logits: (N, V), what the model says of the next word at N places.
        labels: (N,) int64, the words that come; `IGNORED` where nothing is learned.
        tokenizer: tells actions from other words, such as the end token.
        action_dim: words of one action; the last is the gripper's.

    Returns:
        float32 scalars: `loss_arm_act`, cross entropy over all words that are learned (0 if there
        are none), the gripper's and the end token among them; without a gradient
        `acc_arm_act` and `acc_gripper_act`, shares of right words of the arm and the gripper,
        and `action_l1`, mean difference of decoded values; these three only if there are actions.

    Raises:
        UsageError: labels that hold a part of an action.
    """
    learned = labels != IGNORED
    entropy = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    losses = {"loss_arm_act": entropy / learned.sum().clamp(min=1)}
    action = (labels >= tokenizer.ids.start) & (labels < tokenizer.ids.stop)
    wanted, said = labels[action], logits[action].detach().argmax(-1)
    if not len(wanted):
        return losses
    if len(wanted) % action_dim:
        raise UsageError(
            f"labels: expected whole actions of {action_dim} words, found {len(wanted)} words"
        )
    right = (said == wanted).float().reshape(-1, action_dim)
    apart = tokenizer.decode(said.cpu().numpy()) - tokenizer.decode(wanted.cpu().numpy())
    difference = torch.tensor(float(abs(apart).mean()), device=logits.device)
    return {
        **losses,
        "acc_arm_act": right[:, :-1].mean(),
        "acc_gripper_act": right[:, -1].mean(),
        "action_l1": difference,
    }


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of the losses beside the arm's, which is 1 (RoboVLMs, trainer).

    Attributes:
        gripper: `arm_gripper_loss_ratio`.
        divergence: `kl_div_ratio`.
        clip: `clip_norm_ratio`.
        forward: `fwd_loss_ratio`, of predicted images; 0 without `train_setup.predict_forward`.
        caption: `cap_loss_ratio`.
        language: `vl_cotrain_ratio`; a discrete model's is ten times the configured one.
    """

    gripper: float = 0.01
    divergence: float = 0.05
    clip: float = 0.05
    forward: float = 0.0
    caption: float = 0.05
    language: float = 0.05

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LossWeights:
        """What a RoboVLMs configuration says.

        Raises:
            UsageError: a weight that is no number from 0 up.
        """
        discrete = (config.get("act_head") or {}).get("action_space") == "discrete"
        predicts = bool((config.get("train_setup") or {}).get("predict_forward"))
        return cls(
            gripper=_weight(config, "arm_gripper_loss_ratio", 0.01),
            divergence=_weight(config, "kl_div_ratio", 0.05),
            clip=_weight(config, "clip_norm_ratio", 0.05),
            forward=_weight(config, "fwd_loss_ratio", 0.0) if predicts else 0.0,
            caption=_weight(config, "cap_loss_ratio", 0.05),
            language=_weight(config, "vl_cotrain_ratio", 0.05) * (10 if discrete else 1),
        )

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The loss to minimise: the weighted sum of those losses that there are.

        Raises:
            UsageError: there is none.
        """
        weights = {
            "loss_arm_act": 1.0,
            "loss_gripper_act": self.gripper,
            "loss_kl": self.divergence,
            "text_l1_clip": self.clip,
            "loss_obs_fwd": self.forward,
            "loss_hand_obs_fwd": self.forward,
            "loss_cap": self.caption,
            "loss_vl_cotrain": self.language,
        }
        terms = [weight * losses[name] for name, weight in weights.items() if name in losses]
        if not terms:
            raise UsageError(f"losses: expected one of {', '.join(weights)}, found none")
        return torch.stack(terms).sum()


def _weight(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
        raise UsageError(f"{key}: expected a number from 0 up, found {value!r}")
    return float(value)
