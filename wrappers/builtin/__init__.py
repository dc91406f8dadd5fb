"""Policies that ship with calvin-eval: no checkpoint, no camera, no network."""

from __future__ import annotations

from calvin_eval.wrappers.builtin.random import RandomPolicy
from calvin_eval.wrappers.builtin.replay import ReplayPolicy
from calvin_eval.wrappers.builtin.still import StillPolicy

__all__ = ["RandomPolicy", "ReplayPolicy", "StillPolicy"]
