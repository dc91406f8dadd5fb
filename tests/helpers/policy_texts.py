"""Policies in CALVIN's own interface that tests write into files."""

from __future__ import annotations

SOMETIMES = """
class Policy:
    requirements = {"rgb": []}
    def reset(self):
        pass
    def step(self, obs, goal):
        if sum(map(ord, goal)) % 2:
            raise RuntimeError("not an odd instruction")
        return [0.1, 0, 0, 0, 0, 0, 1]
"""
"""Fails for every other instruction, and otherwise goes straight on."""

PRESS = """
import numpy as np

class Press:
    requirements = {"rgb": []}
    def reset(self):
        self.t = 0
    def step(self, obs, goal):
        self.t += 1
        z = 0.55 if self.t < 12 else 0.47
        return np.array([-0.12, -0.12, z]), np.array([np.pi, 0, np.pi / 2]), -1
"""
"""Absolute poses: down onto the button from each subtask's twelfth step on, which works the LED."""
