"""`Snapshot`: five tables of one moment, and the facts they were taken under.

Arrow is what is held, pandas is what is handed out. A snapshot does nothing but hold, convert
and store; every analysis is a function that takes one. Its repr costs the same however many
pages there are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import schema, store, svg, tree
from .schema import DtypeBackend

if TYPE_CHECKING:
    import duckdb
    import pandas as pd


class Snapshot:
    """Five tables and the facts of the machine they describe.

    Made by `take` and `read_snapshot`. Changing a DataFrame it handed out does not change it.

    Parameters
    ----------
    tables : mapping of str to pyarrow.Table
        By the names of `schema.TABLES`; one that is not given is empty, but ``frames``, which
        is then made of ``pages``.
    facts : mapping
        See `Source.facts`, and what `take` adds: ``skipped``, ``unknown``, ``complete``,
        ``frozen``, ``taken_at`` (ISO 8601, UTC), ``seconds``.

    Examples
    --------
    >>> snap = Snapshot({}, {"page_size": 4096, "host": "box"})
    >>> len(snap.pages), snap.facts["host"]
    (0, 'box')
    """

    def __init__(self, tables: Mapping[str, pa.Table], facts: Mapping[str, Any]) -> None:
        self.facts = {k: v for k, v in facts.items() if k != "schema_version"}
        self._tables = {
            name: schema.conform(tables[name] if name in tables else schema.empty(name), name)
            for name in schema.TABLES
            if name in tables or name != "frames"
        }

    def with_facts(self, facts: Mapping[str, Any]) -> Snapshot:
        """The same tables under other facts."""
        return Snapshot(self._tables, facts)

    def arrow(self, name: str) -> pa.Table:
        """The table called `name` as Arrow, the facts in its schema metadata.

        Raises `KeyError` for a name that is none of pages, vmas, frames, swaps, processes.
        """
        if name not in schema.TABLES:
            raise KeyError(f"a snapshot has {', '.join(schema.TABLES)}, not {name!r}")
        if name not in self._tables:
            self._tables[name] = _frames_of(self._tables["pages"])
        return schema.with_facts(self._tables[name], self.facts)

    def table(self, name: str, *, dtype_backend: DtypeBackend = "numpy") -> pd.DataFrame:
        """The table called `name` as a DataFrame; see `schema.to_pandas`."""
        return schema.to_pandas(self.arrow(name), dtype_backend)

    @cached_property
    def pages(self) -> pd.DataFrame:
        """One row per populated page, by pid and vaddr."""
        return self.table("pages")

    @cached_property
    def vmas(self) -> pd.DataFrame:
        """One row per mapping, by pid and start."""
        return self.table("vmas")

    @cached_property
    def frames(self) -> pd.DataFrame:
        """One row per page frame seen, by pfn; of all frames with ``machine_frames``."""
        return self.table("frames")

    @cached_property
    def swaps(self) -> pd.DataFrame:
        """One row per swap area."""
        return self.table("swaps")

    @cached_property
    def processes(self) -> pd.DataFrame:
        """One row per process taken, by pid."""
        return self.table("processes")

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection in which the five tables are views.

        ``vmas`` has its row number there as the column ``vma``, so that ``pages join vmas using
        (pid, vma)`` works. Arrow memory is scanned in place. Close it when done.
        """
        import duckdb

        connection = duckdb.connect(":memory:")
        for name in schema.TABLES:
            table = self.arrow(name)
            if name == "vmas":
                numbers = pa.array(np.arange(len(table), dtype=np.int32))
                table = table.append_column("vma", numbers)
            connection.register(name, table)
        return connection

    def sql(self, query: str) -> pd.DataFrame:
        """Ask the tables by name, in SQL; the answer is a DataFrame. See `connect`.

        Every integer column is nullable, since SQL results do not say which can hold null.

        Examples
        --------
        >>> snap = Snapshot({}, {"page_size": 4096})
        >>> snap.sql("select count(*) as n from pages where swapped")["n"][0]
        np.int64(0)
        """
        with self.connect() as connection:
            connection.execute("set enable_progress_bar = false")
            return schema.to_pandas(connection.sql(query).to_arrow_table())

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The ``pages`` table for anything that speaks the Arrow C interface."""
        return self.arrow("pages").__arrow_c_stream__(requested_schema)

    def to_parquet(self, path: str | os.PathLike[str], *, compression_level: int = 3) -> None:
        """Write the snapshot as Parquet under `path`; see `store.write`."""
        store.write(self, path, compression_level=compression_level)

    def write_procfs(self, directory: str | os.PathLike[str]) -> None:
        """Write the snapshot as a directory shaped like ``/proc``; see `tree.write`."""
        tree.write(self, directory)

    def __repr__(self) -> str:
        """One line, from sizes and facts alone."""
        counts = ", ".join(
            f"{len(self._tables[name]):,} {name}" for name in ("processes", "vmas", "pages")
        )
        host, when = self.facts.get("host", "?"), self.facts.get("taken_at", "?")
        return f"<Snapshot of {host} at {when}: {counts}>"

    def _repr_html_(self) -> str:
        """A few lines and a bar of bytes by state, for notebooks; see `svg`."""
        sizes = {name: len(self._tables[name]) for name in ("processes", "vmas", "pages")}
        counts = svg.counts_of(self._tables["pages"], self.facts)
        return svg.summary(sizes, self.facts, counts)


def _frames_of(pages: pa.Table) -> pa.Table:
    """The frames that appear in `pages`, with what was joined to them."""
    names = [column.name for column in schema.FRAMES.columns]
    rows = pages.select([name for name in names if name in pages.schema.names])
    rows = rows.filter(pc.is_valid(rows["pfn"]))
    _, first = np.unique(rows["pfn"].to_numpy(), return_index=True)
    found = rows.take(pa.array(first))
    for name in names:
        if name not in found.schema.names:
            field = schema.FRAMES[name].field
            found = found.append_column(field, pa.nulls(len(found), field.type))
    return schema.conform(found.select(names), "frames")
