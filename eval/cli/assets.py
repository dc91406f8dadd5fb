"""`calvin-eval assets`: which asset packs are here, are they sound, and how to get upstream's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from calvin_eval.cli.options import option
from calvin_eval.console.saying import say
from calvin_eval.errors import AssetError

_ROWS = 20  # problems shown by `verify`

if TYPE_CHECKING:
    from rich.console import Console

    from calvin_eval.sim.assets.manifest import Manifest, Problem
    from calvin_eval.sim.assets.store import Progress


@click.group()
def assets() -> None:
    """Show, check and fetch asset packs."""


@assets.command("list")
def list_packs() -> None:
    """Show the built-in pack and every place where upstream's may lie."""
    from rich.table import Table

    from calvin_eval.sim.assets import store

    table = Table("pack", "from", "state", "files", "fingerprint", "path")
    builtin = store.builtin_manifest()
    digest = store.fingerprint(builtin)[:12]
    path = str(store.identify("builtin")[1])
    table.add_row("builtin", "package", "ok", str(len(builtin.files)), digest, path)
    official = store.official_manifest()
    digest = store.fingerprint(official)[:12]
    for candidate in store.official_candidates():
        state = _state(candidate.path, official)
        shown = digest if state == "ok" else ""
        files = str(len(official.files))
        place = str(candidate.path)
        table.add_row("official", candidate.origin, state, files, shown, place)
    for column in table.columns:
        column.overflow = "fold"
    _stdout().print(table)


@assets.command()
@click.argument("pack", default="official")
def verify(pack: str) -> None:
    """Compare every file of PACK (builtin, official or a PATH) with its known hash.

    The built-in pack is what is installed: for it, this checks that all it needs is there.
    """
    from calvin_eval.sim.assets import store

    if pack == "builtin":
        root, manifest = store.identify("builtin")[1], store.builtin_manifest()
    else:
        root = store.find_official(None if pack == "official" else pack)
        manifest = store.official_manifest()
    problems = store.verify_pack(root, manifest)
    if problems:
        _stdout().print(_problem_table(problems))
        raise AssetError(store.explain(root, problems, manifest))
    say(f"pack         {manifest.name}")
    say(f"path         {root}")
    say(f"files        {len(manifest.files)} ({manifest.size / 1e6:.1f} MB), all as expected")
    say(f"fingerprint  {store.fingerprint(manifest)}")


@assets.command("import")
@click.argument("path", type=click.Path(path_type=Path))
def import_(path: Path) -> None:
    """Copy upstream's files from the checkout of mees/calvin at PATH into the cache."""
    from calvin_eval.sim.assets import store

    with _progress("importing") as progress:
        folder = store.import_pack(path, progress=progress)
    _done(folder)


@assets.command()
@option("--base-url", help="Mirror to use; may have the fields {repo}, {commit} and {path}.")
def pull(base_url: str | None) -> None:
    """Download upstream's files at their pinned commits into the cache."""
    from calvin_eval.sim.assets import store

    with _progress("pulling") as progress:
        folder = store.pull_pack(base_url=base_url or store.DEFAULT_BASE_URL, progress=progress)
    _done(folder)


@assets.command()
@click.argument("pack", type=click.Choice(["builtin", "official"]), default="official")
def path(pack: str) -> None:
    """Print the folder of PACK, unverified."""
    from calvin_eval.sim.assets import store

    say(store.identify("builtin")[1] if pack == "builtin" else store.find_official())


def _state(root: Path, manifest: Manifest) -> str:
    from calvin_eval.sim.assets.manifest import verify_pack

    if not root.is_dir():
        return "absent"
    problems = verify_pack(root, manifest)
    return "ok" if not problems else f"{len(problems)} files missing or altered"


def _problem_table(problems: list[Problem]) -> object:
    from rich.table import Table

    table = Table("file", "problem", "expected", "found")
    for problem in problems[:_ROWS]:
        found = (problem.found or "")[:12]
        table.add_row(problem.path, problem.kind, problem.expected[:12], found)
    if len(problems) > _ROWS:
        table.add_row(f"... and {len(problems) - _ROWS} more")
    table.columns[0].overflow = "fold"
    return table


def _done(folder: Path) -> None:
    """Say where the pack is, and if another one comes first when `official` is asked for."""
    from calvin_eval.sim.assets import store

    say(folder)
    first = store.official_candidates()[0]
    if first.path != folder:
        say(f"note: {store.ASSETS_VARIABLE} names {first.path}, used instead", err=True)


def _stdout() -> Console:

    from calvin_eval.console.terminal import Terminal

    return Terminal(file=sys.stdout, soft_wrap=False, highlight=False)


@contextmanager
def _progress(verb: str) -> Iterator[Progress]:
    """A progress bar on stderr, as a callback for the store."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn(verb), BarColumn(), DownloadColumn(), TextColumn("{task.fields[file]}"))
    from calvin_eval.console.terminal import Terminal

    with Progress(*columns, console=Terminal(file=sys.stderr)) as bar:
        task = bar.add_task(verb, visible=False, file="")

        def report(file: str, done: int, total: int) -> None:
            name = Path(file).name
            bar.update(task, completed=done, total=total, file=name, visible=True)

        yield report
