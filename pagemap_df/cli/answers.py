"""Commands that answer questions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import printing, store
from ..snapshot import Snapshot
from ..take.joins import JOINS
from .base import as_json, limited, looking, main, show, snapshot_of

if TYPE_CHECKING:
    import pandas as pd

_SIZES = ("vss", "rss", "pss", "uss", "swap")


class _Address(click.ParamType[int]):
    """A number as Python writes it: 0x7f… or decimal."""

    name = "address"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """The number, or a usage error."""
        try:
            return int(value, 0)
        except ValueError:
            self.fail(f"{value!r} is no address; write 0x7f0012345000 or a decimal", param, ctx)


ALL = ("mapcount", "flags", "huge")
grouped = click.option(
    "--group-by", "-g", metavar="COLUMN",
    help="name, uid, user, cgroup, tree (families), or any column of processes; /…/ is a "
    "pattern for command lines.",
)  # fmt: skip


def _grouping(text: str | None) -> str | re.Pattern[str] | None:
    if text is not None and len(text) > 2 and text[0] == text[-1] == "/":
        try:
            return re.compile(text[1:-1])
        except re.error as error:
            raise click.BadParameter(f"{text}: {error}") from error
    return text


def _sorted(frame: pd.DataFrame, column: str | None) -> pd.DataFrame:
    """`frame` by `column`: figures largest first, names ascending."""
    if column is None:
        return frame
    if column not in frame.columns:
        raise click.BadParameter(f"no column {column!r} to sort by; there are {list(frame)}")
    ascending = frame[column].dtype.kind not in "iuf" or column in printing.PLAIN
    return frame.sort_values(column, ascending=ascending, kind="stable")


def _tell(frame: pd.DataFrame, as_json: bool, limit: int | None = None) -> None:
    """Print an analysis, and on standard error what its columns do not say by themselves."""
    show(frame, as_json, tuple(printing.sizes_of(frame)), limit)
    for column, note in frame.attrs.get("accuracy", {}).items():
        if column in frame.columns and frame[column].isna().any():
            click.echo(f"pagemap-df: {column} is not fully known: {note}", err=True)


sort_by = click.option("--sort", "-s", metavar="COLUMN", help="Figures largest first.")


@main.command()
@looking(*ALL)
@grouped
@click.option("--vmas", is_flag=True, help="One line for each mapping.")
@sort_by
@as_json
@limited
def ps(
    snap: Snapshot,
    group_by: str | None,
    vmas: bool,
    sort: str | None,
    as_json: bool,
    limit: int | None,
) -> None:
    """Size of each process: VSS, RSS, PSS, USS and swap; or of groups, counted once."""
    from .. import sharing

    if group_by is not None:
        found = sharing.groups(snap, by=_grouping(group_by))
    elif vmas:
        found = sharing.vmas(snap)[["pid", "start", "end", "perms", *_SIZES, "path"]]
    else:
        found = sharing.processes(snap)[["pid", "ppid", "name", *_SIZES]]
        sort = sort or "pss"
    _tell(_sorted(found, sort), as_json, limit)


@main.command()
@looking(*ALL)
@click.option(
    "--show", "-S", "what", default="sets", show_default=True,
    type=click.Choice(["sets", "groups", "matrix", "mechanisms"]),
    help="sets: who holds frames together. matrix: every two. mechanisms: by what.",
)  # fmt: skip
@grouped
@click.option("--cost", type=int, metavar="PID", help="What this process alone costs.")
@click.option("--lost", type=(int, int), metavar="PARENT CHILD", help="Sharing lost since fork.")
@sort_by
@as_json
@limited
def share(
    snap: Snapshot,
    what: str,
    group_by: str | None,
    cost: int | None,
    lost: tuple[int, int] | None,
    sort: str | None,
    as_json: bool,
    limit: int | None,
) -> None:
    """Who shares memory with whom, by what, and what one more process would cost."""
    from .. import sharing

    if cost is not None:
        found = sharing.cost(snap, cost)
    elif lost is not None:
        found = sharing.lost(snap, parent=lost[0], child=lost[1])
    elif what == "groups" or group_by is not None:
        found = sharing.groups(snap, by=_grouping(group_by))
    elif what == "matrix":
        found = sharing.matrix(snap).rename(columns=str).reset_index()
    else:
        found = getattr(sharing, what)(snap)
    _tell(_sorted(found, sort), as_json, limit)


@main.command()
@looking()
@click.option(
    "--by", default="area", show_default=True,
    type=click.Choice(["area", "process", "vma", "slot"]),
)  # fmt: skip
@sort_by
@as_json
@limited
def swap(snap: Snapshot, by: str, sort: str | None, as_json: bool, limit: int | None) -> None:
    """What sits in which slots of which swap device, and what cannot be accounted for."""
    from .. import swapping

    answer = {
        "area": swapping.areas,
        "process": swapping.processes,
        "vma": swapping.vmas,
        "slot": swapping.slots,
    }
    _tell(_sorted(answer[by](snap), sort), as_json, limit)


@main.command()
@click.argument("before")
@click.argument("after", required=False)
@click.option(
    "--by", default="process", show_default=True, type=click.Choice(["process", "vma", "page"])
)
@sort_by
@as_json
@limited
def diff(
    before: str, after: str | None, by: str, sort: str | None, as_json: bool, limit: int | None
) -> None:
    """What happened to pages between two snapshots; without AFTER, between BEFORE and now."""
    from .. import changes

    options = {"join": ALL, "name": None, "cgroup": None}
    old = snapshot_of(before, (), options)
    pids = () if after is not None else tuple(old.arrow("processes")["pid"].to_pylist())
    new = snapshot_of(after, pids, options)
    answer = {"process": changes.processes, "vma": changes.vmas, "page": changes.pages}
    found = answer[by](old, new)
    quiet = [c for c in changes.CHANGES if c in found.columns and not found[c].any()]
    _tell(_sorted(found.drop(columns=quiet), sort), as_json, limit)


_OF_MACHINE = ("usage", "histogram", "fragmentation")


@main.command()
@looking(*ALL, whole_machine=lambda words: words["what"] in _OF_MACHINE)
@click.option(
    "--show", "-S", "what", default="huge", show_default=True,
    type=click.Choice(["huge", "folios", "contiguity", *_OF_MACHINE]),
    help="The last three are about all page frames of the machine.",
)  # fmt: skip
@sort_by
@as_json
@limited
def layout(snap: Snapshot, what: str, sort: str | None, as_json: bool, limit: int | None) -> None:
    """How memory lies: huge pages by VMA, runs of page frames, what frames are used for."""
    from .. import layout as layouts

    found = getattr(layouts, what)(snap)
    if what in ("huge", "contiguity"):
        found = found[found[found.columns[4]] > 0]
    _tell(_sorted(found, sort), as_json, limit)


@main.command()
@click.argument("pid", type=int)
@click.argument("address", type=_Address())
@click.option("--from", "-f", "where", metavar="PATH", help="As for the other commands.")
@as_json
def page(pid: int, address: int, where: str | None, as_json: bool) -> None:
    """Everything known about the page of PID at ADDRESS (0x… or decimal), in words."""
    from .. import story

    stored = where is not None and Path(where).is_dir() and bool(store.find(where))
    options = {"join": set(JOINS), "name": None, "cgroup": None}
    snap = snapshot_of(where, () if stored else (pid,), options)
    found = story.page(snap, pid, address)
    if as_json:
        show(found.row, as_json)
    else:
        click.echo(str(found))
