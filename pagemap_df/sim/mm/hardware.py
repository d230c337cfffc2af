"""Physical memory: page frames, and the allocator that hands them out.

A frame is a row in a handful of parallel arrays indexed by PFN. As on a PC, physical memory
has holes (640 KiB to 1 MiB, and 3 to 4 GiB), and the kernel keeps the first frames for
itself; those are RESERVED and never handed out. Memory is committed by the host only for
frames that are touched, so a large machine costs what it uses.

Free frames live in *blocks* of 512 (2 MiB). `Frames.alloc` breaks blocks into pages;
`Frames.alloc_block` wants a whole one, and puts blocks together again if it has to. The order
of blocks, and of pages inside a block, is shuffled by the machine's generator: nobody should
come to rely on consecutive PFNs.

What can go wrong: there are not enough frames, `OutOfFrames`. Making room is the business
of the layer above (`reclaim`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...pageflags import mask

Pfns = NDArray[np.int64]
"""Page frame numbers, or any other indices."""

Bools = NDArray[np.bool_]

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
BLOCK = 512
"""Pages of a page table, of a PMD-mapped huge page, and of an allocator block."""
SECTION = 32768
"""kpage* files end at a multiple of this many frames (SPARSEMEM sections of x86-64)."""

_ISA_HOLE = (0xA0, 0x100)
_PCI_HOLE = (0xC0000, 0x100000)


_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}


def size_of(text: str | int) -> int:
    """Bytes in ``"64M"`` and the like.

    Examples
    --------
    >>> size_of("64M") == 64 << 20, size_of(4096)
    (True, 4096)
    """
    if isinstance(text, int):
        return text
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdigit() or (unit and unit not in _UNITS):
        raise ValueError(f"a size is a number and maybe K, M, G or T; not {text!r}")
    return int(number) << _UNITS.get(unit, 0)


def flag(*names: str) -> np.uint64:
    """Bits of ``kpageflags`` by name, as a NumPy scalar."""
    return np.uint64(mask(*names))


ANON, KSM, SWAPCACHE, SWAPBACKED = flag("ANON"), flag("KSM"), flag("SWAPCACHE"), flag("SWAPBACKED")
UPTODATE, DIRTY, LRU, ACTIVE = flag("UPTODATE"), flag("DIRTY"), flag("LRU"), flag("ACTIVE")
REFERENCED, BUDDY, RESERVED = flag("REFERENCED"), flag("BUDDY"), flag("RESERVED")
RECLAIM = flag("RECLAIM")
"""PG_reclaim, which is also PG_readahead: fault-around leaves such pages alone."""
MLOCKED, UNEVICTABLE = flag("MLOCKED"), flag("UNEVICTABLE")
HUGETLB, THP, HEAD, TAIL = flag("HUGE"), flag("THP"), flag("COMPOUND_HEAD"), flag("COMPOUND_TAIL")
ZERO, MMAP = flag("ZERO_PAGE"), flag("MMAP")
EXCLUSIVE = flag("OWNER_2")
"""PG_owner_2, which on anonymous pages means PageAnonExclusive (Linux 5.19 on)."""
LARGE = HEAD | TAIL
FRESH_ANON = UPTODATE | LRU | ANON | SWAPBACKED
FRESH_FILE = UPTODATE | LRU
FRESH_SHMEM = UPTODATE | LRU | SWAPBACKED


class OutOfFrames(Exception):
    """Fewer free frames than asked for: `missing` of them, in the whole machine or a cgroup."""

    def __init__(self, missing: int, cgroup: str | None = None) -> None:
        where = f"in cgroup {cgroup}" if cgroup else "in the machine"
        super().__init__(f"{missing} page frames too few {where}")
        self.missing, self.cgroup = missing, cgroup


class Frames:
    """All page frames of a machine.

    Parameters
    ----------
    memory : int
        Bytes of RAM.
    rng : numpy.random.Generator
        Shuffles the order in which frames are handed out.

    Attributes
    ----------
    flags : uint64 array
        What ``kpageflags`` shows, except MMAP, which follows from `mapcount`.
    mapcount : int32 array
        Page table entries that map the frame; a PMD mapping counts once for each of its 512.
    content : int64 array
        A label of what the page holds; equal labels are equal bytes, 0 is all zeroes.
    owner, index : int32, int64 array
        For file pages: number of the file (0: none) and page in it. For anonymous pages in
        the swap cache: `index` is the swap entry.
    age : uint32 array
        Tick at which reclaim last saw the frame used.
    cgroup : int32 array
        Row of the memory cgroup it is charged to; 0 is the root.
    ranges : list of (int, int)
        PFNs that are RAM, half-open.
    """

    def __init__(self, memory: int, rng: np.random.Generator) -> None:
        self.memory = memory
        self.ranges = ranges = _ram(memory >> PAGE_SHIFT)
        self.total = sum(stop - first for first, stop in ranges)
        self.span = -(-ranges[-1][1] // SECTION) * SECTION
        self.flags = np.zeros(self.span, np.uint64)
        self.mapcount = np.zeros(self.span, np.int32)
        self.content = np.zeros(self.span, np.int64)
        self.owner = np.zeros(self.span, np.int32)
        self.index = np.zeros(self.span, np.int64)
        self.age = np.zeros(self.span, np.uint32)
        self.cgroup = np.zeros(self.span, np.int32)
        self._clock = 0
        self._order = rng.permutation(BLOCK)
        self._blocks = _Stack()
        self._pages = _Stack()
        kernel = min(4096, self.total // 8)
        blocks = [self._add_ram(max(first, kernel), stop) for first, stop in ranges]
        self._blocks.push(_shuffled(np.concatenate(blocks), rng)[::-1])
        for first, stop in ranges:
            self.flags[first : min(stop, kernel)] = RESERVED
        self.zero = int(rng.integers(1, min(kernel, _ISA_HOLE[0])))
        self.flags[self.zero] |= ZERO
        self.huge_zero: int | None = None

    def _add_ram(self, first: int, stop: int) -> Pfns:
        """Make the range free; its whole blocks are returned, its loose edges are handed in."""
        if first >= stop:
            return np.empty(0, np.int64)
        self.flags[first:stop] = BUDDY
        low, high = -(-first // BLOCK), stop // BLOCK
        if low >= high:
            self._pages.push(np.arange(first, stop))
            return np.empty(0, np.int64)
        self._pages.push(np.r_[first : low * BLOCK, high * BLOCK : stop])
        return np.arange(low, high)

    @property
    def free(self) -> int:
        """How many frames can be handed out."""
        return self._pages.count + self._blocks.count * BLOCK

    def mark_dirty(self, pfns: Pfns) -> None:
        """Set DIRTY, which all parts of a large folio have in common."""
        self.flags[pfns] |= DIRTY
        blocks = np.unique(pfns[(self.flags[pfns] & LARGE) != 0] // BLOCK)
        self.flags[(blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel()] |= DIRTY

    def tick(self) -> int:
        """Let the clock that `age` is read from go on by one."""
        self._clock += 1
        return self._clock

    def claim(self, pfns: Pfns) -> None:
        """Take certain frames out of what is free, whatever they are."""
        wanted = np.zeros(self.span, np.bool_)
        wanted[pfns] = True
        loose = self._pages.pop(self._pages.count)
        blocks = self._blocks.pop(self._blocks.count)
        hit = np.asarray(wanted.reshape(-1, BLOCK).any(axis=1))
        broken = (blocks[hit[blocks]][:, None] * BLOCK + np.arange(BLOCK)).ravel()
        self._blocks.push(blocks[~hit[blocks]])
        loose = np.concatenate([loose, broken])
        self._pages.push(loose[~wanted[loose]])
        self.flags[loose[wanted[loose]]] = 0

    def alloc(self, count: int, flags: np.uint64) -> Pfns:
        """`count` frames of a page each, marked with `flags`, zero-filled, mapped nowhere."""
        if count > self.free:
            raise OutOfFrames(count - self.free)
        short = count - self._pages.count
        if short > 0:
            blocks = self._blocks.pop(-(-short // BLOCK))
            loose = (blocks[:, None] * BLOCK + self._order).ravel()[::-1]
            rest = self._pages.pop(self._pages.count)
            self._pages.push(loose)
            self._pages.push(rest)
        pfns = self._pages.pop(count)[::-1]
        self._prepare(pfns, flags)
        return pfns

    def alloc_block(self, flags: np.uint64) -> Pfns | None:
        """512 aligned consecutive frames as one folio, or None if there are none in one piece."""
        if not self._blocks.count and not self._coalesce():
            return None
        pfns = int(self._blocks.pop(1)[0]) * BLOCK + np.arange(BLOCK)
        self._prepare(pfns, flags | TAIL)
        self.flags[pfns[0]] ^= HEAD | TAIL
        return pfns

    def release(self, pfns: Pfns) -> None:
        """Give `pfns` (each once) back."""
        self.flags[pfns] = BUDDY
        self.owner[pfns] = 0
        self.cgroup[pfns] = 0
        self._pages.push(pfns)

    def release_block(self, head: int) -> None:
        """Give a whole folio of 512 back in one piece."""
        self.flags[head : head + BLOCK] = BUDDY
        self.owner[head : head + BLOCK] = 0
        self.cgroup[head : head + BLOCK] = 0
        self._blocks.push(np.array([head // BLOCK]))

    def _prepare(self, pfns: Pfns, flags: np.uint64) -> None:
        self.flags[pfns] = flags
        self.content[pfns] = 0
        self.age[pfns] = self._clock

    def _coalesce(self) -> bool:
        """Put pages that are free into blocks again; whether that gave any."""
        loose = self._pages.pop(self._pages.count)
        per_block = np.bincount(loose // BLOCK, minlength=self.span // BLOCK)
        whole = per_block == BLOCK
        self._blocks.push(np.flatnonzero(whole))
        self._pages.push(loose[~whole[loose // BLOCK]])
        return bool(whole.any())


def _ram(pages: int) -> list[tuple[int, int]]:
    """Ranges of PFNs that are RAM on a PC with so many pages."""
    ranges, first = [], 0
    for hole, end in (_ISA_HOLE, _PCI_HOLE):
        size = min(pages, hole - first)
        ranges.append((first, first + size))
        pages -= size
        first = end
    ranges.append((first, first + pages))
    return [(first, stop) for first, stop in ranges if stop > first]


def _shuffled(blocks: Pfns, rng: np.random.Generator, window: int = 32) -> Pfns:
    """`blocks` in disorder, yet low memory first: the arrays of a large machine stay untouched."""
    parts = [rng.permutation(blocks[at : at + window]) for at in range(0, len(blocks), window)]
    return np.concatenate([np.empty(0, np.int64), *parts])


class _Stack:
    """A stack of numbers that pushes and pops many at once."""

    def __init__(self) -> None:
        self._values = np.empty(1024, np.int32)
        self.count = 0

    def push(self, values: Pfns) -> None:
        need = self.count + len(values)
        if need > len(self._values):
            grown = np.empty(max(need, 2 * len(self._values)), np.int32)
            grown[: self.count] = self._values[: self.count]
            self._values = grown
        self._values[self.count : need] = values
        self.count = need

    def pop(self, count: int) -> Pfns:
        self.count -= count
        return self._values[self.count : self.count + count].astype(np.int64)
