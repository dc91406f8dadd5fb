"""calvin-eval: bit-exact, reproducible evaluation of robot policies on CALVIN."""

from __future__ import annotations

__version__ = "0.1.0"
