"""Pagemap words to the columns of the ``pages`` table, as Arrow, at the memory's speed.

`entries` says what the bits are; this module lays them out as Arrow arrays: flags packed to
one bit a page, the frame buffer shared where it can be, columns with nothing in them backed
by memory that is never touched. It works on a block of some ten thousand words at a time,
which fit the processor's cache, so that a table costs little more than filling it.

In: words, the ranges they were read from, and a `Reading` (layout and facts). Out: one
`pyarrow.RecordBatch` for each block. Nothing can go wrong here that `eras.check` would not
have caught.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from . import eras, schema
from .bits import constant, everywhere, somewhere
from .entries import (
    KINDS,
    SWAP_TYPE_BITS,
    Bools,
    Fields,
    Ints,
    Layout,
    Meaning,
    Words,
    kinds,
    layout,
    unpack,
)

BLOCK = 1 << 16
"""Words decoded together."""

_RUNGS = 1 << 11

_ABSENT, _SWAP = KINDS.index("absent"), KINDS.index("swap")
_KIND_NAMES = pa.array(KINDS)


@dataclass(frozen=True)
class Reading:
    """How to read words of one machine. `reading_of` makes it from a source's facts.

    Attributes
    ----------
    layout : Layout
        Era and page size.
    meaning : Meaning
        Special swap types and zero pages.
    hidden : bool
        The reader saw no frame numbers; ``pfn`` and the swap slot are null.
    soft_dirty : bool
        The kernel tracks soft-dirty pages; otherwise the column is null.
    holes : bool
        Keep absent pages as rows too.
    raw : bool
        Keep the word itself as the column ``word``.
    """

    layout: Layout
    meaning: Meaning = field(default_factory=Meaning)
    hidden: bool = False
    soft_dirty: bool = True
    holes: bool = False
    raw: bool = False

    @property
    def page_size(self) -> int:
        """Bytes in a base page."""
        return 1 << self.layout.page_shift

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns a block has."""
        always = [c.name for c in schema.PAGES.columns if not c.on_request]
        return schema.PAGES.schema([*always, "word"] if self.raw else always)


def reading_of(facts: Mapping[str, Any], *, holes: bool = False, raw: bool = False) -> Reading:
    """The `Reading` that a source's facts call for; they must name era and page size."""
    era = facts["era"]
    special = facts.get("specials")
    meaning = Meaning(
        specials=(
            eras.likely_specials(era)
            if special is None
            else {int(number): kind for number, kind in special.items()}
        ),
        zero_pfns=tuple(facts.get("zero_pfns", ())),
        huge_zero_pfn=facts.get("huge_zero_pfn"),
        huge_zero_frames=facts.get("pmd_size", 512 * facts["page_size"]) // facts["page_size"],
    )
    return Reading(
        layout(era, int(facts["page_size"]).bit_length() - 1),
        meaning,
        hidden=facts.get("pfns") == "hidden",
        soft_dirty=facts.get("soft_dirty", True),
        holes=holes,
        raw=raw,
    )


