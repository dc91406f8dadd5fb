"""What is computed from a run when no more chains will come: metrics, verdict, upstream's file.

Everything is read from the run folder, so that it can be computed again, and of a merged run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from calvin_eval.errors import RunFolderError
from calvin_eval.results.metrics import Summary, summarize
from calvin_eval.results.official import (
    ProtocolFacts,
    Verdict,
    departures,
    official_verdict,
)
from calvin_eval.results.protocol import drawn_by
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import HEADER, RunFolder
from calvin_eval.results.upstream import upstream_results


@dataclass(frozen=True, kw_only=True)
class OfficialHashes:
    """What an official run is made of, as hexadecimal SHA-256.

    Attributes:
        pack: fingerprint of the official asset pack.
        chains: of the 1000 official chains.
        instructions: of the official pack's validation instructions.
    """

    pack: str
    chains: str
    instructions: str


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What a run says.

    Attributes:
        records: its chains, in order of their ids.
        summary: its metrics.
        verdict: whether it is official, and why not.
    """

    records: tuple[ChainRecord, ...]
    summary: Summary
    verdict: Verdict


def conclude(folder: RunFolder, official: OfficialHashes) -> Conclusion:
    """Compute a run's metrics and verdict, and write them into its folder.

    Writes `summary.json`, the header's `verdict`, and `results.json` if every planned chain is
    completed.

    Raises:
        RunFolderError: the header lacks what the verdict is judged by, or the disk refuses.
    """
    header = folder.header()
    records = tuple(folder.records())
    summary = summarize(records, len(_get(header, "chains", "planned")))
    verdict = official_verdict(facts_from_header(header, summary, official))
    stated = {"official": verdict.official, "reasons": list(verdict.reasons)}
    folder.update_header(verdict=stated)
    folder.write_json("summary.json", {**summary.to_json(), "verdict": stated})
    if summary.complete:
        folder.write_json("results.json", upstream_results(records))
    return Conclusion(records=records, summary=summary, verdict=verdict)


def facts_from_header(
    header: Mapping[str, Any], summary: Summary, official: OfficialHashes
) -> ProtocolFacts:
    """What the verdict is judged by, of a run whose header and metrics these are.

    Raises:
        RunFolderError: the header lacks one of the facts.
    """
    protocol = _get(header, "config", "protocol")
    requirements = _get(header, "policy", "requirements")
    fresh = _get(header, "config", "sim", "deterministic")
    return ProtocolFacts(
        pack_fingerprint=_get(header, "assets", "fingerprint"),
        official_fingerprint=official.pack,
        revision=_get(header, "revision"),
        chain_list_hash=_get(header, "chains", "sha256"),
        official_chain_list_hash=official.chains,
        planned=summary.planned,
        completed=summary.completed,
        errors=summary.errors,
        instructions_hash=_get(header, "instructions", "sha256"),
        official_instructions_hash=official.instructions,
        instruction_text=_instruction_text(header),
        step_budget=f"{_get(protocol, 'steps')} {_get(protocol, 'budget')}",
        policy_reset=_policy_reset(header),
        world_reset=_get(protocol, "world_reset") if fresh else "run, and not deterministic",
        leftover=_get(protocol, "leftover"),
        realtime=_world_while_thinking(protocol.get("realtime")),
        scene=_get(header, "scene"),
        renderer=drawn_by(header),
        fidelity=_get(header, "renderer").get("fidelity", ""),
        needs_images=bool(_get(requirements, "rgb") or _get(requirements, "depth")),
        image_sizes=", ".join(
            f"{camera} {width}x{height}"
            for camera, (width, height) in requirements.get("sizes", {}).items()
        ),
        privileged=_get(requirements, "privileged"),
    )


def stated_departures(header: Mapping[str, Any], official: OfficialHashes) -> tuple[str, ...]:
    """In what the rules of a run with this header differ from the benchmark's own.

    Raises:
        RunFolderError: the header lacks one of the facts.
    """
    nothing_yet = summarize((), len(_get(header, "chains", "planned")))
    return departures(facts_from_header(header, nothing_yet, official))


def _policy_reset(header: Mapping[str, Any]) -> str:
    """When the policy forgets; a server's client may keep resets from it."""
    policy = _get(header, "policy")
    if policy.get("protocol") == "vla_eval" and policy.get("options", {}).get("reset") == "chain":
        return "chain"
    reset: str = _get(header, "config", "protocol", "policy_reset")
    return reset


def _instruction_text(header: Mapping[str, Any]) -> str:
    """How the policy is given its instructions: a stage of that name may rewrite them."""
    stages = _get(header, "policy").get("stages", {}).get("observe", {})
    for label, options in stages.items():
        if options.get("use") == "instruction":
            return f"rewritten by observe.{label}"
    return "as written"


def _world_while_thinking(settings: Mapping[str, Any] | None) -> str:
    """In words; a header from before there was real time has no settings."""
    latency = None if settings is None else _get(settings, "latency")
    if settings is None or latency is None:
        return "waits"
    if latency == "measured":
        hz = _get(settings, "hz")
        return f"goes on as long as measured at {hz} Hz, so no second run need give the same"
    return f"goes on, latency {latency} steps"


def _get(tree: Any, *path: str) -> Any:
    for key in path:
        if not isinstance(tree, Mapping) or key not in tree:
            raise RunFolderError(
                f"expected {'.'.join(path)} in {HEADER}, found nothing there. Was the run written "
                "by another version of calvin-eval? Read it with that one."
            )
        tree = tree[key]
    return tree
