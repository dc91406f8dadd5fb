"""What a training runs on: device, precision and processes; signals; random numbers."""

from __future__ import annotations

import logging
import random
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from calvin_eval.errors import UnknownNameError, UsageError
from calvin_eval.wrappers.loaders.torch_file import idle_gpu

PRECISIONS = {
    **dict.fromkeys(("32", "32-true", "fp32"), "no"),
    **dict.fromkeys(("bf16", "bf16-mixed", "bf16-true"), "bf16"),
    **dict.fromkeys(("16", "16-mixed", "16-true", "fp16"), "fp16"),
}
"""`trainer.precision` -> accelerate's. Weights are float32 in all of them."""

ACCELERATORS = ("auto", "cpu", "gpu")
PATIENCE = timedelta(hours=6)
"""For processes that wait while one evaluates."""


def make_accelerator(config: Mapping[str, Any]) -> Accelerator:
    """Accelerate's part: device, precision, processes.

    Raises:
        UnknownNameError: a precision or accelerator that does not exist.
        UsageError: float16 without a GPU, or a GPU that is not there.
    """
    trainer = config.get("trainer") or {}
    precision = str(trainer.get("precision") or "32")
    kind = str(trainer.get("accelerator") or "auto")
    for key, value, known in (("precision", precision, PRECISIONS),
                              ("accelerator", kind, ACCELERATORS)):  # fmt: skip
        if value not in known:
            raise UnknownNameError(f"trainer.{key}", value, known)
    if kind == "gpu" and not torch.cuda.is_available():
        raise UsageError("trainer.accelerator=gpu: torch finds no GPU here; expected cpu or auto")
    on_cpu = kind == "cpu" or not torch.cuda.is_available()
    if on_cpu and PRECISIONS[precision] == "fp16":
        raise UsageError(
            f"trainer.precision={precision} needs a GPU; expected bf16-mixed or 32 on a CPU"
        )
    # It reports weights under two names, which are tied here and are restored together.
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    if trainer.get("threads"):
        torch.set_num_threads(int(trainer["threads"]))
    return Accelerator(
        mixed_precision=PRECISIONS[precision],
        cpu=on_cpu,
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[
            # Continuous models leave the output layer out, LLaVA the last vision layers.
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
    )


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second one raises as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def note(number: int, frame: Any) -> None:
        stop.set()
        for kind in kinds:
            signal.signal(kind, before[kind])

    for kind in kinds:
        signal.signal(kind, note)
    try:
        yield stop
    finally:
        for kind in kinds:
            signal.signal(kind, before[kind])


def described_device(accelerator: Accelerator) -> str:
    """The device, with a note on a GPU that nothing uses."""
    device = str(accelerator.device)
    return f"{device}{idle_gpu(device, 'trainer.accelerator=gpu')}"


def agreed(accelerator: Accelerator, stop: bool) -> bool:
    """Whether any process wants to stop, so that all of them do."""
    if accelerator.num_processes == 1:
        return stop
    wishes = torch.tensor(float(stop), device=accelerator.device)
    return bool(accelerator.reduce(wishes, reduction="sum") > 0)


@contextmanager
def random_numbers_kept() -> Iterator[None]:
    """Nothing inside changes what is drawn afterwards."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(states[0])
    np.random.set_state(states[1])
