"""The process that loads a stranger's TorchScript file first: it can open nothing.

Once PyTorch is imported and the file is found, the process gives up the right to open any file,
pipe or connection but one, and that one is the file itself while PyTorch reads it. The kernel
enforces it (RLIMIT_NOFILE). What the file writes to its outputs is thrown away.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Judge the file that the command line names; the answer goes to standard output as JSON."""
    answer = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    try:
        reason = _judge(Path(sys.argv[1]))
    except Exception as error:
        reason = f"cannot be loaded apart ({type(error).__name__})"
    os.write(answer, json.dumps({"reason": reason}).encode())
    os._exit(0)


def _judge(path: Path) -> str | None:
    import resource

    import torch.jit._recursive  # noqa: F401 - afterwards nothing can be imported

    from calvin_eval.wrappers.loaders.torchscript import import_script

    # The lowest number that is free: PyTorch's reader takes it until all is loaded.
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, free + 1))
    return import_script(path, "cpu")[1]
