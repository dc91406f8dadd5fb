"""Answers of a confined policy's process, read so that nothing in them runs.

Our own processes talk in pickles, which can run anything where they are read. A process that is
confined because a stranger's code runs in it must not get out that way: of what its pickles name,
only our messages' own classes, arrays and numbers exist here.
"""

from __future__ import annotations

import io
import json
import pickle
from multiprocessing.connection import Connection
from typing import Any, Final

from calvin_eval import errors, extras
from calvin_eval.foreign.unpickle import PlainUnpickler
from calvin_eval.rollouts.batching import Answer
from calvin_eval.rollouts.policy_errors import UnreadableAnswerError
from calvin_eval.rollouts.service import ServiceReady
from calvin_eval.wrappers.policy import Requirements

LARGEST: Final = 2**26
"""Bytes of one message."""

_MESSAGES: Final = (Answer, ServiceReady, Requirements)


class _MessageUnpickler(PlainUnpickler):
    """Knows our messages and errors beside plain values and arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the pickle, if it is one that our messages have."""
        for kind in _MESSAGES:
            if (module, name) == (kind.__module__, kind.__qualname__):
                return kind
        if (module, name) == (errors.restored.__module__, errors.restored.__name__):
            return errors.restored
        if module in (errors.__name__, extras.__name__) and "." not in name:
            found = getattr(errors if module == errors.__name__ else extras, name, None)
            if isinstance(found, type) and issubclass(found, errors.CalvinEvalError):
                return found
        return super().find_class(module, name)


def receive(connection: Connection[Any, Any]) -> Any:
    """The next message of a connection.

    Raises:
        UnreadableAnswerError: it names anything else than messages are made of, is damaged,
            or is too large; the connection is unusable then.
        EOFError: the other side is gone.
        OSError: the same.
    """
    try:
        data = connection.recv_bytes(LARGEST)
    except OSError as error:
        if error.errno is not None:
            raise
        raise UnreadableAnswerError(f"more than {LARGEST} bytes") from error
    try:
        return _MessageUnpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError as error:
        raise UnreadableAnswerError(f"found {error}, expected plain values and arrays") from error
    except Exception as error:  # a damaged pickle raises anything
        raise UnreadableAnswerError(f"{type(error).__name__}: {error}") from error


def has_json_form(value: object) -> bool:
    """Whether a value consists of what JSON has."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
