"""What changes over time: USS and PSS of processes, and memory lost to copy-on-write.

In: snapshots in the order they were taken, or a table with a row for each moment and process
(or VMA). Time is that of ``taken_at``, in seconds after the first; where a snapshot does not
say when it was taken, its number.

What can go wrong: fewer than two moments, or a table without the columns (`TableError`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .. import sharing
from ..algebra.arrays import Tables
from ..errors import TableError
from . import canvas
from .colouring import slots_for
from .given import require, tables_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZES = ("uss", "pss")


def plot_sizes(data: Sequence[Tables] | pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """USS and PSS of processes over time.

    Parameters
    ----------
    data : sequence of Snapshot, or DataFrame
        Snapshots, or a table with ``taken_at``, ``pid``, ``uss`` and ``pss`` (and ``name``).
    ax : Axes, optional
        Axes to draw on; new ones if not given.

    Returns
    -------
    Axes
        Full lines are PSS, dashed ones USS, in bytes; the eight largest processes have a
        colour each. What is unknown leaves a gap.
    """
    table = data if isinstance(data, pd.DataFrame) else _sizes_of(data)
    require(table, ("taken_at", "pid", *_SIZES), "USS and PSS over time")
    title = "USS and PSS over time"
    if not table[list(_SIZES)].notna().any().any():
        return canvas.message(ax, title, "No size is known: PSS and USS need map counts.")
    seconds, label = _seconds(table["taken_at"])
    pids = table["pid"].to_numpy(np.int64)
    largest = _largest(table, "pid", list(_SIZES))
    has_names = "name" in table.columns
    told = dict(zip(pids.tolist(), table["name"].astype(object), strict=True)) if has_names else {}
    names = {pid: f"{pid} {told.get(pid) or ''}".strip() for pid in set(pids.tolist())}
    slots = slots_for(largest, names)
    ax = canvas.axes(ax, 9.5, 4.4)
    for pid, place in reversed(slots.of.items()):
        mine = pids == pid
        order = np.argsort(seconds[mine], kind="stable")
        for what, dashes in (("pss", "-"), ("uss", "--")):
            values = table[what].to_numpy(np.float64, na_value=np.nan)[mine][order]
            marker = "o" if len(order) <= 12 else ""
            style: dict[str, Any] = {"linestyle": dashes, "marker": marker, "markersize": 3}
            ax.plot(seconds[mine][order], values, color=slots.colours[place], **style)
    _finish(ax, title, label, "size, bytes")
    _line_legend(ax, list(zip(slots.names, slots.colours, strict=True)))
    return ax


def _sizes_of(snaps: Sequence[Tables]) -> pd.DataFrame:
    snaps = _several(snaps, 1)
    parts = []
    for number, snap in enumerate(snaps):
        part = sharing.processes(snap, only=_SIZES)[["pid", "name", *_SIZES]]
        parts.append(part.assign(taken_at=_moment(snap, number)))
    return pd.concat(parts, ignore_index=True)


def plot_cow_loss(
    data: Sequence[Tables] | pd.DataFrame,
    *,
    parent: int | None = None,
    child: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Memory lost to copy-on-write since the first snapshot, by VMA, over time.

    Parameters
    ----------
    data : sequence of Snapshot, or DataFrame
        Snapshots, the first near the fork; or a table with ``taken_at``, ``start``, ``path``
        and ``lost`` (bytes).
    parent, child : int
        The two processes that shared their memory; needed with snapshots.
    ax : Axes, optional
        Axes to draw on; new ones if not given.

    Returns
    -------
    Axes
        Stacked areas in bytes; the eight VMAs that lost most have a colour each.

    Raises
    ------
    TableError
        Fewer than two snapshots, or no `parent` and `child`.
    """
    table = data if isinstance(data, pd.DataFrame) else _lost_of(data, parent, child)
    require(table, ("taken_at", "start", "path", "lost"), "copy-on-write loss over time")
    title = "memory lost to copy-on-write"
    if parent is not None and child is not None:
        title += f" between {parent} and {child}"
    if not table["lost"].fillna(0).any():
        return canvas.message(ax, title, "Nothing was lost: every page is still shared.")
    seconds, label = _seconds(table["taken_at"])
    starts = table["start"].to_numpy(np.int64)
    most = _largest(table, "start", ["lost"])
    paths = dict(zip(starts.tolist(), table["path"].astype(object), strict=True))
    names = {at: f"{_short(paths[at])} {at:#x}" for at in paths}
    slots = slots_for(most, names)
    moments, when = np.unique(seconds, return_inverse=True)
    stack = np.zeros((len(slots.names), len(moments)), np.int64)
    place = np.array([slots.of[at] for at in starts.tolist()], np.int64)
    np.add.at(stack, (place, when), table["lost"].fillna(0).to_numpy(np.int64))
    some = np.flatnonzero(stack.any(axis=1)).tolist()
    colours = [slots.colours[k] for k in some]
    ax = canvas.axes(ax, 9.5, 4.4)
    ax.stackplot(moments, stack[some], colors=colours, linewidth=0)
    _finish(ax, title, label, "lost, bytes")
    shown = [slots.names[k] for k in some]
    # The topmost area stands first.
    entries = list(zip(shown, colours, strict=True))[::-1]
    canvas.legend(ax, entries, "VMA of the parent")
    return ax


