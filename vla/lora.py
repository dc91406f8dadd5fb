"""LoRA adapters: in a peft folder, or in a checkpoint's own state dict.

Which modules are adapted is read from the names of the adapter's weights, so it does not matter
by what rule training chose them, or that an older transformers called them otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calvin_eval.errors import CheckpointError, UsageError
from calvin_eval.foreign.documents import parse_json
from calvin_eval.vla.checkpoint import Weights, own_name, read_safetensors
from calvin_eval.vla.config import Config
from calvin_eval.vla.torch_files import read_torch_file
from calvin_eval.wrappers.loaders.base import file_facts
from calvin_eval.wrappers.loaders.folders import ADAPTER_CONFIG, is_adapter

PEFT_PREFIX = "base_model.model."
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
OPTIONS = (
    "r", "lora_alpha", "bias", "use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern",
    "alpha_pattern", "lora_bias",
)  # fmt: skip
"""Settings of an adapter that change what it computes."""

PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_(?:A|B|embedding_A|embedding_B|magnitude_vector))"
    r"(?:\.(?!weight$|bias$)\w+)?(?P<end>\.weight|\.bias)?"
)
"""A weight of an adapter: module, part, (the adapter's name), weight or bias."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter.

    Attributes:
        path: where it lies.
        settings: peft's options for it.
        state: its weights as `MODULE.lora_A.weight`, and weights beside them that training
            changed as a whole.
        facts: for the run's metadata.
    """

    path: Path
    settings: Mapping[str, Any]
    state: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def find_adapter(path: Path, given: Any = None) -> Path | None:
    """The adapter's folder for a checkpoint: as given, the folder itself, or one directly in it.

    Raises:
        UsageError: what was given is no adapter.
        CheckpointError: there are several.
    """
    if given is not None:
        if str(given) == "none":
            return None
        if not is_adapter(Path(str(given))):
            raise UsageError(
                f"policy.options.adapter={given}: expected a folder with {ADAPTER_CONFIG}, or none"
            )
        return Path(str(given))
    folder = path if path.is_dir() else path.absolute().parent
    if is_adapter(folder):
        return folder
    found = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and is_adapter(entry)]
    if len(found) > 1 and path.is_dir():
        names = ", ".join(entry.name for entry in found)
        raise CheckpointError(
            f"{folder} holds several adapters ({names}): choose with policy.options.adapter=PATH, "
            "or none."
        )
    return found[0] if found and path.is_dir() else None


def read_adapter(folder: Path) -> Adapter:
    """Read a folder that peft's `save_pretrained` wrote.

    Raises:
        CheckpointError: it is damaged, or no LoRA.
    """
    try:
        settings = parse_json((folder / ADAPTER_CONFIG).read_bytes(), strict=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / ADAPTER_CONFIG} cannot be read: {error}.") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{folder / ADAPTER_CONFIG}: expected a JSON object.")
    kind = settings.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(f"{folder}: expected a LoRA adapter, found peft_type {kind!r}.")
    file = next((folder / name for name in ADAPTER_FILES if (folder / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{folder}: expected {' or '.join(ADAPTER_FILES)} in it.")
    state = read_safetensors(file) if file.suffix == ".safetensors" else read_torch_file(file)
    state = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    return Adapter(folder, settings, state, {"path": str(folder), **file_facts(file).metadata()})


def split_adapter(weights: Weights, config: Config) -> tuple[Weights, Adapter | None]:
    """A state dict that training wrote with adapters in it, as plain weights and an adapter.

    RoboVLMs wraps the backbone and registers it a second time, so that the same weights appear
    as `backbone.X` and `model.base_model.model.X`; rank and scale are in the configuration only.

    Raises:
        CheckpointError: there are adapters, but no settings for them.
    """
    if not any(PART.fullmatch(name) for name in weights.state):
        return weights, None
    setup = config.values.get("train_setup") or {}
    if "lora_alpha" not in setup:
        raise CheckpointError(
            f"{weights.path} has LoRA weights in it, but {config.path} does not say how they were "
            "made: expected lora_r and lora_alpha under train_setup."
        )
    plain: dict[str, Tensor] = {}
    parts: dict[str, Tensor] = {}
    for name, value in weights.state.items():
        again = name.removeprefix("model.").startswith(PEFT_PREFIX)
        ours = f"backbone.{name.removeprefix('model.').removeprefix(PEFT_PREFIX)}"
        ours = ours if again else name
        target = parts if PART.fullmatch(ours) else plain
        target.setdefault(ours.replace(".base_layer.", "."), value)
    rank = next(value.shape[0] for name, value in parts.items() if ".lora_A" in name)
    settings = {
        "r": setup.get("lora_r", rank),
        "lora_alpha": setup["lora_alpha"],
        "bias": setup.get("lora_bias", "none"),
    }
    adapter = Adapter(weights.path, settings, parts, {"path": "in the checkpoint"})
    return replace(weights, state=plain), adapter


def plain_weights(model: nn.Module, adapter: Adapter) -> dict[str, Tensor]:
    """Weights in an adapter's folder that were trained as a whole, by the model's names.

    Raises:
        CheckpointError: a name that the model does not have.
    """
    known = set(model.state_dict())
    return {
        _found(model, adapter, name.replace(".base_layer.", "."), known): value
        for name, value in adapter.state.items()
        if not PART.fullmatch(name)
    }


def apply_adapter(model: nn.Module, adapter: Adapter, *, merge: bool) -> dict[str, Any]:
    """Put an adapter into a model that has its other weights.

    Args:
        model: changed in place.
        adapter: its weights and settings.
        merge: whether to add the adapter to the weights, which leaves a plain model.

    Returns:
        Facts for the run's metadata: numbers of modules and of weights, rank, scale.

    Raises:
        CheckpointError: the adapter was made for another model.
    """
    from peft import LoraConfig, LoraModel

    parts = dict(_parts(model, adapter))
    modules = sorted({module for module, _, _ in parts})
    options = {key: adapter.settings[key] for key in OPTIONS if adapter.settings.get(key)}
    try:
        config = LoraConfig(target_modules=modules, lora_dropout=0.0, **options)
        tuner = LoraModel(model, config, "default")
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{adapter.path}: peft refuses the adapter: {error}") from error
    _fill(model, adapter, parts)
    if merge:
        tuner.merge_and_unload(safe_merge=True)
    return {
        **adapter.facts,
        "modules": len(modules),
        "weights": sum(value.numel() for value in parts.values()),
        "r": adapter.settings.get("r"),
        "lora_alpha": adapter.settings.get("lora_alpha"),
        "merged": merge,
    }


@torch.no_grad()
def _fill(model: nn.Module, adapter: Adapter, parts: Mapping[tuple[str, str, str], Tensor]) -> None:
    own = model.state_dict(keep_vars=True)
    for (module, part, end), value in parts.items():
        name = f"{module}.{part}.default{end}"
        if name not in own or own[name].shape != value.shape:
            shape = tuple(own[name].shape) if name in own else "no such part"
            raise CheckpointError(
                f"{adapter.path}: {module}.{part} is {tuple(value.shape)}, the model expects "
                f"{shape}: compare r and target_modules with the model."
            )
        own[name].copy_(value)


def _parts(model: nn.Module, adapter: Adapter) -> Iterator[tuple[tuple[str, str, str], Tensor]]:
    """The adapter's weights by (module, part, ".weight" or "")."""
    known = {name for name, _ in model.named_modules()}
    for name, value in adapter.state.items():
        if match := PART.fullmatch(name):
            module = _found(model, adapter, match["module"], known)
            end = match["end"] or (".weight" if "magnitude" in match["part"] else "")
            yield (module, match["part"], end), value


def _found(model: nn.Module, adapter: Adapter, name: str, known: set[str]) -> str:
    """A name in an adapter's file as the model's: peft may have wrapped the backbone or more."""
    inner = name.removeprefix(PEFT_PREFIX)
    for candidate in (inner, inner.removeprefix("model."), f"backbone.{inner}"):
        ours = own_name(model, candidate)
        if ours in known:
            return ours
    raise CheckpointError(
        f"{adapter.path} adapts {inner!r}, which this model does not have: the adapter was made "
        "for another model, or for one with other module names."
    )


def save_adapter(model: nn.Module, folder: Path) -> Path:
    """Write a model's adapters as peft does, with the weights that are trained beside them.

    `read_adapter` and peft's own `PeftModel.from_pretrained` on a model with its base weights
    read the folder.

    Args:
        model: a `RoboVLM` whose backbone has adapters, see `calvin_eval.vla.training.setup`.
        folder: made if it is missing.

    Returns:
        The folder.

    Raises:
        UsageError: a model without adapters.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    backbone: Any = model.backbone
    if not hasattr(backbone, "peft_config"):
        raise UsageError("expected a model with LoRA adapters, found none")
    adapters = get_peft_model_state_dict(backbone, save_embedding_layers=False)
    state = {f"backbone.{name}": value for name, value in adapters.items()}
    # Under the names that peft gives them: trained biases are among the adapters', too.
    state |= {
        name: value
        for name, value in model.named_parameters()
        if value.requires_grad and ".lora_" not in name
    }
    folder.mkdir(parents=True, exist_ok=True)
    backbone.peft_config["default"].save_pretrained(folder)
    whole = {f"{PEFT_PREFIX}{name}": v.detach().cpu().contiguous() for name, v in state.items()}
    save_file(whole, folder / ADAPTER_FILES[0], metadata={"format": "pt"})
    return folder
