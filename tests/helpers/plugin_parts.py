"""What a test registers as an entry point."""

from __future__ import annotations

from pathlib import Path


class Never:
    """A loader that recognises nothing."""

    @staticmethod
    def recognises(path: Path) -> bool:
        """No."""
        return False
