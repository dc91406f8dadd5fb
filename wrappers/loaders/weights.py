"""Files of weights, and pickled models: told apart by reading opcodes, never by unpickling."""

from __future__ import annotations

import io
import pickletools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from calvin_eval import plugins
from calvin_eval.errors import CheckpointError
from calvin_eval.foreign.documents import parse_json
from calvin_eval.wrappers.loaders.base import TRUST_FLAG, LoadedPolicy, Source
from calvin_eval.wrappers.loaders.detect import damaged, detect, open_archive
from calvin_eval.wrappers.loaders.folders import robovlms_configs
from calvin_eval.wrappers.loaders.published import explain
from calvin_eval.wrappers.loaders.torch_file import load_module
from calvin_eval.wrappers.stages import Settings

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The integer that torch.save pickled first before it wrote zip archives."""

PLAIN_ROOTS = ("collections.OrderedDict", "torch._utils.")


@dataclass(frozen=True, kw_only=True)
class PickleFacts:
    """What the opcodes of a pickle say.

    Attributes:
        root: dotted name of the class of the pickled object; None for dicts, lists and tensors.
        tensors: how many tensors are rebuilt in it.
        example: the key in front of the first tensor, if there is one.
    """

    root: str | None
    tensors: int
    example: str | None


def load_pickle(source: Source) -> LoadedPolicy:
    """Load a pickled model, if the user trusts it, or weights that a configuration goes with.

    Raises:
        CheckpointError: not trusted, damaged, or weights without an architecture.
    """
    facts = inspect_pickle(source.path)
    if facts.root is None and has_config(source):
        return _load_robovlms(source)
    if facts.root is None:
        raise CheckpointError(_weights_only(source.path, facts.tensors, facts.example))
    if not source.trust:
        raise CheckpointError(
            f"{source.path} is a pickled Python object ({facts.root}), and unpickling can run any "
            f"code: pass {TRUST_FLAG} if you know where the file comes from, or save the model as "
            "TorchScript (docs/policies.md)."
        )
    return load_module(source)


def load_safetensors(source: Source) -> LoadedPolicy:
    """Load weights that a configuration goes with; explain how to go on with others.

    Raises:
        CheckpointError: the file has no architecture.
    """
    if has_config(source):
        return _load_robovlms(source)
    with source.path.open("rb") as file:
        header = parse_json(file.read(int.from_bytes(file.read(8), "little")))
    names = [name for name in header if name != "__metadata__"]
    raise CheckpointError(_weights_only(source.path, len(names), names[0] if names else None))


def declare(source: Source) -> tuple[Settings, Settings]:
    """Stages that go with weights: those of their configuration, if there is one.

    Raises:
        CheckpointError: the configuration cannot be read.
    """
    if not has_config(source) or _is_object(source.path):
        return {}, {}
    found: tuple[Settings, Settings] = plugins.load("loaders", "robovlms").declare(source)
    return found


def _is_object(path: Path) -> bool:
    """Whether a file is a pickled model instead of weights."""
    return detect(path) == "pickle" and inspect_pickle(path).root is not None


def has_config(source: Source) -> bool:
    """Whether a RoboVLMs configuration was given, or lies beside the file."""
    return "config" in source.options or bool(robovlms_configs(source.path.absolute().parent))


def _load_robovlms(source: Source) -> LoadedPolicy:
    loaded: LoadedPolicy = plugins.load("loaders", "robovlms").load(source)
    return loaded


def inspect_pickle(path: Path) -> PickleFacts:
    """Read the opcodes of a file that torch.save wrote, in its zip or its legacy format.

    Raises:
        CheckpointError: the file is damaged, or a pickle that torch.save did not write.
    """
    with _pickle_of(path) as file:
        return _facts(path, file)


def pickled_names(path: Path) -> list[str]:
    """Dotted names of the classes and functions that a file of torch.save's mentions, sorted.

    Raises:
        CheckpointError: the file is damaged, or a pickle that torch.save did not write.
    """
    with _pickle_of(path) as file:
        try:
            return sorted({value for name, value, _ in _resolved(file) if name == "GLOBAL"})
        except Exception as error:  # damaged opcodes make pickletools raise anything
            raise damaged(path, error) from error


@contextmanager
def _pickle_of(path: Path) -> Iterator[IO[bytes]]:
    """The one pickle in a file of torch.save's that holds the objects, at its first opcode."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        archive = open_archive(path)
        if archive.folder is None or "data.pkl" not in archive.members:
            raise CheckpointError(f"{path} is a zip archive that torch.save did not write.")
        yield io.BytesIO(archive.read("data.pkl"))
        return
    with path.open("rb") as file:
        try:
            magic = [arg for op, arg, _ in pickletools.genops(file) if op.name == "LONG1"]
            if magic == [LEGACY_MAGIC]:
                for _ in range(2):  # protocol version, then facts about the machine
                    list(pickletools.genops(file))
        except Exception as error:  # damaged opcodes make pickletools raise anything
            raise damaged(path, error) from error
        if magic != [LEGACY_MAGIC]:
            raise CheckpointError(
                f"{path} is a Python pickle that torch.save did not write, and calvin-eval does "
                "not unpickle those: save the model as TorchScript (docs/policies.md), or load "
                "it in a class of yours and run that as file.py:Class."
            )
        yield file


