"""What became of pages between two snapshots.

`plot_changes` has a bar for each process or VMA, split by what happened, as `changes` names
it. `plot_transitions` follows all pages from one snapshot to the other: on the left what they
were, on the right what they are, and between them bands as wide as the bytes that went
from here to there.

What can go wrong (`TableError`): snapshots of two machines or boots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .. import changes, palette, printing
from ..algebra.arrays import Tables, same_machine
from ..algebra.figures import Accounts
from ..entries import Ints
from ..errors import TableError
from ..runs import matched, missing
from . import canvas, pixels
from .colouring import STATES, colouring
from .given import require, tables_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NOWHERE = "nowhere"
_NAMES = (*STATES, _NOWHERE)
_COLOURS = (*palette.STATES.values(), palette.UNTOUCHED)


def plot_changes(
    before: Tables | pd.DataFrame,
    after: Tables | pd.DataFrame | None = None,
    *,
    per: Literal["process", "vma"] = "vma",
    top: int = 20,
    ax: Axes | None = None,
) -> Axes:
    """Bytes of each change between two snapshots, by process or by VMA.

    Parameters
    ----------
    before, after : Snapshot or DataFrame
        Two snapshots or frames of pages; or only a table made by `changes.processes` or
        `changes.vmas`.
    per : {"vma", "process"}
        What has a bar.
    top : int
        So many have a bar, those with most changes.
    ax : Axes, optional
        Axes to draw on; new ones if not given.

    Returns
    -------
    Axes
        x is bytes; the legend has every change that occurs.
    """
    if per not in ("process", "vma"):
        raise TableError(f"per is 'process' or 'vma', not {per!r}")
    if after is None:
        table = before
        if not isinstance(table, pd.DataFrame):
            raise TableError("changes need two snapshots, or a table made by changes.vmas")
    else:
        count = changes.vmas if per == "vma" else changes.processes
        table = count(tables_of(before), tables_of(after))
    require(table, ("pid", *changes.CHANGES), "a picture of changes")
    values = table[list(changes.CHANGES)].to_numpy(np.int64)
    total = values.sum(axis=1)
    title = f"changes by {'mapping' if 'start' in table.columns else 'process'}"
    order = np.argsort(-total, kind="stable")[:top]
    order = order[total[order] > 0]
    if not len(order):
        return canvas.message(ax, title, "Nothing changed between the two snapshots.")
    if len(order) < int((total > 0).sum()):
        title += f" (the {len(order)} largest of {int((total > 0).sum()):,})"
    labels = [_label(table.iloc[i]) for i in order.tolist()]
    entries = [(name.replace("_", " "), palette.CHANGES[name]) for name in changes.CHANGES]
    ax = canvas.axes(ax, 10, 1.8 + 0.27 * len(order))
    canvas.bars(ax, labels, values[order], entries, "change")
    ax.set_title(title)
    ax.set_xlabel("changed, bytes")
    ax.set_ylabel("mapping (pid, name, start)" if "start" in table.columns else "process")
    return ax


def _label(row: pd.Series[Any]) -> str:
    if "start" not in row.index:
        return f"{row['pid']} {row.get('name') or ''}".strip()
    if pd.isna(row["start"]):
        return f"{row['pid']} outside of mappings"
    text = str(row["path"] or "anon")
    name = canvas.shortened(text.rpartition("/")[2] or text, 20)
    return f"{row['pid']} {name} {int(row['start']):#x}"


def plot_transitions(
    before: Tables | pd.DataFrame,
    after: Tables | pd.DataFrame,
    pid: int | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Where the memory went: states before, states after, and what flowed between them.

    Parameters
    ----------
    before, after : Snapshot or DataFrame
        Two snapshots of one machine, or frames of pages.
    pid : int, optional
        Only this process; all that are in both or in one of them, if not given.
    ax : Axes, optional
        Axes to draw on; new ones if not given.

    Returns
    -------
    Axes
        y is bytes, the same scale on both sides; x the two moments. A band has the colour of
        the state it comes from, or goes to if it comes from nowhere.
    """
    flows, page_size = _flows(tables_of(before), tables_of(after), pid)
    title = "states before and after" + (f", process {pid}" if pid is not None else "")
    if not flows.any():
        return canvas.message(ax, title, "There is no page in either snapshot.")
    ax = canvas.axes(ax, 9.5, 5.2)
    _alluvial(ax, flows * page_size)
    ax.set_title(title)
    counts = flows.sum(axis=1) + flows.sum(axis=0)
    entries = [(n, c) for n, c, k in zip(_NAMES, _COLOURS, counts, strict=True) if k]
    canvas.legend(ax, entries, "state")
    return ax


