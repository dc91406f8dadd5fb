"""calvin-eval: bit-exact, reproducible evaluation of robot policies on CALVIN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calvin_eval.api import evaluate

__all__ = ["__version__", "evaluate"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load `evaluate` on first use: importing the package costs nothing."""
    if name == "evaluate":
        from calvin_eval.api import evaluate

        return evaluate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
