"""A first forward pass on made-up inputs: contract errors show before the simulator starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calvin_eval.errors import CheckpointError
from calvin_eval.wrappers.tensor_contract import (
    INPUTS,
    Contract,
    Forward,
    encode_instruction,
    last_line,
    shape_problem,
)


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What a network showed.

    Attributes:
        contract: as declared, with `max_batch` 1 if the network cannot take two requests.
        actions: how many actions it returned for one request.
    """

    contract: Contract
    actions: int


def probe(forward: Forward, contract: Contract, name: str) -> Probed:
    """Run a network on one made-up request, another one, and both together.

    A network that fails on both, or treats them differently together than apart, was made for
    a batch of one and will be given one request at a time.

    Raises:
        CheckpointError: it fails on one request, or its output breaks the contract.
    """
    singles = [_output(forward, example(contract, seed), name) for seed in (0, 1)]
    actions = singles[0].size // 7
    if contract.max_batch == 1 or _batches(forward, contract, singles):
        return Probed(contract=contract, actions=actions)
    return Probed(contract=replace(contract, max_batch=1), actions=actions)


def example(contract: Contract, seed: int) -> list[NDArray[Any]]:
    """Made-up inputs for one request, in the contract's order: random images, a fixed text."""
    generator = np.random.default_rng(seed)
    arrays = []
    for name in contract.inputs:
        spec = INPUTS[name]
        if name == "instruction":
            array = encode_instruction(("push the button", "open the drawer")[seed])
        elif spec.dtype == "uint8":
            array = generator.integers(0, 256, spec.shape, dtype=np.uint8)
        else:
            array = generator.uniform(0.1, 1.0, spec.shape).astype(spec.dtype)
        arrays.append(array[None])
    return arrays


def _output(forward: Forward, arrays: Sequence[NDArray[Any]], name: str) -> NDArray[Any]:
    try:
        output = forward(arrays)
    except Exception as error:  # the network's own failure, whatever it is
        raise CheckpointError(
            f"{name} fails on inputs that keep the tensor contract (docs/policies.md): "
            f"{last_line(error)}"
        ) from error
    problem = shape_problem(output, 1)
    if problem:
        raise CheckpointError(f"{name} breaks the tensor contract (docs/policies.md): {problem}")
    return output


def _batches(forward: Forward, contract: Contract, singles: Sequence[NDArray[Any]]) -> bool:
    """Whether two requests together give what each gives alone, up to rounding."""
    pairs = zip(example(contract, 0), example(contract, 1), strict=True)
    try:
        output = forward([np.concatenate(pair) for pair in pairs])
    except Exception:  # made for a batch of one
        return False
    apart = np.concatenate([single.astype(np.float64) for single in singles])
    if shape_problem(output, 2) or output.shape != apart.shape:
        return False
    return np.allclose(output, apart, rtol=0.05, atol=0.05, equal_nan=True)
