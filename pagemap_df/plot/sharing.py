"""Who shares with whom, and how much of each process is its own.

`plot_sharing_matrix` orders processes by similarity, so that families become blocks on the
diagonal: the two nearest clusters are joined until one is left (average linkage on the part
of their union that two processes share). `plot_rss` splits the resident size of each process
by how many page table entries map its pages.

What can go wrong: frames are hidden (`NotAvailable`, for the matrix). Without map counts
``plot_rss`` only tells own from shared, or nothing, and its legend says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .. import palette, printing, sharing
from ..algebra.arrays import Tables
from ..algebra.figures import Accounts
from ..entries import Ints
from ..errors import TableError
from . import canvas, pixels
from .colouring import SHARERS, process_names, sharer_classes
from .given import tables_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 150
"""Processes in a matrix at most: the largest."""

_NUMBERS = 10
"""Up to so many processes the matrix has the figures written in."""


def plot_sharing_matrix(data: Tables | pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Heat map of the bytes that every two processes share, the similar ones side by side.

    Parameters
    ----------
    data : Snapshot or DataFrame
        A snapshot, a frame of pages, or a table made by `sharing.matrix`.
    ax : Axes, optional
        Axes to draw on; new ones if not given.

    Returns
    -------
    Axes
        Both axes are processes; the diagonal is what each holds in all. With more than 150
        processes the largest are shown.

    Raises
    ------
    NotAvailable
        Page frames are hidden.
    TableError
        The frame is neither a square matrix nor pages.
    """
    names: dict[int, str] = {}
    title = "memory shared by every two processes"
    if isinstance(data, pd.DataFrame) and "kind" not in data.columns:
        matrix = _square(data)
    else:
        tables = tables_of(data)
        matrix = sharing.matrix(tables)
        names = process_names(Accounts(tables))
    held = np.diag(matrix.to_numpy()) if len(matrix) else np.zeros(0, np.int64)
    if not held.any():
        return canvas.message(ax, title, "No process here holds a page frame.")
    largest = np.sort(np.argsort(-held, kind="stable")[:_MOST])
    values = matrix.to_numpy()[np.ix_(largest, largest)]
    order = similar(values)
    values = values[np.ix_(order, order)]
    labels = [names.get(pid, str(pid)) for pid in matrix.index[largest][order].tolist()]
    side = float(np.clip(1.8 + 0.42 * len(labels), 3.2, 8.5))
    ax = canvas.axes(ax, side + 2.2, side)
    if len(matrix) > _MOST:
        title += f", the {_MOST} largest of {len(matrix):,}"
    ax.set_title(title)
    _heat(ax, values, labels)
    return ax


def _square(frame: pd.DataFrame) -> pd.DataFrame:
    if list(frame.index) != list(frame.columns):
        raise TableError(
            "a sharing matrix has the same pids as index and columns, as sharing.matrix gives it; "
            f"this frame has the columns {', '.join(map(str, frame.columns[:8])) or 'none'}"
        )
    return frame


def similar(shared: NDArray[Any]) -> Ints:
    """An order of processes in which the similar ones are neighbours.

    Parameters
    ----------
    shared : ndarray of shape (n, n)
        What every two share; the diagonal is what each has.

    Examples
    --------
    >>> similar(np.array([[9, 0, 8], [0, 9, 1], [8, 1, 9]])).tolist()
    [0, 2, 1]
    """
    have = np.diag(shared).astype(np.float64)
    union = have[:, None] + have[None, :] - shared
    near = np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)
    np.fill_diagonal(near, -1.0)
    clusters: list[list[int]] = [[i] for i in range(len(have))]
    weight = np.ones(len(have))
    for _ in range(len(have) - 1):
        a, b = divmod(int(near.argmax()), len(have))
        clusters[a] += clusters[b]
        mixed = (weight[a] * near[a] + weight[b] * near[b]) / (weight[a] + weight[b])
        weight[a] += weight[b]
        near[a], near[:, a] = mixed, mixed
        near[b], near[:, b] = -2.0, -2.0
        near[a, a] = -2.0
        near[:, b] = -2.0
        near[near < -1.0] = -2.0
    longest = max(clusters, key=len) if clusters else []
    return np.array(longest, np.int64)


