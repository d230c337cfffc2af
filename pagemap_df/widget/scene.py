"""The view model: what a map shows, and the answers to what a reader of it asks.

A `Scene` is one snapshot (and perhaps one before it), one space and one way to colour. It is
made once; then it answers requests, each by what is on the screen and nothing else:

``cells``
    a window of the line as cells: a small header and three bytes a cell.
``tell``
    what is at a spot, in words: the story of a page, or a sum over many.
``pages``
    the rows of ``pages`` between two spots.

Nothing here knows of browsers, widgets or pictures. A scene never changes, so that a thread
may make the next one while another answers.

What can go wrong: as `content` says. What can be said in the picture is no error but a
``message``: a snapshot without processes, a process without memory, hidden page frames.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from .. import palette, printing, schema
from ..algebra.arrays import Tables, numbers
from ..entries import Ints
from ..errors import NotAvailable, TableError
from . import cells, content, folded, physical, telling
from .cells import Runs, Window
from .content import COLOURS, Changed, Content, Legend
from .line import Line, fold

if TYPE_CHECKING:
    import pandas as pd

FOLD, BEGIN, CHANGED = 1, 2, 4
"""Marks of a cell: pages are left out before it, a mapping begins in it, pages in it changed."""

MOST_CELLS = 1 << 17
"""Cells of one request at most; a screen has some ten thousand."""

_LABEL = 20
_NOTHING = Content(*(np.zeros(0, np.int64),) * 2, np.zeros(0, np.uint8), Legend("", (), ()))


class Mappings(NamedTuple):
    """The VMAs of the process shown, in pages, with what to call each."""

    start: Ints
    stop: Ints
    names: list[str]
    perms: list[str]


class Answer(NamedTuple):
    """Cells of a window.

    Attributes
    ----------
    first, per, columns, rows : int
        The window: its first spot, pages a cell, cells a row, rows.
    addresses : list of str
        Where each row begins, in hex; empty behind the end of the line.
    labels : list of [int, str]
        Rows in which a mapping begins, with its name.
    data : bytes
        For all cells one after the other what they show (`cells.Painted.code`), then how full they
        are, then their marks.
    """

    first: int
    per: int
    columns: int
    rows: int
    addresses: list[str]
    labels: list[tuple[int, str]]
    data: bytes


class Scene:
    """One way to look at one snapshot.

    Parameters
    ----------
    snap : Snapshot or Folded
        What to show.
    before : Snapshot, optional
        An earlier one, for what changed.
    pid : int, optional
        Process to show in virtual space; the largest, if not given.
    space : {"virtual", "physical"}
        The address space of a process, or page frames.
    color : str
        One of ``COLOURS[space]``.
    changed : Changed, optional
        What changed, if that is known already.

    Examples
    --------
    >>> from pagemap_df import load_dataset
    >>> scene = Scene(load_dataset("preforked-family"))
    >>> answer = scene.cells(0, scene.fitting(64 * 16), 64, 16)
    >>> len(answer.data) == 3 * 64 * 16
    True
    """

    def __init__(
        self,
        snap: Tables,
        before: Tables | None = None,
        *,
        pid: int | None = None,
        space: str = "virtual",
        color: str = "state",
        changed: Changed | None = None,
    ) -> None:
        if space not in COLOURS:
            raise TableError(f"space is 'virtual' or 'physical', not {space!r}")
        if color not in COLOURS[space]:
            raise TableError(f"in {space} space color is one of {', '.join(COLOURS[space])}")
        self.snap, self.space, self.color = snap, space, color
        self.page_size = int(snap.facts.get("page_size", 4096))
        self.processes = content.largest(snap)
        self.pid = content.check_pid(snap, pid, self.processes)
        if before is not None and changed is None:
            changed = content.changed(before, snap)
        self.before, self.changed, self.message = before, changed, ""
        self.content = self._content()
        self.mappings = self._mappings()
        if not len(self.content.start) and not len(self.mappings.start):
            self.message = self.message or self._why_empty()

    @property
    def _owner(self) -> int | None:
        """The process whose pages are shown; None for those of all."""
        return self.pid if self.space == "virtual" else None

    def _content(self) -> Content:
        if self.pid is None:
            return _NOTHING
        found = None if self.changed is None else self.changed.of(self._owner)
        if self.space == "virtual":
            return content.of_process(self.snap, self.pid, self.color, found)
        try:
            return physical.of_frames(self.snap, self.color, found)
        except NotAvailable as error:
            self.message = str(error)
            return _NOTHING

    def _mappings(self) -> Mappings:
        none = np.zeros(0, np.int64)
        if self.space == "physical" or self.pid is None:
            return Mappings(none, none, [], [])
        table = self.snap.arrow("vmas")
        table = table.filter(pa.array(numbers(table["pid"], -1) == self.pid))
        start, stop = (numbers(table[name], -1) // self.page_size for name in ("start", "end"))
        order = np.argsort(start, kind="stable")
        table = table.take(pa.array(order))
        return Mappings(
            start[order], stop[order], content.vma_names(table), table["perms"].to_pylist()
        )

    def _why_empty(self) -> str:
        if self.pid is None:
            return "There is no process in this snapshot."
        if self.space == "physical":
            return "No page of these processes is in memory."
        return f"Process {self.pid} has no memory: no mapping, and no page anywhere."

    @cached_property
    def line(self) -> Line:
        """Where everything is."""
        start, stop = self.content.start, self.content.start + self.content.n
        spans = self.mappings.start, self.mappings.stop
        if not len(spans[0]) and len(start):
            spans = start[:1], stop[-1:]
        return fold(start, stop, *spans)

    @cached_property
    def runs(self) -> Runs:
        """What is on the line."""
        found = self.content
        return Runs(self.line.spots(found.start), found.n, found.code)

    @cached_property
    def changed_spots(self) -> Ints:
        """Where on the line something changed at the last look, ascending."""
        if self.changed is None:
            return np.zeros(0, np.int64)
        found = self.changed.of(self._owner)
        return np.sort(self.line.spots(found.page[found.age == 0]))

    @cached_property
    def begins(self) -> tuple[Ints, Ints]:
        """Where on the line each mapping begins and ends."""
        return self.line.spots(self.mappings.start), self.line.spots(self.mappings.stop)

    @cached_property
    def legend(self) -> list[dict[str, Any]]:
        """Every code with its name, colour, and bytes on the whole line."""
        names, colours = self.content.legend.names, self.content.legend.colours
        pages = np.bincount(self.content.code, self.content.n, len(names)).astype(np.int64)
        return [
            {"name": name, "colour": colour, "bytes": size, "size": printing.size(size)}
            for name, colour, size in zip(
                names, colours, (pages * self.page_size).tolist(), strict=True
            )
        ]

    @property
    def title(self) -> str:
        """What is shown, in a line."""
        if self.space == "physical":
            what = "page frames of all processes in the snapshot"
        else:
            what = next((name for pid, name, _ in self.processes if pid == self.pid), "nothing")
        populated = printing.size(int(self.content.n.sum()) * self.page_size)
        return f"{what}: {populated} populated of {printing.size(self.bytes)} on the map"

    @property
    def ground_name(self) -> str:
        """What it means that nothing is drawn in a cell."""
        return "mapped, empty" if self.space == "virtual" else "held by none of them"

    @property
    def bytes(self) -> int:
        """Bytes on the line."""
        return self.line.length * self.page_size

    def fitting(self, count: int) -> int:
        """Pages a cell must have, a power of two, so that `count` cells hold the whole line."""
        return 1 << max(-(-self.line.length // max(count, 1)) - 1, 0).bit_length()

    def cells(self, first: int, per: int, columns: int, rows: int) -> Answer:
        """The cells of a window, in rows.

        Raises
        ------
        TableError
            The window has no cells, or more than `MOST_CELLS`.
        """
        if first < 0 or per < 1 or columns < 1 or rows < 1 or columns * rows > MOST_CELLS:
            raise TableError(
                f"a window begins at 0 or later and has 1 to {MOST_CELLS} cells of a page or more, "
                f"not {columns} x {rows} cells of {per} pages from {first}"
            )
        window = Window(first, per, columns * rows)
        painted = cells.paint(self.runs, window, len(self.content.legend.names), self.line.length)
        data = painted.code.tobytes() + painted.fill.tobytes() + self._marks(window).tobytes()
        heads = window.edges[: columns * rows : columns]
        pages = self.line.pages(heads) * self.page_size
        addresses = [
            f"{page:#x}" if head < self.line.length else ""
            for page, head in zip(pages.tolist(), heads.tolist(), strict=True)
        ]
        labels = self._labels(first, per * columns, rows)
        return Answer(first, per, columns, rows, addresses, labels, data)

    def _marks(self, window: Window) -> np.ndarray[Any, np.dtype[np.uint8]]:
        edges = window.edges

        def some(spots: Ints) -> np.ndarray[Any, np.dtype[np.bool_]]:
            return np.diff(np.searchsorted(spots, edges)) > 0

        begin, end = self.begins
        large = end - begin >= 2 * window.per
        mark = FOLD * some(self.line.edges[1:-1]) | BEGIN * some(begin[large])
        return np.asarray(mark | CHANGED * some(self.changed_spots), np.uint8)

    def _labels(self, first: int, width: int, rows: int) -> list[tuple[int, str]]:
        """In each row the name of the largest mapping that begins there; in the first, goes on."""
        begin, end = self.begins
        lo = max(int(np.searchsorted(begin, first, side="right")) - 1, 0)
        hi = int(np.searchsorted(begin, first + width * rows))
        size, row = (end - begin)[lo:hi], np.maximum(begin[lo:hi] - first, 0) // width
        order = np.lexsort((-size, row))
        at, head, count = np.unique(row[order], return_index=True, return_counts=True)
        out: list[tuple[int, str]] = []
        shown = ""
        for r, k, n in zip(at.tolist(), order[head].tolist(), count.tolist(), strict=True):
            name = self.mappings.names[lo + k]
            more = f", {n - 1} more" if n > 1 else ""
            if name + more != shown:
                out.append((r, _short(name) + more))
            shown = name + more
        return out

    # -- what is there -------------------------------------------------------------------------

    def tell(self, first: int, count: int) -> str:
        """What is at `count` pages from spot `first` on, in words."""
        count = min(count, self.line.length - first)
        if first < 0 or count < 1:
            return ""
        page = int(self.line.pages(np.array([first]))[0])
        if count == 1:
            return self._story(page)
        last = int(self.line.pages(np.array([first + count - 1]))[0])
        return self._sum(first, count, page, last)

    def _story(self, page: int) -> str:
        pid, vaddr = self.pid or 0, page * self.page_size
        if self.space == "physical":
            held = folded.of_place(self.snap, "pfn", page, page + 1)
            if not len(held):
                return f"Page frame {page:#x} is held by no process of the snapshot."
            pid, vaddr = (held[name][0].as_py() for name in ("pid", "vaddr"))
        # A frame of pages has neither, and a story without them would be of no mapping at all.
        if pid in self.snap.arrow("vmas")["pid"].to_pylist():
            return str(telling.page_story(self.snap, pid, vaddr))
        return telling.bare_story(self.snap, pid, vaddr)

    def _sum(self, first: int, count: int, page: int, last: int) -> str:
        names = self.content.legend.names
        window = Window(first, count, 1)
        pages = cells.tally(self.runs, window, max(len(names), 1))[0]
        size = self.page_size
        parts = [
            f"{printing.size(int(pages[k]) * size)} {names[k]}"
            for k in np.argsort(-pages, kind="stable").tolist()
            if pages[k]
        ]
        empty = count - int(pages.sum())
        parts += [f"{printing.size(empty * size)} empty"] if empty else []
        if self.changed is not None:
            lo, hi = np.searchsorted(self.changed_spots, [first, first + count]).tolist()
            parts += [f"{printing.size((hi - lo) * size)} changed"] if hi > lo else []
        where = f"{page * size:#x} to {(last + 1) * size:#x}, {printing.size(count * size)}"
        return f"{where}{self._inside(page, last)}: {'; '.join(parts)}."

    def _inside(self, page: int, last: int) -> str:
        """The mappings that some pages are in."""
        start, stop = self.mappings.start, self.mappings.stop
        rows = np.flatnonzero((start <= last) & (stop > page)).tolist()
        known = list(
            dict.fromkeys(f"{self.mappings.names[k]} {self.mappings.perms[k]}" for k in rows)
        )
        if not known:
            return ""
        more = f" and {len(known) - 3} more" if len(known) > 3 else ""
        return f" in {', '.join(known[:3])}{more}"

    def pages(self, first: int, stop: int) -> pd.DataFrame:
        """The rows of ``pages`` between two spots; in physical space of every holder."""
        first, stop = max(first, 0), min(stop, self.line.length)
        if stop <= first:
            return schema.to_pandas(folded.between(self.snap, -1, 0, 0))
        lo, hi = self.line.pages(np.array([first, stop - 1])).tolist()
        if self.space == "physical":
            return schema.to_pandas(folded.of_place(self.snap, "pfn", lo, hi + 1))
        size = self.page_size
        return schema.to_pandas(folded.between(self.snap, self.pid, lo * size, (hi + 1) * size))

    def spot_of(self, page: int) -> int:
        """Where on the line a page (or page frame) is, or the next one behind it."""
        return int(self.line.spots(np.array([page]))[0])

    def page_at(self, spot: int) -> int:
        """The page (or page frame) at a spot."""
        return int(self.line.pages(np.array([spot]))[0])


def _short(name: str) -> str:
    return name if len(name) <= _LABEL else f"{name[: _LABEL // 2 - 1]}…{name[-_LABEL // 2 :]}"


GROUND = palette.UNTOUCHED
"""Colour of what is mapped and empty."""
