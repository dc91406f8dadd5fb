"""RoboVLMs' evaluation of one session, written out in straight lines, without our model classes.

It reads the checkpoint file itself, uses transformers' models as they are, carries the LSTM's
hidden state as the original does, and goes from camera images to the action that the simulator
gets (RoboVLMs, CALVIN's model wrapper).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from tiny_vlm import project, save_vlm
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    GPT2Config,
    GPT2Model,
)

from calvin_eval.vla.compat import Compat
from calvin_eval.vla.model import RoboVLM

STATS = {
    "kosmos": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    "paligemma": ([0.5] * 3, [0.5] * 3),
}
V0 = {"kosmos": 660 - 4 - 10, "paligemma": 659 - 4 - 10}
"""Base of action ids: vocabulary, without the special tokens and ten more."""


def old_name(family: str, name: str) -> str:
    """A parameter's name in the transformers release that RoboVLMs was written for."""
    if family == "paligemma":
        for new, old in (
            ("backbone.lm_head.", "backbone.language_model.lm_head."),
            ("backbone.model.language_model.", "backbone.language_model.model."),
            ("backbone.model.vision_tower.", "backbone.vision_tower.vision_model."),
            ("backbone.model.multi_modal_projector.", "backbone.multi_modal_projector."),
        ):
            name = old + name.removeprefix(new) if name.startswith(new) else name
    return name


def make_run(folder: Path, family: str, **values: Any) -> Path:
    """A training's folder in RoboVLMs' layout: configuration, VLM folder, Lightning checkpoint."""
    config = project(family, **values)
    vlm = save_vlm(folder / config["vlm"]["pretrained_model_name_or_path"], family)
    (folder / "2024-10-01_12-00-00-project.json").write_text(json.dumps(config), encoding="utf-8")
    state = random_state(config, vlm)
    named = {f"model.{old_name(family, name)}": value for name, value in state.items()}
    torch.save(
        {
            "state_dict": named, "epoch": 4, "global_step": 7,
            "hyper_parameters": {"configs": config}, "pytorch-lightning_version": "2.2.5",
        },
        folder / "epoch=4-step=7.ckpt",
    )  # fmt: skip
    return folder


def random_state(config: Mapping[str, Any], vlm: Path) -> dict[str, Tensor]:
    """Weights that are large enough for every part to be felt in the actions."""
    torch.manual_seed(1)
    model = RoboVLM.build(config, vlm, Compat())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=1.2 / parameter.shape[-1] ** 0.5)
            elif "norm" not in name:
                parameter.normal_(std=0.3)
    return {name: value.clone() for name, value in model.state_dict().items()}


