"""The model card: what a reader of a score has to know that no run can tell.

Its form is the published JSON schema beside this module, and nothing but that schema judges it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]

from calvin_eval.errors import UsageError
from calvin_eval.foreign.documents import DocumentError, parse_yaml

_SCHEMA = Path(__file__).with_name("model_card.schema.json")
_SHOWN = 5  # problems that a message names


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A valid card; the schema explains the fields. What an optional one says is None if absent."""

    name: str
    training_split: str
    parameters: int | None
    observation_space: tuple[str, ...]
    action_space: str
    licence: str
    links: Mapping[str, str]
    key: str | None = None
    description: str | None = None
    base_model: str | None = None
    weights: str | None = None
    published: str | None = None
    reinforcement_learning: bool | None = None
    submitter: str | None = None
    notes: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def short_name(self) -> str:
        """The key, or one made of the name."""
        return self.key or re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-") or "model"

    def to_json(self) -> dict[str, Any]:
        """The card as it was given."""
        return dict(self.source)


@cache
def model_card_schema() -> Mapping[str, Any]:
    """The published schema."""
    schema: dict[str, Any] = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    return schema


def parse_model_card(data: object, where: str) -> ModelCard:
    """Check a card.

    Args:
        data: JSON values.
        where: how an error calls the card.

    Raises:
        UsageError: naming what the schema finds wrong.
    """
    validator = jsonschema.Draft202012Validator(model_card_schema())
    problems = sorted(validator.iter_errors(data), key=lambda error: list(map(str, error.path)))
    if problems or not isinstance(data, dict):
        lines = [f"{'.'.join(map(str, p.path)) or 'card'}: {_brief(p)}" for p in problems[:_SHOWN]]
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UsageError(
            f"{where}: expected a model card, found that {'; '.join(lines)}{more}. "
            "docs/verify.md has an example."
        )
    names = {f.name for f in fields(ModelCard)} - {"source"}
    values = {key: value for key, value in data.items() if key in names}
    values["observation_space"] = tuple(values["observation_space"])
    if values["parameters"] is not None:
        values["parameters"] = int(values["parameters"])  # the schema calls 7e9 an integer, too
    return ModelCard(**values, source=data)


def read_model_card(path: Path) -> ModelCard:
    """Read a card from YAML or JSON; raises UsageError if there is none or it is not valid."""
    try:
        data = parse_yaml(path.read_bytes())
    except OSError as error:
        raise UsageError(f"expected a model card in {path}: {error.strerror}") from error
    except DocumentError as error:
        raise UsageError(f"{path}: expected YAML or JSON, found {error}") from error
    return parse_model_card(data, str(path))


def _brief(problem: Any, most: int = 200) -> str:
    text = str(problem.message)
    return text if len(text) <= most else f"{text[:most]}…"
