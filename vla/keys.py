"""What becomes of the keys of a project file in training: acted on, refused, or without effect.

RoboVLMs' configurations hold keys that its code never reads, and keys of a launcher, a data loader
or a loss that is not used here. None of them is dropped in silence: a key that would change the
training is refused with the reason, and the others are listed when the training starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from calvin_eval.errors import UsageError
from calvin_eval.vla.mixture import ACTIONS, CAPTIONS, OXE, SENTENCES, check_mixture

READ = (
    "llava", "qwen", "robovlm_name", "model_url", "train_dataset.few_shot",
    "train_dataset.partial_data", "train_dataset.type", "val_dataset.type", "val_dataset.few_shot",
    "val_dataset.partial_data",
    *(f"{part}.{key}" for part in ("train_dataset", "val_dataset")
      for key in ("data_root_dir", "data_mix", "organize_type")),
)  # fmt: skip
"""Keys that are read beside those of `conf/train.yaml`."""

_CROSSING = ("vision_encoder.", "train_setup.train_resampler", "train_setup.train_full_decoder")
"""Keys of Flamingo's configuration, which has the section `vision_encoder`."""
_LAUNCHER = "processes and devices are the launcher's affair, see docs/train.md"
_NO_LOSS = "no loss of that name is computed"
_UNREAD = "nothing reads it"
_LIGHTNING = "of Lightning's trainer, which is not used here"
_ELSEWHERE = "the value outside act_head counts"

IDLE: Mapping[str, str] = {
    "seq_len": _UNREAD,
    "task_name": _UNREAD,
    "optimizer": "it is AdamW, as in the original",
    "image_mean": "the vision tower's own counts",
    "image_std": "the vision tower's own counts",
    "warmup_ratio": "warmup_epochs and warmup_steps count",
    "gpus": _LAUNCHER,
    "num_nodes": _LAUNCHER,
    "trainer.strategy": _LAUNCHER,
    "trainer.devices": _LAUNCHER,
    "trainer.num_nodes": _LAUNCHER,
    "kl_div_ratio": _NO_LOSS,
    "act_head.window_size": _ELSEWHERE,
    "act_head.fwd_pred_next_n": _ELSEWHERE,
    "act_encoder": "stored and never used, in the original",
    "train_setup.predict_forward_hand": "fwd_head.pred_hand_image decides, as in the original",
    "train_setup.precision": "trainer.precision counts",
    "train_dataset.window_sample": "organize_type decides, as in the original",
    "val_dataset.window_sample": "organize_type decides, as in the original",
    "train_dataset.image_aug": "images of Open X-Embodiment are not changed",
    "train_dataset.shuffle_buffer_size": "all samples are shuffled",
    "val_dataset.shuffle_buffer_size": "all samples are shuffled",
    "tokenizer.type": "found out from the folder",
    "tokenizer.tokenizer_type": "found out from the folder",
    "tokenizer.max_text_len": "the length limit is the model family's",
    "vlm.type": "found out from the folder",
}
"""Key -> why it has no effect. Keys that stand nowhere here are read by nobody."""


_NO_HEAD = "there is no fwd_head that it belongs to"
_DISCRETE = "a discrete model has no features for it, as in the original"


def _idle_parts(project: Mapping[str, Any]) -> Mapping[str, str]:
    """Keys of parts that this configuration does not have, and why they have no effect."""
    found: dict[str, str] = {}
    head = (project.get("fwd_head") or {}).get("type")
    setup, compat = project.get("train_setup") or {}, project.get("compat") or {}
    if not head:
        found |= dict.fromkeys(
            ("fwd_loss_ratio", "use_mim_obs_loss", "use_pixel_loss", "vision_masked_ratio",
             "use_tube_mask", "train_setup.predict_forward"), _NO_HEAD
        )  # fmt: skip
    elif not project.get("use_mim_obs_loss"):
        whole = "use_mim_obs_loss is false, so that nothing is hidden"
        found |= {"vision_masked_ratio": whole, "use_tube_mask": whole}
    if head and not setup.get("predict_forward"):
        found["fwd_head"] = "train_setup.predict_forward is false"
    kinds = {part.get("type") for part in project.get("cotrain") or [] if isinstance(part, Mapping)}
    for key, kind in (("cap_loss_ratio", CAPTIONS), ("vl_cotrain_ratio", SENTENCES)):
        if kind not in kinds:
            found[key] = f"no data set of type {kind} is trained on"
    if not kinds:
        found["weights"] = "there is one data set"
    if not project.get("use_clip_norm"):
        found["clip_norm_ratio"] = "use_clip_norm is false"
    if compat.get("state_token") == "ignored":
        found["use_state"] = "the original looks up a misspelt key, and never feeds it"
    if (project.get("act_head") or {}).get("action_space") == "discrete":
        found |= dict.fromkeys(("use_clip_norm", "use_state", "fwd_head"), _DISCRETE)
    return found


