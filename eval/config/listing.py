"""What `--print-config` prints: the configuration, and the wrappers in execution order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from calvin_eval.config.presets import check_spoken
from calvin_eval.config.schema import EvalConfig
from calvin_eval.wrappers.loaders import Stages, arrange, declared
from calvin_eval.wrappers.loaders.base import Source


def render_configs(configs: Sequence[EvalConfig]) -> str:
    """One YAML document per configuration; the wrappers are comments behind it.

    Raises:
        CalvinEvalError: a stage or a checkpoint's own configuration that cannot be used.
    """
    several = len(configs) > 1
    documents = []
    for config in configs:
        text = yaml.safe_dump(config.as_dict(), sort_keys=False, explicit_start=several)
        documents.append(text + "".join(f"# {line}\n" for line in _wrappers(config)))
    return "".join(documents)


def _wrappers(config: EvalConfig) -> Iterator[str]:
    policy = config.policy
    check_spoken(config)
    own = declared(Source(ckpt=config.ckpt, options=policy.loader_options, trust=policy.trust))
    stages = arrange(own or ({}, {}), dict(policy.observe), dict(policy.actions))
    unknown = "" if own is not None else "; what the checkpoint declares is not known yet"
    yield f"wrappers, in execution order{unknown}:"
    yield from (f"  {number}. {line}" for number, line in enumerate(_lines(config, stages), 1))


def _lines(config: EvalConfig, stages: Stages) -> Iterator[str]:
    sides = stages.as_dict()
    for label, options in sides["observe"].items():
        yield f"observe.{label}: {_flow(label, options)}"
    yield f"network: {config.ckpt}"
    for label, options in sides["actions"].items():
        yield f"actions.{label}: {_flow(label, options)}"
    count, leftover = config.protocol.execute, config.protocol.leftover
    executed = "every action of a chunk" if count is None else f"{count} actions of every chunk"
    yield f"execution: {executed}; leftover at the end of a subtask: {leftover}"


def _flow(label: str, options: dict[str, Any]) -> str:
    """Options on one line; the stage's name where the label does not say it."""
    shown = {key: value for key, value in options.items() if (key, value) != ("use", label)}
    return yaml.safe_dump(
        shown, default_flow_style=True, sort_keys=False, width=float("inf")
    ).strip()
