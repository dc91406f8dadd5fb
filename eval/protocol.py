"""The rules of the benchmark: what a run may change, and what makes a result official.

Every folder may import this module; it imports `checks`, `errors` and `shifts` alone.
Configuration, engine, run header, verdict, Gymnasium environment and recorder take their rules from
here: a rule is a field of `Protocol`. CONTRIBUTING.md says how one is added.

Sources: "calvin" is github.com/mees/calvin at fa03f01, "calvin_env" its submodule
github.com/mees/calvin_env.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args, get_type_hints

from calvin_eval.checks import Bounds, check_choice, check_value, choices
from calvin_eval.errors import UsageError
from calvin_eval.shifts import Shifts

Revision: TypeAlias = Literal["pinned", "head"]
REVISIONS: Final[tuple[Revision, ...]] = get_args(Revision)
SceneName: TypeAlias = Literal["A", "B", "C", "D"]
SCENES: Final[tuple[SceneName, ...]] = get_args(SceneName)
SPLITS: Final[Mapping[str, SceneName]] = {
    "D": "D", "ABC_D": "D", "ABCD_D": "D", "A": "A", "B": "B", "C": "C",
}  # fmt: skip
"""What a policy was trained on, and the scene it is evaluated in."""

_REQUIRED: Final = object()


@dataclass(frozen=True, kw_only=True)
class Rule(Bounds):
    """What is known of a field of `Protocol` beside its type and default.

    Attributes:
        subject: what the verdict's sentence on this field begins with; empty if the field has
            none, because `judged_by` something else.
        judged_by: what tells an official run in this respect, where no sentence does.
        text: the value in the verdict's words, from the whole protocol; the value as it is if
            None.
        absent: the value that a header means which was written before the rule existed.
        section: of the configuration that the key is in.
    """

    subject: str = ""
    judged_by: str = ""
    text: Callable[[Protocol], str] | None = None
    absent: Any = _REQUIRED
    section: str = "protocol"

    @property
    def required(self) -> bool:
        """Whether every header has it."""
        return self.absent is _REQUIRED


@dataclass(frozen=True, kw_only=True)
class RealTime:
    """How the world goes on while the policy thinks.

    The benchmark's world waits, which is `latency=None`; the other fields have no effect then.

    Attributes:
        latency: steps from a question to its answer, or `measured`: the policy's wall time,
            rounded up to whole steps. None: the world waits.
        hz: control steps per second, for a measured latency; CALVIN's robot has 30 (calvin_env
            `conf/env/play_table_env.yaml`, `control_freq`).
        ask: `empty` asks when no action is left; `ahead` asks so early that the answer arrives
            as the last action ends, if it takes as long as the one before.
        while_waiting: what is executed when no action is left: `hold` moves nothing and keeps
            the gripper's last command, `repeat` executes the last action again.
        stale: `keep` executes a chunk from its first action; `drop` leaves out the actions that
            were meant for the steps that have passed, though never a chunk's last one.
    """

    latency: int | Literal["measured"] | None = None
    hz: float = 30
    ask: Literal["empty", "ahead"] = "empty"
    while_waiting: Literal["hold", "repeat"] = "hold"
    stale: Literal["keep", "drop"] = "keep"

    def __post_init__(self) -> None:
        """Raise UsageError for a latency, a rate or a name that is not possible."""
        steps = type(self.latency) is int and self.latency >= 0
        if self.latency not in (None, "measured") and not steps:
            raise UsageError(
                "expected --realtime (protocol.realtime.latency) to be measured, or a number of "
                f"steps from 0 up; found {self.latency!r}"
            )
        if type(self.hz) not in (int, float) or not 0 < self.hz < math.inf:
            raise UsageError(
                f"expected protocol.realtime.hz to be steps per second, above 0; found {self.hz!r}"
            )
        for name in ("ask", "while_waiting", "stale"):
            check_choice(f"protocol.realtime.{name}", getattr(self, name), choices(RealTime, name))

    @property
    def text(self) -> str:
        """What the world does, in the verdict's words."""
        if self.latency is None:
            return "waits"
        if self.latency == "measured":
            return (
                f"goes on as long as measured at {self.hz} Hz, so no second run need give the same"
            )
        return f"goes on, latency {self.latency} steps"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rules that chains are run by; the defaults are the benchmark's own.

    Attributes:
        revision: of calvin_env, whose rules the table follows: `pinned` is 1431a46, calvin's
            submodule, which papers evaluate on; `head` is 797142c. Source: calvin `.gitmodules`.
        chains: name of the chain list: `official`, `dev`, `upstream:N`, `single:N` or a JSON
            file. Source of the official one: calvin `evaluation/multistep_sequences.py`,
            `get_sequences(1000)`.
        layout: `scene` fits start states to scene A, B or C; `upstream` takes scene D's numbers
            everywhere. The two are the same in scene D. Source: calvin `evaluation/utils.py`,
            `get_env_state_for_initial_condition`.
        num_chains: the first so many of the list; all if None.
        select: chain ids such as `3,17,40-49`; all if None.
        steps: budget of one subtask. Source: calvin `evaluation/evaluate_policy.py`, `EP_LEN`.
        budget: what the budget counts: environment steps, or decisions of the policy.
        instructions: `pack` for the asset pack's first sentence per task, or a YAML or JSON
            file. Source: calvin `conf/annotations/new_playtable_validation.yaml`.
        instruction_lines: whether the policy is given all lines of a sentence, or its `first`
            one. The benchmark's own sentences have one line.
        instruction_draw: seed by which one of a task's sentences is drawn for every subtask of
            every chain; None takes the first. Source: `evaluate_policy.py`, `rollout`.
        policy_reset: whether the policy forgets at every subtask or only at the chain's start.
            Source: `evaluate_policy.py`, `rollout`.
        world_reset: whether the start state is restored for the chain or for every subtask, or
            the `robot` alone is put back for every subtask. Source: `evaluate_policy.py`,
            `evaluate_sequence`.
        execute: actions executed of every chunk; all if None. The benchmark knows no chunks.
        leftover: whether the rest of a finished subtask's chunk is dropped, or kept and executed
            in the next subtask. Upstream's reset of a policy per subtask drops it.
        realtime: how the world goes on while the policy thinks. Upstream's waits.
        shift: what is changed about the benchmark, as `Shifts.parse` reads it, such as
            "camera=3,light=2"; None for the benchmark as it is.
        deterministic: whether every chain starts in a world that is built anew; False only in a
            user's own installation of calvin_env, which keeps one world as upstream does.
    """

    revision: Annotated[Revision, Rule(subject="Revision of calvin_env", section="sim")] = "pinned"
    chains: Annotated[str, Rule(judged_by="the hash of the chain list")] = "official"
    layout: Annotated[
        Literal["scene", "upstream"],
        Rule(judged_by="the hash of the chain list", absent="upstream"),
    ] = "scene"
    num_chains: Annotated[int | None, Rule(judged_by="the count of planned chains", least=1)] = None
    select: Annotated[str | None, Rule(judged_by="the count of planned chains")] = None
    steps: Annotated[
        int, Rule(subject="Budget per subtask", text=lambda p: f"{p.steps} {p.budget}", least=1)
    ] = 360
    budget: Annotated[
        Literal["env_steps", "decisions"], Rule(judged_by="the sentence on `steps`")
    ] = "env_steps"
    instructions: Annotated[str, Rule(judged_by="the hash of the instructions")] = "pack"
    instruction_lines: Annotated[
        Literal["all", "first"], Rule(judged_by="the hash of the instructions", absent="all")
    ] = "all"
    instruction_draw: Annotated[
        int | None, Rule(judged_by="the hash of the instructions", least=0, absent=None)
    ] = None
    policy_reset: Annotated[
        Literal["subtask", "chain"], Rule(subject="Reset of the policy per")
    ] = "subtask"
    world_reset: Annotated[
        Literal["chain", "subtask", "robot"],
        Rule(subject="Fresh world per", text=lambda p: p.fresh_world),
    ] = "chain"
    execute: Annotated[int | None, Rule(judged_by="nothing: the policy's own affair", least=1)] = (
        None
    )
    leftover: Annotated[Literal["drop", "keep"], Rule(subject="Leftover actions of a subtask")] = (
        "drop"
    )
    realtime: Annotated[
        RealTime,
        Rule(subject="World while the policy thinks", text=lambda p: p.realtime.text, absent=None),
    ] = RealTime()
    shift: Annotated[
        str | None, Rule(subject="Shifts", text=lambda p: p.shift or "none", absent=None)
    ] = None
    deterministic: Annotated[
        bool, Rule(judged_by="the sentence on `world_reset`", section="sim")
    ] = True

    def __post_init__(self) -> None:
        """Raise UsageError for a value that is not possible, or rules that contradict."""
        kinds = get_type_hints(Protocol)
        for name, rule in RULES.items():
            check_value(f"{rule.section}.{name}", getattr(self, name), kinds[name], rule.least)
        if self.shift is not None and str(self.shifts) != self.shift:
            raise UsageError(
                f"expected protocol.shift to be null or written as {str(self.shifts)!r}, "
                f"found {self.shift!r}"
            )
        if self.realtime.latency is not None and self.budget != "env_steps":
            raise UsageError(
                f"expected protocol.budget=env_steps with --realtime, found {self.budget}: a "
                "world that goes on counts time, not decisions"
            )

    @property
    def fresh_world(self) -> str:
        """How often the start state is restored, in the verdict's words."""
        if not self.deterministic:
            return "run, and not deterministic"
        robot = "chain, and the robot put back for every subtask"
        return robot if self.world_reset == "robot" else self.world_reset

    @property
    def shifts(self) -> Shifts:
        """What is changed about the benchmark."""
        return Shifts.parse(self.shift)

    def to_config(self) -> dict[str, dict[str, Any]]:
        """The configuration's keys with their values, by section: `protocol` and `sim`."""
        values = asdict(self)
        sections: dict[str, dict[str, Any]] = {}
        for name, rule in RULES.items():
            sections.setdefault(rule.section, {})[name] = values[name]
        return sections

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Protocol:
        """The inverse of `to_config`, also of an older header; other keys are passed over.

        Args:
            config: the sections of a configuration; `protocol.realtime` may be null for a world
                that waits.

        Raises:
            UsageError: a section or a value is missing or not possible.
        """
        values = {}
        for name, rule in RULES.items():
            section = config.get(rule.section)
            if not isinstance(section, Mapping):
                raise UsageError(f"expected a section {rule.section}, found {section!r}")
            if name not in section and rule.required:
                raise UsageError(f"expected {rule.section}.{name}, found nothing there")
            values[name] = section.get(name, rule.absent)
        values["realtime"] = _real_time(values["realtime"])
        return cls(**values)


