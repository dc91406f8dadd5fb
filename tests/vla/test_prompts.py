from __future__ import annotations

import pytest

from calvin_eval.errors import UsageError
from calvin_eval.vla.prompts import chat, chat_name, question, text_form

ASKED = "What 11 step actions should the robot take to push it?"


def test_the_question_names_the_number_of_steps() -> None:
    assert question("push it", 11) == ASKED
    assert question("push it", 1) == "What action should the robot take to push it?"


def test_the_format_is_found_by_name() -> None:
    assert chat_name({"model": "Kosmos"}) == "kosmos"
    assert chat_name({"model": "x", "qwen": {}}) == "qwen"
    assert chat_name({"model": "x", "llava": "LLaVA-v1.5-Vicuna", "qwen": {}}).endswith("vicuna")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kosmos", f"Input: {ASKED}\nOutput: \n</s>"),
        ("paligemma", f"Input: {ASKED}\nOutput: \n</s>"),
        ("llava-mpt-7b", f"Input: {ASKED}\nOutput: \n</s>"),
        ("qwen", f"Input: {ASKED}\nOutput:"),
        ("mistral-7b", f"[INST] {ASKED} [/INST]  </s>"),
    ],
)
def test_formats(name: str, expected: str) -> None:
    assert chat(name, ASKED, "<s>", "</s>") == expected


def test_two_formats_have_a_system_prompt() -> None:
    vicuna = chat("vicuna-7b", ASKED, "<s>", "</s>")
    assert vicuna.startswith("A chat between a curious user")
    assert vicuna.endswith(f"user's questions. USER: {ASKED} ASSISTANT:  </s>")
    llama = chat("llama-2", ASKED, "<s>", "</s>")
    assert llama.startswith("[INST] <<SYS>\nYou are a helpful language and vision assistant.")
    assert llama.endswith(f"natural language.\n<</SYS>>\n\n{ASKED} [/INST]  </s>")


def test_start_tokens_and_image_marks_are_taken_out() -> None:
    assert chat("kosmos", " <image>push <s>it", "<s>", "</s>") == "Input: push it\nOutput: \n</s>"
    # Moondream's start and end are one token: the end goes as well.
    end = "<|endoftext|>"
    assert chat("moondream", "push it", end, end) == "Input: push it\nOutput:"


def test_tokenizers_without_both_tokens_get_the_formats_own() -> None:
    assert chat("mistral", "push it", None, None) == "[INST] push it [/INST]  </s>"
    assert chat("other", "push it", None, None) == "Input: push it\nOutput:"
    assert chat("qwen", "push it", None, "</s>") == "Input: push it\nOutput:"
    with pytest.raises(UsageError, match="a start and an end token or with neither"):
        chat("kosmos", "push it", None, "</s>")


def test_forms_of_a_continuous_models_text() -> None:
    written = {
        name: text_form(name).template.format(s="push it", eos="</s>")
        for name in ("kosmos", "paligemma", "llava", "qwen", "uform", "flamingo", "moondream")
    }
    assert written == {
        "kosmos": "<grounding>An image of a robot push it",
        "paligemma": "</s>push it\n",
        "llava": "push it",
        "qwen": "push it",
        "uform": "<image> push it",
        "flamingo": "<image>push it<|endofchunk|></s>",
        "moondream": "<|endoftext|>push it",
    }
    assert not text_form("paligemma").add_special_tokens
    assert text_form("kosmos").add_special_tokens
    lengths = {name: text_form(name).max_length for name in ("kosmos", "llava", "flamingo", "x")}
    assert lengths == {"kosmos": 512, "llava": 2048, "flamingo": 256, "x": 512}
