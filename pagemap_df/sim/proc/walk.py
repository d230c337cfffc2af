"""The walk over a page table, level by level, as pagemap's reader does it.

pgd, pud, pmd, then entries; an empty slot on any level is one hole, clipped to what the slot
spans and to the range asked for. No mapping is consulted. That is ``walk_page_range`` of
Linux 2.6.25 (``mm/pagewalk.c``), which pagemap was written around.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

from ..mm import pagetable as pt
from ..mm.hardware import BLOCK
from ..mm.pagetable import PageTable, Ptes

SPANS = {"pgd": BLOCK**3, "pud": BLOCK**2, "pmd": BLOCK}
"""Pages that a slot of each level spans (4-level tables)."""


class Step(NamedTuple):
    """One callback of the walk: entries of a leaf table, or a hole found on a level.

    ``ptes`` is None for a hole; ``level`` is then where the empty slot is, else ``"pte"``.
    """

    level: str
    first: int
    stop: int
    ptes: Ptes | None


def walk(table: PageTable, first: int, stop: int, *, clear_bad: bool = False) -> Iterator[Step]:
    """The steps over the pages from `first` to `stop`.

    Parameters
    ----------
    clear_bad : bool
        Do as kernels before 2.6.26-rc7: take a PMD that maps a huge page for corrupt and
        clear it. The mapping is gone then, and its pages leak.

    Examples
    --------
    >>> table = PageTable(zero=1)
    >>> table.ensure(512, 1024)
    >>> [(step.level, step.first, step.stop) for step in walk(table, 0, 2048)]
    [('pmd', 0, 512), ('pte', 512, 1024), ('pmd', 1024, 1536), ('pmd', 1536, 2048)]
    """
    numbers = sorted(table.leaves)
    page = first
    while page < stop:
        for level, span in SPANS.items():
            end = min((page // span + 1) * span, stop)
            if not _populated(numbers, page // span * span, (page // span + 1) * span):
                yield Step(level, page, end, None)
                break
        else:
            yield _leaf(table, page, end, clear_bad)
        page = end


def _populated(numbers: list[int], first: int, stop: int) -> bool:
    """Whether a leaf lies in a range of pages."""
    at = bisect_left(numbers, first // BLOCK)
    return at < len(numbers) and numbers[at] < stop // BLOCK


def _leaf(table: PageTable, first: int, stop: int, clear_bad: bool) -> Step:
    leaf = table.leaf(first)
    assert leaf is not None
    if clear_bad and leaf[0] & pt.PMD:
        del table.leaves[first // BLOCK]
        return Step("pmd", first, stop, None)
    low = first % BLOCK
    return Step("pte", first, stop, leaf[low : low + stop - first])
