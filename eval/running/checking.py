"""The convention check: on demonstrations, on a policy's own first chains, and beside a run."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from calvin_eval.config.schema import EvalConfig
from calvin_eval.errors import CalvinEvalError, PolicyError, UsageError
from calvin_eval.rollouts.chain import ChainOutcome, ChainRunner
from calvin_eval.rollouts.demonstrations import replayed
from calvin_eval.rollouts.interrupts import marked_interrupts
from calvin_eval.rollouts.worker import PolicyLink
from calvin_eval.running.policy_in_use import PolicyInUse
from calvin_eval.running.prepare import (
    RunInputs,
    RunPlan,
    gather_inputs,
    make_plan,
    policy_spec,
)
from calvin_eval.sim.oracle import TaskOracle
from calvin_eval.wrappers.builtin.replay import read_recording
from calvin_eval.wrappers.check import Demonstration, Finding, ask, compare, examine
from calvin_eval.wrappers.check.calvin_folder import read_folder
from calvin_eval.wrappers.check.reference import LEAST_ACTIONS

WATCH_AT = (LEAST_ACTIONS, 1000)
"""Executed actions after which a run looks at them: soon, and once more when more is to be seen."""

HEADER_KEY = "action_check"

_MEANT = ("constant", "gripper-constant")
"""What a built-in policy does on purpose."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A policy that was looked at.

    Attributes:
        policy: one line about it.
        source: what it was compared with.
        actions: how many were looked at.
        findings: what is suspicious; empty if nothing is.
    """

    policy: str
    source: str
    actions: int
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether there is no error among the findings."""
        return all(finding.severity != "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "passed": self.passed,
            "policy": self.policy,
            "source": self.source,
            "actions": self.actions,
            "findings": [finding.as_dict() for finding in self.findings],
        }


@dataclass(frozen=True)
class Demos:
    """Which demonstrations a policy is held against.

    Attributes:
        path: a data set in CALVIN's or in LeRobot's format, or a recording (`.npz`), which is
            simulated again.
        count: how many subtasks at most.
        keys: CALVIN's name of an array -> feature, for LeRobot's format.
    """

    path: Path
    count: int
    keys: Mapping[str, str] = field(default_factory=dict)


def check_on_demonstrations(
    config: EvalConfig, demos: Demos, note: Callable[[str], None]
) -> Checked:
    """Hold a policy against demonstrations; nothing that it says is executed.

    Args:
        config: of the run that the policy is meant for.
        demos: the demonstrations.
        note: called with what is being done.

    Raises:
        CalvinEvalError: something that the user can fix.
    """
    inputs = gather_inputs(config)
    loaded = policy_spec(config).load()
    note(f"policy: {loaded.description}")
    with closing(_demonstrations(demos, inputs, loaded)) as shown:
        try:
            pairs = ask(loaded.policy, shown, execute=config.protocol.execute)
        except CalvinEvalError:
            raise
        except Exception as error:
            raise PolicyError(f"the policy raised {type(error).__name__}: {error}") from error
    return Checked(
        policy=loaded.description,
        source=f"{pairs.episode[-1] + 1} demonstrations from {demos.path}",
        actions=len(pairs),
        findings=tuple(_meant(compare(pairs), loaded.metadata)),
    )


def _demonstrations(
    demos: Demos, inputs: RunInputs, loaded: Any
) -> Generator[Demonstration, None, None]:
    path = demos.path
    if path.is_dir():
        yield from read_folder(path, demos.count, demos.keys)
        return
    if not path.exists():
        raise UsageError(f"no such file or folder of demonstrations: {path}")
    recording = read_recording(path)
    assignment = make_plan(inputs, _in_use(loaded)).assignment(0)
    with closing(assignment.simulator.build()) as env:
        yield from replayed(
            env, recording, inputs.chain_list, inputs.instructions, assignment.rules, demos.count
        )


def check_on_chains(config: EvalConfig, note: Callable[[str], None]) -> Checked:
    """Let a policy act on the chains of a configuration and look at what it does.

    Raises:
        CalvinEvalError: something that the user can fix.
    """
    inputs = gather_inputs(config)
    loaded = policy_spec(config).load()
    note(f"policy: {loaded.description}")
    plan = make_plan(inputs, _in_use(loaded))
    watch = ActionWatch(loaded.metadata, at=())
    findings = []
    for outcome in _act(plan, loaded.policy, note):
        watch.add(outcome)
        if outcome.record.status == "error":
            findings.append(_broken(outcome))
    findings += watch.examine()
    if watch.actions < LEAST_ACTIONS and not findings:
        findings.append(
            Finding(
                code="too-few",
                severity="warning",
                sentence=f"{watch.actions} actions are too few to judge by: give more chains with "
                "--num-chains.",
            )
        )
    return Checked(
        policy=loaded.description,
        source=f"its own actions on {len(inputs.chains)} chains",
        actions=watch.actions,
        findings=tuple(findings),
    )


def _act(plan: RunPlan, policy: Any, note: Callable[[str], None]) -> Iterator[ChainOutcome]:
    assignment = plan.assignment(0)
    with closing(assignment.simulator.build()) as env, marked_interrupts():
        runner = ChainRunner(
            env,
            TaskOracle(plan.inputs.pack),
            policy,
            instructions=assignment.instructions,
            rules=assignment.rules,
        )
        for chain in plan.inputs.chains:
            outcome = runner.run(chain)
            note(f"chain {chain.id}: {sum(map(len, outcome.actions))} actions")
            yield outcome


def _broken(outcome: ChainOutcome) -> Finding:
    return Finding(
        code="chain-error",
        severity="error",
        sentence=f"chain {outcome.record.chain} ended with an error: {outcome.record.cause}",
    )


def _in_use(loaded: Any) -> PolicyInUse:
    """The policy in this process, as far as a plan wants to know of it."""
    link = PolicyLink(requirements=loaded.policy.requirements)
    return PolicyInUse.fixed(loaded, link)


class ActionWatch:
    """Looks at executed actions while chains come in.

    Args:
        metadata: of the policy; built-in ones hold still on purpose.
        at: numbers of actions after which to look.

    Attributes:
        actions: how many came in.
    """

    def __init__(self, metadata: Mapping[str, Any], at: Sequence[int] = WATCH_AT) -> None:
        self._metadata = metadata
        self._at = list(at)
        self._over = False
        self._subtasks: list[Sequence[Any]] = []
        self._chains: list[int] = []
        self.actions = 0

    def add(self, outcome: ChainOutcome) -> list[Finding] | None:
        """Take a chain's actions; returns findings when it is time to look, else None."""
        if self._over:
            return None
        self._subtasks += outcome.actions
        self._chains += [outcome.record.chain] * len(outcome.actions)
        self.actions += sum(map(len, outcome.actions))
        if not self._at or self.actions < self._at[0]:
            return None
        self._at = [goal for goal in self._at if goal > self.actions]
        self._over = not self._at
        findings = self.examine()
        if self._over:
            self._subtasks.clear()
        return findings

    def examine(self) -> list[Finding]:
        """What is suspicious about all actions so far."""
        return _meant(examine(self._subtasks, chains=self._chains), self._metadata)


def _meant(findings: Sequence[Finding], metadata: Mapping[str, Any]) -> list[Finding]:
    """Findings in which a built-in policy's purpose is no reproach."""
    if metadata.get("kind") != "builtin":
        return list(findings)
    return [replace(f, severity="info") if f.code in _MEANT else f for f in findings]
