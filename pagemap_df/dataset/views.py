"""The tables of many snapshots as DuckDB views, with ``host`` and ``ts`` in front.

In: Parquet files in ``host=…/ts=…`` directories. Out: a view, or a table without rows. DuckDB
decides conditions on ``host`` and ``ts`` by directory names, so files that fail are not read.
Files may have different columns; what one lacks is null.

What can go wrong: a file is damaged, which DuckDB says when the view is made
(``duckdb.IOException``, ``duckdb.InvalidInputException``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from .. import schema
from .moments import STAMPS

if TYPE_CHECKING:
    import duckdb


def make(connection: duckdb.DuckDBPyConnection, name: str, files: list[str]) -> None:
    """Make the view `name` of `files`; ``vmas`` has its row number as ``vma``."""
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in files)
    number = ", file_row_number::integer as vma" if name == "vmas" else ""
    stamps = ", ".join(f"'{form}'" for form in STAMPS)
    numbered = "file_row_number" if name == "vmas" else ""
    hidden = ", ".join(filter(None, ["host", "ts", numbered]))
    connection.execute(
        f"create view {name} as select host, try_strptime(ts, [{stamps}]) as ts{number}, "
        f"* exclude ({hidden}) from read_parquet([{listed}], hive_partitioning=true, "
        f"hive_types_autocast=false, union_by_name=true, file_row_number={bool(numbered)})"
    )


def no_rows(name: str) -> pa.Table:
    """What the view `name` of no files would be."""
    fields = [pa.field("host", pa.string()), pa.field("ts", pa.timestamp("us"))]
    if name == "vmas":
        fields.append(pa.field("vma", pa.int32()))
    every = [column.name for column in schema.TABLES[name].columns]
    return pa.schema([*fields, *schema.empty(name, every).schema]).empty_table()
