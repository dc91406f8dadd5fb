"""`module:Class` and `file.py:Class`: policies that are Python code of the user's."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from calvin_eval import plugins
from calvin_eval.errors import (
    CalvinEvalError,
    CheckpointError,
    PluginError,
    UnknownNameError,
    UsageError,
)
from calvin_eval.extras import missing_extra
from calvin_eval.wrappers.base_model import base_model_offered
from calvin_eval.wrappers.custom import CustomModelPolicy
from calvin_eval.wrappers.interface import SECTION
from calvin_eval.wrappers.loaders.arguments import Arguments, keyword_arguments
from calvin_eval.wrappers.loaders.base import LoadedPolicy, Source, file_facts
from calvin_eval.wrappers.loaders.user_code import (
    as_a_script,
    folder_that_has,
    importable,
    load_file,
    stay_importable,
)
from calvin_eval.wrappers.policy import Policy, Requirements, with_defaults
from calvin_eval.wrappers.tensor_contract import last_line

PLUGIN = "plugin:"
"""What the names of registered policies begin with, in the text of `--ckpt`."""
SPEC = re.compile(r"(?P<module>.+):(?P<attribute>[A-Za-z_]\w*)")
MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_class_spec(ckpt: str) -> bool:
    """Whether a checkpoint's text reads `module:Class` or `file.py:Class`."""
    match = SPEC.fullmatch(ckpt)
    if match is None:
        return False
    module = match["module"]
    return module.endswith(".py") or MODULE_NAME.fullmatch(module) is not None


def load_class(source: Source) -> LoadedPolicy:
    """Import the module, construct the class with the options, and adapt it if need be.

    Naming a class is asking for its code to run, so no further trust is needed.

    Raises:
        CheckpointError: the code cannot be imported or constructed, or is no policy.
        MissingExtraError: it imports what an extra brings and is not installed.
        UnknownNameError: the module has no such class.
        UsageError: the constructor does not take the options.
    """
    with _imported(source.ckpt, base_model_offered()) as (module, factory):
        policy = _construct(factory, source)
    return _describe(source, policy, module)


def load_part(spec: str) -> Callable[..., Any]:
    """What `module:Name` or `file.py:Name` names: code of the user's, which runs to be found.

    Raises:
        CheckpointError: the code cannot be imported.
        MissingExtraError: it imports what an extra brings and is not installed.
        UnknownNameError: the module has no such class.
        UsageError: a text of another form.
    """
    with _imported(spec) as (_, part):
        return part


@contextmanager
def _imported(
    spec: str, meanwhile: AbstractContextManager[None] | None = None
) -> Iterator[tuple[ModuleType, Callable[..., Any]]]:
    """What `module:Name` or `file.py:Name` names, and its module; errors inside are explained.

    Args:
        spec: as the user wrote it.
        meanwhile: what holds while its code is imported, and used.
    """
    match = SPEC.fullmatch(spec)
    if match is None:
        raise UsageError(f"expected module:Class or file.py:Class, found {spec!r}.")
    file = _local_file(match["module"])
    here = Path.cwd()
    folder = file.parent if file is not None else here
    with (
        as_a_script(file),
        importable(folder, here),
        meanwhile or nullcontext(),
        explained(spec, folder, file),
    ):
        module = load_file(file) if file is not None else importlib.import_module(match["module"])
        yield module, _attribute(module, match["attribute"], match["module"])
    stay_importable(folder, here)


def load_registered(source: Source) -> LoadedPolicy:
    """Construct the policy that a package registered in `calvin_eval.policies`, with the options.

    Raises:
        CheckpointError: it cannot be constructed, or is no policy.
        PluginError: its module cannot be imported.
        UnknownNameError: no package registered that name.
        UsageError: the constructor does not take the options.
    """
    factory = plugins.load("policies", source.ckpt.removeprefix(PLUGIN))
    if not callable(factory):
        raise PluginError(f"{source.ckpt}: expected a class or a function, found {factory!r}")
    module = sys.modules[factory.__module__]
    with explained(source.ckpt, Path(module.__file__ or "").parent):
        policy = _construct(factory, source)
    return _describe(source, policy, module)


def _local_file(module: str) -> Path | None:
    """The file to execute, or None for a module to import by its name."""
    if not module.endswith(".py"):
        file = Path(f"{module}.py")
        return file if "." not in module and file.is_file() else None
    file = Path(module)
    if not file.is_file():
        raise CheckpointError(f"no such file: {module}: expected file.py:Class.")
    return file


@contextmanager
def explained(ckpt: str, folder: Path, file: Path | None = None) -> Iterator[None]:
    """Turn what the user's code raises into one line that says where in it."""
    try:
        yield
    except CalvinEvalError:
        raise
    except (Exception, SystemExit) as error:
        frames = [(Path(f.filename), f.lineno) for f in traceback.extract_tb(error.__traceback__)]
        theirs = [(file, line) for file, line in frames if _is_theirs(file, folder)]
        where = f" at {theirs[-1][0].name}:{theirs[-1][1]}" if theirs else ""
        if isinstance(error, ImportError) and (missing := missing_extra(error, f"{ckpt}{where}")):
            raise missing from error
        raise CheckpointError(
            f"{ckpt} cannot be loaded: {type(error).__name__}{where}: {last_line(error)}."
            f"{_hint(error, file)}"
        ) from error


