"""`calvin_eval.evaluate`: a run from Python, for scripts, notebooks and training loops."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from calvin_eval.config.compose import compose_config
from calvin_eval.config.schema import SHORTHANDS, EvalConfig
from calvin_eval.console.display import make_display
from calvin_eval.errors import PolicyError
from calvin_eval.rollouts.batching import BatchRules
from calvin_eval.rollouts.hosts import FixedPolicy
from calvin_eval.rollouts.service import PolicyService
from calvin_eval.rollouts.worker import PolicyLink
from calvin_eval.running.prepare import PolicyInUse, make_plan, set_stage
from calvin_eval.running.run import Run, make_engine, run_evaluations, run_plan
from calvin_eval.wrappers.loaders import LoadedPolicy, wrap
from calvin_eval.wrappers.policy import Policy

# Keyword arguments of `evaluate`: flags of the command line that make sense in a program.
_SHORTHANDS = {
    name: SHORTHANDS[name]
    for name in (
        "split", "num_chains", "chains", "realtime", "assets", "render", "revision", "out",
        "overwrite", "resume", "seed", "workers", "max_batch", "max_errors", "video", "gate",
        "baseline", "expect",
    )
}  # fmt: skip


def evaluate(
    policy: Any, *, overrides: Sequence[str] = (), quiet: bool = False, **settings: Any
) -> Run:
    """Evaluate a policy on CALVIN and write a run folder.

    Needs no `if __name__ == "__main__"` guard and never imports the caller's main module again:
    the simulators run in fresh interpreters. A policy object stays in this process, on the device
    where it is; `act` is called from one thread other than the caller's, without gradients.

    Args:
        policy: what `--ckpt` takes; or an object with `requirements`, `reset` and `act`
            (`calvin_eval.wrappers.policy`); or one with upstream's `reset()` and
            `step(obs, goal)`, which serves one chain at a time.
        overrides: configuration as on the command line, for example `["protocol.steps=60"]`.
        quiet: show nothing.
        **settings: split, num_chains, chains, realtime, assets, render, revision, out, overwrite,
            resume, seed, workers, max_batch, max_errors, video, gate, baseline, expect; as the
            flags of the same names.

    Returns:
        The run: `summary`, `records`, `folder`, `verdict`.

    Raises:
        CalvinEvalError: something that the caller can mend.
        TypeError: a keyword that does not exist.
    """
    unknown = sorted(set(settings) - set(_SHORTHANDS))
    if unknown:
        known = ", ".join(_SHORTHANDS)
        raise TypeError(f"unknown argument {unknown[0]!r} of evaluate(); expected one of {known}")
    values = {_SHORTHANDS[name]: value for name, value in settings.items() if value is not None}
    display = make_display(sys.stderr, quiet=quiet)
    if isinstance(policy, str):
        (run,) = run_evaluations([compose_config(overrides, {**values, "ckpt": policy})], display)
        return run
    served = _as_policy(policy)
    config = compose_config(overrides, {**values, "ckpt": f"object:{type(policy).__qualname__}"})
    rules = BatchRules(most=config.engine.max_batch, wait=config.engine.batch_wait)
    loaded = wrap(_as_loaded(served, config), config.policy.observe, config.policy.actions)
    with closing(PolicyService(loaded.policy, rules=rules)) as service:
        plan = make_plan(set_stage(config), _in_use(loaded, service))
        with closing(make_engine(plan)) as engine:
            return run_plan(plan, engine, display)


def _as_policy(policy: Any) -> Policy:
    if isinstance(policy, Policy):
        return policy
    if callable(getattr(policy, "step", None)) and callable(getattr(policy, "reset", None)):
        from calvin_eval.wrappers.custom import CustomModelPolicy

        return CustomModelPolicy(lambda: policy, type(policy).__qualname__)
    raise PolicyError(
        "expected a checkpoint's name, an object with requirements, reset and act, or one with "
        f"reset and step; found {type(policy).__qualname__}. See docs/policies.md."
    )


def _as_loaded(policy: Policy, config: EvalConfig) -> LoadedPolicy:
    return LoadedPolicy(
        policy=policy,
        kind="object",
        description=f"policy object {config.ckpt.partition(':')[2]} of this process",
        metadata={"kind": "object", "ckpt": config.ckpt},
    )


def _in_use(loaded: LoadedPolicy, service: PolicyService) -> PolicyInUse:
    requirements = loaded.policy.requirements
    link = PolicyLink(requirements=requirements, address=service.address)
    return PolicyInUse(
        hosts=(FixedPolicy(link),),
        description=loaded.description,
        metadata=loaded.metadata,
        requirements=requirements,
        max_sessions=getattr(loaded.policy, "max_sessions", None),
    )
