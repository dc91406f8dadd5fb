"""TorchScript files, torch.export archives and trusted pickled modules: the tensor contract."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import CheckpointError, PolicyError, UsageError
from calvin_eval.wrappers.loaders.base import (
    TRUST_FLAG,
    LoadedPolicy,
    Source,
    file_facts,
)
from calvin_eval.wrappers.loaders.detect import open_archive
from calvin_eval.wrappers.loaders.torchscript import load_script
from calvin_eval.wrappers.loaders.user_code import importable
from calvin_eval.wrappers.tensor_contract import (
    INPUTS,
    METADATA_NAME,
    Contract,
    TensorPolicy,
    last_line,
    parse_contract,
    read_metadata,
)
from calvin_eval.wrappers.tensor_probe import probe

if TYPE_CHECKING:
    import torch

DEVICE_VARIABLE = "CALVIN_EVAL_DEVICE"
"""Set by the engine for the processes of `--devices`."""

OPTIONS = ("device", "inputs", "gripper", "max_batch")
"""The last three override what the file declares."""

MAX_DECLARATION = 2**20


def load_torchscript(source: Source) -> LoadedPolicy:
    """Load a file that torch.jit.save wrote.

    Raises:
        CheckpointError: damaged, breaking the contract, or with operators that need trust.
    """
    archive = open_archive(source.path)
    archive.check()
    contract, device = _declared(source)
    try:
        module = load_script(archive, device, source.trust)
    except CheckpointError:
        raise
    except Exception as error:  # the reader raises anything for a damaged archive
        raise _unloadable(source, error) from error
    if not hasattr(module, "forward"):
        raise CheckpointError(f"{source.path} has no forward method: expected a whole policy.")
    arguments = module.forward.schema.arguments[1:]
    required = sum(not argument.has_default_value() for argument in arguments)
    _check_count(source, contract, required, len(arguments))
    return _finish(source, contract, _Forward(module, device), "torchscript")


def load_export(source: Source) -> LoadedPolicy:
    """Load a file that torch.export.save wrote; needs trust.

    Raises:
        CheckpointError: not trusted, damaged, or breaking the contract.
    """
    if not source.trust:
        raise CheckpointError(
            f"{source.path} is a torch.export archive, and PyTorch can run any code while it "
            f"loads one: pass {TRUST_FLAG} if you know where the file comes from, or save the "
            "policy as TorchScript (docs/policies.md)."
        )
    import torch

    open_archive(source.path).check()
    contract, device = _declared(source)
    try:
        program = torch.export.load(source.path)
    except Exception as error:  # the reader raises anything for a damaged archive
        raise _unloadable(source, error) from error
    limit = _exported_batch(source, contract, program)
    if limit is not None:
        contract = replace(contract, max_batch=min(limit, contract.max_batch or limit))
    if device != "cpu":
        program = _move(program, device)
    return _finish(source, contract, _Forward(program.module(), device), "export")


def load_module(source: Source) -> LoadedPolicy:
    """Unpickle a whole module; the caller has made sure of the user's trust.

    Raises:
        CheckpointError: it cannot be unpickled here, or is no module.
    """
    import torch

    contract, device = _declared(source)
    try:
        with importable(Path.cwd()):
            module = torch.load(source.path, map_location=device, weights_only=False)
    except Exception as error:  # unpickling runs the file's own code
        raise _unloadable(source, error) from error
    if not isinstance(module, torch.nn.Module):
        raise CheckpointError(
            f"{source.path} holds a {type(module).__qualname__}: expected a torch.nn.Module that "
            "keeps the tensor contract (docs/policies.md)."
        )
    return _finish(source, contract, _Forward(module.eval(), device), "module")


class _Forward:
    """A torch module as a function from arrays to an array."""

    def __init__(self, module: Callable[..., Any], device: str) -> None:
        self._module = module
        self.device = device

    def __call__(self, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        import torch

        tensors = [torch.from_numpy(array).to(self.device) for array in arrays]
        # TorchScript's profiling optimizer rewrites the program after the first calls, and a
        # fused kernel may round differently: a chain's actions would depend on what ran before.
        with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            output = self._module(*tensors)
        if not isinstance(output, torch.Tensor):
            raise PolicyError(
                f"expected one tensor of actions, found {type(output).__name__}: return the "
                "actions alone."
            )
        if output.dtype is torch.bfloat16:
            output = output.float()
        return np.asarray(output.cpu())


def _declared(source: Source) -> tuple[Contract, str]:
    """The contract that the file and the options declare together, and the device."""
    source.check_options(OPTIONS)
    where = f"{METADATA_NAME} in {source.path.name}"
    declared = dict(read_metadata(_read_declaration(source.path), where))
    parse_contract(declared, where)
    chosen = {name: source.options[name] for name in OPTIONS[1:] if name in source.options}
    contract = parse_contract({**declared, **chosen}, f"the options of {source.ckpt}")
    return contract, chosen_device(source)


def chosen_device(source: Source) -> str:
    """The device that the user or the engine chose, else the CPU.

    Raises:
        UsageError: it cannot be used here.
    """
    import torch

    device = str(source.options.get("device") or os.environ.get(DEVICE_VARIABLE, "cpu"))
    try:
        torch.zeros(1, device=device)
    except Exception as error:  # RuntimeError, AssertionError, NotImplementedError by build
        raise UsageError(
            f"device {device!r} cannot be used here ({last_line(error)}): expected cpu, or cuda:N "
            "on a machine with a GPU and a PyTorch built for it."
        ) from error
    return device


def idle_gpu(device: str, way: str = "policy.options.device=cuda:0") -> str:
    """A note on a GPU that nothing uses, for the line that says what runs where; or nothing.

    Args:
        device: that is used.
        way: the setting that uses the GPU.
    """
    import torch

    if device != "cpu" or not torch.cuda.is_available():
        return ""
    return f" ({torch.cuda.get_device_name(0)} is idle: {way} uses it)"


def _read_declaration(path: Path) -> bytes | None:
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return None
    archive = open_archive(path)
    for folder in ("extra", "extra_files"):
        if f"{folder}/{METADATA_NAME}" in archive.members:
            return archive.read(f"{folder}/{METADATA_NAME}", MAX_DECLARATION)
    return None


def _check_count(source: Source, contract: Contract, required: int, accepted: int) -> None:
    passed = len(contract.inputs)
    if not required <= passed <= accepted:
        raise CheckpointError(
            f"{source.path}: its forward takes {accepted} inputs, the contract passes {passed} "
            f"({', '.join(contract.inputs)}): declare the inputs in {METADATA_NAME} or as "
            "policy.options.inputs=[...]."
        )


def _exported_batch(
    source: Source, contract: Contract, program: torch.export.ExportedProgram
) -> int | None:
    """Check the program's declared inputs against the contract; its largest batch, or None."""
    import torch

    named = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    inputs = [named[name] for name in program.graph_signature.user_inputs if name in named]
    _check_count(source, contract, len(inputs), len(inputs))
    limits = []
    for name, tensor in zip(contract.inputs, inputs, strict=True):
        spec = INPUTS[name]
        if not isinstance(tensor, torch.Tensor):
            raise CheckpointError(f"{source.path}: expected {name} to be a tensor input.")
        dtype = str(tensor.dtype).removeprefix("torch.")
        if tuple(tensor.shape[1:]) != spec.shape or dtype != spec.dtype:
            raise CheckpointError(
                f"{source.path}: the contract passes {name} as {spec.dtype} (B, "
                f"{', '.join(map(str, spec.shape))}), the program was exported for {dtype} "
                f"{tuple(tensor.shape)}: convert inside forward, or declare other inputs."
            )
        limits.append(_largest(program, tensor.shape[0]))
    fixed = [limit for limit in limits if limit is not None]
    return min(fixed) if fixed else None


