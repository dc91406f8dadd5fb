"""RoboVLMs behind `--ckpt`: from a path to a policy, and what its configuration alone says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calvin_eval.errors import CheckpointError, UsageError
from calvin_eval.vla import checkout as theirs
from calvin_eval.vla.checkout import checkout_of
from calvin_eval.vla.compat import Compat
from calvin_eval.vla.config import Config, find_vlm, read_compat, vlm_type
from calvin_eval.vla.own_code import adapter_of, configured
from calvin_eval.vla.stages import action_stages
from calvin_eval.vla.supported import check_backbone
from calvin_eval.wrappers.loaders.base import LoadedPolicy, Source, file_facts, readable_size
from calvin_eval.wrappers.loaders.folders import is_adapter, is_zero
from calvin_eval.wrappers.loaders.torch_file import chosen_device, idle_gpu
from calvin_eval.wrappers.stages import Settings

if TYPE_CHECKING:
    from calvin_eval.vla.checkpoint import LoadReport, Weights
    from calvin_eval.vla.lora import Adapter
    from calvin_eval.vla.model import RoboVLM

OPTIONS = (
    "config", "vlm", "backbone", "step", "base", "adapter", "merge", "device", "max_batch",
    "raw_calvin", "compat", *Compat.__dataclass_fields__,
)  # fmt: skip

_LATER = ("action_history", "regular_action", "state_token", "video_frames")
"""Options that older releases did not write down."""

OLDEST_TRANSFORMERS = 5
"""Its module layout is the one that parameter names are translated to."""


def declare(source: Source) -> tuple[Settings, Settings]:
    """Observation and action stages, from the configuration alone.

    Raises:
        CheckpointError: no configuration, or one that cannot be used.
        UsageError: an option or a value that does not exist.
    """
    if (checkout := checkout_of(source)) is not None:
        return theirs.declare(source, checkout)
    source.check_options(OPTIONS)
    config = configured(source)
    if not adapter_of(config.values):
        check_backbone(config.values, vlm_type(config, source.options.get("vlm")), source.ckpt)
    compat = read_compat(source, config)
    _check_history(config, compat)
    return {}, action_stages(config, compat, source.options.get("raw_calvin", True))


def _check_history(config: Config, compat: Compat) -> None:
    form = compat.action_history
    if form != "none" and not config.discrete:
        raise UsageError(
            f"action_history={form}: expected a discrete model, whose questions can tell past "
            "actions; a continuous one gets them by the stage history (docs/policies.md)"
        )
    if form == "interleave" and compat.discrete_steps != "n":
        raise UsageError(
            "action_history=interleave: expected discrete_steps=n too, since in training every "
            f"past frame had an answer of {config.chunk} actions"
        )


def load(source: Source) -> LoadedPolicy:
    """Build the model that a configuration describes and fill it from a checkpoint.

    Raises:
        CheckpointError: something is missing, damaged, or does not belong together.
        UsageError: an option or a value that does not exist.
    """
    if (checkout := checkout_of(source)) is not None:
        return theirs.load(source, checkout)
    observe, actions = declare(source)
    plan = _plan(source)
    _check_transformers()
    device = chosen_device(source)
    dtype = plan.config.dtype(plan.compat.dtype_rule)

    import torch

    from calvin_eval.vla.policy import RoboVLMsPolicy

    model, facts = _filled(plan)
    model.to(device=device, dtype=getattr(torch, dtype)).eval()
    facts = {**facts, "dtype": dtype, "device": device, **_versions()}
    return LoadedPolicy(
        policy=RoboVLMsPolicy(
            model, plan.config, pre_select=plan.compat.pre_select, max_batch=plan.max_batch
        ),
        kind="robovlms",
        description=_description(plan, facts),
        metadata=source.metadata("robovlms", **facts),
        observe=observe,
        actions=actions,
    )


def _check_transformers() -> None:
    """Another package in the environment, such as LeRobot, may hold transformers back."""
    found = version("transformers")
    if int(found.partition(".")[0]) < OLDEST_TRANSFORMERS:
        raise CheckpointError(
            f"RoboVLMs checkpoints need transformers {OLDEST_TRANSFORMERS} or newer, found {found}:"
            " install calvin-eval into an environment of its own."
        )


def _filled(plan: LoadPlan) -> tuple[RoboVLM, dict[str, Any]]:
    """The model with its weights and adapters, and facts for the run's metadata."""
    from calvin_eval.vla.checkpoint import load_into
    from calvin_eval.vla.lora import apply_adapter

    weights, adapter = _read(plan)
    model = _built(plan)
    weights = _with_adapters_own(model, weights, adapter)
    report = load_into(
        model,
        weights,
        required=sorted(model.required_keys()),
        vlm=plan.vlm,
        strict=plan.compat.load_strict == "head",
    )
    facts = _facts(plan, weights, report)
    facts["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    if adapter is not None:
        facts["adapter"] = apply_adapter(model, adapter, merge=plan.merge)
    return model, facts


def _built(plan: LoadPlan) -> RoboVLM:
    """The model before its weights are read.

    Drawing random numbers for a billion parameters takes half a minute, for nothing: a weight that
    no file has is an error, unless the user asked for a report.
    """
    from contextlib import nullcontext

    from transformers.initialization import no_init_weights

    from calvin_eval.vla.model import RoboVLM

    with no_init_weights() if plan.compat.load_strict == "head" else nullcontext():
        model = RoboVLM.build(plan.config.values, plan.vlm, plan.compat)
    model.parts.model.tie_weights()
    return model


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """Where everything is and how it is to be put together.

    Attributes:
        config: the configuration.
        compat: behaviour of the family.
        vlm: folder of the vision-language model.
        checkpoint: the file or ZeRO folder; None if an adapter lies on the pretrained model.
        adapter: folder of an adapter, if there is one.
        merge: whether adapters are added to the weights.
        max_batch: most sessions in one forward pass.
    """

    config: Config
    compat: Compat
    vlm: Path
    checkpoint: Path | None
    adapter: Path | None
    merge: bool
    max_batch: int | None


def _plan(source: Source) -> LoadPlan:
    from calvin_eval.vla.lora import find_adapter

    options = source.options
    config = configured(source)
    merge, most = options.get("merge", False), options.get("max_batch")
    if not isinstance(merge, bool):
        raise UsageError(f"policy.options.merge: expected true or false, found {merge!r}")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        raise UsageError(f"policy.options.max_batch: expected a number from 1 up, found {most!r}")
    return LoadPlan(
        config=config,
        compat=read_compat(source, config),
        vlm=find_vlm(config, options.get("vlm")),
        checkpoint=_checkpoint(source, config),
        adapter=find_adapter(source.path, options.get("adapter")),
        merge=merge,
        max_batch=most,
    )


def _checkpoint(source: Source, config: Config) -> Path | None:
    """The checkpoint itself, or that under an adapter; None if the adapter names none."""
    from calvin_eval.vla.checkpoint import find_checkpoint, has_checkpoint

    path, step = source.path, source.options.get("step")
    given = source.options.get("base")
    if path.is_dir() and is_adapter(path):
        if given is None and has_checkpoint(path):
            return find_checkpoint(path, step)
        given = given or config.values.get("model_load_path")
        if given is None:
            return None
        path = Path(str(given))
        if not path.exists():
            raise CheckpointError(
                f"{source.ckpt} is an adapter on {path}, which is not here: give the checkpoint "
                "that it was trained on as policy.options.base=PATH."
            )
    elif given is not None:
        raise UsageError("policy.options.base goes with an adapter's folder as --ckpt only")
    if path.is_dir() and not is_zero(path):
        return find_checkpoint(path, step)
    return path


def _read(plan: LoadPlan) -> tuple[Weights, Adapter | None]:
    from calvin_eval.vla.checkpoint import Weights, read_weights
    from calvin_eval.vla.lora import read_adapter, split_adapter

    weights = Weights(plan.vlm, {}, {})
    if plan.checkpoint is not None:
        weights = read_weights(plan.checkpoint)
    weights, inner = split_adapter(weights, plan.config)
    if plan.adapter is None:
        return weights, inner
    if inner is not None:
        raise CheckpointError(
            f"{plan.checkpoint} has LoRA weights in it, and {plan.adapter} is another adapter: "
            "choose with policy.options.adapter=none."
        )
    return weights, read_adapter(plan.adapter)


def _with_adapters_own(model: Any, weights: Weights, adapter: Adapter | None) -> Weights:
    """Weights with those that the adapter's training changed as a whole: the head, usually."""
    from calvin_eval.vla.lora import plain_weights

    if adapter is None:
        return weights
    path = adapter.path if not weights.state else weights.path
    return replace(weights, path=path, state={**weights.state, **plain_weights(model, adapter)})


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {"torch": str(torch.__version__), "transformers": str(transformers.__version__)}


def _facts(plan: LoadPlan, weights: Weights, report: LoadReport) -> dict[str, Any]:
    files = plan.config.files
    return {
        "configs": {str(path): file_facts(path).metadata() for path in files},
        "vlm": {"path": str(plan.vlm), **file_facts(plan.vlm / "config.json").metadata()},
        "checkpoint": {"path": str(weights.path), **weights.facts},
        "load_report": report.metadata(),
        "compat": _compat_facts(plan.compat),
        "robovlm_name": plan.config.values.get("robovlm_name"),
    }


def _compat_facts(compat: Compat) -> dict[str, Any]:
    """All options; those that came later only where they are used."""
    plain = Compat()
    return {
        name: value
        for name, value in asdict(compat).items()
        if name not in _LATER or value != getattr(plain, name)
    }


def _description(plan: LoadPlan, facts: Mapping[str, Any]) -> str:
    """One line: what runs, and which of several checkpoints it is."""
    config, head, checkpoint = plan.config, plan.config.head, facts["checkpoint"]
    identity = ""
    if "sha256" in checkpoint:
        size = readable_size(checkpoint["size"])
        identity = f" (sha256 {checkpoint['sha256'][:12]}, {size})"
    cameras = "static and gripper camera" if config.hand else "static camera"
    adapter = facts.get("adapter")
    lora = ""
    if adapter:
        lora = f", LoRA r {adapter['r']} {'merged' if adapter['merged'] else 'applied'}"
    return (
        f"RoboVLMs policy {Path(checkpoint['path']).name}{identity}: {facts['robovlm_name']}, "
        f"{head.get('type')} {head.get('action_space', 'continuous')}, history {config.history} of "
        f"{config.window}{lora}, {cameras} -> chunk of {config.chunk}, {facts['dtype']} on "
        f"{facts['device']}{idle_gpu(facts['device'])}"
    )
