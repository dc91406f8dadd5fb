from __future__ import annotations

import pickle

import pytest

from calvin_eval import errors
from calvin_eval.errors import CalvinEvalError, UnknownNameError
from calvin_eval.results.archive import BundleError
from calvin_eval.rollouts.replay import ReplayError

MADE = [
    UnknownNameError("scene", "E", ["A", "B"]),
    BundleError("altered"),
    ReplayError("departs"),
    *(
        kind("what happened")
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, CalvinEvalError) and kind != UnknownNameError
    ),
]


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_errors_travel_between_processes(error: CalvinEvalError) -> None:
    error.detail = 3  # type: ignore[attr-defined]
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.exit_code == error.exit_code
    assert copy.detail == 3  # type: ignore[attr-defined]
