"""Columns that are joined to ``pages``: map count, flags and cgroup by PFN, huge by address.

The files behind a join by PFN cost far more than pagemap itself, so a page is only looked up
where its word does not already tell. Bit 56 says that one page table entry maps the page,
which is its map count, with two exceptions in kernels up to 6.19: for a huge page mapped by
one huge entry the kernel answers for all 512 pages with the first one (fs/proc/task_mmu.c,
pagemap_pmd_range), and under CONFIG_NO_PAGE_MAPCOUNT it speaks of the whole folio. Pages that
may lie in such a huge page are those whose PFN and page number agree modulo 512 together
with a neighbour's; they are looked up.

What can go wrong: `NotPermitted` and `NotAvailable` from the files; then the column is null
and the snapshot's facts say why. With hidden PFNs nothing can be joined: null, likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from .. import columns, schema
from ..entries import KINDS, Bools, Ints
from ..errors import NotAvailable, NotPermitted
from ..source import Source, frames

JOINS = ("mapcount", "flags", "cgroup", "huge")


def check(names: Iterable[str]) -> tuple[str, ...]:
    """`names` if all of them can be joined; `ValueError` lists what can."""
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if name not in JOINS:
            raise ValueError(f"join takes {', '.join(JOINS)}, not {name!r}")
    return names


def join(
    pages: pa.Table, names: Iterable[str], source: Source, facts: Mapping[str, Any]
) -> tuple[pa.Table, dict[str, str]]:
    """`pages` with the columns `names` that are joined by PFN, and why some are null.

    Returns
    -------
    pages : pa.Table
    unknown : dict of str to str
        Column -> the reason it is null throughout.
    """
    unknown: dict[str, str] = {}
    for name in names:
        field = schema.PAGES[name].field
        try:
            if facts.get("pfns") == "hidden":
                raise NotAvailable(f"frame numbers are hidden: {facts.get('pfns_why', '')}")
            chunks = _joined(pages, name, source, facts)
        except (NotAvailable, NotPermitted) as error:
            unknown[name] = str(error)
            chunks = [columns.nothing(len(batch), field.type) for batch in pages.to_batches()]
        pages = pages.append_column(field, pa.chunked_array(chunks, field.type))
    return pages, unknown


def _joined(pages: pa.Table, name: str, source: Source, facts: Mapping[str, Any]) -> list[pa.Array]:
    """One joined column, chunked as `pages` is."""
    trusted = name == "mapcount" and facts.get("mapcount", "exact") == "exact"
    asked = [_asked(batch, facts, trusted) for batch in pages.to_batches()]
    pfns = [
        columns.values_of(batch["pfn"], np.int64)[rows]
        for batch, rows in zip(pages.to_batches(), asked, strict=True)
    ]
    wanted = np.unique(np.concatenate([np.empty(0, np.int64), *pfns]))
    values, known = frames.lookup(source, name, wanted)
    chunks = []
    for batch, rows, pfn in zip(pages.to_batches(), asked, pfns, strict=True):
        at = np.searchsorted(wanted, pfn)
        chunks.append(_column(batch, rows, values[at], known[at], name))
    return chunks


def _asked(batch: pa.RecordBatch, facts: Mapping[str, Any], trusted: bool) -> Ints:
    """The rows of a batch that must be looked up."""
    present = columns.valid_of(batch["pfn"])
    if not trusted or batch["exclusive"].null_count == len(batch):
        return np.flatnonzero(present)
    alone = columns.true_of(batch["exclusive"])
    return np.flatnonzero(present & (~alone | _in_huge(batch, facts)))


def _in_huge(batch: pa.RecordBatch, facts: Mapping[str, Any]) -> Bools:
    """Rows that may be mapped by a huge entry: all that are, and few others."""
    page = int(facts["page_size"])
    span = int(facts.get("pmd_size", 512 * page)) // page
    vpn = columns.values_of(batch["vaddr"], np.int64) >> page.bit_length() - 1
    vpn ^= columns.values_of(batch["pfn"], np.int64)
    vpn &= span - 1
    fits = vpn == 0
    beside = np.zeros_like(fits)
    beside[1:] |= fits[:-1]
    beside[:-1] |= fits[1:]
    if len(fits):
        # Its neighbour may be in the next batch.
        beside[[0, -1]] = True
    return np.asarray(fits & beside)


def _column(batch: pa.RecordBatch, rows: Ints, values: Ints, known: Bools, name: str) -> pa.Array:
    """The column of one batch: 1 where not asked, the answer where asked, null otherwise."""
    type_ = schema.PAGES[name].type
    dtype = np.int32 if type_ == pa.int32() else np.int64
    present = columns.valid_of(batch["pfn"])
    if not len(rows):
        return columns.numbers(
            columns.same(1, len(batch)).astype(dtype, copy=False), type_, present
        )
    out = np.ones(len(batch), dtype)
    out[rows] = values
    valid = present.copy()
    valid[rows] = known
    return columns.numbers(out, type_, valid)


def huge(source: Source, pid: int, batches: list[pa.RecordBatch]) -> list[pa.Array]:
    """The column ``huge`` for the batches of one process, by asking for huge ranges."""
    return [columns.bits(_inside(batch, source.huge, pid)) for batch in batches]


def with_zero(source: Source, pid: int, batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Batches whose zero pages are named so, for a reader who does not know their frames.

    The huge zero page shows bit 61, which the small one never does. Batches come back as
    they are from a source that cannot tell.
    """
    out = []
    for batch in batches:
        try:
            zero = np.flatnonzero(_inside(batch, source.zero, pid))
        except NotAvailable:
            return batches
        kind = batch["kind"]
        codes = kind.indices.to_numpy().copy()
        huge_ones = columns.true_of(batch["file"])[zero]
        codes[zero] = np.where(huge_ones, KINDS.index("huge_zero"), KINDS.index("zero"))
        named = pa.DictionaryArray.from_arrays(pa.array(codes), kind.dictionary)
        at = batch.schema.get_field_index("kind")
        out.append(batch.set_column(at, batch.schema.field(at), named))
    return out


def _inside(
    batch: pa.RecordBatch, ranges: Callable[[int, int, int], Iterator[tuple[int, int]]], pid: int
) -> Bools:
    """Rows of a batch that lie in the ranges the source gives for it."""
    vaddr = columns.values_of(batch["vaddr"], np.int64)
    inside = np.zeros(len(batch), np.bool_)
    # The end is rounded up to a whole page by the kernel.
    for start, end in ranges(pid, int(vaddr[0]), int(vaddr[-1]) + 1):
        inside[np.searchsorted(vaddr, start) : np.searchsorted(vaddr, end)] = True
    return inside
