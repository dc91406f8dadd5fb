"""What is computed from a run when no more chains will come: metrics, verdict, upstream's file.

Everything is read from the run folder, so that it can be computed again, and of a merged run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from calvin_eval.errors import RunFolderError
from calvin_eval.protocol import Protocol
from calvin_eval.results.comparability import drawn_by
from calvin_eval.results.header import HEADER, Header
from calvin_eval.results.metrics import Summary, summarize
from calvin_eval.results.official import (
    AS_WRITTEN,
    RunFacts,
    Verdict,
    departures,
    official_verdict,
)
from calvin_eval.results.schema import ChainRecord
from calvin_eval.results.store import RunFolder
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


def summarize_run(header: Header, records: Sequence[ChainRecord]) -> Summary:
    """The metrics of a run with this header; RunFolderError if the journal has other chains."""
    try:
        return summarize(records, len(header.planned))
    except ValueError as error:
        raise RunFolderError(f"{HEADER} and the journal disagree: {error}") from error


def conclude(folder: RunFolder) -> Conclusion:
    """Compute a run's metrics and verdict, and write them into its folder.

    Writes `summary.json`, the header's `verdict`, and `results.json` if every planned chain is
    completed.

    Raises:
        RunFolderError: the header lacks what the verdict is judged by, or the disk refuses.
    """
    header = folder.header()
    records = tuple(folder.records())
    summary = summarize_run(header, records)
    verdict = official_verdict(facts_from_header(header, summary))
    folder.update_header(verdict=verdict.to_json())
    write_summary(folder, summary, verdict)
    if summary.complete:
        folder.write_json("results.json", upstream_results(records))
    return Conclusion(records=records, summary=summary, verdict=verdict)


def write_summary(folder: RunFolder, summary: Summary, verdict: Verdict | None) -> None:
    """Write `summary.json`: the metrics, and the verdict if there is one."""
    stated = {"verdict": verdict.to_json()} if verdict else {}
    folder.write_json("summary.json", {**summary.to_json(), **stated})


def facts_from_header(header: Header, summary: Summary) -> RunFacts:
    """What the verdict is judged by, of a run whose header and metrics these are."""
    seen = header.policy.requirements
    return RunFacts(
        protocol=_protocol(header),
        pack=header.assets.fingerprint,
        scene=header.scene,
        chain_list=header.chains.sha256,
        planned=summary.planned,
        completed=summary.completed,
        errors=summary.errors,
        instructions=header.instructions.sha256,
        instruction_text=_instruction_text(header),
        renderer=drawn_by(header),
        fidelity=header.renderer.fidelity,
        needs_images=bool(seen.rgb or seen.depth),
        image_sizes=", ".join(
            f"{camera} {width}x{height}" for camera, (width, height) in seen.sizes.items()
        ),
        privileged=seen.privileged,
        reproducible=header.reproducibility.reproducible if header.reproducibility else None,
    )


def stated_departures(header: Header) -> tuple[str, ...]:
    """In what the rules of a run with this header differ from the benchmark's own."""
    nothing_yet = summarize((), len(header.planned))
    return departures(facts_from_header(header, nothing_yet))


def _protocol(header: Header) -> Protocol:
    """The rules in effect; a server's client may keep resets from its policy."""
    policy = header.policy
    if policy.protocol == "vla_eval" and policy.options.get("reset") == "chain":
        return replace(header.protocol, policy_reset="chain")
    return header.protocol


def _instruction_text(header: Header) -> str:
    """How the policy is given its instructions: a stage of that name may rewrite them."""
    for label, options in header.policy.stages.get("observe", {}).items():
        if isinstance(options, Mapping) and options.get("use") == "instruction":
            return f"rewritten by observe.{label}"
    return AS_WRITTEN
