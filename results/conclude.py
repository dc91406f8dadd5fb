"""What is computed from a run when no more chains will come: metrics, verdict, upstream's file.

Everything is read from the run folder, so that it can be computed again, and of a merged run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from calvin_eval.errors import RunFolderError
from calvin_eval.protocol import Protocol
from calvin_eval.results.metrics import Summary, summarize
from calvin_eval.results.official import (
    RunFacts,
    Verdict,
    departures,
    official_verdict,
)
from calvin_eval.results.protocol import drawn_by, recorded_protocol
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import HEADER, RunFolder
from calvin_eval.results.upstream import upstream_results


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


def conclude(folder: RunFolder) -> Conclusion:
    """Compute a run's metrics and verdict, and write them into its folder.

    Writes `summary.json`, the header's `verdict`, and `results.json` if every planned chain is
    completed.

    Raises:
        RunFolderError: the header lacks what the verdict is judged by, or the disk refuses.
    """
    header = folder.header()
    records = tuple(folder.records())
    summary = summarize(records, len(_get(header, "chains", "planned")))
    verdict = official_verdict(facts_from_header(header, summary))
    folder.update_header(verdict=verdict.to_json())
    folder.write_json("summary.json", summary_json(summary, verdict))
    if summary.complete:
        folder.write_json("results.json", upstream_results(records))
    return Conclusion(records=records, summary=summary, verdict=verdict)


def summary_json(summary: Summary, verdict: Verdict | None) -> dict[str, Any]:
    """The content of `summary.json`: the metrics, and the verdict if there is one."""
    return {**summary.to_json(), **({"verdict": verdict.to_json()} if verdict else {})}


def facts_from_header(header: Mapping[str, Any], summary: Summary) -> RunFacts:
    """What the verdict is judged by, of a run whose header and metrics these are.

    Raises:
        RunFolderError: the header lacks one of the facts.
    """
    requirements = _get(header, "policy", "requirements")
    return RunFacts(
        protocol=_protocol(header),
        pack=_get(header, "assets", "fingerprint"),
        scene=_get(header, "scene"),
        chain_list=_get(header, "chains", "sha256"),
        planned=summary.planned,
        completed=summary.completed,
        errors=summary.errors,
        instructions=_get(header, "instructions", "sha256"),
        instruction_text=_instruction_text(header),
        renderer=drawn_by(header),
        fidelity=_get(header, "renderer").get("fidelity", ""),
        needs_images=bool(_get(requirements, "rgb") or _get(requirements, "depth")),
        image_sizes=", ".join(
            f"{camera} {width}x{height}"
            for camera, (width, height) in requirements.get("sizes", {}).items()
        ),
        privileged=_get(requirements, "privileged"),
    )


def stated_departures(header: Mapping[str, Any]) -> tuple[str, ...]:
    """In what the rules of a run with this header differ from the benchmark's own.

    Raises:
        RunFolderError: the header lacks one of the facts.
    """
    nothing_yet = summarize((), len(_get(header, "chains", "planned")))
    return departures(facts_from_header(header, nothing_yet))


def _protocol(header: Mapping[str, Any]) -> Protocol:
    """The rules in effect; a server's client may keep resets from its policy."""
    protocol, policy = recorded_protocol(header), _get(header, "policy")
    if policy.get("protocol") == "vla_eval" and policy.get("options", {}).get("reset") == "chain":
        return replace(protocol, policy_reset="chain")
    return protocol


def _instruction_text(header: Mapping[str, Any]) -> str:
    """How the policy is given its instructions: a stage of that name may rewrite them."""
    stages = _get(header, "policy").get("stages", {}).get("observe", {})
    for label, options in stages.items():
        if options.get("use") == "instruction":
            return f"rewritten by observe.{label}"
    return "as written"


def _get(tree: Any, *path: str) -> Any:
    for key in path:
        if not isinstance(tree, Mapping) or key not in tree:
            raise RunFolderError(
                f"expected {'.'.join(path)} in {HEADER}, found nothing there. Was the run written "
                "by another version of calvin-eval? Read it with that one."
            )
        tree = tree[key]
    return tree
