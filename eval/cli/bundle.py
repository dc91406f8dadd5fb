"""`calvin-eval bundle` and `calvin-eval export`: a run for other people."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import click

from calvin_eval.cli.options import option, out_option
from calvin_eval.console.saying import say
from calvin_eval.errors import RunFolderError, UsageError

_RUN = click.argument("run", type=click.Path(path_type=Path))


@click.command(short_help="Pack a run into one file that anybody can verify.")
@_RUN
@option(
    "--meta", required=True, metavar="FILE", type=click.Path(path_type=Path),
    help="Model card in YAML or JSON.",
)  # fmt: skip
@out_option("NAME.zip", "The bundle.", required=True)
@option(
    "--video", "videos", multiple=True, metavar="GLOB",
    help="Take these of the run's videos, for example '0003*'; may be given more than once.",
)  # fmt: skip
@option(
    "--sign", "key", metavar="KEY", type=click.Path(path_type=Path),
    help="Sign it with this SSH key, into NAME.zip.sig.",
)  # fmt: skip
@option("--overwrite", is_flag=True, help="Replace an older bundle of that name.")
def bundle(
    run: Path,
    meta: Path,
    out: Path,
    videos: tuple[str, ...],
    key: Path | None,
    overwrite: bool,
) -> None:
    """Pack the run folder RUN into one file that anybody can verify.

    Records, actions, metrics, chosen videos and the model card, with the SHA-256 of each. The same
    run gives the same bytes. Of a robustness suite, --out is a folder, which gets a bundle of every
    run and the suite's file.
    """
    from calvin_eval.results.bundle import write_bundle
    from calvin_eval.results.model_card import read_model_card
    from calvin_eval.results.robustness.document import is_suite
    from calvin_eval.results.signatures import sign, signature_path
    from calvin_eval.results.store import RunFolder
    from calvin_eval.running.suite_verifying import bundle_suite

    card = read_model_card(meta)
    if run.is_dir() and is_suite(run):
        if videos or key is not None or overwrite:
            raise UsageError("expected --meta and --out alone with a robustness suite")
        made = bundle_suite(run, card, out)
        say(f"{out}: {len(made)} bundles; anybody can check them by: calvin-eval verify {out.name}")
        return
    folder = RunFolder.open(run)
    if signature_path(out).exists() and not overwrite:
        raise UsageError(f"{signature_path(out)} exists: choose another --out, or --overwrite")
    info = write_bundle(folder, card, out, videos=videos, overwrite=overwrite)
    megabytes = info.path.stat().st_size / 1e6
    say(f"{info.path}: {len(info.files)} files, {megabytes:.1f} MB, sha256 {info.sha256}")
    signature_path(info.path).unlink(missing_ok=True)  # of the bundle that was replaced
    if key is not None:
        say(f"signed: {sign(info.path, key)}")
    say(f"anybody can check it by: calvin-eval verify {info.path.name}")


@click.command(short_help="Write a run in the entry formats of leaderboards.")
@_RUN
@option(
    "--meta", metavar="FILE", type=click.Path(path_type=Path),
    help="Model card in YAML or JSON; a bundle has its own.",
)  # fmt: skip
@option("--robo-actions", is_flag=True, help="Write the executed actions as RoboActions instead.")
@out_option("FOLDER", "Where to write the entries.", required=True)
def export(run: Path, meta: Path | None, out: Path, robo_actions: bool) -> None:
    """Write RUN, a run folder or a bundle, in the entry formats of public leaderboards.

    results.json is upstream's own, vla-leaderboard.json that of allenai/vla-evaluation-harness,
    evo-sota.json that of Evo-SOTA.io. A run that departs from the official protocol says so.
    """
    if robo_actions:
        _export_actions(run, out)
        return

    from calvin_eval.files import write_atomic
    from calvin_eval.results.bundle import CARD
    from calvin_eval.results.leaderboards import leaderboard_entries
    from calvin_eval.results.model_card import read_model_card
    from calvin_eval.results.verification import recheck_derived
    from calvin_eval.running.prepare import utc_now
    from calvin_eval.running.verifying import opened

    today = datetime.date.fromisoformat(utc_now()[:10])
    with opened(run) as folder:
        if meta is None and not (folder.path / CARD).exists():
            raise UsageError("expected --meta FILE with the model card of this run")
        card = read_model_card(meta or folder.path / CARD)
        if (wrong := next(recheck_derived(folder), None)) is not None:
            raise RunFolderError(
                f"{run}: {wrong.what}: expected {wrong.expected}, found {wrong.found}. The "
                "metrics are not those of the records; see `calvin-eval verify`."
            )
        entries = leaderboard_entries(folder, card, today)
    out.mkdir(parents=True, exist_ok=True)
    for name, entry in entries.items():
        write_atomic(out / name, (json.dumps(entry, indent=2, ensure_ascii=False) + "\n").encode())
        say(str(out / name))


def _export_actions(run: Path, out: Path) -> None:
    """Write a run's actions as RoboActions, one per line."""
    from calvin_eval.files import write_atomic
    from calvin_eval.running.robo_actions import FILE, robo_action_lines
    from calvin_eval.running.verifying import opened

    with opened(run) as folder:
        lines = list(robo_action_lines(folder))
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / FILE, "".join(f"{line}\n" for line in lines).encode())
    say(f"{out / FILE}: {len(lines)} actions")
