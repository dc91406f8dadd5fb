"""TorchScript files, loaded so that a stranger's can do nothing but compute.

Without the user's trust, the operators of the program are judged before any of it runs. Loading a
file runs nothing of it but `__setstate__` methods and the constructors of compiled classes. Where a
file may have such, it is first loaded and judged in a process of its own that can open nothing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from calvin_eval.errors import CheckpointError
from calvin_eval.foreign.text import guard_warnings
from calvin_eval.wrappers.loaders.base import TRUST_FLAG
from calvin_eval.wrappers.loaders.detect import Archive
from calvin_eval.wrappers.loaders.operators import forbidden

JUDGE_SECONDS: Final = 600.0

_RUNS_AT_LOADING: Final = re.compile(rb"__setstate__|\bops\b(?!\.(?:prim|aten)\.)|\bclasses\b")
_COMPILED_CLASS: Final = re.compile(rb"torch\.classes\b(?:\.(quantized|rnn|sparse)\b)?")


def load_script(archive: Archive, device: str, trust: bool) -> Any:
    """The module in a TorchScript file, in evaluation mode.

    Args:
        archive: the file, its checksums compared.
        device: where its tensors go.
        trust: whether it may do whatever it likes.

    Raises:
        CheckpointError: it needs trust and has none.
        Exception: whatever PyTorch raises for a damaged file.
    """
    if trust:
        return import_script(archive.path, device)[0].eval()
    guard_warnings()
    if may_run_at_loading(archive):
        _judge_apart(archive.path)
    module, reason = import_script(archive.path, device)
    if reason is not None:
        raise needs_trust(archive.path, reason)
    return module.eval()


def import_script(path: Path, device: str) -> tuple[Any, str | None]:
    """What `torch.jit.load` loads, and the first thing in its code that needs trust."""
    import torch
    from torch.jit._recursive import wrap_cpp_module

    unit = torch._C.CompilationUnit()
    module = torch._C.import_ir_module(unit, str(path), torch.device(device), {}, False)  # type: ignore[call-arg]
    wrapped = wrap_cpp_module(module)  # type: ignore[no-untyped-call]
    return wrapped, forbidden(unit)


def needs_trust(path: Path, reason: str) -> CheckpointError:
    """The error for a program that reaches beyond the model."""
    return CheckpointError(
        f"{path} {reason} in its code, which can reach files, the terminal or other processes: "
        f"pass {TRUST_FLAG} if you know where it comes from."
    )


def may_run_at_loading(archive: Archive) -> bool:
    """Whether PyTorch may run anything of the file while it loads it.

    Raises:
        CheckpointError: it has objects of classes that no model needs, or an old layout.
    """
    if any(name.lower() == "model.json" for name in archive.members):
        raise needs_trust(archive.path, "has the layout of PyTorch before 1.4, with code anywhere")
    found = False
    for name in archive.members:
        if name.lower().endswith(".py"):  # PyTorch's reader knows no case
            found = found or bool(_RUNS_AT_LOADING.search(archive.read(name)))
        elif name.lower().endswith(".pkl"):
            for match in _COMPILED_CLASS.finditer(archive.read(name)):
                if match[1] is None:
                    raise needs_trust(archive.path, "keeps an object of a compiled class")
                found = True
    return found


def _judge_apart(path: Path) -> None:
    """Load a file in a process that can open nothing, and judge it there.

    Raises:
        CheckpointError: it needs trust, or cannot be loaded there.
    """
    start = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        "from calvin_eval.wrappers.loaders.confined import main; main()"
    )
    try:
        child = subprocess.run(
            [sys.executable, "-c", start, os.fspath(path.absolute())],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=JUDGE_SECONDS,
            check=False,
        )
        reason = json.loads(child.stdout)["reason"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        raise needs_trust(path, "runs code while it is loaded that could not be judged") from error
    if reason is not None:
        raise needs_trust(path, str(reason))
