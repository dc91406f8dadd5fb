"""Where the mean and spread over seeds is written."""

from __future__ import annotations

import json
from pathlib import Path

from calvin_eval.errors import UsageError
from calvin_eval.files import write_atomic
from calvin_eval.results.seeds import SeedSpread

FILE = "seeds.json"


def write_spread(folder: Path, spread: SeedSpread) -> Path:
    """Write `seeds.json` beside the run folders of the seeds, and return its path.

    Raises:
        UsageError: it cannot be written.
    """
    path = folder / FILE
    try:
        write_atomic(path, (json.dumps(spread.to_json(), indent=2) + "\n").encode())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    return path
