"""RoboVLMs' own evaluation wrapper, from a checkout of the user's: its code runs, if trusted.

For models whose code calvin-eval does not have, and to compare with the original. Names of files,
classes and arguments: RoboVLMs, `eval/calvin/model_wrapper.py` at 8adc1d2. Nothing here needs the
versions of PyTorch and transformers that calvin-eval's own models need.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from calvin_eval.errors import CheckpointError, UsageError
from calvin_eval.vla.config import Config, find_config, read_config
from calvin_eval.wrappers.loaders.base import TRUST_FLAG, LoadedPolicy, Source, file_facts
from calvin_eval.wrappers.loaders.folders import CHECKOUT, is_zero
from calvin_eval.wrappers.loaders.python_class import explained
from calvin_eval.wrappers.loaders.user_code import importable

if TYPE_CHECKING:
    from calvin_eval.wrappers.stages import Settings

OPTIONS = (CHECKOUT, "config", "step", "device", "raw_calvin")
WRAPPER = "eval/calvin/model_wrapper.py"
CLASS = "CustomModel"


def checkout_of(source: Source) -> Path | None:
    """The checkout whose wrapper is to run, if the user named one."""
    given = source.options.get(CHECKOUT)
    return None if given is None else Path(os.path.expanduser(str(given))).absolute()


def declare(source: Source, checkout: Path) -> tuple[Settings, Settings]:
    """No stages: the wrapper's actions are those of the simulator.

    Raises:
        CheckpointError: no checkout, no configuration, or no trust.
        UnknownNameError: an option that the wrapper does not have.
    """
    source.check_options(OPTIONS)
    missing = [name for name in (WRAPPER, "robovlms") if not (checkout / name).exists()]
    if missing:
        raise CheckpointError(
            f"policy.{CHECKOUT}={checkout}: expected a checkout of RoboVLMs, found none with "
            f"{' and '.join(missing)}"
        )
    read_config(find_config(source))
    if not source.trust:
        raise CheckpointError(
            f"policy.{CHECKOUT} runs the code in {checkout}, and its way of reading checkpoints "
            f"runs code in them: pass {TRUST_FLAG} if you know where both come from"
        )
    return {}, {}


def load(source: Source, checkout: Path) -> LoadedPolicy:
    """Construct the checkout's wrapper around the checkpoint.

    Raises:
        CheckpointError: something is missing, or the checkout's code fails.
        UsageError: an option or a value that does not exist.
    """
    stages = declare(source, checkout)
    config = read_config(find_config(source))
    from calvin_eval.vla.checkout_policy import CheckoutPolicy, on_device
    from calvin_eval.wrappers.loaders.torch_file import chosen_device

    device = chosen_device(source)
    raw = source.options.get("raw_calvin", True)
    if not isinstance(raw, bool):
        raise UsageError(f"policy.options.raw_calvin: expected true or false, found {raw!r}")
    path = _checkpoint(source)
    name = f"{checkout.name}/{WRAPPER}:{CLASS}"
    with (
        tempfile.TemporaryDirectory(prefix="calvin-eval-") as scratch,
        working_in(checkout),
        importable(checkout),
        explained(name, checkout),
        on_device(device),
    ):
        wrapper = _wrapper_class(checkout)(
            ckpt_path=str(_as_file(path, Path(scratch))),
            configs=_settled(config, checkout),
            device=_torch_device(device),
            save_dir=scratch,
            raw_calvin=raw,
            debug=False,
        )
    hand = config.hand
    facts = file_facts(path / "latest" if path.is_dir() else path)
    return LoadedPolicy(
        policy=CheckoutPolicy(wrapper, name, hand=hand, device=device),
        kind="robovlms",
        description=(
            f"RoboVLMs policy {path.name} ({facts}) by the wrapper of {checkout}, "
            f"{config.values.get('robovlm_name')}, "
            f"{'static and gripper camera' if hand else 'static camera'}, on {device}"
        ),
        metadata=source.metadata(
            "robovlms",
            checkout={"path": str(checkout), "wrapper": _identity(checkout)},
            configs={str(file): file_facts(file).metadata() for file in config.files},
            checkpoint={"path": str(path), **facts.metadata()},
            robovlm_name=config.values.get("robovlm_name"),
            device=device,
        ),
        observe=stages[0],
        actions=stages[1],
    )


def _identity(checkout: Path) -> Mapping[str, Any]:
    return file_facts(checkout / WRAPPER).metadata()


def _torch_device(device: str) -> Any:
    import torch

    return torch.device(device)


def _checkpoint(source: Source) -> Path:
    """The checkpoint that the user named, or the one of its folder that is asked for."""
    from calvin_eval.vla.checkpoint import find_checkpoint

    path = source.path.absolute()
    if path.is_dir() and not is_zero(path):
        return find_checkpoint(path, source.options.get("step"))
    return path


def _as_file(path: Path, scratch: Path) -> Path:
    """A file that the wrapper reads; of a ZeRO folder its weights, gathered."""
    if not path.is_dir():
        return path
    import torch

    from calvin_eval.vla.checkpoint import read_weights

    target = scratch / f"{path.stem}.pt"
    torch.save({"state_dict": dict(read_weights(path).state)}, target)
    return target


def _settled(config: Config, checkout: Path) -> dict[str, Any]:
    """The configuration as the wrapper gets it, with folders that lie beside it found there.

    The original looks for them from the checkout's own folder, where the wrapper is constructed.
    """
    values: dict[str, Any] = deepcopy(dict(config.values))
    key = "pretrained_model_name_or_path"
    for section in ("vlm", "tokenizer"):
        named = (values.get(section) or {}).get(key)
        beside = config.path.absolute().parent / str(named)
        if named and not (checkout / str(named)).exists() and beside.exists():
            values[section][key] = str(beside)
    return values


def _wrapper_class(checkout: Path) -> Any:
    """`CustomModel` of a checkout, from modules under the names that they have there."""
    _forget_others(checkout)
    for name, place in (("eval", checkout / "eval"), ("eval.calvin", checkout / "eval/calvin")):
        package = ModuleType(name)  # it has no __init__.py; another `eval` must not come first
        package.__path__ = [str(place)]
        sys.modules[name] = package
    module = importlib.import_module("eval.calvin.model_wrapper")
    found = getattr(module, CLASS, None)
    if found is None:
        raise CheckpointError(f"{checkout / WRAPPER}: expected a class {CLASS}, found none")
    return found


def _forget_others(checkout: Path) -> None:
    """Let go of what an earlier checkout, or another package of the name, left imported."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("eval", "robovlms"):
            del sys.modules[name]
    importlib.invalidate_caches()


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make a folder the current one for the while: relative paths of the checkout start there."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
