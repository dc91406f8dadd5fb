"""Write `results/header.schema.json` from the dataclasses that read a header.

python -m tools.header_schema
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from calvin_eval.protocol import RULES, Protocol, RealTime
from calvin_eval.results.header import Header
from calvin_eval.results.schema import SCHEMA_VERSION
from calvin_eval.results.typed import json_schema

TARGET = Path(__file__).resolve().parents[1] / "results" / "header.schema.json"


def header_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of `header.json`; other entries than these are allowed."""
    schema = json_schema(Header)
    properties = schema["properties"]
    properties["schema_version"]["const"] = SCHEMA_VERSION
    config = properties["config"]["properties"]
    for section in ("sim", "protocol"):
        rules, known = _rules(section), config[section]
        known["properties"] = {**known.get("properties", {}), **rules["properties"]}
        known["required"] = [*known.get("required", []), *rules["required"]]
        known.pop("additionalProperties", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:calvin-eval:header",
        "title": "Header of a calvin-eval run",
        **schema,
    }


def _rules(section: str) -> dict[str, Any]:
    """The rules of the protocol that are keys of a section of the configuration."""
    known = json_schema(Protocol)["properties"]
    rules = {name: rule for name, rule in RULES.items() if rule.section == section}
    properties = {name: known[name] for name in rules}
    if "realtime" in properties:
        real_time = {
            **json_schema(RealTime),
            "required": [entry.name for entry in fields(RealTime)],
        }
        properties["realtime"] = {
            "description": properties["realtime"]["description"],
            "anyOf": [real_time, {"type": "null"}],
        }
    required = [name for name, rule in rules.items() if rule.required]
    return {"properties": properties, "required": required}


def main() -> None:
    """Write the file."""
    text = json.dumps(header_schema(), indent=2, ensure_ascii=False)
    TARGET.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
