"""Commands that take tables, look at them, and hand them on."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import click
import pyarrow as pa

from .. import printing, schema, store
from ..errors import FormatError
from ..snapshot import Snapshot
from .base import as_json, limited, looking, main, show

_EXPORT_ROWS = 1 << 16


@main.command()
@looking()
@click.option("--output", "-o", required=True, metavar="DIR", help="Where snapshots are kept.")
@click.option("--machine-frames", is_flag=True, help="Keep all page frames of the machine.")
@click.option("--smaps", is_flag=True, help="Keep the kernel's own figures too. Slow.")
@click.option("--raw", is_flag=True, help="Keep the 64-bit words.")
@as_json
def capture(snap: Snapshot, output: str, as_json: bool) -> None:
    """Take a snapshot and keep it as Parquet."""
    place = store.write(snap, output)
    if as_json:
        counts = {name: len(snap.arrow(name)) for name in schema.TABLES}
        click.echo(json.dumps({"path": str(place), "rows": counts}))
    else:
        click.echo(str(place))
    _say_skipped(snap)


@main.command()
@looking()
@as_json
def info(snap: Snapshot, as_json: bool) -> None:
    """Say what was looked at, what could be seen, and why the rest could not."""
    if as_json:
        click.echo(json.dumps(snap.facts, indent=2))
        return
    click.echo(repr(snap))
    for name, value in snap.facts.items():
        if name not in ("skipped", "complete") and value not in (None, {}, []):
            shown = (
                ", ".join(f"{k}: {v}" for k, v in value.items())
                if isinstance(value, dict)
                else value
            )
            click.echo(f"{name:<14} {shown}")
    swaps = snap.table("swaps")
    if len(swaps):
        click.echo("\n" + printing.text(swaps, ["size", "used"]))
    _say_skipped(snap)


def _say_skipped(snap: Snapshot) -> None:
    """How many processes were passed over, by reason, on standard error."""
    reasons = Counter(_general(entry["reason"]) for entry in snap.facts.get("skipped", ()))
    for reason, count in reasons.most_common():
        click.echo(f"pagemap-df: {count} skipped: {reason}", err=True)


def _general(reason: str) -> str:
    """A reason without what is particular to one process."""
    return re.sub(r"^\S*/\d+/|^\d+[/:]\s*", "", reason)


@main.command()
@looking()
@click.option("--holes", is_flag=True, help="Absent pages too.")
@click.option("--raw", is_flag=True, help="The 64-bit words too.")
@as_json
@limited
def pages(snap: Snapshot, as_json: bool, limit: int | None) -> None:
    """Print the pages themselves, one a line."""
    table = snap.arrow("pages")
    found = schema.to_pandas(table if limit is None else table.slice(0, limit))
    show(found, as_json)
    if limit is not None and limit < len(table):
        click.echo(f"pagemap-df: {len(table) - limit:,} more rows", err=True)


@main.command()
@click.argument("query")
@looking()
@as_json
@limited
def sql(snap: Snapshot, query: str, as_json: bool, limit: int | None) -> None:
    """Ask the tables pages, vmas, frames, swaps and processes in SQL (DuckDB)."""
    import duckdb

    try:
        found = snap.sql(query)
    except duckdb.Error as error:
        raise FormatError(f"SQL that DuckDB understands: {error}") from error
    show(found, as_json, limit=limit)


@main.command()
@looking()
@click.option(
    "--format",
    "-F",
    "form",
    default="parquet",
    show_default=True,
    type=click.Choice(["parquet", "csv", "jsonl", "arrow", "procfs"]),
    help="parquet: a whole snapshot. procfs: a tree shaped like /proc. Others: one table.",
)
@click.option(
    "--table", "-t", default="pages", show_default=True, type=click.Choice(list(schema.TABLES))
)
@click.option("--output", "-o", default="-", metavar="PATH", help="- is standard output.")
def export(snap: Snapshot, form: str, table: str, output: str) -> None:
    """Hand tables on: parquet, csv, json lines, arrow (a stream), or a procfs tree."""
    if form in ("parquet", "procfs"):
        if output == "-":
            raise click.UsageError(f"--format {form} writes a directory; name it with --output")
        click.echo(str(store.write(snap, output)) if form == "parquet" else output)
        if form == "procfs":
            snap.write_procfs(output)
        return
    with click.open_file(output, "wb") as file:
        _export_table(snap.arrow(table), form, file)


def _export_table(table: pa.Table, form: str, file: Any) -> None:
    if form == "arrow":
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        return
    for at, batch in enumerate(table.to_batches(max_chunksize=_EXPORT_ROWS)):
        frame = schema.to_pandas(pa.Table.from_batches([batch]))
        if form == "csv":
            frame.to_csv(file, index=False, header=at == 0)
        else:
            file.writelines(line.encode() + b"\n" for line in printing.json_lines(frame))
