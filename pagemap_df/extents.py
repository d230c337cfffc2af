"""Extents: the ``pages`` table folded into runs, and back, without loss.

An extent is a run of neighbouring pages of one process and one mapping that are alike (kind,
flags, map count, whatever columns there are) and lie in consecutive places: page frames one
after the other, or swap slots one after the other. Zero pages all name the same frame, so a
run of those stays in one frame. Pages of unknown place fold with others of unknown place.

On memory that the kernel gave out in order, ten to thousands of pages make one extent; a
fragmented heap has hardly more than one page in each, and gains nothing. `contiguity` tells.

``present`` and ``swapped`` follow from ``kind`` and are not kept. A page is an extent of one
page, so there is one rule, `folded`, for pages, for extents, and for what lies on both sides
of a cut. Rows keep their order; pages that are not sorted only fold less.

In: Arrow tables as `schema` has them. Out: likewise. What can go wrong (`TableError`): a
column is missing or is not one of the specification, or ``present`` contradicts ``kind``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from . import schema
from .columns import BLOCK, bits, numbers, true_of, valid_of, values_of
from .entries import SWAP_TYPE_BITS, Bools, Ints
from .errors import TableError

PRESENT_KINDS = ("present", "zero", "huge_zero")
"""The kinds whose pages are in memory: ``present`` is true for these alone."""

_MADE = ("start", "n_pages")


def of_pages(pages: pa.Table, page_size: int) -> pa.Table:
    """Fold a ``pages`` table into extents.

    Parameters
    ----------
    pages : pyarrow.Table
        With any of the columns on request.
    page_size : int
        Bytes in a base page (the fact ``page_size``).

    Returns
    -------
    pyarrow.Table
        As `schema.EXTENTS`, with the metadata of `pages`.

    Raises
    ------
    TableError
        If `pages` is not a ``pages`` table or has a column that the specification lacks.

    Examples
    --------
    >>> pages = schema.conform(pa.table({
    ...     "pid": [7, 7, 7], "vaddr": [0x1000, 0x2000, 0x3000], "kind": ["present"] * 3,
    ...     "present": [True] * 3, "swapped": [False] * 3, "pfn": [40, 41, 90],
    ...     **{name: pa.nulls(3) for name in ("swap_type", "swap_offset", "file", "exclusive",
    ...                                       "soft_dirty", "uffd_wp", "guard", "vma")}}), "pages")
    >>> of_pages(pages, 4096).select(["start", "n_pages", "pfn"]).to_pylist()
    [{'start': 4096, 'n_pages': 2, 'pfn': 40}, {'start': 12288, 'n_pages': 1, 'pfn': 90}]
    """
    pages = schema.conform(pages, "pages")
    _refuse_unknown(pages, schema.PAGES)
    names = [c.name for c in schema.EXTENTS.columns if c.name in {*pages.schema.names, *_MADE}]
    target = schema.EXTENTS.schema(names)
    parts = []
    for batch in pages.unify_dictionaries().to_batches(max_chunksize=BLOCK):
        _check_derived(batch)
        single = {
            "start": batch["vaddr"],
            "n_pages": numbers(np.ones(len(batch), np.int64), pa.int64()),
        }
        arrays = [single[name] if name in single else batch[name] for name in names]
        parts.append(_fold(pa.record_batch(arrays, schema=target), page_size))
    return _fold_all(pa.Table.from_batches(parts, target), page_size, pages.schema.metadata)


def folded(extents: pa.Table, page_size: int) -> pa.Table:
    """Join neighbouring extents that are one; what is already folded stays as it is."""
    extents = schema.conform(extents, "extents")
    _refuse_unknown(extents, schema.EXTENTS)
    return _fold_all(extents, page_size, extents.schema.metadata)


def to_pages(extents: pa.Table, page_size: int) -> pa.Table:
    """The ``pages`` table that `extents` stand for; the exact inverse of `of_pages`.

    Examples
    --------
    >>> run = {"pid": [7], "start": [0x1000], "n_pages": [2], "kind": ["swap"],
    ...        "swap_type": [0], "swap_offset": [90],
    ...        **{name: pa.nulls(1) for name in ("pfn", "file", "exclusive", "soft_dirty",
    ...                                          "uffd_wp", "guard", "vma")}}
    >>> extents = schema.conform(pa.table(run), "extents")
    >>> to_pages(extents, 4096).select(["vaddr", "swapped", "swap_offset"]).to_pylist()
    [{'vaddr': 4096, 'swapped': True, 'swap_offset': 90},
     {'vaddr': 8192, 'swapped': True, 'swap_offset': 91}]
    """
    extents = schema.conform(extents, "extents")
    _refuse_unknown(extents, schema.EXTENTS)
    names = [
        c.name
        for c in schema.PAGES.columns
        if c.name in {*extents.schema.names, "vaddr", "present", "swapped"}
    ]
    target = schema.PAGES.schema(names)
    batches = [_spread(batch, page_size, target) for batch in extents.combine_chunks().to_batches()]
    return pa.Table.from_batches(batches, target).replace_schema_metadata(extents.schema.metadata)


def contiguity(pages: pa.Table, page_size: int | None = None) -> float:
    """Pages per extent: how much the folded form saves. 1.0 for an empty table.

    From 3 pages up extents are worth computing on; at 1 to 2 the pages are as small. The page
    size is taken from the facts in the table's metadata if not given.
    """
    if page_size is None:
        page_size = int(schema.facts_of(pages.schema.metadata)["page_size"])
    found = len(of_pages(pages, page_size))
    return len(pages) / found if found else 1.0


# -- folding ---------------------------------------------------------------------------------


def _fold_all(table: pa.Table, page_size: int, metadata: Any) -> pa.Table:
    whole = table.unify_dictionaries().combine_chunks().to_batches()
    target = table.schema.with_metadata(metadata)
    return pa.Table.from_batches([_fold(batch, page_size) for batch in whole], table.schema).cast(
        target
    )


def _fold(batch: pa.RecordBatch, page_size: int) -> pa.RecordBatch:
    """`batch` with each row that continues the one before it joined to that one."""
    if len(batch) < 2:
        return batch
    count = values_of(batch["n_pages"], np.int64)
    cut = np.zeros(len(batch) - 1, np.bool_)
    steps = _steps(batch, page_size)
    for name in batch.schema.names:
        if name != "n_pages":
            _cut_where_different(batch[name], cut, steps.get(name), count)
    first = np.concatenate([[0], np.flatnonzero(cut) + 1])
    if len(first) == len(batch):
        return batch
    taken = batch.take(pa.array(first))
    at = batch.schema.get_field_index("n_pages")
    total = numbers(np.add.reduceat(count, first), pa.int64())
    return taken.set_column(at, batch.schema.field("n_pages"), total)


def _cut_where_different(
    values: pa.Array, cut: Bools, step: NDArray[Any] | int | None, count: Ints
) -> None:
    """Mark in `cut` where a row does not go on from the row before it, as far as `values` say."""
    if values.null_count == len(values):
        return
    valid = valid_of(values) if values.null_count else None
    if pa.types.is_boolean(values.type):
        found: NDArray[Any] = true_of(values)
    else:
        plain = values.indices if pa.types.is_dictionary(values.type) else values
        found = values_of(plain, plain.type.to_pandas_dtype())
        if valid is not None:
            found = np.where(valid, found, 0)
    if step is None:
        cut |= found[1:] != found[:-1]
    else:
        ahead = count[:-1] * (step if isinstance(step, int) else step[:-1])
        if valid is not None:
            ahead = np.where(valid[:-1], ahead, 0)
        cut |= found[1:] != found[:-1] + ahead
    if valid is not None:
        cut |= valid[1:] != valid[:-1]


def _steps(batch: pa.RecordBatch, page_size: int) -> dict[str, NDArray[Any] | int]:
    """By how much a stepped column goes up from one page of an extent to its next."""
    frame: NDArray[Any] | int = 1
    if (kind := _kind_is(batch, ("zero",))).any():
        frame = (~kind).astype(np.int64)
    found: dict[str, NDArray[Any] | int] = {"start": page_size, "pfn": frame, "swap_offset": 1}
    if "word" in batch.schema.names:
        slot = np.where(valid_of(batch["swap_offset"]), 1 << SWAP_TYPE_BITS, 0)
        found["word"] = np.where(valid_of(batch["pfn"]), frame, slot)
    return found


def _kind_is(batch: pa.RecordBatch, kinds: tuple[str, ...]) -> Bools:
    column = batch["kind"]
    table = np.array([name in kinds for name in column.dictionary.to_pylist()] or [False])
    return np.asarray(table[values_of(column.indices, np.int8)], np.bool_)


# -- unfolding -------------------------------------------------------------------------------


def _spread(batch: pa.RecordBatch, page_size: int, target: pa.Schema) -> pa.RecordBatch:
    count = values_of(batch["n_pages"], np.int64)
    if len(count) and count.min() < 1:
        raise TableError("extents.n_pages holds a value below 1")
    total = int(count.sum())
    nth = np.arange(total) - np.repeat(np.cumsum(count) - count, count)
    steps = _steps(batch, page_size)
    made = {
        "present": bits(np.repeat(_kind_is(batch, PRESENT_KINDS), count)),
        "swapped": bits(np.repeat(_kind_is(batch, ("swap",)), count)),
    }
    arrays = []
    for name in target.names:
        old = "start" if name == "vaddr" else name
        arrays.append(
            made[name] if name in made else _repeat(batch[old], count, steps.get(old), nth)
        )
    return pa.record_batch(arrays, schema=target)


def _repeat(values: pa.Array, count: Ints, step: NDArray[Any] | int | None, nth: Ints) -> pa.Array:
    if values.null_count == len(values):
        return pa.nulls(len(nth), values.type)
    valid = np.repeat(valid_of(values), count) if values.null_count else None
    if pa.types.is_boolean(values.type):
        spread = bits(np.repeat(true_of(values), count))
        return spread if valid is None else _masked(spread, valid)
    if pa.types.is_dictionary(values.type):
        codes = _repeat(values.indices, count, None, nth)
        return pa.DictionaryArray.from_arrays(codes, values.dictionary)
    found = np.repeat(values_of(values, values.type.to_pandas_dtype()), count)
    if step is not None:
        found += nth * (step if isinstance(step, int) else np.repeat(step, count))
    return numbers(found, values.type, valid)


def _masked(values: pa.Array, valid: Bools) -> pa.Array:
    mask = bits(valid).buffers()[1]
    return pa.Array.from_buffers(values.type, len(values), [mask, values.buffers()[1]])


# -- checks ----------------------------------------------------------------------------------


def _refuse_unknown(table: pa.Table, spec: schema.Spec) -> None:
    known = {column.name for column in spec.columns}
    if extra := [name for name in table.schema.names if name not in known]:
        raise TableError(
            f"{spec.name}: no rule says how {', '.join(extra)} behaves inside an extent; drop it"
        )


def _check_derived(batch: pa.RecordBatch) -> None:
    for name, kinds in (("present", PRESENT_KINDS), ("swapped", ("swap",))):
        if not np.array_equal(true_of(batch[name]), _kind_is(batch, kinds)):
            raise TableError(f"pages.{name} contradicts pages.kind; it is true for {kinds} alone")
