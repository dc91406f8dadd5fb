"""A vision-language model of one's own: CLIP's patches in front of any causal language model."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionModel

from calvin_eval.vla.backbones import Backbone


class MyBackbone(Backbone):
    """A folder with the language model's files, and the vision tower's in `eyes/`."""

    text_at, vision_at = "model", "eyes"  # where the parts lie in what `from_folder` makes

    @classmethod
    def from_folder(cls, folder: Path) -> "MyBackbone":
        """Random weights: they come from a checkpoint, or from training."""
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.eyes = CLIPVisionModel(AutoConfig.from_pretrained(folder / "eyes"))
        model.projector = nn.Linear(model.eyes.config.hidden_size, config.hidden_size)
        return cls(model)

    def encode_images(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) to tokens (B, N, D) among the words."""
        patches = self.model.eyes(images).last_hidden_state[:, 1:]
        return self.model.projector(patches)
