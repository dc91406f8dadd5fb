"""`calvin_eval.evaluate`: a run from Python, for scripts, notebooks and training loops."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Any, Literal, cast

from calvin_eval.config.compose import compose_config
from calvin_eval.config.schema import SHORTHANDS, EvalConfig
from calvin_eval.console.display import make_display
from calvin_eval.errors import PolicyError
from calvin_eval.rollouts.service import PolicyService
from calvin_eval.rollouts.worker import PolicyLink
from calvin_eval.running.outcome import Run
from calvin_eval.running.policy_in_use import PolicyInUse
from calvin_eval.running.prepare import batch_rules, gather_inputs, make_plan
from calvin_eval.running.recorder import Display
from calvin_eval.running.run import make_engine, run_evaluation, run_plan
from calvin_eval.wrappers.interface import ModelCalls, read_interface
from calvin_eval.wrappers.loaders import LoadedPolicy, wrap
from calvin_eval.wrappers.policy import Policy, with_defaults


def evaluate(  # noqa: PLR0913 - one argument per flag
    policy: str | Policy | object,
    *,
    split: str | None = None,
    num_chains: int | None = None,
    chains: str | None = None,
    preset: str | None = None,
    assets: str | os.PathLike[str] | None = None,
    render: str | None = None,
    revision: str | None = None,
    realtime: int | Literal["measured"] | None = None,
    shift: str | Sequence[str] | None = None,
    seed: int | None = None,
    trust: bool = False,
    confine: bool = False,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    shard: str | None = None,
    workers: int | Literal["auto"] | None = None,
    devices: str | Sequence[str] | None = None,
    max_batch: int | None = None,
    batch_wait: float | None = None,
    retries: int | None = None,
    step_timeout: float | None = None,
    max_errors: int | None = None,
    video: str | int | None = None,
    gate: str | None = None,
    baseline: str | os.PathLike[str] | None = None,
    expect: str | os.PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    quiet: bool = False,
) -> Run:
    """Evaluate a policy on CALVIN and write a run folder.

    Works in scripts, notebooks, threads, Hydra programs and training loops. It needs no
    `if __name__ == "__main__"` guard and never imports the caller's main module again: the
    simulators run in fresh interpreters. A policy object stays in this process, on the device
    where it is; `act` is called from one thread other than the caller's, without gradients.
    Nothing is printed to stdout; progress goes to stderr.

    An argument that is left out is as the preset or the configuration says; its default is named
    below.

    Args:
        policy: what `--ckpt` takes; or an object with `requirements`, `reset` and `act`
            (`calvin_eval.Policy`); or one with upstream's `reset()` and `step(obs, goal)`, which
            serves one chain at a time; or a class or function without arguments that makes one
            or the other, one per worker where it serves one chain at a time.
        split: `D`, `ABC_D`, `ABCD_D` (all evaluated in scene D), `A`, `B` or `C`. [D]
        num_chains: only the first so many chains of the list; all if None.
        chains: only these chains, for example `"3,17,40-49"`.
        preset: how a published policy is wrapped and run, or the path of a preset file.
        assets: `builtin`, `official`, or the path of a checkout of mees/calvin. [builtin]
        render: `auto`, `fast`, `gl`, `egl`, `tiny` or `none`. [auto]
        revision: of calvin_env, `pinned` or `head`. [pinned]
        realtime: simulated inference latency in steps, or `measured`; the world waits if None.
        shift: what is changed about the benchmark, such as `"start=3,layout=2"`; nothing if None.
        seed: of the policy. [0]
        trust: allow a checkpoint that can run code while it is loaded.
        confine: give the process of a named policy no network and no file to write to (Linux).
        out: the run folder; `runs/POLICY-SPLIT-TIME` if None.
        overwrite: move an older run of that name aside.
        resume: complete the run that `out` names.
        shard: `"I/N"`, only every N-th chain from the I-th.
        workers: simulator processes; 0 runs everything in this process. [auto]
        devices: devices of a named policy, one process each, such as `"cuda:0,cuda:1"`.
        max_batch: requests in one call of the policy.
        batch_wait: seconds to wait for a fuller batch.
        retries: of a chain after a crash or a hang of the simulator.
        step_timeout: seconds without an answer that count as a hang.
        max_errors: stop after so many error records.
        video: `all`, `failures`, `successes`, `none`, or the first so many chains.
        gate: stop when decided, for example `"min-avg-len=3.5"`; see `Run.decision`.
        baseline: run folder or card that the gate's `max-drop` refers to.
        expect: a checkpoint card whose chains are run first and compared; see `Run.check`.
        overrides: any other configuration, `KEY=VALUE` as on the command line.
        quiet: show no progress.

    Returns:
        The run: `summary`, `records`, `errors`, `folder`, `verdict`, `decision`.

    Raises:
        CalvinEvalError: something that the caller can fix; the message says how.
    """
    given = {name: value for name, value in locals().items() if name in SHORTHANDS}
    settings = {
        SHORTHANDS[name]: _plain(value)
        for name, value in given.items()
        if value is not None and value is not False
    }
    if preset is not None:
        overrides = (f"policy={preset}", *overrides)
    display = make_display(sys.stderr, quiet=quiet)
    if isinstance(policy, str):
        return run_evaluation(compose_config(overrides, {**settings, "ckpt": policy}), display)
    make: Callable[[], object] | None = None
    if _is_factory(policy):
        make = cast("Callable[[], object]", policy)
    name = getattr(policy if make else type(policy), "__qualname__", type(policy).__qualname__)
    config = compose_config(overrides, {**settings, "ckpt": f"object:{name}"})
    return _evaluate_object(policy, make, config, display)


def _plain(value: Any) -> Any:
    """A path as text; anything else as it is."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _evaluate_object(
    policy: object, make: Callable[[], object] | None, config: EvalConfig, display: Display
) -> Run:
    """Evaluate a policy object of this process, or what a factory makes in it."""
    rules = batch_rules(config)

    def load(instance: object) -> LoadedPolicy:
        loaded = _as_loaded(_as_policy(instance, config), config)
        return wrap(loaded, config.policy.observe, config.policy.actions)

    with ExitStack() as held:

        def begin() -> tuple[LoadedPolicy, PolicyLink]:
            loaded = load(policy if make is None else make())
            further = None if make is None else lambda: load(make()).policy
            service = PolicyService(loaded.policy, make=further, rules=rules)
            held.callback(service.close)
            link = PolicyLink(requirements=loaded.policy.requirements, address=service.address)
            return loaded, link

        in_use = held.enter_context(closing(PolicyInUse.here(begin)))
        plan = make_plan(gather_inputs(config), in_use)
        engine = held.enter_context(closing(make_engine(plan)))
        return run_plan(plan, engine, display)


