"""The tensor contract, version 1: how a network in a file meets the simulator.

Tensors go in, one tensor comes out; nothing is remembered between calls. The contract is
documented for users in `docs/policies.md`. This module knows arrays only, so that any runtime
(TorchScript, torch.export, later others) can serve it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import CheckpointError, PolicyError, UnknownNameError
from calvin_eval.foreign.documents import DocumentError, parse_json
from calvin_eval.wrappers.policy import BasePolicy, Request, Requirements

METADATA_NAME = "calvin_eval.json"
"""The extra file inside an archive that declares its contract."""

INSTRUCTION_BYTES = 256
GRIPPERS = ("sign", "exact")

Forward: TypeAlias = "Callable[[Sequence[NDArray[Any]]], NDArray[Any]]"
"""A network: batched input arrays in the contract's order to one batched output array."""


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One input: its shape without the batch, its type, and where a request has it."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[Request], NDArray[Any]]
    rgb: str | None = None
    depth: str | None = None


def encode_instruction(text: str) -> NDArray[np.int64]:
    """The instruction's UTF-8 bytes, padded with zeros to int64 (256,).

    Raises:
        PolicyError: the text has more than 256 bytes; cutting it would change the task.
    """
    data = text.encode()
    if len(data) > INSTRUCTION_BYTES:
        raise PolicyError(
            f"the instruction has {len(data)} bytes, and the tensor contract carries at most "
            f"{INSTRUCTION_BYTES}: shorten it, or run the model through module:Class."
        )
    padded = np.zeros(INSTRUCTION_BYTES, np.int64)
    padded[: len(data)] = list(data)
    return padded