class Slab:
    """Memory for columns, handed out in slices of large pieces.

    A first touch of a 4 KiB page costs more than decoding what is written to it. NumPy asks
    for huge pages from 4 MiB on, so pieces are larger than that. A piece lives as long as
    any array cut from it. Not for two threads at once.
    """

    PIECE = 1 << 24

    def __init__(self) -> None:
        self._free = np.empty(0, np.int64)

    def take(self, count: int) -> Ints:
        """`count` int64 of any value."""
        if count > len(self._free):
            self._free = np.empty(max(self.PIECE // 8, count), np.int64)
        taken, self._free = self._free[:count], self._free[count:]
        return taken


@dataclass(frozen=True)
class Ranges:
    """Where a block of words came from: `count` pages from `start`, in mapping `vma`."""

    start: Ints
    count: Ints
    vma: NDArray[np.int32]

    @staticmethod
    def one(start: int, count: int, vma: int = 0) -> Ranges:
        """A single range."""
        return Ranges(np.array([start]), np.array([count]), np.array([vma], np.int32))

    def addresses(self, page_size: int, slab: Slab) -> Ints:
        """The address of every page, in order."""
        out = slab.take(int(self.count.sum()))
        if len(self.start) == 1:
            return _climb(int(self.start[0]), page_size, out)
        before = np.cumsum(self.count) - self.count
        _climb(0, page_size, out)
        out += np.repeat(self.start - before * page_size, self.count)
        return out

    def mappings(self) -> NDArray[np.int32]:
        """The mapping of every page, in order."""
        if len(self.vma) == 1:
            return same(int(self.vma[0]), int(self.count[0]))
        return np.repeat(self.vma, self.count)


def block(
    words: Words,
    ranges: Ranges,
    pid: int,
    reading: Reading,
    slab: Slab | None = None,
) -> pa.RecordBatch:
    """Decode one block of words (uint64, shape (n,)) to a batch of ``pages`` rows.

    Absent pages have no row unless ``reading.holes``. The batch keeps no memory of `words`, so
    that one buffer can serve block after block.

    Examples
    --------
    >>> words = np.array([0x81000000001EC6CE, 0, 0x4000000000000C40], np.uint64)
    >>> reading = Reading(layout("E7"))
    >>> block(words, Ranges.one(0x10000, 3), 7, reading).to_pandas().vaddr.tolist()
    [65536, 73728]
    """
    slab = slab or Slab()
    found = unpack(words, reading.layout, slab.take(len(words)).view(np.uint64))
    codes = kinds(found, reading.meaning)
    vaddr, vma = ranges.addresses(reading.page_size, slab), ranges.mappings()
    if not reading.holes:
        keep = found.present if everywhere(found.present) else codes != _ABSENT
        if not everywhere(keep):
            at = np.flatnonzero(keep)
            found, codes = found[at], codes[at]
            vaddr, vma, words = vaddr[at], vma[at], words[at] if reading.raw else words
    return _assemble(found, codes, vaddr, vma, words, pid, reading)


def _assemble(
    found: Fields,
    codes: NDArray[np.uint8],
    vaddr: Ints,
    vma: NDArray[np.int32],
    words: Words,
    pid: int,
    reading: Reading,
) -> pa.RecordBatch:
    n = len(codes)
    swapped = codes == _SWAP if somewhere(found.entry) else found.entry
    soft_dirty = found.soft_dirty if reading.soft_dirty else None
    columns = {
        "pid": numbers(same(pid, n), pa.int32()),
        "vaddr": numbers(vaddr, pa.int64()),
        "kind": pa.DictionaryArray.from_arrays(
            numbers(codes.view(np.int8), pa.int8()), _KIND_NAMES, safe=False
        ),
        "present": bits(found.present),
        "swapped": bits(swapped),
        **_locations(found, swapped, reading.hidden),
        "file": bits(found.file, n),
        "exclusive": bits(found.exclusive, n),
        "soft_dirty": bits(soft_dirty, n),
        "uffd_wp": bits(found.uffd_wp, n),
        "guard": bits(found.guard, n),
        "vma": numbers(vma, pa.int32()),
    }
    if reading.raw:
        columns["word"] = numbers(words.astype(np.int64), pa.int64())
    return pa.record_batch(list(columns.values()), schema=reading.schema)


def _locations(found: Fields, swapped: Bools, hidden: bool) -> dict[str, pa.Array]:
    """``pfn``, ``swap_type`` and ``swap_offset``; null where a page is not there or is hidden."""
    n = len(swapped)
    if hidden:
        return {
            "pfn": nothing(n, pa.int64()),
            "swap_type": nothing(n, pa.uint8()),
            "swap_offset": nothing(n, pa.int64()),
        }
    pfn = numbers(found.frame, pa.int64(), found.present)
    # Kernels from 4.18 hide the slot together with the PFN; slot 0 is never handed out.
    known = swapped & (found.frame != 0) if somewhere(swapped) else swapped
    if not somewhere(known):
        return {
            "pfn": pfn,
            "swap_type": nothing(n, pa.uint8()),
            "swap_offset": nothing(n, pa.int64()),
        }
    low = (1 << SWAP_TYPE_BITS) - 1
    return {
        "pfn": pfn,
        "swap_type": numbers((found.frame & low).astype(np.uint8), pa.uint8(), known),
        "swap_offset": numbers(found.frame >> SWAP_TYPE_BITS, pa.int64(), known),
    }


def numbers(values: NDArray[Any], type_: pa.DataType, valid: Bools | None = None) -> pa.Array:
    """`values` as an Arrow array on the same memory."""
    if valid is None or everywhere(valid):
        return pa.Array.from_buffers(type_, len(values), [None, pa.py_buffer(values)], 0)
    return pa.Array.from_buffers(type_, len(values), [_bitmap(valid), pa.py_buffer(values)])


def bits(values: Bools | None, length: int = 0) -> pa.Array:
    """A bool column, one bit a row; all null if `values` is None."""
    if values is None:
        return nothing(length, pa.bool_())
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, _bitmap(values)], 0)


