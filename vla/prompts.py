"""The prompt of a language model: the words around an instruction, per family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from calvin_eval.errors import UsageError


class TextForm(NamedTuple):
    """How a continuous model's instruction is written (RoboVLMs, data_utils).

    Attributes:
        template: the text; `{s}` is the stripped instruction, `{eos}` the tokenizer's end token.
        add_special_tokens: whether the tokenizer adds its own start and end.
        max_length: in tokens; a longer text is cut.
    """

    template: str
    add_special_tokens: bool = True
    max_length: int = 512


PLAIN = TextForm("{s}")
TEXT_FORMS: dict[str, TextForm] = {
    "kosmos": TextForm("<grounding>An image of a robot {s}"),
    "paligemma": TextForm("{eos}{s}\n", add_special_tokens=False),
    "llava": TextForm("{s}", max_length=2048),
    "qwen": PLAIN,
    "uform": TextForm("<image> {s}"),
    "flamingo": TextForm("<image>{s}<|endofchunk|>{eos}", max_length=256),
    # RoboVLMs has no text for these: a model of calvin-eval's own training.
    "qwen2_vl": PLAIN,
    "qwen2_5_vl": PLAIN,
    "idefics3": PLAIN,
    "smolvlm": PLAIN,
}
"""`model` of the configuration -> its text."""

ANY_OTHER = TextForm("<|endoftext|>{s}")
"""RoboVLMs' text for Moondream and for every name that it does not know."""

ASSISTANT = {
    "vicuna": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions."
    ),
    "llama": (
        "You are a helpful language and vision assistant. You are able to understand the visual "
        "content that the user provides, and assist the user with a variety of tasks using "
        "natural language."
    ),
}
"""System prompts that the two chat formats are used with."""


def text_form(model: str) -> TextForm:
    """The form of a model's text, by the configuration's `model`."""
    return TEXT_FORMS.get(model, ANY_OTHER)


def question(instruction: str, steps: int) -> str:
    """What a discrete model is asked.

    Args:
        instruction: as CALVIN gives it.
        steps: the number that the question names; with 1 it names none.
    """
    if steps == 1:
        return f"What action should the robot take to {instruction}?"
    return f"What {steps} step actions should the robot take to {instruction}?"


def steps_named(chunk: int, rule: str) -> int:
    """The number that a question names for chunks of n actions.

    Args:
        chunk: n.
        rule: `Compat.prompt_steps`.
    """
    return chunk + 1 if rule == "n_plus_1" else chunk


def past(count: int) -> str:
    """What stands in front of the ids of so many past actions (RoboVLMs, segments)."""
    steps = "is 1 step action" if count == 1 else f"are {count} step actions"
    return f"Here {steps} that the robot has taken: "


def chat_name(config: Mapping[str, Any]) -> str:
    """The name that chooses a discrete model's chat format, in lower case.

    It is the key `llava` of the configuration, "qwen" if that is a key, or else `model`.
    """
    if "llava" in config:
        return str(config["llava"]).lower()
    return "qwen" if "qwen" in config else str(config["model"]).lower()


def chat(name: str, asked: str, bos: str | None, eos: str | None) -> str:
    """Put a question into a model's chat format, with an empty answer.

    The end token of the empty answer stays in the text, and the start token is taken out, since
    the tokenizer adds it again (RoboVLMs, prompting).

    Args:
        name: see `chat_name`; it is searched for a family's name.
        asked: the question.
        bos: the tokenizer's start token.
        eos: the tokenizer's end token.

    Raises:
        UsageError: a tokenizer that has one of the two tokens only, for which RoboVLMs fails.
    """
    asked = asked.replace("<image>", "").strip()
    plain = f"Input: {asked}\nOutput: "
    families = ("vicuna", "mistral", "llama", "mpt", "qwen")
    family = next((known for known in families if known in name), "other")
    if family == "qwen":
        return f"{plain}\n".rstrip()
    if (bos is None) != (eos is None):
        raise UsageError(
            f"prompt of {name!r}: expected a tokenizer with a start and an end token or with "
            f"neither, found bos_token={bos!r} and eos_token={eos!r}"
        )
    if bos is None or eos is None:
        chatty = family in ("vicuna", "mistral", "llama")
        bos, eos = ("<s>", "</s>") if chatty else ("<|endoftext|>", "<|endoftext|>")
    system = ASSISTANT.get(family, "")
    text = {
        "vicuna": f"{system} USER: {asked} ASSISTANT:  {eos}",
        "mistral": f"[INST] {asked} [/INST]  {eos}",
        "llama": f"[INST] <<SYS>\n{system}\n<</SYS>>\n\n{asked} [/INST]  {eos}",
    }.get(family, f"{bos}{plain}\n{eos}")
    return text.replace(bos, "").rstrip()
