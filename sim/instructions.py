"""The sentence that the policy gets for each subtask.

The benchmark uses the first sentence that the pack has for a task (docs/protocol.md#rollout).
Other sources are a file with sentences per task, or per chain and position, as the enriched
instructions of RoboFlamingo (`enrich_lang_annotations.json`: a list over chains of lists of five).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.foreign.documents import DocumentError, parse_json, parse_yaml
from calvin_eval.sim.symbolic import TASK_NAMES

PACK: Final = "pack"

_SHOWN: Final = 5  # how many missing chains or tasks a message names


class HasTasks(Protocol):
    """The part of a `Chain` that instructions depend on."""

    @property
    def id(self) -> int:
        """Position in the chain list."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the subtasks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InstructionSet:
    """Sentences, either per task or per chain and position; the other mapping is empty.

    Attributes:
        name: "pack" or the name of the file.
        by_task: a sentence for each of the 34 tasks.
        by_chain: sentences for the subtasks of a chain, by the chain's id.
    """

    name: str
    by_task: Mapping[str, str]
    by_chain: Mapping[int, tuple[str, ...]]

    @cached_property
    def sha256(self) -> str:
        """Hash of the sentences in use; neither name, layout nor order of the source enters."""
        content = [sorted(self.by_task.items()), sorted(self.by_chain.items())]
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()

    def text(self, task: str, chain_id: int, position: int) -> str:
        """Returns the instruction for one subtask.

        Args:
            task: name of the task.
            chain_id: id of the chain.
            position: of the subtask in the chain, from 0.

        Raises:
            UsageError: if there is no sentence for it; `require` finds that out before a run.
        """
        if self.by_chain:
            sentences = self.by_chain.get(chain_id, ())
            if not 0 <= position < len(sentences):
                raise UsageError(
                    f"instructions {self.name}: expected a sentence for chain {chain_id}, "
                    f"position {position}; found {len(sentences)} for that chain"
                )
            return sentences[position]
        if task not in self.by_task:
            raise UnknownNameError(f"task in instructions {self.name}", task, self.by_task)
        return self.by_task[task]

    def require(self, chains: Iterable[HasTasks]) -> None:
        """Checks that every subtask of these chains has a sentence.

        Raises:
            UsageError: naming chains that have none or too few.
        """
        if not self.by_chain:
            return
        short = [c.id for c in chains if len(self.by_chain.get(c.id, ())) < len(c.tasks)]
        if short:
            raise UsageError(
                f"instructions {self.name}: expected a sentence for every subtask of every chain; "
                f"missing for {len(short)} chains: {_some(short)}. The file has chains "
                f"{min(self.by_chain)} to {max(self.by_chain)}: add the missing ones, or evaluate "
                "a selection of chains that it has"
            )


def name_of_instructions(source: str | Path) -> str:
    """Returns the name that instructions have in a run's header: `pack`, or that of their file."""
    return PACK if str(source) == PACK else Path(source).name


def load_instructions(
    source: str | Path, pack_instructions: Mapping[str, Sequence[str]]
) -> InstructionSet:
    """Loads instructions.

    Args:
        source: "pack", or a YAML or JSON file of one of these forms:

            - `{task: sentence}` or `{task: [sentence, ...]}` for all 34 tasks; the first counts;
            - `[[sentence, ...], ...]`: by chain id and position;
            - `{chain_id: [sentence, ...]}`: the same for some chains.
        pack_instructions: the sentences of the asset pack, by task.

    Raises:
        UsageError: if the file is missing or not of these forms, or a task has no sentence.
    """
    if str(source) == PACK:
        return InstructionSet(
            name=PACK, by_task=_task_sentences(pack_instructions, PACK), by_chain={}
        )
    path, name = Path(source).expanduser(), name_of_instructions(source)
    content = _read(path)
    if isinstance(content, list):
        content = dict(enumerate(content))
    if not isinstance(content, dict) or not content:
        raise UsageError(
            f"instructions {path}: expected a non-empty mapping from tasks or chain ids, or a "
            f"list of chains; found {type(content).__name__} {str(content)[:40]!r}"
        )
    if all(re.fullmatch("[0-9]+", str(key)) for key in content):
        by_chain = {
            int(key): _chain_sentences(v, f"{path}, chain {key}") for key, v in content.items()
        }
        return InstructionSet(name=name, by_task={}, by_chain=by_chain)
    return InstructionSet(name=name, by_task=_task_sentences(content, str(path)), by_chain={})


def _read(path: Path) -> object:
    """Parses a YAML or JSON file."""
    if not path.is_file():
        raise UsageError(
            f"instructions {path}: expected a YAML or JSON file, found none there; "
            f"use {PACK!r} for the asset pack's own"
        )
    parse = parse_json if path.suffix == ".json" else parse_yaml
    try:
        content: object = parse(path.read_bytes())
    except (OSError, DocumentError) as error:
        raise UsageError(f"instructions {path}: expected YAML or JSON, found {error}") from error
    return content


def _task_sentences(content: Mapping[str, object], where: str) -> dict[str, str]:
    """Returns the first sentence of each task, in the order of `TASK_NAMES`."""
    for name in content:
        if name not in TASK_NAMES:
            raise UnknownNameError(f"task in instructions {where}", name, TASK_NAMES)
    if missing := [task for task in TASK_NAMES if task not in content]:
        raise UsageError(
            f"instructions {where}: expected a sentence for each of {len(TASK_NAMES)} tasks; "
            f"missing: {_some(missing)}"
        )
    sentences = {}
    for task in TASK_NAMES:
        entry = content[task]
        several = isinstance(entry, Sequence) and not isinstance(entry, str) and len(entry) > 0
        first = entry[0] if several else entry  # type: ignore[index]
        sentences[task] = _sentence(first, f"{where}, {task}")
    return sentences


def _chain_sentences(entry: object, where: str) -> tuple[str, ...]:
    """Checks the sentences of one chain."""
    if not isinstance(entry, list) or not entry:
        raise UsageError(
            f"instructions {where}: expected a list with a sentence per subtask, found {entry!r}"
        )
    return tuple(_sentence(s, f"{where}, position {i}") for i, s in enumerate(entry))


def _sentence(text: object, where: str) -> str:
    """Checks one sentence; returns it as it is, for policies see every character."""
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"instructions {where}: expected a sentence, found {text!r}")
    return text


def _some(items: Sequence[object]) -> str:
    """Lists the first few of many."""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(map(str, items[:_SHOWN])) + more
