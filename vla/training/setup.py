"""What is trained: which parameters, and whether as they are or through LoRA adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.vla.model import RoboVLM

LORA_TARGETS = ("language", "robovlms")
BIASES = ("none", "all", "lora_only")
SKIPPED = ("mm_projector", "vision_tower", "vision_resampler")
"""Paths in which RoboVLMs collects no layers for LoRA (LLaVA, train)."""
LACKING = {
    "predict_caption": "predicting captions",
    "freeze_mm_mlp_adapter": "freezing a LLaVA projector, which RoboVLMs never does",
}
"""Keys of `train_setup` that must be false, and what they would switch on.

Keys that RoboVLMs' code does not read and that its configurations set all the same stay unread
here: `tune_mm_mlp_adapter`, `mm_projector_lr` and their like.
"""


@dataclass(frozen=True, kw_only=True)
class TrainSetup:
    """`train_setup` of a RoboVLMs configuration.

    Attributes:
        freeze_backbone: whether the vision-language model stays as it is, but for the parts below.
        train_decoder_layers: how many of the text model's last layers are trained, and then
            nothing else of the backbone but the parts below; -1 for everything.
        train_vision: whether the vision tower is trained.
        train_text_embedding: whether the word embeddings are.
        freeze_resampler: whether the Perceiver of `use_vision_resampler` stays as it is.
        train_resampler: of Flamingo, whether its Perceiver is trained; other families have
            `freeze_resampler`.
        train_full_decoder: of Flamingo, whether the text model is trained too, beside the cross
            attention in front of its layers.
        gradient_checkpointing: whether activations are computed twice to save memory. RoboVLMs
            has the key and does not read it.
        lora_enable: whether the backbone is trained through adapters alone, and the word
            embeddings if asked for.
        lora_r: rank of the adapters.
        lora_alpha: their scale is alpha / r.
        lora_dropout: share of inputs that an adapter drops in training.
        lora_bias: which biases are trained: "none", "all", "lora_only".
        lora_targets: which linear layers get an adapter: "language", those of the text model;
            "robovlms", every layer whose last name component some layer of the text model or the
            projector has too, which reaches into the vision tower. The output layer gets none.
    """

    freeze_backbone: bool = False
    train_decoder_layers: int = -1
    train_vision: bool = False
    train_text_embedding: bool = False
    freeze_resampler: bool = False
    train_resampler: bool = False
    train_full_decoder: bool = False
    gradient_checkpointing: bool = False
    lora_enable: bool = False
    lora_r: int = 64
    lora_alpha: float = 16
    lora_dropout: float = 0.05
    lora_bias: str = "none"
    lora_targets: str = "language"

    def __post_init__(self) -> None:
        """Refuse values that do not exist.

        Raises:
            UnknownNameError: a choice that is none.
            UsageError: a number out of its range.
        """
        for name, known in (("lora_bias", BIASES), ("lora_targets", LORA_TARGETS)):
            if getattr(self, name) not in known:
                raise UnknownNameError(f"train_setup.{name}", getattr(self, name), known)
        if self.lora_r < 1 or self.lora_alpha <= 0 or not 0 <= self.lora_dropout < 1:
            raise UsageError(
                "train_setup: expected lora_r from 1 up, lora_alpha above 0 and lora_dropout in "
                f"[0, 1), found {self.lora_r}, {self.lora_alpha} and {self.lora_dropout}"
            )
        if self.train_decoder_layers < -1:
            raise UsageError(
                "train_setup.train_decoder_layers: expected a number of layers or -1 for all, "
                f"found {self.train_decoder_layers}"
            )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TrainSetup:
        """What a configuration says; a flag that is absent is off, as in RoboVLMs.

        Raises:
            UsageError: an option that is not built, or a value of another type.
        """
        given = config.get("train_setup") or {}
        for key, meaning in LACKING.items():
            if given.get(key):
                raise UsageError(f"train_setup.{key} asks for {meaning}; expected false")
        if given.get("bits", -1) not in (None, -1, 16, 32):
            raise UsageError(
                f"train_setup.bits: expected -1, since quantised training is not built, found "
                f"{given['bits']}"
            )
        values: dict[str, Any] = {}
        for name, field in cls.__dataclass_fields__.items():
            if given.get(name) is not None:
                values[name] = _typed(name, given[name], type(field.default))
        return cls(**values)


def _typed(name: str, value: Any, kind: type) -> Any:
    numbers = (int, float) if name in ("lora_alpha", "lora_dropout") else (kind,)
    if not isinstance(value, numbers) or (kind is not bool and isinstance(value, bool)):
        raise UsageError(
            f"train_setup.{name}: expected a value like {kind.__name__}, found {value!r}"
        )
    return value


def prepare(model: RoboVLM, setup: TrainSetup) -> None:
    """Choose what is trained, in RoboVLMs' order; policy head and action token always are.

    With `lora_enable` adapters are put into the model in place: the state dict then has
    `backbone.X.base_layer.weight` and `backbone.X.lora_A.default.weight`, which
    `calvin_eval.vla.lora` reads again.

    Args:
        model: changed in place.
        setup: what to train.

    Raises:
        UsageError: more decoder layers than the model has.
    """
    backbone, parts = model.backbone, model.parts
    if parts.crosses:
        _prepare_crossing(model, setup)
        return
    backbone.requires_grad_(not setup.freeze_backbone and setup.train_decoder_layers == -1)
    if setup.train_decoder_layers > 0 and not setup.freeze_backbone:
        layers = parts.layers
        if setup.train_decoder_layers > len(layers):
            raise UsageError(
                f"train_setup.train_decoder_layers: the text model has {len(layers)} layers, "
                f"found {setup.train_decoder_layers}"
            )
        for layer in layers[-setup.train_decoder_layers :]:
            layer.requires_grad_(True)
    parts.vision.requires_grad_(setup.train_vision and not parts.vision_is_fixed)
    if setup.lora_enable:
        _adapt(model, setup)
    parts.words.requires_grad_(setup.train_text_embedding)
    if model.fwd_head is not None:
        model.fwd_head.requires_grad_(model.fwd_head.options.learned)
    if model.vision_resampler is not None:
        model.vision_resampler.requires_grad_(not setup.freeze_resampler)
    if setup.gradient_checkpointing:
        vlm = parts.model  # transformers has renamed the method; both names take the same
        enable = getattr(vlm, "activation_checkpointing_enable", vlm.gradient_checkpointing_enable)
        enable({"use_reentrant": False})


def _prepare_crossing(model: RoboVLM, setup: TrainSetup) -> None:
    """The rules of Flamingo, which RoboVLMs lays down for it apart."""
    if setup.lora_enable or setup.gradient_checkpointing:
        raise UsageError(
            "train_setup: Flamingo is trained without LoRA and without gradient_checkpointing, as "
            "in the original; expected lora_enable and gradient_checkpointing false"
        )
    if setup.train_decoder_layers > len(model.parts.layers):
        raise UsageError(
            f"train_setup.train_decoder_layers: the text model has {len(model.parts.layers)} "
            f"layers, found {setup.train_decoder_layers}"
        )
    model.parts.choose_trained(setup)


def _adapt(model: RoboVLM, setup: TrainSetup) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=setup.lora_r,
        lora_alpha=setup.lora_alpha,  # type: ignore[arg-type]  # peft computes alpha / r
        lora_dropout=setup.lora_dropout,
        bias=setup.lora_bias,  # type: ignore[arg-type]  # one of BIASES
        target_modules=lora_targets(model, setup.lora_targets),
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(config, model.backbone)


def lora_targets(model: RoboVLM, rule: str = "language") -> list[str]:
    """Names in the backbone of the layers that get an adapter, see `TrainSetup.lora_targets`."""
    linear = [n for n, m in model.backbone.named_modules() if isinstance(m, nn.Linear)]
    if rule == "language":
        within = (f"{model.parts.vision_at}.", f"{model.parts.projector_at or '-'}.")
        linear = [name for name in linear if name.startswith(f"{model.parts.text_at}.")]
        linear = [name for name in linear if not name.startswith(within)]
        return [name for name in linear if name != model.parts.head_at]
    last = {n.rpartition(".")[2] for n in linear if not any(part in n for part in SKIPPED)}
    last -= {"lm_head"}
    return [name for name in linear if name.rpartition(".")[2] in last]


@dataclass(frozen=True)
class PartReport:
    """Parameters of one part of a model.

    Attributes:
        part: its name.
        total: how many numbers it has.
        trained: how many of them are trained.
    """

    part: str
    total: int
    trained: int


def parameter_report(model: RoboVLM) -> list[PartReport]:
    """Numbers of parameters by part, and last of the whole model; a shared matrix counts once."""
    total: dict[str, int] = {}
    trained: dict[str, int] = {}
    for part, parameter in _parts(model):
        total[part] = total.get(part, 0) + parameter.numel()
        trained[part] = trained.get(part, 0) + parameter.numel() * parameter.requires_grad
    rows = [PartReport(part, number, trained[part]) for part, number in total.items()]
    return [*rows, PartReport("all", sum(total.values()), sum(trained.values()))]


def _parts(model: RoboVLM) -> Iterator[tuple[str, Tensor]]:
    words = id(model.parts.words.weight)
    places = {
        f"backbone.{model.parts.head_at}.": "output layer",
        f"backbone.{model.parts.vision_at}.": "vision tower",
        f"backbone.{model.parts.projector_at or '-'}.": "projector",
        f"backbone.{model.parts.text_at}.": "text model",
        "backbone.": "projector",
        "vision_resampler.": "resampler",
        "state_token.": "state token",
        "fwd_head.": "forward head",
        "clip_norm_head.": "CLIP loss",
        "act_head.": "policy head",
        "action_token": "action token",
    }
    for name, parameter in model.named_parameters():
        if id(parameter) == words:
            yield "word embeddings", parameter
        elif ".lora_" in name:
            yield "adapters", parameter
        else:
            yield next(part for place, part in places.items() if name.startswith(place)), parameter
