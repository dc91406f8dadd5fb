"""The sentence that the policy gets for each subtask.

The benchmark uses the first sentence that the pack has for a task (docs/protocol.md#rollout).
Other sources are files with sentences per task, such as RoboFlamingo's
`enrich_lang_annotations.json` (34 tasks with about 49 sentences each), and files with sentences
per chain and position, such as its `lang_annotation_cache.json`. The latter belong to one chain
list.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.foreign.documents import DocumentError, parse_json, parse_yaml
from calvin_eval.sim.dataset_chains import is_dataset, read_dataset_sentences
from calvin_eval.sim.symbolic import TASK_NAMES

Lines: TypeAlias = Literal["all", "first"]

PACK: Final = "pack"
_LIST_KEY, _SENTENCES_KEY = "chain_list", "sentences"

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
        by_task: the sentences in use of each of the 34 tasks; one each unless they are drawn.
        by_chain: sentences for the subtasks of a chain, by the chain's id.
        draw: seed by which one of a task's sentences is drawn; None if there is one each.
        chain_list: what sentences by chain were written for: the name of a chain list, the first
            digits of its hash, or the path of its file; see `sim.instruction_lists`.
        unused: sentences of the task that has most of them, beyond the one in use.
        several_lines: how many of the sentences in use have more than one line.
    """

    name: str
    by_task: Mapping[str, tuple[str, ...]]
    by_chain: Mapping[int, tuple[str, ...]]
    draw: int | None = None
    chain_list: str = "official"
    unused: int = 0
    several_lines: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        sentences = [
            s for group in (self.by_task, self.by_chain) for v in group.values() for s in v
        ]
        object.__setattr__(self, "several_lines", sum("\n" in s.strip() for s in sentences))

    @cached_property
    def sha256(self) -> str:
        """Hash of the sentences in use; neither name, layout nor order of the source enters."""
        one_each: list[Any] = sorted((task, found[0]) for task, found in self.by_task.items())
        drawn = [*sorted(self.by_task.items()), self.draw]
        by_task = one_each if self.draw is None else drawn
        content = [by_task, sorted(self.by_chain.items())]
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
        sentences = self.by_task[task]
        return sentences[self._drawn(len(sentences), chain_id, position)]

    def _drawn(self, count: int, chain_id: int, position: int) -> int:
        """Returns which of so many sentences a subtask gets: a function of seed and place."""
        if self.draw is None:
            return 0
        place = f"calvin-eval instruction {self.draw}:{chain_id}:{position}"
        return int.from_bytes(hashlib.sha256(place.encode()).digest()[:8], "big") % count

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

    def remarks(self) -> list[str]:
        """Returns what a user should know of the sentences before a run, one line each."""
        found = []
        if self.several_lines:
            found.append(
                f"instructions {self.name}: {self.several_lines} sentences have several lines, and "
                "the policy is given all of them; protocol.instruction_lines=first gives the first"
            )
        if self.unused:
            found.append(
                f"instructions {self.name}: the first sentence of every task is used, and up to "
                f"{self.unused} more per task are not; protocol.instruction_draw=SEED draws one "
                "for every subtask"
            )
        return found


def name_of_instructions(source: str | Path) -> str:
    """Returns the name that instructions have in a run's header: `pack`, or that of their file."""
    return PACK if str(source) == PACK else Path(source).name