INPUTS: Mapping[str, InputSpec] = {
    "rgb_static": InputSpec(
        shape=(200, 200, 3),
        dtype="uint8",
        read=lambda r: np.asarray(r.obs["rgb_obs"]["rgb_static"]),
        rgb="static",
    ),
    "rgb_gripper": InputSpec(
        shape=(84, 84, 3),
        dtype="uint8",
        read=lambda r: np.asarray(r.obs["rgb_obs"]["rgb_gripper"]),
        rgb="gripper",
    ),
    "robot_obs": InputSpec(
        shape=(15,),
        dtype="float32",
        read=lambda r: np.asarray(r.obs["robot_obs"], np.float32),
    ),
    "instruction": InputSpec(
        shape=(INSTRUCTION_BYTES,),
        dtype="int64",
        read=lambda r: encode_instruction(r.instruction),
    ),
    "depth_static": InputSpec(
        shape=(200, 200),
        dtype="float32",
        read=lambda r: np.asarray(r.obs["depth_obs"]["depth_static"], np.float32),
        depth="static",
    ),
    "depth_gripper": InputSpec(
        shape=(84, 84),
        dtype="float32",
        read=lambda r: np.asarray(r.obs["depth_obs"]["depth_gripper"], np.float32),
        depth="gripper",
    ),
}
"""Every input that a file may ask for."""


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What one file declares.

    Attributes:
        version: of the contract; this module knows 1.
        inputs: names from `INPUTS`, in the order of the network's arguments.
        gripper: "sign": the last column opens above zero and closes otherwise; "exact": it is
            -1 or 1 already.
        max_batch: most requests per forward pass; None: as many as there are.
    """

    version: int = 1
    inputs: tuple[str, ...] = ("rgb_static", "rgb_gripper", "robot_obs", "instruction")
    gripper: str = "sign"
    max_batch: int | None = None

    @property
    def requirements(self) -> Requirements:
        """The cameras that the inputs need."""
        specs = [INPUTS[name] for name in self.inputs]
        return Requirements(
            rgb=tuple(s.rgb for s in specs if s.rgb), depth=tuple(s.depth for s in specs if s.depth)
        )


def parse_contract(declared: Mapping[str, Any], where: str) -> Contract:
    """Check a declaration (the content of `calvin_eval.json`) and complete it with defaults.

    Raises:
        CheckpointError: a value is not allowed.
        UnknownNameError: a key or an input does not exist.
    """
    known = [field.name for field in fields(Contract)]
    for key in declared:
        if key not in known:
            raise UnknownNameError(f"key in {where}", key, known)
    version = declared.get("version", 1)
    if version != 1 or isinstance(version, bool):
        raise CheckpointError(
            f"{where}: this calvin-eval reads version 1 of the tensor contract, found "
            f"{version!r}: update calvin-eval or declare version 1."
        )
    gripper = declared.get("gripper", "sign")
    if gripper not in GRIPPERS:
        raise UnknownNameError(f"gripper convention in {where}", gripper, GRIPPERS)
    batch = declared.get("max_batch")
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise CheckpointError(f"{where}: expected max_batch >= 1 or null, found {batch!r}.")
    inputs = _parse_inputs(declared.get("inputs", Contract.inputs), where)
    return Contract(inputs=inputs, gripper=gripper, max_batch=batch)


def read_metadata(text: bytes | None, where: str) -> Mapping[str, Any]:
    """The declaration inside an archive; an empty one if the archive has none.

    Raises:
        CheckpointError: the text is not a JSON object.
    """
    if text is None:
        return {}
    try:
        declared = parse_json(text)
    except DocumentError as error:
        raise CheckpointError(f"{where}: expected JSON, found an error: {error}.") from error
    if not isinstance(declared, dict):
        raise CheckpointError(
            f'{where}: expected a JSON object such as {{"version": 1, "gripper": "sign"}}, '
            f"found {type(declared).__name__}."
        )
    return declared


def _parse_inputs(names: object, where: str) -> tuple[str, ...]:
    if not isinstance(names, (list, tuple)) or not names:
        raise CheckpointError(
            f'{where}: expected inputs to be a list such as ["rgb_static", "instruction"], '
            f"found {names!r}."
        )
    for name in names:
        if not isinstance(name, str) or name not in INPUTS:
            raise UnknownNameError(f"input in {where}", name, INPUTS)
    if len(set(names)) != len(names):
        raise CheckpointError(f"{where}: expected every input once, found {list(names)}.")
    return tuple(names)


class TensorPolicy(BasePolicy):
    """A network behind the tensor contract, as a policy that serves many sessions at once.

    A request's actions depend on that request alone, as far as the network's arithmetic does
    not depend on the size of the batch; `max_batch=1` removes that last dependence.

    Args:
        forward: the network.
        contract: what its file declares.
        name: how messages call it, for example `policy.pt`.
    """

    def __init__(self, forward: Forward, contract: Contract, name: str) -> None:
        self.requirements = contract.requirements
        self.contract = contract
        self.name = name
        self._forward = forward

    def act(self, requests: Sequence[Request]) -> list[NDArray[np.floating[Any]]]:
        """Decide for every request: relative actions (k, 7).

        Raises:
            PolicyError: the network failed or broke the contract; names the chains.
        """
        size = self.contract.max_batch or max(1, len(requests))
        groups = [requests[i : i + size] for i in range(0, len(requests), size)]
        return [chunk for group in groups for chunk in self._decide(group)]

    def _decide(self, group: Sequence[Request]) -> list[NDArray[np.floating[Any]]]:
        arrays = [self._batch(name, group) for name in self.contract.inputs]
        try:
            output = self._forward(arrays)
        except Exception as error:  # whatever the network raises is the policy's failure
            raise PolicyError(
                f"{self.name} failed on chain {', '.join(str(r.session) for r in group)}: "
                f"{last_line(error)}"
            ) from error
        problem = shape_problem(output, len(group))
        if problem:
            raise PolicyError(f"{self.name} on chain {group[0].session}: {problem}")
        return [self._chunk(row, request) for row, request in zip(output, group, strict=True)]

    def _batch(self, name: str, group: Sequence[Request]) -> NDArray[Any]:
        spec = INPUTS[name]
        arrays = [spec.read(request) for request in group]
        for request, found in zip(group, arrays, strict=True):
            if found.shape != spec.shape or found.dtype != spec.dtype:
                raise PolicyError(
                    f"{self.name}: chain {request.session}: the tensor contract passes {name} as "
                    f"{spec.dtype} {spec.shape}, the environment gave {found.dtype} {found.shape}:"
                    " use the benchmark's camera sizes, or run the model through module:Class."
                )
        return np.stack(arrays)

    def _chunk(self, row: NDArray[Any], request: Request) -> NDArray[np.floating[Any]]:
        """One request's output, (7,) or (k, 7), as environment actions (k, 7)."""
        chunk = row.reshape(-1, 7).copy()
        where = (
            f"{self.name} on chain {request.session}, subtask {request.position}, "
            f"step {request.step}"
        )
        if not np.isfinite(chunk).all():
            raise PolicyError(f"{where}: expected finite actions, found NaN or infinity.")
        if self.contract.gripper == "sign":
            chunk[:, 6] = np.where(chunk[:, 6] > 0, 1.0, -1.0)
        elif not np.isin(chunk[:, 6], (-1.0, 1.0)).all():
            raise PolicyError(
                f'{where}: gripper "exact" promises -1 or 1, found {chunk[:, 6].tolist()}: '
                'declare "gripper": "sign" to have the sign decide.'
            )
        return chunk


def shape_problem(output: NDArray[Any], batch: int) -> str | None:
    """Why an output breaks the contract: expected floating (B, 7) or (B, k, 7); or None."""
    shape = output.shape
    right = len(shape) in (2, 3) and shape[0] == batch and shape[-1] == 7 and 0 not in shape
    if right and output.dtype.kind == "f":
        return None
    return (
        f"expected floating-point actions of shape ({batch}, 7) or ({batch}, k, 7), found "
        f"{output.dtype} of shape {shape}."
    )


def last_line(error: BaseException) -> str:
    """An exception in one line; torch puts the cause last, after its own traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