def _facts(path: Path, file: Any) -> PickleFacts:
    root: str | None = None
    started = False
    tensors, example = 0, None
    try:
        for name, value, text in _resolved(file):
            # The legacy format wraps a module's class in a tuple: MARK, some text, the class.
            if not started and name not in ("PROTO", "FRAME", "MARK", "TEXT", "MEMO"):
                started = True
                root = value if name == "GLOBAL" else None
            if name == "GLOBAL" and value.startswith("torch._utils._rebuild"):
                example = example or text
            tensors += name == "BINPERSID"
    except Exception as error:  # damaged opcodes make pickletools raise anything
        raise damaged(path, error) from error
    if root is not None and root.startswith(PLAIN_ROOTS):
        root = None
    return PickleFacts(root=root, tensors=tensors, example=example)


def _resolved(file: Any) -> Iterator[tuple[str, Any, str | None]]:
    """Operations as (name, value, text before), with both ways of naming a global made one."""
    texts: list[str | None] = [None] * 3  # the last three
    memo: dict[int, str | None] = {}
    pushed: str | None = None
    for operation, argument, _ in pickletools.genops(file):
        name, value = operation.name, cast("Any", argument)
        if name == "MEMOIZE" or name.endswith("PUT"):
            memo[len(memo) if name == "MEMOIZE" else int(value)] = pushed
            yield "MEMO", None, None
            continue
        pushed = value if isinstance(value, str) and name != "GLOBAL" else None
        if name.endswith("GET"):
            pushed = memo.get(int(value))
        if name == "GLOBAL":
            yield name, str(value).replace(" ", "."), texts[-1]
        elif name == "STACK_GLOBAL":
            yield "GLOBAL", f"{texts[-2]}.{texts[-1]}", texts[-3]
        elif pushed is not None:
            texts = [*texts[1:], pushed]
            yield "TEXT", pushed, None
        else:
            yield name, value, None


def _weights_only(path: Path, tensors: int, example: str | None) -> str:
    such = f", such as {example!r}" if example else ""
    if (said := explain(path.absolute().parent)) is not None:
        return said
    return (
        f"{path} holds weights without an architecture ({tensors} tensors{such}), so there is "
        "nothing to run them with: load them in a class of yours and run that as file.py:Class "
        f"with policy.options.path={path}, or save the whole model as TorchScript "
        "(docs/policies.md). If RoboVLMs trained it, give policy.options.config=PATH."
    )
