"""`Fault`: pages of one mapping on their way through the fault rules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import pagetable as pt
from .hardware import BLOCK, Bools, Pfns
from .kernel import Kernel
from .pagetable import Ptes
from .vma import WRITE, AddressSpace, Vma


@dataclass
class Fault:
    """Pages of one mapping on their way through the rules (``struct vm_fault``).

    Attributes
    ----------
    first, step : int
        Page of the first entry, and from one entry to the next.
    ptes : uint64 array
        A view of the entries; what is written to it is in the page table.
    keep : bool
        The kernel faults the pages in for somebody (``faultin_page``) and touches nothing.
    """

    kernel: Kernel
    space: AddressSpace
    vma: Vma
    first: int
    step: int
    ptes: Ptes
    write: bool
    keep: bool = False

    def pages(self, where: Bools) -> Pfns:
        """Virtual pages of some of the entries."""
        return np.flatnonzero(where) * self.step + self.first

    def blocks(self, where: Bools) -> list[int]:
        """First pages of the blocks of 512 that some of the entries lie in."""
        if not where.any():
            return []
        blocks: list[int] = np.unique(self.pages(where) // BLOCK * BLOCK).tolist()
        return blocks

    def leaf(self, page: int) -> Ptes:
        """All 512 entries around a page that has a table."""
        leaf = self.space.table.leaf(page)
        assert leaf is not None
        return leaf

    def bits(self) -> np.uint64:
        """Of an entry for a page that may be written at once if the mapping allows it."""
        bits = pt.PRESENT | pt.YOUNG
        if self.vma.has(WRITE):
            bits |= pt.WRITE
        return bits | pt.DIRTY if self.write else bits
