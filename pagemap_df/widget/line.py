"""One long line of pages, with the empty stretches of an address space folded away.

A map is a line of pages wrapped like text. Pages that are there, and what is mapped around
them, follow each other on the line; what is not mapped is left out, and so are stretches that
are mapped but empty if they would outweigh the rest (a tebibyte of reservation). What was
left out is a *fold*, which has no length: only a mark shows it.

Words: a *page* is a page number (or a page frame number, if the line is of physical memory);
a *spot* is a place on the line, counted in pages from its left end. *Runs* are populated
pages, *spans* what is mapped; both are given as starts and stops, half-open and ascending.

What can go wrong: nothing is checked; runs must not overlap, nor may spans.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..entries import Ints

_EMPTY_SHARE = 1
"""Kept empty stretches may take this many times the room of what is populated."""

_ROOM_FOR_A_SPAN = 4
"""Pages of empty room that every span may have, however little is populated."""


class Line(NamedTuple):
    """What is on the line: pieces of pages, ascending.

    Attributes
    ----------
    start, stop : ndarray of int64
        Pages of each piece. Between two pieces is a fold.
    edges : ndarray of int64
        Spot where each piece begins; one longer than `start`, the last is the line's length.
    """

    start: Ints
    stop: Ints
    edges: Ints

    @property
    def length(self) -> int:
        """Pages on the line."""
        return int(self.edges[-1])

    def spots(self, page: Ints) -> Ints:
        """Where pages are on the line; a page in a fold is where the next piece begins.

        Examples
        --------
        >>> line = fold(np.array([10, 99]), np.array([12, 100]), np.array([10, 99]),
        ...             np.array([12, 100]))
        >>> line.spots(np.array([0, 11, 50, 99, 500])).tolist()
        [0, 1, 2, 2, 3]
        """
        piece = np.searchsorted(self.stop, page, side="right")
        start = np.append(self.start, np.iinfo(np.int64).max)[piece]
        return self.edges[piece] + np.where(page > start, page - start, 0)

    def pages(self, spot: Ints) -> Ints:
        """The page at each spot; spots behind the end are taken for the last page."""
        if not self.length:
            return np.zeros_like(spot)
        spot = np.clip(spot, 0, self.length - 1)
        piece = np.searchsorted(self.edges, spot, side="right") - 1
        return np.asarray(self.start[piece] + spot - self.edges[piece])


def fold(run_start: Ints, run_stop: Ints, span_start: Ints, span_stop: Ints) -> Line:
    """The line of some runs of populated pages and the spans mapped around them.

    Parameters
    ----------
    run_start, run_stop, span_start, span_stop : ndarray of int64
        Pages. A run outside of all spans is on the line too.

    Examples
    --------
    >>> line = fold(np.array([100, 1000]), np.array([104, 1001]), np.array([98]),
    ...             np.array([1 << 30]))
    >>> line.start.tolist(), line.stop.tolist()
    ([98, 1000], [104, 1001])
    """
    tail = _tails(run_stop, run_start, span_start, span_stop)
    head, hollow = _heads(run_start, run_stop, span_start, span_stop)
    tail_length, head_length = tail - run_stop, head - span_start
    populated = int((run_stop - run_start).sum()) + _ROOM_FOR_A_SPAN * len(span_start)
    most = _longest_kept(np.concatenate([tail_length, head_length]), _EMPTY_SHARE * populated)
    shown = np.where(tail_length <= most, tail, run_stop)
    # A span with nothing in it keeps some of its room, so that it can be seen at all.
    keep = hollow | (head_length <= most)
    head = np.where(hollow, np.minimum(head, span_start + most), head)[keep]
    first = np.flatnonzero(np.r_[True, run_start[1:] != shown[:-1]][: len(run_start)])
    last = np.r_[first[1:], len(run_start)] - 1 if len(first) else first
    return _joined(
        np.concatenate([run_start[first], span_start[keep]]),
        np.concatenate([shown[last], head]),
    )


def _tails(run_stop: Ints, run_start: Ints, span_start: Ints, span_stop: Ints) -> Ints:
    """Where the empty stretch behind each run ends: at the next run or the end of its span."""
    if not len(span_start):
        return run_stop
    inside = np.searchsorted(span_start, run_stop - 1, side="right") - 1
    end = np.where(inside >= 0, span_stop[inside], run_stop)
    following = np.append(run_start[1:], np.iinfo(np.int64).max)[: len(run_start)]
    return np.asarray(np.maximum(np.minimum(end, following), run_stop), np.int64)


def _heads(
    run_start: Ints, run_stop: Ints, span_start: Ints, span_stop: Ints
) -> tuple[Ints, np.ndarray]:
    """Where the empty stretch at the head of each span ends, and whether the span is all empty."""
    nearest = np.searchsorted(run_stop, span_start, side="right")
    begins = np.append(run_start, np.iinfo(np.int64).max)[nearest]
    end = np.minimum(np.maximum(begins, span_start), span_stop)
    return end, end == span_stop


def _longest_kept(lengths: Ints, room: int) -> int:
    """A power of two: stretches up to this length together take at most `room` pages."""
    lengths = lengths[lengths > 0]
    order = np.frexp(lengths - 1)[1]  # lengths up to 2**order
    total = np.cumsum(np.bincount(order, lengths, minlength=1))
    return 1 << max(int(np.searchsorted(total, room, side="right")) - 1, 0)


def _joined(start: Ints, stop: Ints) -> Line:
    """Pieces in order, those that touch made one."""
    some = stop > start
    start, stop = start[some], stop[some]
    order = np.argsort(start, kind="stable")
    start, stop = start[order], stop[order]
    cut = np.flatnonzero(start[1:] != stop[:-1]) + 1
    if len(start):
        start, stop = start[np.r_[0, cut]], stop[np.r_[cut - 1, len(stop) - 1]]
    edges = np.zeros(len(start) + 1, np.int64)
    np.cumsum(stop - start, out=edges[1:])
    return Line(start, stop, edges)
