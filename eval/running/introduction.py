"""What a run says before its first chain: policy, assets, chains, renderer and rules."""

from __future__ import annotations

from calvin_eval.config.presets import describe_rules
from calvin_eval.results.store import RunFolder
from calvin_eval.running.paths import short_path
from calvin_eval.running.prepare import RunPlan, choose_workers
from calvin_eval.running.recorder import Display


def introduce(plan: RunPlan, folder: RunFolder, display: Display) -> None:
    """Say what will be run, with what, and where it is written down."""
    inputs = plan.inputs
    chains = inputs.chain_list
    display.note(f"policy: {plan.policy.description}")
    display.note(
        f"assets: {inputs.pack.name} pack {inputs.pack.fingerprint[:12]}, scene {plan.config.scene}"
    )
    display.note(f"chains: {len(inputs.chains)} of {chains.name} list {chains.sha256[:12]}")
    for remark in inputs.instructions.remarks():
        display.note(remark)
    render = plan.render
    parts = (render.backend, render.renderer, render.version)
    drawn = ", ".join(filter(None, parts)) if plan.policy.requirements.cameras else ""
    display.note(f"renderer: {drawn or 'none (the policy needs no images)'}")
    if plan.config.protocol.realtime.latency == "measured":
        many = choose_workers(plan) > 1
        hint = "; --workers 1 --max-batch 1 measures what one robot would wait" if many else ""
        display.note(f"real time: as measured, so no second run need give the same{hint}")
    if rules := describe_rules(plan.header):
        display.note(rules)
    display.note(f"writing to {short_path(folder.path)}")
