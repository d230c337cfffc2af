"""What changed between two ``pages`` tables, as extents, and the table that follows from it.

A delta has an extent for every run of pages that is new or not as before, in its new state, and
an extent of kind ``absent`` for every run of pages that is gone. It does not say which mapping a
page lies in: a mapping added in front of others renumbers them all, and the address tells.
So ``vma`` is null in a delta and found again by address in `applied`.

In: two tables of one machine, both sorted as the specification says; `between` gives the delta,
`applied` undoes it: ``applied(old, [between(old, new)], vmas_of_new)`` is ``new``, row for row.

What can go wrong (`TableError`): tables that hold absent pages as rows (``holes=True``), tables
with different columns, or addresses beyond what 64 bits have room for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import extents, schema
from ..entries import KINDS, Bools, Ints
from ..errors import TableError
from ..runs import matched, missing

_PAGE_BITS = 45
_ABSENT = "absent"


def between(old: pa.Table, new: pa.Table, page_size: int) -> pa.Table:
    """The extents that turn `old` into `new`.

    Parameters
    ----------
    old, new : pyarrow.Table
        ``pages`` with the same columns, sorted, without absent pages.

    Returns
    -------
    pyarrow.Table
        ``extents``, sorted, ``vma`` null; no rows if nothing changed.
    """
    if old.schema.names != new.schema.names:
        raise TableError(
            f"two pages tables with the same columns were expected; one has {old.schema.names}, "
            f"the other {new.schema.names}"
        )
    if old.equals(new):
        return _no_change(new)
    before, after = _keys([old, new], "vaddr", page_size)
    same_before, same_after = matched(before, after)
    differs = _differences(old, new, same_before, same_after)
    fresh = np.concatenate([same_after[differs], missing(len(new), same_after)])
    gone = missing(len(old), same_before)
    if not len(fresh) and not len(gone):
        return _no_change(new)
    rows = pa.concat_tables(
        [_without_vma(new.take(np.sort(fresh))), _tombstones(old.take(gone), new.schema)]
    )
    order = np.argsort(_keys([rows], "vaddr", page_size)[0], kind="stable")
    return extents.of_pages(rows.take(order), page_size).replace_schema_metadata(None)


def applied(old: pa.Table, changes: Sequence[pa.Table], vmas: pa.Table, page_size: int) -> pa.Table:
    """The ``pages`` that `old` became by `changes`, one after the other.

    Parameters
    ----------
    vmas : pyarrow.Table
        The mappings as they are at the end.
    """
    parts = [old] + [_with_columns(extents.to_pages(c, page_size), old.schema) for c in changes]
    keys = _keys(parts, "vaddr", page_size)
    rows = pa.concat_tables(parts).unify_dictionaries()
    key = np.concatenate(keys)
    order = np.argsort(key, kind="stable")
    key = key[order]
    # Of rows for one page, the last one counts: the sort is stable.
    last = np.append(key[1:] != key[:-1], True) if len(key) else np.zeros(0, np.bool_)
    rows = rows.take(order[last])
    rows = rows.filter(pc.not_equal(rows["kind"].cast(pa.string()), _ABSENT))
    at = rows.schema.get_field_index("vma")
    return rows.set_column(at, rows.schema.field("vma"), mapping_of(rows, vmas, page_size))


def mapping_of(pages: pa.Table, vmas: pa.Table, page_size: int) -> pa.Array:
    """Row of ``vmas`` that each page lies in, null for none."""
    key, start = _keys([pages, vmas.rename_columns({"start": "vaddr"})], "vaddr", page_size)
    if not len(start):
        return pa.nulls(len(key), pa.int32())
    order = np.argsort(start, kind="stable")
    place = np.searchsorted(start[order], key, "right") - 1
    row = order[np.maximum(place, 0)]
    inside = (place >= 0) & (pages["vaddr"].to_numpy() < vmas["end"].to_numpy()[row])
    inside &= pages["pid"].to_numpy() == vmas["pid"].to_numpy()[row]
    return pa.array(row.astype(np.int32), mask=~inside)


def _keys(tables: Sequence[pa.Table], address: str, page_size: int) -> list[Ints]:
    """One number for each row, ascending by process and address; comparable among `tables`."""
    pids = np.unique(np.concatenate([pc.unique(table["pid"]).to_numpy() for table in tables]))
    keys = []
    for table in tables:
        rank = np.searchsorted(pids, table["pid"].to_numpy()).astype(np.int64)
        page = table[address].to_numpy() // page_size
        if len(page) and int(page.max()) >> _PAGE_BITS:
            raise TableError(f"{address} goes beyond {_PAGE_BITS} bits of page number")
        keys.append(rank << _PAGE_BITS | page)
    return keys


def _differences(old: pa.Table, new: pa.Table, old_rows: Ints, new_rows: Ints) -> Bools:
    """Which of the matched rows are not the same, whatever mapping they are said to be in."""
    found = np.zeros(len(old_rows), np.bool_)
    whole = len(old_rows) == len(old) == len(new)
    for name in old.schema.names:
        if name in ("pid", "vaddr", "vma", "present", "swapped"):
            continue
        if whole and old[name].equals(new[name]):
            continue
        a, b = _comparable(old[name]), _comparable(new[name])
        found |= a != b if whole else a[old_rows] != b[new_rows]
    return found


def _comparable(column: pa.ChunkedArray) -> Ints:
    """A column as integers; null is a value of its own."""
    if pa.types.is_dictionary(column.type):
        parts = [
            np.array([KINDS.index(kind) for kind in chunk.dictionary.to_pylist()], np.int64)[
                chunk.indices.to_numpy()
            ]
            for chunk in column.chunks
        ]
        return np.concatenate([np.zeros(0, np.int64), *parts])
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if column.null_count:
        column = pc.fill_null(column.cast(pa.int64()), np.iinfo(np.int64).min)
    return np.asarray(column.to_numpy())


def _no_change(pages: pa.Table) -> pa.Table:
    names = {"start", "n_pages", *pages.schema.names}
    return schema.empty("extents", [c.name for c in schema.EXTENTS.columns if c.name in names])


def _without_vma(rows: pa.Table) -> pa.Table:
    at = rows.schema.get_field_index("vma")
    return rows.set_column(at, rows.schema.field("vma"), pa.nulls(len(rows), pa.int32()))


def _tombstones(rows: pa.Table, target: pa.Schema) -> pa.Table:
    n = len(rows)
    known = {
        "pid": rows["pid"],
        "vaddr": rows["vaddr"],
        "kind": pa.DictionaryArray.from_arrays(
            pa.array(np.full(n, KINDS.index(_ABSENT), np.int8)), pa.array(KINDS)
        ),
        "present": pa.array(np.zeros(n, np.bool_)),
        "swapped": pa.array(np.zeros(n, np.bool_)),
        "word": pa.array(np.zeros(n, np.int64)),
    }
    arrays = [known.get(field.name) for field in target]
    return pa.table(
        [
            pa.nulls(n, field.type) if array is None else array
            for array, field in zip(arrays, target, strict=True)
        ],
        schema=target,
    )


def _with_columns(rows: pa.Table, target: pa.Schema) -> pa.Table:
    """`rows` in the order and types of `target`; a column that is not there is null."""
    arrays = [
        rows[field.name].cast(field.type)
        if field.name in rows.schema.names
        else pa.nulls(len(rows), field.type)
        for field in target
    ]
    return pa.table(arrays, schema=target)