def _largest(program: torch.export.ExportedProgram, size: int | torch.SymInt) -> int | None:
    """The largest batch that an exported dimension allows; None without a limit."""
    if isinstance(size, int):
        if size != 1:
            raise CheckpointError(
                f"the program was exported for a fixed batch of {size}: export it with a dynamic "
                "batch dimension, or with a batch of 1."
            )
        return 1
    bounds = program.range_constraints.get(size.node.expr)
    upper = getattr(bounds, "upper", None)
    return int(upper) if upper is not None and upper.is_finite and upper < 2**31 else None


def _move(program: torch.export.ExportedProgram, device: str) -> torch.export.ExportedProgram:
    try:
        from torch.export.passes import move_to_device_pass
    except ImportError as error:
        raise CheckpointError(
            f"this PyTorch cannot move an exported program to {device}: update PyTorch, or export "
            "the program on that device."
        ) from error
    return move_to_device_pass(program, device)


def _finish(source: Source, contract: Contract, forward: _Forward, kind: str) -> LoadedPolicy:
    """Try the network once, then describe it."""
    import torch

    name = source.path.name
    found = probe(forward, contract, name)
    facts = file_facts(source.path)
    title = {"torchscript": "TorchScript", "export": "torch.export", "module": "pickled torch"}
    actions = "1 action" if found.actions == 1 else f"{found.actions} actions"
    single = ", one request per forward" if found.contract.max_batch == 1 else ""
    declared: Mapping[str, Any] = asdict(found.contract)
    return LoadedPolicy(
        policy=TensorPolicy(forward, found.contract, name),
        kind=kind,
        description=(
            f"{title[kind]} policy {name} ({facts}): {', '.join(contract.inputs)} -> {actions}"
            f"{single}{idle_gpu(forward.device)}"
        ),
        metadata=source.metadata(
            kind,
            **facts.metadata(),
            trusted=source.trust,
            contract={**declared, "inputs": list(contract.inputs)},
            actions=found.actions,
            torch=str(torch.__version__),
        ),
    )


def _unloadable(source: Source, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{source.path} cannot be loaded ({type(error).__name__}: {last_line(error)}): it is "
        "damaged, or needs another version of PyTorch or code that is not installed here."
    )
