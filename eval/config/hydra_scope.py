"""Hydra's compose API without its global state, so that it works inside other programs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

CONFIG_MODULE = "calvin_eval.conf"

_lock = threading.RLock()


def _replace_lock() -> None:
    """Give a forked child a lock of its own: a thread that held the old one is not in it."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_lock)


@contextmanager
def hydra_scope() -> Iterator[Callable[..., Any]]:
    """Yield Hydra's `compose` for the packaged configuration.

    Hydra keeps one initialised instance and one store of nodes for the whole process. Both are
    put back as they were found, so a caller may be a `@hydra.main` program, a notebook, a thread
    or a forked worker. Threads take turns.
    """
    from hydra import compose, initialize_config_module
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.plugins import Plugins

    with _lock:
        Plugins.instance()  # its first use adds Hydra's own nodes to the store, for good
        outer, store = GlobalHydra.instance(), ConfigStore.instance()
        hydra, nodes = outer.hydra, deepcopy(store.repo)
        outer.clear()
        try:
            with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
                yield compose
        finally:
            store.repo = nodes
            GlobalHydra.instance().hydra = hydra
