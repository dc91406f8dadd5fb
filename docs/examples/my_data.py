"""A data set of one's own, in the form of `calvin-eval train`."""

import numpy as np
import torch
from torch.utils.data import Dataset


class MyData(Dataset):
    """Noise: put your own frames, actions and sentences here."""

    def __init__(self, folder, split, window, chunk, cameras, images):
        self.window, self.chunk, self.cameras, self.images = window, chunk, cameras, images

    def __len__(self):
        return 16

    def __getitem__(self, index):
        draw = np.random.default_rng(index)
        steps = self.window + self.chunk
        frames = draw.integers(0, 256, (self.window, 200, 200, 3), np.uint8)
        actions = draw.uniform(-1, 1, (steps, 7))
        actions[:, 6] = np.sign(actions[:, 6])  # 1 opens
        return {
            **{camera: self.images(list(frames)) for camera in self.cameras},
            "actions": torch.from_numpy(actions).float(),  # CALVIN's relative actions
            "robot_obs": torch.zeros(steps, 15),
            "mask": torch.ones(steps, dtype=torch.bool),  # False where nothing is learned
            "text": "wave the arm",
            "task": "wave",
        }