def _largest(table: pd.DataFrame, owner: str, columns: list[str]) -> dict[int, int]:
    """The most each owner ever had."""
    most = table.groupby(owner)[columns].max().fillna(0).max(axis=1)
    sizes = most.to_numpy(np.int64).tolist()
    return dict(zip(most.index.to_numpy(np.int64).tolist(), sizes, strict=True))


def _short(path: object) -> str:
    text = str(path or "anon")
    return canvas.shortened(text.rpartition("/")[2] or text, 24)


def _lost_of(snaps: Sequence[Tables], parent: int | None, child: int | None) -> pd.DataFrame:
    if parent is None or child is None:
        raise TableError("copy-on-write loss needs parent= and child=, two pids that shared memory")
    snaps = _several(snaps, 2)
    parts = []
    for number, snap in enumerate(snaps):
        # A snapshot against itself: what was shared at first, of which nothing is lost yet.
        part = sharing.lost(snaps[0], snap, parent=parent, child=child)[["start", "path", "lost"]]
        parts.append(part.assign(taken_at=_moment(snap, number)))
    return pd.concat(parts, ignore_index=True)


def _several(snaps: object, least: int) -> list[Tables]:
    if not isinstance(snaps, Sequence) or isinstance(snaps, str):
        raise TableError(f"expected a list of snapshots, found a {type(snaps).__name__}")
    if len(snaps) < least:
        raise TableError(f"expected {least} snapshots or more, found {len(snaps)}")
    return [tables_of(snap) for snap in snaps]


def _moment(snap: Tables, number: int) -> Any:
    """When a snapshot was taken; its number if it does not say."""
    return snap.facts.get("taken_at", number)


def _seconds(moments: pd.Series[Any]) -> tuple[NDArray[np.float64], str]:
    """Moments as numbers, and what the numbers are."""
    if pd.api.types.is_numeric_dtype(moments):
        return moments.to_numpy(np.float64), "snapshot"
    try:
        times = pd.to_datetime(moments, utc=True, format="ISO8601")
    except ValueError as error:
        raise TableError(f"taken_at holds something that is no time: {error}") from error
    after = (times - times.min()).dt.total_seconds()
    return np.asarray(after, np.float64), f"seconds after {times.min():%Y-%m-%d %H:%M:%S} UTC"


def _finish(ax: Axes, title: str, across: str, up: str) -> None:
    ax.set_title(title)
    ax.set_xlabel(across)
    ax.set_ylim(bottom=0)
    canvas.sizes(ax.yaxis, up)
    ax.tick_params(labelsize=canvas.SMALL)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    ax.set_axisbelow(True)


def _line_legend(ax: Axes, entries: list[tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=colour, label=text) for text, colour in entries]
    lines.append(Line2D([], [], color="#444444", label="PSS"))
    lines.append(Line2D([], [], color="#444444", linestyle="--", label="USS"))
    canvas.legend_of(ax, lines, "process")
