"""`calvin-eval leaderboard`: a static site of verified entries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from calvin_eval.cli.options import json_option, option, out_option
from calvin_eval.console.saying import say
from calvin_eval.errors import UsageError


@click.group(short_help="Make a leaderboard of verified bundles.")
def leaderboard() -> None:
    """Make a leaderboard of verified bundles: a static site for any web host."""


record_signers_option = option(
    "--record-signers", metavar="FILE", type=click.Path(path_type=Path),
    help="Records count only if one of these SSH keys signed them.",
)  # fmt: skip
signers_option = option(
    "--signers", metavar="FILE", type=click.Path(path_type=Path),
    help="Names of those who sign bundles, by their SSH keys.",
)  # fmt: skip
sample_option = option(
    "--sample", type=click.IntRange(1), metavar="N",
    help="Verify N randomly sampled chains.", show_default="all",
)  # fmt: skip


@leaderboard.command("build")
@click.argument("entries", nargs=-1, required=True, type=click.Path(path_type=Path))
@out_option("SITE", "The site's folder.", required=True)
@option("--records", metavar="FOLDER", type=click.Path(path_type=Path),
        help="Records of verifications that count.", show_default="records in SITE")  # fmt: skip
@record_signers_option
@signers_option
@sample_option
@option("--no-verify", is_flag=True, help="Verify nothing; badges come from records alone.")
@option("--again", is_flag=True, help="Verify again what there are records of.")
@option("--assets", metavar="PACK", help="Where the runs' asset pack is.")
@option("--reported", metavar="FILE", type=click.Path(path_type=Path),
        help="Published results to show apart.", show_default="those that are shipped")  # fmt: skip
@option("--no-reported", is_flag=True, help="Show no published results.")
@option("--title", default="CALVIN leaderboard", metavar="TEXT", help="Of the site.")
@option("--workers", type=click.IntRange(0), metavar="N", show_default="one per core",
        help="Processes.")  # fmt: skip
@click.pass_context
def build(ctx: click.Context, /, entries: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Write a site of ENTRIES, bundles or folders with bundles.

    Every bundle is verified once, and the record kept: the next build reads it. What has not
    changed is not written again. Exits with 1 if a file was not accepted; the site says why.
    """
    from calvin_eval import __version__
    from calvin_eval.results.board.build import build_site
    from calvin_eval.results.board.reported import read_reported
    from calvin_eval.running.leaderboard import find_bundles

    built = build_site(
        find_bundles(entries), out, judge=_verifier(out, options), version=__version__,
        title=options["title"],
        reported=() if options["no_reported"] else read_reported(options["reported"]),
    )  # fmt: skip
    board = built.board
    badges = sum(row.badge.level != "none" for row in board.rows)
    say(f"{out / 'index.html'}: {len(board.rows)} entries, {badges} of them verified")
    say(f"{built.written} files written, {built.kept} as they were")
    for refusal in board.refused:
        say(f"not accepted: {refusal.file}: {refusal.why}")
    ctx.exit(1 if board.refused else 0)


@leaderboard.command("check")
@click.argument("entry", type=click.Path(path_type=Path))
@option("--against", metavar="FOLDER", multiple=True, type=click.Path(path_type=Path),
        help="Bundles, or folders of them, among which there must be none like it.")  # fmt: skip
@option("--max-megabytes", type=click.FloatRange(0, min_open=True), default=100.0, metavar="N",
        help="How large it may be.")  # fmt: skip
@option("--records", metavar="FOLDER", type=click.Path(path_type=Path),
        help="Records of verifications that count; a new one is written there.")  # fmt: skip
@record_signers_option
@signers_option
@sample_option
@option("--assets", metavar="PACK", help="Where the run's asset pack is.")
@option("--workers", type=click.IntRange(0), metavar="N", show_default="one per core",
        help="Processes.")  # fmt: skip
@out_option("FILE", "Write the verdict, as Markdown.")
@json_option
@click.pass_context
def check(
    ctx: click.Context, /, entry: Path, out: Path | None, as_json: bool, **options: Any
) -> None:
    """Say whether the bundle ENTRY can be an entry: a paragraph of Markdown.

    Looks at its form, verifies it, and looks at size, licence and duplicates. Exits with 0 if it
    can, with 1 if it cannot, and with 3 if nothing speaks against it but it could not be verified
    here.
    """
    import tempfile

    from calvin_eval.cli.gate import add_to_summary
    from calvin_eval.files import write_atomic
    from calvin_eval.foreign.text import printable
    from calvin_eval.results.board.check import check_entry
    from calvin_eval.running.leaderboard import find_bundles

    with tempfile.TemporaryDirectory(prefix="calvin-eval-") as place:
        judge = _verifier(Path(place), {**options, "no_verify": False, "again": False})
        found = check_entry(
            entry, judge=judge, others=find_bundles(options["against"]),
            most_bytes=int(options["max_megabytes"] * 1e6),
        )  # fmt: skip
    text = printable(found.markdown())
    if out is not None and str(out) != "-":
        write_atomic(out, text.encode())
    say(json.dumps(found.to_json(), indent=2) if as_json else text, nl=as_json)
    add_to_summary(text)
    ctx.exit({"good": 0, "bad": 1, "open": 3}[found.outcome])


def _verifier(out: Path, options: dict[str, Any]) -> Any:
    from calvin_eval.cli.verify import progress
    from calvin_eval.running.leaderboard import Verifier
    from calvin_eval.running.verifying import Scope

    if options["no_verify"] and (options["again"] or options["sample"]):
        raise UsageError("expected --no-verify without --again and --sample")
    scope = Scope(sample=options["sample"], everything=options["sample"] is None)
    return Verifier(
        records=options["records"] or out / "records",
        scope=None if options["no_verify"] else scope,
        progress=progress,
        again=options["again"],
        record_signers=options["record_signers"],
        signers=options["signers"],
        assets=options["assets"],
        workers=options["workers"],
    )