class Reference:
    """One session: `reset()`, then `step(obs, goal)` gives (7,) as CALVIN's step takes it."""

    def __init__(self, folder: Path, family: str, *, raw_calvin: bool = True) -> None:
        (path,) = folder.glob("*-project.json")
        self.config = json.loads(path.read_text(encoding="utf-8"))
        self.head = self.config["act_head"]
        self.family, self.raw_calvin = family, raw_calvin
        state = torch.load(folder / "epoch=4-step=7.ckpt", weights_only=True)["state_dict"]
        self.state = {key.removeprefix("model."): value for key, value in state.items()}
        vlm = folder / self.config["vlm"]["pretrained_model_name_or_path"]
        self.model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(vlm)).eval()
        own = self.model.state_dict()
        named = {name: self.state[old_name(family, f"backbone.{name}")] for name in own}
        self.model.load_state_dict(named)
        self.tokenizer = AutoProcessor.from_pretrained(vlm).tokenizer
        self.reset()

    def reset(self) -> None:
        window = self.config["window_size"]
        self.queue: deque[list[Tensor]] = deque(maxlen=window)
        self.hidden: Any = None
        self.memory: list[Tensor] = []

    @torch.no_grad()
    def step(self, obs: Mapping[str, Any], goal: str) -> np.ndarray:
        names = ["rgb_static", "rgb_gripper"] if self.config["use_hand_rgb"] else ["rgb_static"]
        frame = [self._image(obs["rgb_obs"][name]) for name in names]
        if self.head["history_type"] == "pre":
            self.queue.append(frame)
            frames = list(self.queue)
        else:
            frames = [frame]
        if self.head["action_space"] == "discrete":
            action = self._generate(frames, goal)
        else:
            action = self._predict(frames, goal)
        return self._finish(action, obs)

    def _image(self, array: np.ndarray) -> Tensor:
        mean, std = STATS[self.family]
        size = self.config["image_size"]
        image = Image.fromarray(array).resize((size, size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        pixels = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        if self.family == "kosmos":
            out = self.model.vision_model(pixels[None]).last_hidden_state
            out = self.model.vision_model.model.post_layernorm(out)
            return self.model.image_to_text_projection(F.normalize(out, dim=-1))[0]
        inner = self.model.model
        tokens = inner.multi_modal_projector(inner.vision_tower(pixels[None]).last_hidden_state)
        return tokens / tokens.shape[-1] ** 0.5

    def _words(self) -> Tensor:
        key = "text_model.model" if self.family == "kosmos" else "language_model.model"
        return self.state[f"backbone.{key}.embed_tokens.weight"]

    def _run(self, embeds: Tensor) -> Tensor:
        if self.family == "kosmos":  # multiplies by sqrt(D) itself
            return self.model.text_model.model(inputs_embeds=embeds).last_hidden_state
        scaled = embeds * embeds.shape[-1] ** 0.5
        length = embeds.shape[1]
        causal = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
        model = self.model.model.language_model
        return model(inputs_embeds=scaled, attention_mask=causal).last_hidden_state

    def _predict(self, frames: list[list[Tensor]], goal: str) -> Tensor:
        if self.family == "kosmos":
            ids = self.tokenizer(f"<grounding>An image of a robot {goal}").input_ids
        else:
            ids = self.tokenizer(f"<eos>{goal}\n", add_special_tokens=False).input_ids
        words = self._words()[torch.tensor(ids)][None]
        down = self.head["action_space"] == "down_sample"
        sequences, marks = [], []
        for frame in frames:
            parts = [words[:, :1], *reversed(frame), words[:, 1:-1]]
            if not down:
                parts.append(self.state["action_token"][None, None])
            parts.append(words[:, -1:])
            sequences.append(torch.cat(parts, dim=1))
            length = sequences[-1].shape[1]
            marks += [True] * length if down else [i == length - 2 for i in range(length)]
        hidden = self._run(torch.cat(sequences, dim=1))[:, torch.tensor(marks)]
        if down:
            return self._decide(hidden.max(dim=1, keepdim=True).values)
        return self._decide(hidden)

    def _decide(self, features: Tensor) -> Tensor:
        """Features (1, T, D) to the chunk (n, 7) of the frame whose action is executed."""
        kind, streaming = self.head["type"], features.shape[1] == 1
        window = self.config["window_size"]
        if streaming:
            self.memory = [*self.memory, features][-window:]
        everything = torch.cat(self.memory, dim=1) if streaming else features
        if kind == "LSTMDecoder":
            rnn = torch.nn.LSTM(features.shape[-1], self.head["hidden_size"], 4, batch_first=True)
            part = "act_head.rnn."
            rnn.load_state_dict(
                {k.removeprefix(part): v for k, v in self.state.items() if k.startswith(part)}
            )
            if not streaming:
                out = rnn(features)[0]
            elif self.hidden != "full":
                out, self.hidden = rnn(features, self.hidden)
                self.seen = getattr(self, "seen", 0) + 1 if len(self.memory) > 1 else 1
                self.hidden = "full" if self.seen == window else self.hidden
            else:
                out = rnn(everything)[0]
        elif kind == "GPTDecoder":
            out = self._gpt(everything)
        else:
            out = F.relu(self._linear("act_head.mlp.0", features))
            out = self._linear("act_head.mlp.2", out)
        x = out[:, -1] if streaming else out[:, 0]  # the original executes the oldest frame's
        n = self.config["fwd_pred_next_n"]
        arm = torch.tanh(self._mlp("act_head.actions", x)).view(n, 6)
        logit = self._mlp("act_head.gripper", x).view(n, 1)
        return torch.cat([arm, (torch.sigmoid(logit) > 0.5).float()], dim=-1)

    def _gpt(self, x: Tensor) -> Tensor:
        width = self.head["hidden_size"]
        options = {"n_layer": 8, "n_head": 8, "n_embd": width, "vocab_size": 1}
        gpt = GPT2Model(GPT2Config(n_positions=self.config["window_size"], **options)).eval()
        part = "act_head.gpt."
        named = {k.removeprefix(part): v for k, v in self.state.items() if k.startswith(part)}
        assert set(gpt.state_dict()) - set(named) == {"wte.weight"}
        gpt.load_state_dict(named, strict=False)
        return gpt(inputs_embeds=self._linear("act_head.fc", x)).last_hidden_state

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _mlp(self, name: str, x: Tensor) -> Tensor:
        for layer in (0, 2, 4):
            x = F.relu(self._linear(f"{name}.mlp.{layer}", x))
        return self._linear(f"{name}.mlp.6", x)

    def _generate(self, frames: list[list[Tensor]], goal: str) -> Tensor:
        n = self.config["fwd_pred_next_n"] + 1
        eos = self.tokenizer.eos_token
        text = f"Input: What {n} step actions should the robot take to {goal}?\nOutput: \n{eos}"
        ids = self.tokenizer(text, add_special_tokens=True).input_ids[:-1]
        words = self._words()[torch.tensor(ids)][None]
        cameras = [torch.cat([frame[i] for frame in frames], 1) for i in range(len(frames[0]))]
        embeds = torch.cat([words[:, :1], *reversed(cameras), words[:, 1:]], dim=1)
        found = []
        for _ in range(7):  # without a cache, from the start each time
            logits = self._run(embeds)[0, -1] @ self._words().T
            found.append(int(logits.argmax()))
            embeds = torch.cat([embeds, self._words()[found[-1]][None, None]], dim=1)
        edges = np.linspace(self.head["min_action"], self.head["max_action"], self.head["n_bin"])
        centers = (edges[:-1] + edges[1:]) / 2
        digits = [min(max(V0[self.family] - i - 1, 0), self.head["n_bin"] - 2) for i in found]
        action = torch.from_numpy(centers[digits])
        action[6] = 1 if action[6] > 0 else -1
        return action[None]

    def _finish(self, chunk: Tensor, obs: Mapping[str, Any]) -> np.ndarray:
        config, state = self.config, obs["robot_obs"]
        if config.get("tcp_rel"):
            chunk = torch.from_numpy(_tcp_to_world(chunk.double().numpy(), state[3:6]))
        action = chunk[0].numpy().copy()
        if config.get("use_mu_law"):
            mu, gripper = config["mu_val"], action[6]
            action = np.sign(action) * ((1 + mu) ** np.abs(action) - 1) / mu
            action[6] = gripper
        if config.get("norm_action"):
            low, high = config["norm_min"], config["norm_max"]
            action = 0.5 * (action + 1) * (high - low) + low
        if self.head["action_space"] != "discrete":
            if not self.raw_calvin:
                here = Rotation.from_euler("xyz", state[3:6])
                moved = state[:3] + here.apply(action[:3]) - state[:3]
                turned = (here * Rotation.from_euler("xyz", action[3:6])).as_euler("xyz")
                action[:3], action[3:6] = 50 * moved, 20 * (turned - state[3:6])
            action[6] = 2 * (action[6] - 0.5)
        action[6] = 1 if action[6] > 0 else -1
        return action


def _tcp_to_world(chunk: np.ndarray, euler: np.ndarray) -> np.ndarray:
    here = Rotation.from_euler("XYZ", euler)
    result = chunk.copy()
    for row in result:
        row[:3] = here.apply(row[:3])
        turned = here * Rotation.from_euler("XYZ", 0.01 * row[3:6]).inv()
        difference = turned.as_euler("XYZ") - euler
        row[3:6] = 100 * ((difference + np.pi) % (2 * np.pi) - np.pi)
    return result
