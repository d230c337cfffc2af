"""How memory lies: lengths of physical runs, and how far huge pages cover it.

`plot_contiguity` asks how long the stretches are in which neighbouring pages lie in
neighbouring page frames; `plot_huge` shows by VMA how much large folios cover, and how.

What can go wrong (`NotAvailable`): page frames are hidden; for huge pages, the page flags
were not joined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import palette, printing
from ..algebra import hugepages
from ..algebra.arrays import PRESENT, Tables
from ..algebra.figures import Accounts
from ..entries import Ints
from ..runs import runs
from . import canvas, pixels
from .colouring import colouring
from .given import tables_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def plot_contiguity(
    data: Tables | pd.DataFrame, pid: int | None = None, *, ax: Axes | None = None
) -> Axes:
    """Bytes in physical runs of each length.

    Parameters
    ----------
    data : Snapshot or DataFrame
        A snapshot, or a frame of pages.
    pid : int, optional
        Only this process; all, if not given (what is shared counts for each).
    ax : Axes, optional
        Axes to draw on; new ones if not given.

    Returns
    -------
    Axes
        One bar for each power of two: x is the length of a run (this long or longer, but less
        than twice), y the bytes in such runs, by the state of their pages.

    Raises
    ------
    NotAvailable
        Page frames are hidden.
    """
    view = Accounts(tables_of(data))
    view.need("pfn", view.kind == PRESENT, "physical runs")
    chosen = view.framed
    title = "bytes in physical runs"
    if pid is not None:
        view.process(pid)
        chosen = chosen & (view.pid == pid)
        title += f" of process {pid}"
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return canvas.message(ax, title, "No page is in memory, so there is no physical run.")
    colours = colouring(view, "state")
    order = _orders(view, rows)
    counts = pixels.tally(order, colours.code[rows], int(order.max()) + 1, len(colours.names))
    ax = canvas.axes(ax, 9.0, 4.2)
    _columns(ax, counts * view.page_size, colours.colours)
    labels = [printing.size(view.page_size << k).replace(".0 ", " ") for k in range(len(counts))]
    ax.set_xticks(range(len(counts)), labels, rotation=40, ha="right")
    ax.tick_params(labelsize=canvas.SMALL)
    ax.set_xlabel("length of the run, up to twice this many bytes")
    canvas.sizes(ax.yaxis, "in such runs, bytes")
    ax.set_title(title)
    canvas.legend(ax, colours.entries(counts.sum(axis=0), view.page_size), colours.title)
    return ax


def _orders(view: Accounts, rows: Ints) -> Ints:
    """For each row, the power of two in pages of the run that it lies in."""
    page = view.vaddr[rows] // view.page_size
    lo, hi = runs((view.pid[rows], 0), (page, 1), (view.pfn[rows], 1))
    length = hi - lo
    return np.repeat(np.frexp(length)[1].astype(np.int64) - 1, length)


def _columns(ax: Axes, values: NDArray[Any], colours: tuple[str, ...]) -> None:
    bottom = np.zeros(len(values), np.int64)
    for part, colour in zip(values.T, colours, strict=True):
        if part.any():
            ax.bar(np.arange(len(values)), part, bottom=bottom, color=colour, width=0.8)
            bottom = bottom + part
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def plot_huge(data: Tables | pd.DataFrame, *, top: int = 20, ax: Axes | None = None) -> Axes:
    """How much of each VMA large folios cover, and how they are mapped.

    Parameters
    ----------
    data : Snapshot or DataFrame
        A snapshot, or a frame of pages, with ``flags`` (and ``huge``) joined.
    top : int
        So many of the VMAs with most in memory have a bar.
    ax : Axes, optional
        Axes to draw on; new ones if not given.

    Returns
    -------
    Axes
        One bar a VMA, the largest on top; x is resident bytes, split as `hugepages.huge` does.

    Raises
    ------
    NotAvailable
        The page flags are unknown.
    """
    table = hugepages.huge(tables_of(data))
    title = "coverage by large folios"
    if not len(table):
        return canvas.message(ax, title, "No mapping has a page in memory.")
    shown = table.sort_values("rss", ascending=False, kind="stable").head(top)
    pmd = shown["pmd"].fillna(0).to_numpy(np.int64)
    parts = {
        "mapped by PMD": pmd,
        "aligned": shown["aligned"].to_numpy(np.int64) - pmd,
        **{name: shown[name].to_numpy(np.int64) for name in ("unaligned", "partial", "uncertain")},
        "small pages": shown["small"].to_numpy(np.int64),
    }
    labels = [
        f"{pid} {_name(path)} {start:#x}"
        for pid, path, start in zip(shown["pid"], shown["path"], shown["start"], strict=True)
    ]
    entries = [(name, palette.FOLIOS[name]) for name in parts]
    if len(shown) < len(table):
        title += f" (the {len(shown)} largest of {len(table):,} mappings)"
    ax = canvas.axes(ax, 10, 1.6 + 0.25 * len(shown))
    canvas.bars(ax, labels, np.stack(list(parts.values()), axis=1), entries, "resident memory")
    ax.set_title(title)
    ax.set_xlabel("resident, bytes")
    ax.set_ylabel("mapping (pid, name, start)")
    return ax


def _name(path: object) -> str:
    text = str(path or "anon")
    return canvas.shortened(text.rpartition("/")[2] or text, 20)