def _heat(ax: Axes, values: NDArray[Any], labels: list[str]) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize

    figure: Any = ax.figure
    low, high = int(values[values > 0].min()), int(values.max())
    norm = LogNorm(low, high) if low < high else Normalize(0, high)
    colours = colormaps["cividis"].with_extremes(bad=palette.UNTOUCHED)
    some = np.ma.masked_equal(values, 0)
    mesh = ax.imshow(some, cmap=colours, norm=norm, interpolation="nearest")
    bar = figure.colorbar(mesh, ax=ax, fraction=0.046, pad=0.03)
    bar.minorticks_off()
    canvas.sizes(bar.ax.yaxis, "shared, bytes, logarithmic" if low < high else "shared, bytes")
    if low < high:
        bar.set_ticks(_doublings(low, high))
    # Text is as high as eight points; every so many rows there is room for a label.
    n = len(labels)
    every = max(-(-n // 40), 1)
    at = range(0, n, every)
    few = [canvas.shortened(labels[i], 24) for i in at]
    ax.set_xticks(at, few, rotation=90, fontsize=canvas.SMALL)
    ax.set_yticks(at, few, fontsize=canvas.SMALL)
    ax.set_xlabel("process (pid and name)")
    ax.set_ylabel("process (pid and name)")
    if n <= _NUMBERS:
        bright = norm(values) > 0.5
        bright |= values == 0
        for (i, j), value in np.ndenumerate(values):
            colour = "black" if bright[i, j] else "white"
            text = printing.size(int(value)).replace(" ", "\n")
            ax.text(j, i, text, ha="center", va="center", fontsize=6.5, color=colour)


def _doublings(low: int, high: int) -> Ints:
    """At most eight powers of two from `low` to `high`, or both if there is none between."""
    first, last = (low - 1).bit_length(), high.bit_length() - 1
    step = max(-(-(last - first + 1) // 8), 1)
    found = np.int64(1) << np.arange(first, last + 1, step)
    return found if len(found) > 1 else np.array([low, high])


_PARTS = ("own", "2", "3 to 4", "5 to 8", "9 to 16", "17 and more", "shared", "unknown")
"""Parts of a resident size; ``shared`` where it is not known by how many."""


def plot_rss(data: Tables | pd.DataFrame, *, top: int = 20, ax: Axes | None = None) -> Axes:
    """Resident size of each process: its own pages, and those it shares, by how many share.

    Parameters
    ----------
    data : Snapshot or DataFrame
        A snapshot, or a frame of pages.
    top : int
        So many of the largest processes have a bar; the others are left out, and the title
        says so.
    ax : Axes, optional
        Axes to draw on; new ones if not given.

    Returns
    -------
    Axes
        One bar a process, the largest on top; x is bytes. The first part is USS, all parts
        together are RSS.
    """
    view = Accounts(tables_of(data))
    pids, parts = _rss_parts(view)
    total = parts.sum(axis=1)
    order = np.argsort(-total, kind="stable")[:top]
    order = order[total[order] > 0]
    if not len(order):
        return canvas.message(ax, "resident size", "No process here has a page in memory.")
    names = process_names(view)
    labels = [canvas.shortened(names[int(pids[i])], 24) for i in order]
    title = "resident size: own and shared by how many"
    if len(order) < int((total > 0).sum()):
        title += f" (the {len(order)} largest of {int((total > 0).sum()):,} processes)"
    like = {"own": "1", "shared": "not mapped"}
    colours = [palette.SHARERS[like.get(name, name)] for name in _PARTS]
    entries = [
        (f"shared by {name}" if name[0].isdigit() else _SAID[name], colour)
        for name, colour in zip(_PARTS, colours, strict=True)
    ]
    ax = canvas.axes(ax, 9.5, 1.6 + 0.27 * len(order))
    canvas.bars(ax, labels, parts[order], entries, "parts of RSS")
    ax.set_title(title)
    ax.set_xlabel("resident, bytes")
    ax.set_ylabel("process (pid and name)")
    return ax


_SAID = {"own": "own (USS)", "shared": "shared, by unknown", "unknown": "own or shared: unknown"}


def _rss_parts(view: Accounts) -> tuple[Ints, Ints]:
    """Bytes of every process in each of `_PARTS`; shape (processes, parts)."""
    shared, own, left = view.sides
    code = sharer_classes(view.sharers.entries)
    # Classes of SHARERS, but the first is own by definition and the last two are not said.
    place = np.array([_PARTS.index(n) if n in _PARTS[1:6] else 6 for n in SHARERS], np.int8)
    code = np.where(shared, place[code], np.int8(-1))
    code[own] = 0
    code[left] = _PARTS.index("unknown")
    pids, at = view.process_rows
    process = np.repeat(np.arange(len(pids)), np.diff(at))
    return pids, pixels.tally(process, code, len(pids), len(_PARTS)) * view.page_size
