"""A small checkout with RoboVLMs' layout and names, and a checkpoint's folder for it.

Its wrapper remembers as the original's does: a counter, a queue of images that a reset empties in
place, a list of past outputs, and the state and memory of the policy head.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

WRAPPER = """
from pathlib import Path
from queue import Queue

import torch

from eval.calvin.eval_utils import shorten
from robovlms.train.base_trainer import BaseTrainer


class CustomModel:
    def __init__(self, ckpt_path, configs, device, save_dir=None, raw_calvin=True, debug=False):
        self.model = BaseTrainer(configs=configs)
        state = torch.load(ckpt_path, map_location="cpu")["state_dict"]
        self.model.load_state_dict(state)
        self.notes = Path("tools/notes.txt").read_text()
        self.configs, self.device, self.raw_calvin = configs, device, raw_calvin
        self.policy = self.model.to(device).eval()
        self.policy.model.lm_head = self.policy.model.act_head
        Path(save_dir, "loading_msg.json").write_text("{}")
        self.rollout_step_counter = 0
        self.action_hist_list = []
        self.vision_queue = Queue(maxsize=configs["window_size"])

    def step(self, obs, goal):
        if "FAIL" in self.notes and self.rollout_step_counter == 1:
            raise RuntimeError("a mistake of the wrapper's")
        while self.vision_queue.qsize() >= self.vision_queue.maxsize:
            self.vision_queue.get()
        self.vision_queue.put(float(obs["rgb_obs"]["rgb_static"].mean()) / 255)
        seen = torch.tensor([sum(self.vision_queue.queue), len(goal) / 100])
        hidden = self.policy.inference_step({"rgb": seen})
        self.rollout_step_counter += 1
        self.action_hist_list.append(hidden)
        action = torch.cat([shorten(hidden), torch.ones(1)])
        action[4] = self.rollout_step_counter / 1000
        action[5] = len(self.action_hist_list) / 1000
        print(f"step {self.rollout_step_counter}")
        return action

    def reset(self):
        self.policy.model.act_head.hidden_state = None
        self.policy.model.act_head.history_memory = []
        self.rollout_step_counter = 0
        self.action_hist_list = []
        while not self.vision_queue.empty():
            self.vision_queue.get()
"""

TRAINER = """
import torch
from robovlms.model.backbone import RoboOther


class BaseTrainer(torch.nn.Module):
    def __init__(self, configs):
        super().__init__()
        self.model = RoboOther(configs)

    def inference_step(self, batch):
        with torch.no_grad():
            return self.model.act_head(batch["rgb"].cuda())
"""

BACKBONE = """
import torch


class Head(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = torch.nn.LSTMCell(2, 6)
        self.hidden_state = None
        self.history_memory = []

    def forward(self, x):
        self.history_memory.append(x)
        self.hidden_state = self.cell(x[None], self.hidden_state)
        return self.hidden_state[0][0]


class RoboOther(torch.nn.Module):
    def __init__(self, configs):
        super().__init__()
        self.act_head = Head()
"""

UTILS = """
def shorten(hidden):
    return 0.3 * hidden
"""


def write_checkout(folder: Path, *, fail: bool = False, extra: str = "") -> Path:
    """A checkout; with `fail` its wrapper raises at every second step."""
    files = {
        "eval/calvin/model_wrapper.py": extra + WRAPPER,
        "eval/calvin/eval_utils.py": UTILS,
        "robovlms/__init__.py": "",
        "robovlms/train/__init__.py": "",
        "robovlms/train/base_trainer.py": TRAINER,
        "robovlms/model/__init__.py": "",
        "robovlms/model/backbone/__init__.py": BACKBONE,
        "tools/notes.txt": "FAIL" if fail else "",
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def write_run(folder: Path) -> Path:
    """A run's folder: the configuration of a family that nobody builds, and a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "robovlm_name": "RoboOther", "model": "other", "window_size": 2, "fwd_pred_next_n": 10,
        "vlm": {"name": "other", "pretrained_model_name_or_path": ".vlms/other"},
        "act_head": {"type": "LSTMDecoder"}, "use_hand_rgb": False,
    }  # fmt: skip
    (folder / "now-project.json").write_text(json.dumps(config), encoding="utf-8")
    torch.manual_seed(0)
    cell = torch.nn.LSTMCell(2, 6)
    state = {f"model.act_head.cell.{key}": value for key, value in cell.state_dict().items()}
    torch.save({"state_dict": state}, folder / "epoch=0-step=1.ckpt")
    return folder
