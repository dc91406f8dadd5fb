"""Vision-language models of the transformers library, taken apart the same way.

A folder's `config.json` says which family it is; everything is read from the folder, nothing is
downloaded, and no code that lies in the folder is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calvin_eval.errors import CheckpointError
from calvin_eval.vla.backbones.base import Backbone, folder_values
from calvin_eval.vla.backbones.flamingo import Flamingo
from calvin_eval.vla.backbones.idefics import Idefics3
from calvin_eval.vla.backbones.kosmos import Kosmos2
from calvin_eval.vla.backbones.llava import Llava
from calvin_eval.vla.backbones.llava_mpt import LlavaMpt
from calvin_eval.vla.backbones.paligemma import PaliGemma
from calvin_eval.vla.backbones.qwen import Qwen2VL
from calvin_eval.vla.own_code import adapter_of, own_part
from calvin_eval.vla.supported import foreign_backbone

__all__ = ["FAMILIES", "Backbone", "build_backbone"]

FAMILIES: dict[str, type[Backbone]] = {
    "kosmos-2": Kosmos2,
    "paligemma": PaliGemma,
    "llava": Llava,
    "llava_mpt": LlavaMpt,
    "mosaic_gpt": Flamingo,
    "qwen2_vl": Qwen2VL,
    "qwen2_5_vl": Qwen2VL,
    "idefics3": Idefics3,
    "smolvlm": Idefics3,
}
"""`model_type` of a `config.json` -> how its model is taken apart."""


def build_backbone(folder: Path, config: Mapping[str, Any] | None = None) -> Backbone:
    """Make the model that a folder's `config.json` describes, with random float32 weights.

    Args:
        folder: of the model.
        config: the project configuration; its `vlm.adapter` names, as `module:Class` or
            `file.py:Class`, a subclass of `Backbone` that makes the model instead.

    Raises:
        CheckpointError: no readable `config.json`, a family that transformers does not have, or
            code that fails.
        UsageError: code that is no `Backbone`.
    """
    project = config or {}
    if (code := adapter_of(project)) is not None:
        made = own_part(code, "vlm.adapter", ("from_folder", "encode_images"))
        backbone: Backbone = made.from_folder(folder)  # type: ignore[attr-defined]  # was looked at
        return backbone
    kind = folder_values(folder).get("model_type")
    if kind not in FAMILIES:
        raise CheckpointError(f"{folder / 'config.json'}: {foreign_backbone(f'found {kind!r}')}")
    return FAMILIES[kind].from_project(folder, project)