def _real_time(value: Any) -> RealTime:
    if value is None:
        return RealTime()
    names = [entry.name for entry in fields(RealTime)]
    if not isinstance(value, Mapping) or sorted(value) != sorted(names):
        raise UsageError(f"expected protocol.realtime to be null or {names}, found {value!r}")
    return RealTime(**value)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The data that a comparable run is made on; the defaults are the benchmark's own.

    Attributes:
        pack: fingerprint of the official asset pack: SHA-256 over the paths and contents of
            upstream's files (`sim/assets/store.py`).
        scene: letter of the scene.
        chains: number of chains. Source: calvin `evaluation/evaluate_policy.py`,
            `NUM_SEQUENCES`.
        chain_length: subtasks of a chain.
        chain_list: `ChainList.sha256` of these chains and their start states.
        instructions: `InstructionSet.sha256` of the official pack's first sentence per task.
        renderers: those that draw the benchmark's images: Bullet's EGL plugin, which drew its
            data set, and our own drawing of the same images.
        images: what a policy may look at: cameras with width and height in pixels.
    """

    pack: str = "a1ae2c2341e5fbcff3b51334724fc4b6ddcb55fca85da2322313ee0e36d8b60a"
    scene: SceneName = "D"
    chains: int = 1000
    chain_length: int = 5
    chain_list: str = "45250061baf5e069c043d58624c4f98a109085a0a321744988e55cacecd22a67"
    instructions: str = "3bbd672982b9d2c8edf6945f69483609502da75290a3796387415ec08b7898c3"
    renderers: tuple[str, ...] = ("egl", "fast")
    images: str = "static 200x200, gripper 84x84"


RULES: Final[Mapping[str, Rule]] = {
    name: kind.__metadata__[0]
    for name, kind in get_type_hints(Protocol, include_extras=True).items()
}
"""What is known of every field of `Protocol`, in their order."""

OFFICIAL: Final = Protocol()
"""The benchmark's own rules."""

BENCHMARK: Final = Benchmark()
"""The benchmark's own data."""