def _flows(before: Tables, after: Tables, pid: int | None) -> tuple[Ints, int]:
    """Pages by state before and state after; shape (states, states), the last is nowhere."""
    same_machine(before, after)
    a, b = Accounts(before), Accounts(after)
    code = [colouring(view, "state").code for view in (a, b)]
    out = np.zeros((len(_NAMES), len(_NAMES)), np.int64)
    pids = np.union1d(a.process_rows[0], b.process_rows[0]) if pid is None else [pid]
    for one in pids:
        mine, its = a.rows_of(int(one)), b.rows_of(int(one))
        i, j = matched(a.vaddr[mine], b.vaddr[its])
        was, now = code[0][mine], code[1][its]
        old = np.concatenate(
            [was[i], was[(gone := missing(len(was), i))], _none(len(now) - len(j))]
        )
        new = np.concatenate([now[j], _none(len(gone)), now[missing(len(now), j)]])
        nowhere = np.int8(len(STATES))
        old, new = np.where(old < 0, nowhere, old), np.where(new < 0, nowhere, new)
        out += pixels.tally(old.astype(np.int64), new, len(_NAMES), len(_NAMES))
    out[-1, -1] = 0
    return out, a.page_size


def _none(n: int) -> NDArray[np.int8]:
    return np.full(n, -1, np.int8)


def _alluvial(ax: Axes, flows: Ints) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    total = int(flows.sum())
    left = np.cumsum(flows.ravel()) - flows.ravel()
    right = (np.cumsum(flows.T.ravel()) - flows.T.ravel()).reshape(flows.shape).T.ravel()
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3, Path.CLOSEPOLY]
    for k in np.flatnonzero(flows.ravel()).tolist():
        size, y0, y1 = int(flows.ravel()[k]), int(left[k]), int(right[k])
        source, target = divmod(k, len(flows))
        low = [(0.06, y0), (0.5, y0), (0.5, y1), (0.94, y1)]
        high = [(0.94, y1 + size), (0.5, y1 + size), (0.5, y0 + size), (0.06, y0 + size)]
        colour = _COLOURS[target if source == len(flows) - 1 else source]
        path = Path([*low, *high, low[0]], codes)
        ax.add_patch(PathPatch(path, facecolor=colour, alpha=0.55, linewidth=0))
    for x, sizes in ((0.0, flows.sum(axis=1)), (0.94, flows.sum(axis=0))):
        bottom = 0
        for name, colour, size in zip(_NAMES, _COLOURS, sizes.tolist(), strict=True):
            if not size:
                continue
            ax.bar(x, size, 0.06, bottom, align="edge", color=colour, edgecolor="white")
            if size > total / 30:
                side = "right" if x else "left"
                at = 0.93 if x else 0.07
                text = f"{name} {printing.size(size)}"
                middle = bottom + size / 2
                ax.text(at, middle, text, ha=side, va="center", fontsize=canvas.SMALL - 1)
            bottom += size
    ax.set_xlim(0, 1)
    ax.set_ylim(0, total)
    ax.set_xticks([0.03, 0.97], ["before", "after"])
    ax.set_xlabel("snapshot")
    canvas.sizes(ax.yaxis, "memory, bytes")
    for side in ("top", "right", "bottom"):
        ax.spines[side].set_visible(False)
