"""A snapshot whose pages are held as extents, and a few rows cut out of it.

`Folded` is for big hosts: a hundred million pages that the kernel gave out in order are a
million extents, and the map needs no more than those. It can be handed to every analysis; one
that asks for pages gets them unfolded, which takes the room they take.

`between` and `of_place` cut pages out of either form without unfolding the rest.

What can go wrong: as in `schema.conform` and `extents`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import extents, schema
from ..algebra.arrays import Tables, numbers
from ..entries import Bools, Ints

_STEPPED = ("pfn", "swap_offset")


class Folded:
    """Tables and facts as a `Snapshot` has them, with extents in place of pages.

    Parameters
    ----------
    folded : pyarrow.Table
        As `schema.EXTENTS`, sorted by pid and start.
    tables : mapping of str to pyarrow.Table
        The other tables, by name; one that is not given is empty.
    facts : mapping
        As `Snapshot` takes them.

    Examples
    --------
    >>> from pagemap_df import load_dataset
    >>> small = Folded.of(load_dataset("preforked-family"))
    >>> len(small.arrow("extents")) < len(small.arrow("pages"))
    True
    """

    def __init__(
        self, folded: pa.Table, tables: Mapping[str, pa.Table], facts: Mapping[str, Any]
    ) -> None:
        self.facts = dict(facts)
        self._tables = {"extents": schema.conform(folded, "extents")}
        for name in schema.TABLES:
            if name in tables:
                self._tables[name] = schema.conform(tables[name], name)
            elif name != "pages":
                self._tables[name] = schema.empty(name)

    @classmethod
    def of(cls, snap: Tables) -> Folded:
        """`snap`, folded."""
        tables = {name: snap.arrow(name) for name in schema.TABLES}
        size = int(snap.facts.get("page_size", 4096))
        return cls(extents.of_pages(tables.pop("pages"), size), tables, snap.facts)

    def arrow(self, name: str) -> pa.Table:
        """The table called `name`; ``pages`` are unfolded when first asked for."""
        if name == "pages" and name not in self._tables:
            size = int(self.facts.get("page_size", 4096))
            self._tables[name] = extents.to_pages(self._tables["extents"], size)
        return schema.with_facts(self._tables[name], self.facts)

    @property
    def first_pages(self) -> pa.Table:
        """The first page of each extent as a ``pages`` table: all of its pages are like it."""
        return _as_pages(self._tables["extents"])


def between(snap: Tables, pid: int | None, start: int, stop: int) -> pa.Table:
    """The ``pages`` rows of process `pid` (None: of all) at addresses from `start` to `stop`."""
    size = int(snap.facts.get("page_size", 4096))
    if isinstance(snap, Folded):
        table = snap.arrow("extents")
        at, n = numbers(table["start"], -1), numbers(table["n_pages"], -1)
        table = table.filter(pa.array(_of(table, pid) & (at < stop) & (at + n * size > start)))
        at, n = numbers(table["start"], -1), numbers(table["n_pages"], -1)
        ahead = np.maximum(-(-(start - at) // size), 0)
        behind = np.maximum((at + n * size - stop) // size, 0)
        return _cut(table, ahead, n - ahead - behind, size)
    table = snap.arrow("pages")
    at = numbers(table["vaddr"], -1)
    return table.filter(pa.array(_of(table, pid) & (at >= start) & (at < stop)))


def of_place(snap: Tables, column: str, first: int, stop: int) -> pa.Table:
    """The ``pages`` rows whose `column` (pfn or swap_offset) is from `first` to below `stop`."""
    if isinstance(snap, Folded):
        table = snap.arrow("extents")
        at, n = numbers(table[column], -1), numbers(table["n_pages"], -1)
        same = pc.equal(table["kind"], "zero").to_numpy()  # all its pages name one frame
        reach = np.where(same, 1, n)
        table = table.filter(pa.array((at >= 0) & (at < stop) & (at + reach > first)))
        at, n = numbers(table[column], -1), numbers(table["n_pages"], -1)
        same = pc.equal(table["kind"], "zero").to_numpy()
        ahead = np.where(same, 0, np.maximum(first - at, 0))
        behind = np.where(same, 0, np.maximum(at + n - stop, 0))
        return _cut(table, ahead, n - ahead - behind, int(snap.facts.get("page_size", 4096)))
    table = snap.arrow("pages")
    at = numbers(table[column], -1)
    return table.filter(pa.array((at >= first) & (at < stop)))


def _of(table: pa.Table, pid: int | None) -> Bools:
    if pid is None:
        return np.ones(len(table), np.bool_)
    return np.asarray(numbers(table["pid"], -1) == pid, np.bool_)


def _cut(table: pa.Table, ahead: Ints, n: Ints, size: int) -> pa.Table:
    """Pages ``[ahead, ahead + n)`` of each extent. The raw word, if there, is left out."""
    if "word" in table.schema.names:
        table = table.drop_columns(["word"])
    zero = pc.equal(table["kind"], "zero").to_numpy()
    columns = {"start": numbers(table["start"], -1) + ahead * size, "n_pages": n}
    for name, values in columns.items():
        table = _with(table, name, pa.array(values))
    for name in _STEPPED:
        step = np.where(zero, 0, ahead) if name == "pfn" else ahead
        table = _with(table, name, pc.add(table[name], pa.array(step)))
    return extents.to_pages(table.filter(pa.array(n > 0)), size)


def _with(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(name), values)


def _as_pages(table: pa.Table) -> pa.Table:
    names = [n for n in table.schema.names if n not in ("start", "n_pages")]
    kind = table["kind"].cast(pa.string())
    made = {
        "vaddr": table["start"],
        "present": pc.is_in(kind, pa.array(extents.PRESENT_KINDS)),
        "swapped": pc.equal(kind, "swap"),
    }
    found = {**{name: table[name] for name in names}, **made}
    order = [c.name for c in schema.PAGES.columns if c.name in found]
    return schema.conform(pa.table({name: found[name] for name in order}), "pages")