def check_keys(project: Mapping[str, Any]) -> None:
    """Refuse keys that would change the training, if they did what they say.

    Args:
        project: the configuration of a training.

    Raises:
        UsageError: a key that is not acted on.
    """
    found = dict(leaves(project))
    for key, (off, reason) in _REFUSED.items():
        if key in found and not off(found[key]):
            raise UsageError(f"{key}={found[key]!r}: {reason}")
    for section in ("train_dataset", "val_dataset"):
        _check_lists(project.get(section) or {}, section)
    check_mixture(project)


def idle_keys(
    given: Mapping[str, Any],
    known: Mapping[str, Any],
    *,
    all_given: bool,
    whole: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Keys that have no effect, with the reason, in the order of the file.

    Args:
        given: the project configuration.
        known: the packaged one, whose keys are acted on but for those in `IDLE`.
        all_given: whether `given` is what somebody wrote, so that a key counts even where its
            value is the packaged one.
        whole: the configuration that `given` is a part of; itself if None.
    """
    defaults = dict(leaves(known))
    idle = {**IDLE, **_idle_parts(given if whole is None else whole)}
    found = {}
    for key, value in leaves(given):
        if key.startswith(_CROSSING) and "vision_encoder" in given:
            continue
        acted = key in defaults or key in READ or key.startswith(("compat.", "vlm.sizes."))
        same = key in defaults and defaults[key] == value and not all_given
        off = value is None or value is False or value in ({}, [])
        reason = idle.get(key) or idle.get(key.partition(".")[0])
        if off or same or (acted and not reason):
            continue
        lightning = key.startswith("trainer.")
        found[key] = reason or (_LIGHTNING if lightning else _UNREAD)
    return found


def leaves(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """All keys with a dot between section and name, and their values."""
    for name, value in values.items():
        key = f"{before}{name}"
        if key in IDLE or not isinstance(value, Mapping) or not value:
            yield key, value
        else:
            yield from leaves(value, f"{key}.")


def _check_lists(section: Mapping[str, Any], name: str) -> None:
    """`few_shot` and `partial_data` choose segments by lists that RoboVLMs ships."""
    lists = {"few_shot": "10_shot_task_data.json", "partial_data": "data_name_list.txt"}
    for key, file in lists.items():
        if section.get(key) and not section.get("pairs"):
            raise UsageError(
                f"{name}.{key}={section[key]!r} trains on the segments in RoboVLMs' list {file}, "
                f"which is not part of calvin-eval: name it by {name}.pairs=PATH/{file}"
            )


def _among(*values: Any) -> Callable[[Any], bool]:
    return lambda value: value is None or value in values


_PLAIN_READER = _among(ACTIONS, OXE)
_OTHER_READER = (
    f"expected {ACTIONS}, CALVIN's data set, or {OXE}, Open X-Embodiment; "
    f"train_dataset.type={ACTIONS} trains on data= instead; of images with sentences: cotrain"
)
_REFUSED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "train_dataset.type": (_PLAIN_READER, _OTHER_READER),
    "val_dataset.type": (_PLAIN_READER, _OTHER_READER.replace("train_", "val_")),
    "train_dataset.text_aug": (
        _among(False), "the original fails with it: expected false"
    ),
    "train_dataset.lang_folder": (
        _among("lang_annotations"),
        "expected lang_annotations, the folder that is read, and the split's own behind it",
    ),
    "train_dataset.predict_stop_token": (_among(True, False), "expected true or false"),
    "train_setup.reinit": (
        _among(False),
        "expected false; vlm.from_scratch=true with a folder without weights starts from random "
        "ones",
    ),
    "trainer.limit_train_batches": (
        _among(1.0), "expected none; trainer.max_steps=N ends a training after N steps"
    ),
    "trainer.overfit_batches": (
        _among(0, 0.0), "expected 0; train_dataset.pairs=FILE or tasks=[...] trains on a part"
    ),
    "trainer.check_val_every_n_epoch": (
        _among(1), "expected 1; trainer.val_check_interval=N validates every N steps"
    ),
    "fwd_head.type": (
        _among("ImageDecoder"),
        "expected ImageDecoder: RoboVLMs does not ship the heads that its own code imports",
    ),
}  # fmt: skip
"""Key -> whether a value asks for nothing, and what to say to others."""
