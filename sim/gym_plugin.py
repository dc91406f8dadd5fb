"""Tells Gymnasium about the environment; Gymnasium calls `register` when it is imported."""

from __future__ import annotations

MAX_STEPS = 360
"""Budget of one task, as in the benchmark."""


def register() -> None:
    """Register `PlayTable-v0` in the namespace that the entry point names."""
    import gymnasium

    gymnasium.register(
        id="PlayTable-v0",
        entry_point="calvin_eval.sim.gym:PlayTable",
        max_episode_steps=MAX_STEPS,
    )
