"""Where the RoboVLMs code is surprising: every such place as a named option.

A checkpoint was trained and scored with the surprises, so `Compat()` reproduces them;
`Compat.fixed()` is what the code was meant to do. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from calvin_eval.errors import UnknownNameError, UsageError

CHOICES: dict[str, tuple[str, ...]] = {
    "ensemble": ("first", "temporal"),
    "pre_select": ("oldest", "latest"),
    "gripper_unnorm": ("scaled", "bypass"),
    "regular_action": ("kept", "undone"),
    "video_frames": ("one", "window"),
    "state_token": ("ignored", "fed"),
    "act_insert": ("column", "per_row"),
    "tcp_4d_shape": ("flattened", "fixed"),
    "mu_law_axis": ("first", "last"),
    "action_vocab_base": ("checkout", "seed"),
    "discrete_steps": ("1", "n"),
    "prompt_steps": ("n_plus_1", "n"),
    "action_history": ("none", "segment", "interleave"),
    "dtype_rule": ("compat", "strict"),
    "load_strict": ("head", "report"),
    "gripper_convention": ("1_open", "1_closed"),
}
"""The values of each option that is not a switch; `action_vocab_base` may also be a number."""

SWITCHES = {True: True, False: False, "on": True, "off": False}


@dataclass(frozen=True)
class Compat:
    """Options of the RoboVLMs family that concern inference; the defaults are its own behaviour.

    The one default that is stricter than the original is `load_strict`, since a checkpoint
    without its action head gives numbers that mean nothing.

    Attributes:
        ensemble: "first" executes the first action of the newest chunk; "temporal" averages what
            the last chunks say about the present step.
        pre_select: with history "pre" the head answers for every frame of the window; "oldest"
            is the frame whose action the original executes, "latest" the present one.
        euler_wrap: whether the Euler difference of the state-relative composition is wrapped.
        gripper_unnorm: "scaled" un-normalises the thresholded gripper like the arm, "bypass"
            leaves it alone.
        regular_action: whether actions that training regularised (`regular_action`, `x_mean`,
            `x_std`) are brought back at evaluation: the original leaves them as they are.
        video_frames: frames that a model with history "video" is shown at evaluation: the present
            "one" in the original, the last W as in training with "window".
        state_token: what `use_state` does: nothing in the original ("ignored"), which looks up a
            misspelt key; "fed" gives the model a token of the robot's state.
        act_insert: where the action tokens go in a batch of texts of different lengths: "column"
            is one place for all rows, which is after the end and the padding of the shorter ones;
            "per_row" is before each row's own end. They differ in padded batches only.
        tcp_4d_shape: shape that the TCP-to-world transform gives (B, T, n, 7) actions:
            "flattened" is (B, T * n, 1, 7), "fixed" keeps it.
        mu_law_axis: which element the mu-law transform leaves out: the last of the "first" axis
            or of the "last" one, which is the gripper. The same for a single action.
        action_vocab_base: the number that action ids count down from: "checkout" is the
            vocabulary without special tokens and ten more, "seed" the whole vocabulary.
        constrained_decode: whether only action ids may be generated.
        discrete_steps: how many of the n actions of a chunk a discrete model generates: "1", "n".
        prompt_steps: the number of steps that a discrete model's question names: "n_plus_1"
            (CALVIN) or "n" (Open X-Embodiment).
        action_history: what a discrete model is told of the past at evaluation: "none", as in the
            original whatever it was trained on; "segment" names the last W - 1 executed actions
            in the question; "interleave" shows the last W - 1 frames with the answers to them.
        dtype_rule: "compat" computes in half precision only if the configuration says exactly
            "bf16" or "fp16" ("16-mixed" is float32); "strict" honours all spellings.
        load_strict: whether missing head keys in a checkpoint are an error ("head") or a line
            in the report ("report").
        gripper_convention: what the network's 1 means. Every published checkpoint: open.
    """

    ensemble: str = "first"
    pre_select: str = "oldest"
    euler_wrap: bool = False
    gripper_unnorm: str = "scaled"
    regular_action: str = "kept"
    video_frames: str = "one"
    state_token: str = "ignored"
    act_insert: str = "column"
    tcp_4d_shape: str = "flattened"
    mu_law_axis: str = "first"
    action_vocab_base: str | int = "checkout"
    constrained_decode: bool = False
    discrete_steps: str = "1"
    prompt_steps: str = "n_plus_1"
    action_history: str = "none"
    dtype_rule: str = "compat"
    load_strict: str = "head"
    gripper_convention: str = "1_open"

    def __post_init__(self) -> None:
        """Refuse values that do not exist.

        Raises:
            UnknownNameError: a value that is not among the option's own.
            UsageError: a vocabulary base that is not a positive number.
        """
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if name == "action_vocab_base" and isinstance(value, int):
                if isinstance(value, bool) or value <= 0:
                    raise UsageError(
                        f"action_vocab_base: expected a positive token id, found {value!r}"
                    )
            elif value not in known:
                raise UnknownNameError(f"value of {name}", value, known)

    @classmethod
    def fixed(cls) -> Compat:
        """What the original was meant to do.

        What a checkpoint's training fixed keeps its value: `action_vocab_base`, `prompt_steps`,
        `action_history`, `state_token`, `gripper_convention`, and the length of what is generated.
        """
        return cls(
            ensemble="temporal",
            pre_select="latest",
            euler_wrap=True,
            gripper_unnorm="bypass",
            regular_action="undone",
            video_frames="window",
            act_insert="per_row",
            tcp_4d_shape="fixed",
            mu_law_axis="last",
            constrained_decode=True,
            dtype_rule="strict",
        )

    @classmethod
    def from_options(cls, options: Mapping[str, Any], base: Compat | None = None) -> Compat:
        """Read options as a configuration gives them.

        Args:
            options: name -> value; switches are true/false or on/off, 1 and "1" are the same.
            base: values of the options that are not given; `Compat()` if None.

        Raises:
            UnknownNameError: an option or a value that does not exist.
        """
        names = [field.name for field in fields(cls)]
        values = {name: getattr(base or cls(), name) for name in names}
        for name, value in options.items():
            if name not in values:
                raise UnknownNameError("compatibility option", name, names)
            values[name] = _read(name, value)
        return cls(**values)


def _read(name: str, value: Any) -> Any:
    if name not in CHOICES:
        if not isinstance(value, (bool, str)) or value not in SWITCHES:
            raise UnknownNameError(f"value of {name}", value, ("on", "off"))
        return SWITCHES[value]
    if name == "action_vocab_base":
        return int(value) if isinstance(value, str) and value.isdigit() else value
    return str(value)
