"""`calvin-eval verify`: are a run's claims what its actions give?"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from calvin_eval.cli.options import json_option, option
from calvin_eval.console.saying import say
from calvin_eval.errors import UsageError
from calvin_eval.foreign.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from calvin_eval.results.signatures import Signature
    from calvin_eval.results.verification import Verification
    from calvin_eval.rollouts.verify.inputs import Sources
    from calvin_eval.running.verifying import Scope

EXIT_CODES = {"verified": 0, "deviates": 1, "unchecked": 3}

_SHOWN = 10


@click.command(short_help="Simulate a run or bundle again and compare every bit.")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@option("--chains", metavar="IDS", help="Only these chains, for example 3,17,40-49.")
@option(
    "--sample",
    type=click.IntRange(1),
    metavar="N",
    show_default="50",
    help="N randomly sampled chains.",
)
@option("--all", "everything", is_flag=True, help="All chains.")
@option("--seed", type=int, metavar="N", help="Draw the same chains again.")
@option("--assets", metavar="PACK", help="Where the run's asset pack is.")
@option("--chain-list", metavar="FILE", help="The run's own chain list.")
@option("--instructions", metavar="FILE", help="The run's own instructions.")
@option(
    "--signers",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Want a signature of the bundle by one of these SSH keys.",
)
@option("--record", metavar="FILE", type=click.Path(path_type=Path),
        help="Store what was verified of the bundle, for a leaderboard.")  # fmt: skip
@option("--sign", "key", metavar="KEY", type=click.Path(path_type=Path),
        help="Sign the record with this SSH key, into FILE.sig.")  # fmt: skip
@option("--workers", type=click.IntRange(0), metavar="N", show_default="one per core",
        help="Processes.")  # fmt: skip
@json_option
@click.pass_context
def verify(ctx: click.Context, /, run: Path, as_json: bool, **options: Any) -> None:
    """Simulate RUN, a run folder or a bundle, again from its actions and compare every bit.

    RUN may be a robustness suite, too, of run folders or of bundles: all its runs are verified, and
    measured again.

    No policy is needed and nothing is drawn. Exits with 0 if everything agrees, with 1 if anything
    deviates, and with 3 if nothing deviates but some chains could not be checked.
    """
    from calvin_eval.results.robustness.document import is_suite
    from calvin_eval.rollouts.verify.inputs import Sources
    from calvin_eval.running.verifying import Scope, store_record, verify_path

    sources = Sources(
        assets=options["assets"], chains=options["chain_list"], instructions=options["instructions"]
    )
    scope = Scope(
        chains=options["chains"], sample=options["sample"], everything=options["everything"],
        seed=options["seed"],
    )  # fmt: skip
    if run.is_dir() and is_suite(run):
        ctx.exit(_verify_suite(run, scope, sources, options, as_json=as_json))
    record, key = options["record"], options["key"]
    if record is not None and run.is_dir():
        raise UsageError("expected a bundle with --record: the files of a run folder may change")
    if key is not None and record is None:
        raise UsageError("expected --record FILE with --sign: it is the record that is signed")
    found = verify_path(
        run, scope, sources=sources, signers=options["signers"], workers=options["workers"],
        progress=progress,
    )  # fmt: skip
    result, seed = found.result, found.seed
    if record is not None:
        store_record(run, found, record, key)
    if as_json:
        say(json.dumps({**result.to_json(), "sample_seed": seed}, indent=2))
    else:
        from calvin_eval.console.terminal import Terminal

        print_verification(result, Terminal(file=sys.stdout, highlight=False, soft_wrap=True), seed)
        if record is not None:
            say(f"record: {record}")
    ctx.exit(EXIT_CODES[result.status])


def _verify_suite(
    folder: Path, scope: Scope, sources: Sources, options: dict[str, Any], *, as_json: bool
) -> int:
    """Verify a suite, say what was found, and return the exit code."""
    from calvin_eval.running.suite_verifying import verify_suite

    for name in ("signers", "record", "key"):
        if options[name] is not None:
            raise UsageError("expected one bundle with --signers, --record or --sign, not a suite")
    found = verify_suite(
        folder, scope, sources=sources, workers=options["workers"], progress=progress
    )
    if as_json:
        runs = {name: run.to_json() for name, run in found.runs.items()}
        document = {"status": found.status, "runs": runs, "deviations": list(found.deviations)}
        say(json.dumps(document, indent=2))
        return EXIT_CODES[found.status]
    for name, run in found.runs.items():
        say(f"{name}: {run.status}, {len(run.of('verified'))} of {run.recorded} chains")
        for problem in [*run.problems()][:_SHOWN]:
            say(f"  {printable(str(problem))}")
    for deviation in found.deviations:
        say(f"  {deviation}")
    say(f"{found.status}: {len(found.runs)} runs of the suite")
    return EXIT_CODES[found.status]


@contextmanager
def progress(total: int) -> Iterator[Callable[[object], None]]:
    """A bar on a terminal, nothing elsewhere; to be called with whatever is done."""
    from rich.progress import Progress

    from calvin_eval.console.terminal import Terminal

    console = Terminal(file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("simulating", total=total)
        yield lambda done: bar.advance(task)


def print_verification(result: Verification, console: Console, seed: int | None) -> None:
    """What was found, in a few lines."""
    colour = {"verified": "green", "deviates": "bold red", "unchecked": "yellow"}[result.status]
    counts = [f"{len(result.of('verified'))} verified", f"{len(result.of('deviates'))} deviate",
              f"{len(result.of('unchecked'))} not checked"]  # fmt: skip
    steps = sum(check.steps for check in result.chains)
    console.print(f"[{colour}]{result.status}[/]: {', '.join(counts)} of {result.recorded} chains")
    if result.claim is not None:
        console.print(f"claim: {result.claim}", markup=False)
    if result.signature is not None and result.signature.good:
        console.print(_describe_signature(result.signature), markup=False)
    drawn = "" if seed is None else f", drawn with --seed {seed}"
    console.print(f"{len(result.chains)} chains simulated again in {steps} steps{drawn}")
    lines = [f"  {problem}" for problem in result.problems()]
    _print_some(console, "deviations:", lines)
    reasons = Counter(check.reason for check in result.of("unchecked"))
    lines = [f"  {n} chain{'s' * (n > 1)}: {reason}" for reason, n in reasons.most_common()]
    lines += [f"  {note}" for note in result.notes]
    _print_some(console, "not checked in this run:", lines)
    _print_ledger(console)


def _print_ledger(console: Console) -> None:
    """Which facts of any run are believed, or nearly so."""
    from calvin_eval.results.ledger import LEDGER

    for treatment in ("cross-checked", "not checked"):
        console.print(f"{treatment}:")
        for entry in LEDGER:
            if entry.treatment == treatment:
                console.print(f"  {entry.why} ({', '.join(entry.facts)})", markup=False)


def _describe_signature(signature: Signature) -> str:
    if signature.signer is not None:
        return f"signed by {signature.signer} ({signature.key})"
    return f"signed with the {signature.key}; whose it is was not checked (--signers FILE)"


def _print_some(console: Console, title: str, lines: list[str]) -> None:
    if not lines:
        return
    console.print(title)
    for line in lines[:_SHOWN]:
        console.print(line, markup=False)  # what a stranger's file says is no markup
    if len(lines) > _SHOWN:
        console.print(f"  and {len(lines) - _SHOWN} more; --json shows all")
