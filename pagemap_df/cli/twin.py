"""The command that holds the simulator against the running kernel."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from .. import printing
from ..sim import Script, twin
from .base import FAILED, as_json, main


@main.command("twin")
@click.argument(
    "script", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--random", "-r", "count", type=click.IntRange(min=1), help="So many random scripts.")
@click.option("--seed", default=0, show_default=True, help="Of the scripts, and of places in them.")
@click.option(
    "--keep", metavar="DIR", type=click.Path(path_type=Path), help="Keep what diverges as scripts."
)
@as_json
def both(
    script: Path | None, count: int | None, seed: int, keep: Path | None, as_json: bool
) -> None:
    """Run SCRIPT, or random ones, on the simulated machine and on this kernel, and compare.

    Needs root. Knobs of the machine are turned for the time, and turned back whatever happens.
    What diverges is printed as the smallest script that still does, with a table of the
    differences; the exit status is 1 then.
    """
    if (script is None) == (count is None):
        raise click.UsageError("name a SCRIPT, or say --random N")
    if script is not None:
        result = twin.run(Script.load(script), seed)
    else:
        result = twin.random(count or 0, seed)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=1))
    else:
        _say(result)
    if keep is not None:
        for number, one in enumerate(result.divergences):
            keep.mkdir(parents=True, exist_ok=True)
            path = keep / f"seed-{seed}-{one.number}-{number}.pms"
            path.write_text(one.script.dump())
            click.echo(f"pagemap-df: {path}", err=True)
    if result.divergences:
        sys.exit(FAILED)


def _say(result: twin.Result) -> None:
    click.echo(result.summary())
    for one in result.divergences:
        again = "" if one.stable else ", not when it was played again"
        click.echo(f"\nscript {one.number}{again}:\n\n{one.script.dump()}")
        click.echo(printing.text(one.differences, limit=20))
