"""What all commands share: the words that choose processes, errors, printing.

A command parses, opens, hands over and prints; what it prints is made elsewhere. Data goes to
standard output, everything else to standard error. Exit status: 0 fine, 1 it failed, 2 it was
called wrongly, 3 a right is missing.

All commands that look at processes take the same words: pids, or ``--name`` and
``--cgroup``; and ``--from`` a snapshot, a directory or tar shaped like ``/proc`` in place of
the running kernel.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .. import printing, store
from ..errors import NotPermitted, PagemapError
from ..read import read_snapshot
from ..snapshot import Snapshot
from ..take import take
from ..take.joins import JOINS

if TYPE_CHECKING:
    import pandas as pd

FAILED, NO_PERMISSION = 1, 3


class _Program(click.Group):
    """Turns our errors into one line and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        def show(message: Any, *_: Any, **__: Any) -> None:
            click.echo(f"pagemap-df: warning: {message}", err=True)

        with warnings.catch_warnings():
            warnings.showwarning = show
            try:
                return super().invoke(ctx)
            except PagemapError as error:
                _end(error, NO_PERMISSION if isinstance(error, NotPermitted) else FAILED)
            except BrokenPipeError:
                # Whoever read our output has seen enough. Python would complain at exit.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return None
            except OSError as error:
                _end(error, FAILED)


def _end(error: Exception, status: int) -> NoReturn:
    click.echo(f"pagemap-df: {error}", err=True)
    sys.exit(status)


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "-V", "--version", package_name="pagemap_df")
def main() -> None:
    """Linux page maps as tables: what is mapped, shared, and in swap."""


def looking(
    *joins: str, whole_machine: Callable[[dict[str, Any]], bool] = lambda words: False
) -> Callable[[Callable[..., Any]], Any]:
    """Give a command the words that choose processes, and a snapshot of them as `snap`.

    `joins` are the columns that the command always needs; the caller may ask for more. Words
    of the command that `take` understands (`_TAKE`) go there. `whole_machine` tells from a
    command's words whether it needs all page frames of the machine.
    """

    def decorate(command: Callable[..., Any]) -> Any:
        def wrapped(pids: tuple[int, ...], where: str | None, **rest: Any) -> Any:
            options = {word: rest.pop(word) for word in _TAKE if word in rest}
            options["join"] = {*joins, *options["join"]}
            if whole_machine(rest):
                options["machine_frames"] = True
            return command(snapshot_of(where, pids, options), **rest)

        update_wrapper(wrapped, command)
        for word in reversed(_WORDS):
            wrapped = word(wrapped)
        return wrapped

    return decorate


_TAKE = ("name", "cgroup", "join", "freeze", "machine_frames", "smaps", "raw", "holes")
_WORDS = (
    click.argument("pids", type=int, nargs=-1),
    click.option(
        "--from", "-f", "where", metavar="PATH",
        help="A snapshot, or a directory or tar shaped like /proc. Else the running kernel.",
    ),
    click.option("--name", metavar="PATTERN", help="Only processes called so (a glob)."),
    click.option("--cgroup", metavar="PATH", help="Only processes in this cgroup or below."),
    click.option(
        "--join", "-j", multiple=True, type=click.Choice(JOINS),
        help="A column to add to pages. May be given several times.",
    ),
    click.option("--freeze", is_flag=True, help="Keep processes still while they are read."),
)  # fmt: skip


def snapshot_of(where: str | None, pids: tuple[int, ...], options: dict[str, Any]) -> Snapshot:
    """The stored snapshot at `where`, or one taken now with the words of `take`."""
    if where is not None and Path(where).is_dir() and store.find(where):
        snap = read_snapshot(where)
        if pids or options["name"] or options["cgroup"]:
            raise click.UsageError(
                f"{where} is a finished snapshot; choose its processes with sql, or leave "
                "out pids, --name and --cgroup"
            )
    else:
        snap = take(where, pids=list(pids) or None, **options)
    _say_doubts(snap)
    return snap


def _say_doubts(snap: Snapshot) -> None:
    facts = snap.facts
    unknown = dict(facts.get("unknown", {}))
    if facts.get("pfns") == "hidden":
        why = str(facts.get("pfns_why"))
        lost = sorted(column for column, reason in unknown.items() if why in reason)
        so = f", and so {', '.join(lost)} unknown" if lost else ""
        click.echo(f"pagemap-df: frame numbers are hidden{so}: {why}", err=True)
        unknown = {column: reason for column, reason in unknown.items() if column not in lost}
    for column, why in unknown.items():
        click.echo(f"pagemap-df: {column} is unknown: {why}", err=True)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
limited = click.option(
    "--limit", "-n", type=click.IntRange(min=1), help="Print at most so many rows."
)


def show(
    frame: pd.DataFrame, as_json: bool, sizes: tuple[str, ...] = (), limit: int | None = None
) -> None:
    """Print a table to standard output."""
    if as_json:
        click.echo(printing.records(frame if limit is None else frame.head(limit)))
    else:
        click.echo(printing.text(frame, sizes, limit=limit))
