"""Which swap type is which line of ``/proc/swaps``.

A swap entry names its area by number; ``/proc/swaps`` lists areas without numbers. The lines
stand in the order of their numbers, but numbers have gaps: after ``swapon a; swapon b;
swapoff a`` the only line is b, and its entries say 1. So a line number proves nothing.

What does: an entry of type t exists only while some line has number t; its slot must lie
inside that area; and numbers rise from line to line. A line that has the same number in all
numberings that agree with this is certain; otherwise its ``swap_type`` is null and
``evidence`` says what is missing. Where this kernel may be asked, `probe.swap_sample` pushes
a few pages of our own out and looks which line grows.

In: the lines, and for each type seen the highest slot. Out: a number or None, and a sentence,
for each line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..entries import SWAP_TYPE_BITS
from ..procstatus import SwapArea

MAX_TYPES = 1 << SWAP_TYPE_BITS


@dataclass(frozen=True)
class Pin:
    """The number of one line: None where it is not certain, and why in either case."""

    swap_type: int | None
    evidence: str


def pin(
    areas: Sequence[SwapArea],
    highest_slot: Mapping[int, int],
    page_size: int,
    *,
    grown: Mapping[int, frozenset[bytes]] | None = None,
    told: Mapping[bytes, int] | None = None,
) -> list[Pin]:
    """Number the lines of ``/proc/swaps``.

    Parameters
    ----------
    areas : sequence of SwapArea
        The lines in the order they were read.
    highest_slot : mapping of int to int
        For each swap type seen in any page table, the highest slot seen.
    page_size : int
        Bytes in a slot.
    grown : mapping of int to frozenset of bytes, optional
        For a type that pages were just pushed out to, the paths whose use grew enough.
    told : mapping of bytes to int, optional
        Path -> number where it was recorded, for instance by a simulator.

    Examples
    --------
    >>> a, b = (SwapArea(path, "file", 1 << 26, 0, -2) for path in (b"/a", b"/b"))
    >>> [found.swap_type for found in pin([a, b], {0: 10, 1: 20}, 4096)]
    [0, 1]
    >>> [found.swap_type for found in pin([b], {1: 20}, 4096)]
    [1]
    >>> pin([a], {}, 4096)[0].evidence
    'no page in swap was seen that tells; 32 numbers are possible'
    """
    told = told or {}
    possible = _possible(areas, highest_slot, grown or {}, page_size)
    pins = []
    for area, numbers in zip(areas, possible, strict=True):
        if area.path in told:
            pins.append(Pin(told[area.path], "recorded by the source"))
        elif len(numbers) == 1:
            seen = "its pages were seen" if numbers[0] in highest_slot else "its neighbours were"
            pins.append(Pin(numbers[0], f"the only number that fits: {seen}"))
        elif not numbers:
            pins.append(Pin(None, "entries seen fit no order of the areas: one came or went"))
        elif highest_slot:
            some = ", ".join(map(str, numbers[:3]))
            pins.append(Pin(None, f"what was seen leaves {some} … possible"))
        else:
            pins.append(
                Pin(
                    None,
                    f"no page in swap was seen that tells; {len(numbers)} numbers are possible",
                )
            )
    return pins


def _possible(
    areas: Sequence[SwapArea],
    highest_slot: Mapping[int, int],
    grown: Mapping[int, frozenset[bytes]],
    page_size: int,
) -> list[list[int]]:
    """For each line, the numbers it has in some numbering that agrees with what was seen.

    A numbering is a rising path through (line, number); a type that was seen may not be
    stepped over. So a number is possible where paths reach it from both ends.
    """
    seen = np.array([t in highest_slot for t in range(MAX_TYPES)])
    below = np.concatenate([[0], np.cumsum(seen)])
    # step[s, t]: numbers s and then t on neighbouring lines, with nothing seen in between.
    rising = np.triu(np.ones((MAX_TYPES, MAX_TYPES), bool), 1)
    step = rising & (below[None, :-1] == below[1:, None])
    fits = np.array(
        [
            [
                highest_slot.get(t, 0) <= area.size // page_size
                and (t not in grown or area.path in grown[t])
                for t in range(MAX_TYPES)
            ]
            for area in areas
        ],
        bool,
    ).reshape(-1, MAX_TYPES)
    from_start, from_end = fits.copy(), fits.copy()
    if len(areas):
        from_start[0] &= below[:-1] == 0
        from_end[-1] &= below[1:] == below[-1]
    for line in range(1, len(areas)):
        from_start[line] &= (from_start[line - 1][:, None] & step).any(axis=0)
        from_end[-1 - line] &= (step & from_end[-line][None, :]).any(axis=1)
    return [np.flatnonzero(both).tolist() for both in from_start & from_end]