def _is_theirs(file: Path, folder: Path) -> bool:
    """Whether a file is the user's: below the loaded file's folder or the current one."""
    ours = {folder.resolve(), Path.cwd()} & set(file.parents)
    return bool(ours) and "site-packages" not in file.parts


def _hint(error: BaseException, file: Path | None) -> str:
    """What may be done about an error of the user's code, as a sentence to be added."""
    if f"{Arguments.__name__}'" in str(error):
        return (
            f" If the constructor wants plain dicts or OmegaConf's, set {SECTION}.arguments=dict "
            "or omegaconf."
        )
    if isinstance(error, ModuleNotFoundError):
        holder = folder_that_has(error.name or "", file) if file is not None else None
        if holder is None:
            return " It is neither installed nor a file in that folder."
        return f" It is in {holder}: start calvin-eval there, or put it on PYTHONPATH."
    if isinstance(error, FileNotFoundError) and file is not None:
        path = Path(str(error.filename))
        near = [f for f in file.resolve().parents if (f / path).exists()]
        if near and not path.is_absolute():
            return f" It is in {near[0]}: relative paths start at the folder of the command."
    if isinstance(error, SystemExit):
        return ' Put what runs a script under `if __name__ == "__main__":`.'
    return ""


def _attribute(module: ModuleType, name: str, shown: str) -> Callable[..., Any]:
    factory = getattr(module, name, None)
    if factory is None:
        classes = [n for n, v in vars(module).items() if inspect.isclass(v) and n[:1] != "_"]
        raise UnknownNameError(f"class in {shown}", name, classes or ["(none)"])
    if not callable(factory):
        raise CheckpointError(
            f"{shown}:{name} is a {type(factory).__name__}: expected a class, or a function that "
            "returns a policy."
        )
    result: Callable[..., Any] = factory
    return result


def _construct(factory: Callable[..., Any], source: Source) -> Policy:
    """Hold the options against the constructor's signature, and construct the policy."""
    kind = source.interface.arguments
    arguments, unknown = keyword_arguments(factory, source.options, kind)
    if unknown:
        source.check_options(inspect.signature(factory).parameters)
    _check_arguments(factory, source, arguments)
    return _adapt(lambda: factory(**arguments), source)


def _check_arguments(
    factory: Callable[..., Any], source: Source, arguments: Mapping[str, Any]
) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some classes in C have none
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise UsageError(
            f"{source.ckpt}: {error}: expected policy.options.NAME=VALUE, or a YAML file as "
            f"policy.arguments=FILE, for the keyword arguments of {signature}."
        ) from error


def _adapt(construct: Callable[[], Any], source: Source) -> Policy:
    """A policy of ours as it is; a model with CALVIN's interface behind the adapter."""
    name = source.ckpt
    instance = construct()
    if not callable(getattr(instance, "act", None)):
        return CustomModelPolicy(lambda: instance, name, source.interface)
    if not isinstance(getattr(instance, "requirements", None), Requirements):
        raise CheckpointError(
            f"{name}: expected an attribute requirements of type Requirements beside act(), found "
            f"{type(getattr(instance, 'requirements', None)).__name__}."
        )
    if not callable(getattr(instance, "reset", None)):
        raise CheckpointError(f"{name}: expected reset(session, instruction) beside act().")
    policy: Policy = instance
    return policy


def _describe(source: Source, policy: Policy, module: ModuleType) -> LoadedPolicy:
    custom = isinstance(policy, CustomModelPolicy)
    model = policy.model if isinstance(policy, CustomModelPolicy) else policy
    interface = (
        policy.calls.description if isinstance(policy, CustomModelPolicy) else "reset and act"
    )
    facts: Mapping[str, Any] = {}
    shown = ""
    if module.__file__ and module.__file__.endswith(".py"):
        found = file_facts(Path(module.__file__))
        facts = {"source": Path(module.__file__).name, **found.metadata()}
        shown = f" ({Path(module.__file__).name}, {found})"
    needs = policy.requirements
    seen = [*(f"rgb_{c}" for c in needs.rgb), *(f"depth_{c}" for c in needs.depth)]
    return LoadedPolicy(
        policy=with_defaults(policy),
        kind="class",
        description=(
            f"Python class {source.ckpt}{shown}: {interface}, "
            f"{', '.join(seen) if seen else 'no camera'}, robot_obs, instruction"
        ),
        metadata=source.metadata(
            "class",
            **facts,
            class_name=type(model).__qualname__,
            interface="custom_model" if custom else "policy",
        ),
    )
