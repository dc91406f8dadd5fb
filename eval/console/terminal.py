"""Tables and colours on a terminal: what is printed is shown, and only rich itself is obeyed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment

from calvin_eval.console.saying import OutputGone
from calvin_eval.foreign.text import printable


class Terminal(Console):
    """A console on which no text can move the cursor, change colours or hide what follows."""

    def print(self, *objects: Any, **how: Any) -> None:
        """Print as `Console.print` does.

        Raises:
            OutputGone: it cannot be written.
        """
        try:
            super().print(*objects, **how)
        except OSError as error:
            raise OutputGone(error) from error

    def on_broken_pipe(self) -> None:
        """Let `print` raise its error, where rich would end the process with exit code 1."""
        raise BrokenPipeError

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            segment if segment.control else segment._replace(text=printable(segment.text))
            for segment in buffer
        )
