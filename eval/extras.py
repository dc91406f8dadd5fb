"""Packages that only some policies and commands need: the extras of `pip install calvin-eval`.

Every folder may import this module; it imports `calvin_eval.errors` alone. Whatever needs an
optional package asks `require` first, so that the user reads one line with the command to type.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from calvin_eval.errors import UsageError

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "gl": ("moderngl",),
    "gym": ("gymnasium",),
    "lerobot": ("lerobot",),
    "parquet": ("pyarrow",),
    "ray": ("ray",),
    "tensorboard": ("tensorboard",),
    "torch": ("torch",),
    "vla": ("torch", "transformers", "tokenizers", "safetensors", "peft", "accelerate"),
    "wandb": ("wandb",),
    "zmq": ("zmq",),
}
"""The import names of what each extra of pyproject.toml brings."""


class MissingExtraError(UsageError, ImportError):
    """An optional package that is needed is not installed.

    Args:
        extra: a key of `EXTRAS`.
        purpose: what needs it.
        missing: import names.
        hint: what else may be done, as sentences; empty if nothing.

    Attributes:
        extra: as given.
    """

    def __init__(self, extra: str, purpose: str, missing: Sequence[str], hint: str = "") -> None:
        self.extra = extra
        command = f"{install_command(extra)}. {hint}" if hint else install_command(extra)
        super().__init__(f"{purpose} needs {', '.join(missing)} (not installed): {command}")


def install_command(extra: str) -> str:
    """What to type to have an extra, for example `pip install "calvin-eval[torch]"`."""
    return f'pip install "calvin-eval[{extra}]"'


def missing_modules(extra: str) -> tuple[str, ...]:
    """Those modules of an extra that are not installed here; nothing is imported."""
    return tuple(module for module in EXTRAS[extra] if not _installed(module))


def require(extra: str, purpose: str, hint: str = "") -> None:
    """Make sure that everything an extra brings is installed; nothing is imported.

    Args:
        extra: a key of `EXTRAS`.
        purpose: what needs it; begins the message.
        hint: what else may be done, as sentences; ends the message.

    Raises:
        MissingExtraError: something is not installed.
    """
    if missing := missing_modules(extra):
        raise MissingExtraError(extra, purpose, missing, hint)


def missing_extra(error: ImportError, purpose: str) -> MissingExtraError | None:
    """What to say of an import that failed for want of an extra; None if it failed otherwise.

    Args:
        error: that was raised.
        purpose: what imported; begins the message.
    """
    if not isinstance(error, ModuleNotFoundError):
        return None
    module = (error.name or "").partition(".")[0]
    extras = [extra for extra, modules in EXTRAS.items() if module in modules]
    if not extras or _installed(module):
        return None
    smallest = min(extras, key=lambda extra: len(EXTRAS[extra]))
    return MissingExtraError(smallest, purpose, (module,))


def _installed(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    try:
        return find_spec(module) is not None
    except ImportError:  # a finder refuses it
        return False
