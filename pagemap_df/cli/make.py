"""Commands that make something: a simulated machine, a picture, the collector."""

from __future__ import annotations

from pathlib import Path

import click

from .. import store
from ..errors import SnapshotError
from ..snapshot import Snapshot
from .base import looking, main

_OF_TWO = ("changes", "transitions")
_PICTURES = ("address_space", "contiguity", "huge", "physical", "rss", "sharing_matrix", "swap")


@main.command()
@click.argument("script", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--output", "-o", required=True, metavar="DIR", help="Where to write.")
@click.option(
    "--format", "-F", "form", default="parquet", show_default=True,
    type=click.Choice(["parquet", "procfs"]),
    help="parquet: every snap. procfs: the machine at the end, as a tree shaped like /proc.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of the simulated machine.")
@click.option("--era", default="E7", show_default=True, help="Layout of the pagemap words.")
def simulate(script: Path, output: str, form: str, seed: int, era: str) -> None:
    """Run SCRIPT on a simulated machine and keep what it shows."""
    from .. import sim

    workload = sim.Script.load(script)
    machine = sim.Machine(workload.memory or "4G", rng=seed, era=era)
    snaps = machine.run(workload)
    for outcome in machine.outcomes:
        line = "" if outcome.line is None else f"line {outcome.line}: "
        said = f"{line}{outcome.process}: {outcome.what} {outcome.detail}"
        click.echo(f"pagemap-df: {said.rstrip()}", err=True)
    if form == "procfs":
        machine.write_procfs(output)
        click.echo(output)
        return
    if not snaps:
        raise SnapshotError("a script with at least one 'snap'", path=str(script), found="none")
    for name, snap in snaps.items():
        click.echo(f"{store.write(snap, output)}  {name}")


@main.command()
@click.argument("picture", type=click.Choice([*_PICTURES, *_OF_TWO]))
@looking("mapcount", "flags", "huge")
@click.option("--before", metavar="PATH", help="The earlier snapshot, for changes and transitions.")
@click.option("--output", "-o", required=True, metavar="FILE", help=".png, .svg or .pdf")
def plot(snap: Snapshot, picture: str, before: str | None, output: str) -> None:
    """Draw PICTURE into a file."""
    from .. import plot as pictures
    from .base import snapshot_of

    draw = getattr(pictures, f"plot_{picture}")
    if picture in _OF_TWO:
        if before is None:
            raise click.UsageError(f"{picture} compares two snapshots; name the earlier: --before")
        options = {"join": ("mapcount", "flags", "huge"), "name": None, "cgroup": None}
        axes = draw(snapshot_of(before, (), options), snap, ax=pictures.blank())
    else:
        axes = draw(snap, ax=pictures.blank())
    axes.figure.savefig(output, dpi=150, bbox_inches="tight")
    click.echo(output)


@main.command()
def collector() -> None:
    """Print a program that captures on hosts where nothing can be installed.

    It is one file for any Python from 3.6 on. Run it there with -o NAME.tar.gz, and read what
    it leaves here with --from NAME.tar.gz.
    """
    from ..source.collector import source

    click.echo(source(), nl=False)
