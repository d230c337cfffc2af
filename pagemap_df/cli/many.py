"""Commands about many snapshots: over time, and across hosts."""

from __future__ import annotations

import re
from typing import Any

import click

from .. import printing
from .base import as_json, limited, main, show

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class _Duration(click.ParamType[float]):
    """A number with a unit: 500ms, 1s, 10m, 2h."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Seconds, or a usage error."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", value)
        if not found:
            self.fail(f"{value!r} is no duration; write 500ms, 1s, 10m or 2h", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


@main.command()
@click.argument("pids", type=int, nargs=-1)
@click.option("--every", type=_Duration(), default="1s", show_default=True)
@click.option("--for", "for_", type=_Duration(), help="Stop after so long.")
@click.option("--budget", type=click.FloatRange(0, 1), help="Fraction of one processor to use.")
@click.option("--freeze", is_flag=True, help="Keep processes still while they are read.")
@click.option("--output", "-o", required=True, metavar="DIR", help="Where the data set is kept.")
def watch(
    pids: tuple[int, ...],
    every: float,
    for_: float | None,
    budget: float | None,
    freeze: bool,
    output: str,
) -> None:
    """Record snapshot after snapshot: whole ones, and what changed between them."""
    from .. import watching
    from ..watching.estimate import estimate

    wanted = list(pids) or None
    cost = estimate(pids=wanted)
    click.echo(
        f"pagemap-df: {cost.pages:,} pages of {cost.processes} processes; the first look takes "
        f"about {cost.seconds:.2g} s",
        err=True,
    )
    done = watching.record(
        output, pids=wanted, every=every, for_=for_, budget=budget, freeze=freeze
    )
    click.echo(
        f"{output}: {done.snapshots} snapshots, {done.keys} of them whole, "
        f"{printing.size(done.bytes)}; it took {done.cpu_seconds:.2f} s of processor time, "
        f"and the processes stood still for {done.stopped_seconds:.2f} s"
    )


@main.command()
@click.argument("query")
@click.argument("dataset")
@click.option("--scheduler", metavar="ADDRESS", help="A Dask scheduler, tcp://…; else in here.")
@click.option("--skip", is_flag=True, help="Leave out hosts that fail, and list them.")
@as_json
@limited
def fleet(
    query: str, dataset: str, scheduler: str | None, skip: bool, as_json: bool, limit: int | None
) -> None:
    """Ask every host of DATASET the same: a packaged question, or SQL.

    Packaged are sharers, swap, huge and workers.
    """
    from .. import fleet as fleets
    from ..dataset import open_dataset

    on_error: Any = "skip" if skip else "raise"
    hosts = open_dataset(dataset, on_error=on_error)
    if scheduler is None:
        found = fleets.map(query, hosts, on_error=on_error)
    else:
        import distributed

        client: Any = distributed
        with client.Client(scheduler) as cluster, cluster.get_executor() as executor:
            found = fleets.map(query, hosts, executor, on_error=on_error)
    show(found, as_json, tuple(printing.sizes_of(found)), limit)
    for host in found.attrs.get("skipped", ()):
        click.echo(f"pagemap-df: skipped {host}", err=True)