def nothing(length: int, type_: pa.DataType) -> pa.Array:
    """A column of nulls; blocks share its memory, which is only ever read as zero."""
    width = type_.bit_width * length + 7 >> 3
    blank = _blank() if length <= BLOCK else pa.py_buffer(np.zeros(width, np.uint8))
    return pa.Array.from_buffers(type_, length, [blank, blank], length)


@lru_cache(maxsize=1)
def _blank() -> pa.Buffer:
    return pa.py_buffer(np.zeros(8 * BLOCK, np.uint8))


def _bitmap(values: Bools) -> pa.Buffer:
    if constant(values) and len(values) <= BLOCK:
        return _constant_bits(bool(values[0])).slice(0, len(values) + 7 >> 3)
    return pa.py_buffer(np.packbits(values, bitorder="little"))


@lru_cache(maxsize=2)
def _constant_bits(value: bool) -> pa.Buffer:
    """A bitmap of one value that all blocks share."""
    return pa.py_buffer(np.full(BLOCK >> 3, 0xFF if value else 0, np.uint8))


@lru_cache(maxsize=4)
def _rungs(page_size: int) -> Ints:
    return np.arange(0, _RUNGS * page_size, page_size, dtype=np.int64)


def _climb(start: int, page_size: int, out: Ints) -> Ints:
    """Fill `out` with `start` and then page after page.

    Row by row from one short ladder, which stays in the nearest cache.
    """
    rows, rest = divmod(len(out), _RUNGS)
    whole, step, rungs = rows * _RUNGS, _RUNGS * page_size, _rungs(page_size)
    firsts = np.arange(start, start + rows * step, step, dtype=np.int64)
    np.add(firsts[:, None], rungs, out=out[:whole].reshape(rows, _RUNGS))
    np.add(rungs[:rest], start + rows * step, out=out[whole:])
    return out


@lru_cache(maxsize=16)
def _block_of(value: int) -> NDArray[np.int32]:
    return np.full(BLOCK, value, np.int32)


def same(value: int, count: int) -> NDArray[np.int32]:
    """`count` times `value`, on memory that neighbouring blocks share."""
    return _block_of(value)[:count] if count <= BLOCK else np.full(count, value, np.int32)


def values_of(array: pa.Array, dtype: type[np.generic]) -> NDArray[Any]:
    """The memory of a number column, without a copy; what stands under null is arbitrary."""
    _, data = array.buffers()
    return np.frombuffer(data, dtype)[array.offset : array.offset + len(array)]


def valid_of(array: pa.Array) -> Bools:
    """Where a column is not null."""
    return _bits_of(array, 0) if array.null_count else np.broadcast_to(np.True_, len(array))


def true_of(array: pa.Array) -> Bools:
    """Where a bool column is true; null counts as false."""
    values = _bits_of(array, 1)
    return values & valid_of(array) if array.null_count else values


def _bits_of(array: pa.Array, buffer: int) -> Bools:
    packed = np.frombuffer(array.buffers()[buffer], np.uint8)
    stop = array.offset + len(array)
    return np.unpackbits(packed, count=stop, bitorder="little")[array.offset :].view(np.bool_)
