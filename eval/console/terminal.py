"""Tables and colours on a terminal: what is printed is shown, and only rich itself is obeyed."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.segment import Segment

from calvin_eval.foreign.text import printable


class Terminal(Console):
    """A console on which no text can move the cursor, change colours or hide what follows."""

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            segment if segment.control else segment._replace(text=printable(segment.text))
            for segment in buffer
        )
