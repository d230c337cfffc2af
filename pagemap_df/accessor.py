"""``df.pagemap``: what can be done with a frame of pages, on the frame itself.

In: a DataFrame that has the columns of ``pages``, or at least ``vaddr`` (a column or the index)
and ``kind``; it survives ``query``, ``concat`` and the like, being an ordinary frame. Out:
frames and pictures. Importing this module registers the accessor; doing so twice is harmless.

What can go wrong: columns are missing. The first use of ``df.pagemap`` says which, with an
error that is an `AttributeError` too, as pandas expects (``hasattr(df, "pagemap")`` is then
False). Methods that need more raise `TableError`. `NotAvailable` if jinja2, which a Styler
needs, is not installed.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from . import printing, schema
from .errors import NoPages, NotAvailable, TableError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas.io.formats.style import Styler

    from .algebra.arrays import Tables

NAME = "pagemap"
"""The accessor's name on a DataFrame."""

_PAGES = ("vaddr", "kind")
_BYTES = ("vss", "size", "used", "bytes")
"""Columns of bytes besides the figures."""

_PICTURES = (
    *("address_space", "physical", "rss", "sharing_matrix", "swap", "contiguity", "huge"),
    *("changes", "transitions"),
)


class PagemapAccessor:
    """Methods of frames of pages.

    Examples
    --------
    >>> frame = pd.DataFrame({"vaddr": [0x1000, 0x2000], "kind": ["swap", "swap"],
    ...                       "swap_type": [0, 0], "swap_offset": [7, 8]})
    >>> frame.pagemap.extents()[["start", "n_pages", "swap_offset"]].values.tolist()
    [[4096, 2, 7]]
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        names = [*frame.columns, *frame.index.names]
        lacking = [name for name in _PAGES if name not in names]
        if lacking:
            has = ", ".join(map(str, frame.columns[:12])) or "none"
            raise NoPages(
                f"df.{NAME} needs a frame of pages; it lacks {', '.join(lacking)} "
                f"(the columns are {has})"
            )
        self._frame = frame

    def _tables(self) -> Tables:
        from .plot.given import tables_of

        return tables_of(self._frame)

    def extents(self) -> pd.DataFrame:
        """The pages folded into runs; see `pagemap_df.extents.of_pages`.

        Returns
        -------
        DataFrame
            One row per run: ``start`` (bytes), ``n_pages``, and the columns of pages.
        """
        from . import extents

        tables = self._tables()
        return schema.to_pandas(extents.of_pages(tables.arrow("pages"), _page_size(tables)))

    def to_vma(self, vmas: pd.DataFrame) -> pd.DataFrame:
        """The frame with the mapping each page lies in.

        Parameters
        ----------
        vmas : DataFrame
            As `Snapshot.vmas`: with ``start`` and ``end``, and ``pid`` if the pages have one.

        Returns
        -------
        DataFrame
            The same rows and index, with ``vma_start``, ``vma_end``, and of what `vmas` has,
            ``vma_perms``, ``vma_path`` and ``vma_kind``; null outside of every mapping.
        """
        from .plot.given import require

        by_pid = "pid" in self._frame.columns
        require(vmas, ("start", "end", *(("pid",) if by_pid else ())), "to_vma")
        vmas = vmas.sort_values(["pid", "start"] if by_pid else ["start"], kind="stable")
        if not by_pid and not vmas["start"].is_unique:
            raise TableError("to_vma: the pages have no pid, but the mappings are of several")
        row = self._rows_in(vmas, by_pid)
        taken = vmas.reset_index(drop=True).reindex(row)
        out = self._frame.copy()
        for name in ("start", "end", "perms", "path", "kind"):
            if name in vmas.columns:
                values = taken[name].set_axis(out.index)
                integer = name in ("start", "end")
                out[f"vma_{name}"] = values.astype("Int64") if integer else values
        return out

    def _rows_in(self, vmas: pd.DataFrame, by_pid: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Row of sorted `vmas` that each page lies in, -1 for none."""
        vaddr = self._vaddr()
        pids = self._frame["pid"].to_numpy(np.int64) if by_pid else np.zeros_like(vaddr)
        owner = vmas["pid"].to_numpy(np.int64) if by_pid else np.zeros(len(vmas), np.int64)
        start, end = (vmas[name].to_numpy(np.int64) for name in ("start", "end"))
        out = np.full(len(vaddr), -1, np.int64)
        for pid in np.unique(pids).tolist():
            mine, lo = pids == pid, int(np.searchsorted(owner, pid))
            hi = int(np.searchsorted(owner, pid, side="right"))
            at = lo + np.searchsorted(start[lo:hi], vaddr[mine], side="right") - 1
            inside = (at >= lo) & (vaddr[mine] < end[at] if hi > lo else False)
            out[mine] = np.where(inside, at, -1)
        return out

    def _vaddr(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        if "vaddr" in self._frame.columns:
            return self._frame["vaddr"].to_numpy(np.int64)
        return self._frame.index.get_level_values("vaddr").to_numpy(np.int64)

    def sharers(self) -> pd.Series[Any]:
        """How many page table entries map each page, as far as the frame knows.

        Returns
        -------
        Series of Int32
            Along the frame's rows: its ``mapcount``, or else 1 where ``exclusive`` says so; null
            where unknown. ``.attrs["accuracy"]`` says what it was computed from.
        """
        from .algebra.view import View

        # In the order of the frame's rows: a View would sort them.
        order = np.lexsort((self._vaddr(), self._pid()))
        view = View(self._tables())
        entries = np.empty(len(order), np.int32)
        entries[order] = view.sharers.entries
        values = pd.array(entries, dtype="Int32")
        values[entries < 0] = pd.NA
        found = pd.Series(values, index=self._frame.index, name="sharers")
        found.attrs["accuracy"] = view.sharers.basis
        return found

    def _pid(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        if "pid" in self._frame.columns:
            return self._frame["pid"].to_numpy(np.int64)
        return np.zeros(len(self._frame), np.int64)

    @property
    def plot(self) -> Pictures:
        """The pictures of `pagemap_df.plot`, as methods without their ``plot_``."""
        return Pictures(self._frame)

    @property
    def style(self) -> Styler:
        """The frame as a Styler: addresses in hex, sizes in KiB and MiB, null as ``-``.

        Raises
        ------
        NotAvailable
            jinja2 is not installed.
        """
        return styled(self._frame)


class Pictures:
    """``df.pagemap.plot.address_space()`` and the others; see `pagemap_df.plot`."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def __getattr__(self, name: str) -> Any:
        """The picture called `name`, of this frame."""
        if name not in _PICTURES:
            raise AttributeError(f"there is no picture {name!r}; there are {', '.join(_PICTURES)}")
        from . import plot

        return partial(getattr(plot, f"plot_{name}"), self._frame)

    def __dir__(self) -> list[str]:
        """The names of the pictures."""
        return list(_PICTURES)

    def __call__(self, **options: Any) -> Axes:
        """The address map, the first thing to look at."""
        from . import plot

        return plot.plot_address_space(self._frame, **options)


def styled(frame: pd.DataFrame) -> Styler:
    """Any table of this package as a Styler; see `PagemapAccessor.style`.

    Examples
    --------
    >>> table = pd.DataFrame({"start": [4096], "rss": [8192]})
    >>> "0x1000" in styled(table).to_html(), "8.0 KiB" in styled(table).to_html()
    (True, True)
    """
    try:
        style = frame.style
    except (ImportError, AttributeError) as error:
        raise NotAvailable("a styled frame needs jinja2; pip install jinja2") from error
    from .algebra import figures

    sizes = [name for name in printing.sizes_of(frame) if name in {*figures.ORDER, *_BYTES}]
    addresses = [name for name in frame.columns if str(name).removeprefix("vma_") in printing.HEX]
    known = dict.fromkeys(addresses, _hex)
    known |= {name: _size for name in sizes if name not in known}
    style = style.format(known, na_rep="-")  # type: ignore[arg-type]
    if frame.index.name in printing.HEX:
        style = style.format_index(_hex)
    return style


def _hex(value: Any) -> str:
    return hex(int(value) & (1 << 64) - 1)


def _size(value: Any) -> str:
    return printing.size(int(value))


def _page_size(tables: Tables) -> int:
    return int(tables.facts.get("page_size", 4096))


def register() -> None:
    """Give DataFrames the accessor. A reload of this module replaces it without a warning.

    Raises
    ------
    TableError
        Another package has taken the name.
    """
    there = pd.DataFrame.__dict__.get(NAME)
    if there is not None:
        accessor = getattr(there, "_accessor", None)
        if getattr(accessor, "__module__", None) != __name__:
            raise TableError(f"DataFrames have an attribute {NAME!r} that is not ours: {there!r}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it was there already
        pd.api.extensions.register_dataframe_accessor(NAME)(PagemapAccessor)


register()