def _is_factory(policy: object) -> bool:
    """Whether this is no policy but makes one: a class, or a function."""
    return inspect.isclass(policy) or (
        callable(policy) and not any(hasattr(policy, name) for name in ("reset", "step", "act"))
    )


def _as_policy(policy: Any, config: EvalConfig) -> Policy:
    if isinstance(policy, Policy):
        return policy
    if callable(getattr(policy, "step", None)) and callable(getattr(policy, "reset", None)):
        from calvin_eval.wrappers.custom import CustomModelPolicy

        interface = read_interface(config.policy.interface)
        return CustomModelPolicy(lambda: policy, type(policy).__qualname__, interface)
    raise PolicyError(
        "expected a checkpoint's name, an object with requirements, reset and act, or one with "
        f"reset and step; found {type(policy).__qualname__}. See docs/policies.md."
    )


def _as_loaded(policy: Policy, config: EvalConfig) -> LoadedPolicy:
    calls = getattr(policy, "calls", None)
    how = f": {calls.description}" if isinstance(calls, ModelCalls) else ""
    return LoadedPolicy(
        policy=with_defaults(policy),
        kind="object",
        description=f"policy object {config.ckpt.partition(':')[2]} of this process{how}",
        metadata={"kind": "object", "ckpt": config.ckpt},
    )