def load_instructions(
    source: str | Path,
    pack_instructions: Mapping[str, Sequence[str]],
    *,
    lines: Lines = "all",
    draw: int | None = None,
) -> InstructionSet:
    """Loads instructions.

    Args:
        source: "pack", or a YAML or JSON file of one of these forms:

            - `{task: sentence}` or `{task: [sentence, ...]}` for all 34 tasks;
            - `[[sentence, ...], ...]`: by chain id and position, for the official chain list;
            - `{chain_id: [sentence, ...]}`: the same for some chains;
            - `{chain_list: LIST, sentences: ...}`: one of the last two, for another list;

            or the folder of a data set, whose annotations belong to the chains that it gives.
        pack_instructions: the sentences of the asset pack, by task.
        lines: all lines of a sentence, or its first one.
        draw: seed by which one of a task's sentences is drawn; the first counts if None.

    Raises:
        UsageError: the file is missing or not of these forms, a task has no sentence, or
            sentences are to be drawn that stand per chain.
    """
    if str(source) == PACK:
        return _by_task(PACK, _task_sentences(pack_instructions, PACK, lines), draw)
    path, name = Path(source).expanduser(), name_of_instructions(source)
    content, chain_list = _unwrapped(_read(path), path)
    if isinstance(content, list):
        content = dict(enumerate(content))
    if not isinstance(content, dict) or not content:
        raise UsageError(
            f"instructions {path}: expected a non-empty mapping from tasks or chain ids, or a "
            f"list of chains; found {type(content).__name__} {str(content)[:40]!r}"
        )
    by_chain = all(re.fullmatch("[0-9]+", str(key)) for key in content)
    if not by_chain and chain_list is None:
        return _by_task(name, _task_sentences(content, str(path), lines), draw)
    if draw is not None:
        raise UsageError(
            f"instructions {path}: expected several sentences per task to draw from, found "
            "sentences per chain and position; leave protocol.instruction_draw out"
        )
    if not by_chain:
        raise UsageError(
            f"instructions {path}: expected {_SENTENCES_KEY} by chain id beside {_LIST_KEY}, found "
            f"the keys {_some(list(content))}"
        )
    return InstructionSet(
        name=name,
        by_task={},
        by_chain={
            int(key): _chain_sentences(v, f"{path}, chain {key}", lines)
            for key, v in content.items()
        },
        chain_list=chain_list or "official",
    )


def _unwrapped(content: object, path: Path) -> tuple[object, str | None]:
    """Returns the sentences and the chain list that the file names for them."""
    if not isinstance(content, dict) or _LIST_KEY not in content:
        return content, None
    chain_list = content[_LIST_KEY]
    if set(content) != {_LIST_KEY, _SENTENCES_KEY} or not isinstance(chain_list, str):
        raise UsageError(
            f"instructions {path}: expected {{{_LIST_KEY}: NAME, {_SENTENCES_KEY}: ...}} with the "
            "name, the hash or the file of a chain list; found "
            f"{_LIST_KEY} {str(chain_list)[:40]!r} and the keys {', '.join(map(str, content))}"
        )
    beside = path.parent / chain_list
    return content[_SENTENCES_KEY], str(beside) if beside.exists() else chain_list


def _by_task(
    name: str, sentences: Mapping[str, tuple[str, ...]], draw: int | None
) -> InstructionSet:
    """Returns the set with one sentence of each task, or with all that are drawn from."""
    most = max(map(len, sentences.values()))
    if draw is None or most == 1:
        first = {task: found[:1] for task, found in sentences.items()}
        return InstructionSet(name=name, by_task=first, by_chain={}, unused=most - 1)
    return InstructionSet(name=name, by_task=sentences, by_chain={}, draw=draw)


def _read(path: Path) -> object:
    """Parses a YAML or JSON file, or reads the annotations of a data set."""
    if is_dataset(path):
        sentences = [[text] for text in read_dataset_sentences(path)]
        return {_LIST_KEY: str(path.absolute()), _SENTENCES_KEY: sentences}
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


def _task_sentences(
    content: Mapping[str, object], where: str, lines: Lines
) -> dict[str, tuple[str, ...]]:
    """Returns the sentences of each task, in the order of `TASK_NAMES`."""
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
        found: Sequence[object] = entry if several else [entry]  # type: ignore[assignment]
        sentences[task] = tuple(_sentence(text, f"{where}, {task}", lines) for text in found)
    return sentences


def _chain_sentences(entry: object, where: str, lines: Lines) -> tuple[str, ...]:
    """Checks the sentences of one chain."""
    if not isinstance(entry, list) or not entry:
        raise UsageError(
            f"instructions {where}: expected a list with a sentence per subtask, found {entry!r}"
        )
    return tuple(_sentence(s, f"{where}, position {i}", lines) for i, s in enumerate(entry))


def _sentence(text: object, where: str, lines: Lines) -> str:
    """Checks one sentence; returns it, or its first line, as it is: policies see every character.

    Blank lines before the first one with text do not count.
    """
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"instructions {where}: expected a sentence, found {text!r}")
    if lines == "all":
        return text
    return next(line for line in text.replace("\r\n", "\n").split("\n") if line.strip())


def _some(items: Sequence[object]) -> str:
    """Lists the first few of many."""
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(map(str, items[:_SHOWN])) + more
