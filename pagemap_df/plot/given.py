"""What a picture may be asked of: a snapshot, or a frame that holds pages.

In: whatever the caller has. Out: an object with five tables and facts, as every analysis
takes one. A frame of pages needs no more than ``vaddr`` (a column, or the index as
`read_pagemap` makes it) and ``kind``; what else it lacks is unknown.

What can go wrong (`TableError`): it is neither; a column is missing; ``kind`` holds a word
that is no kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from .. import schema
from ..algebra.arrays import Tables
from ..entries import KINDS
from ..errors import TableError
from ..extents import PRESENT_KINDS
from ..snapshot import Snapshot

COLUMNS = tuple(column.name for column in schema.PAGES.columns)
NEEDED = ("vaddr", "kind")
"""Columns without which a frame is no frame of pages."""


def tables_of(data: Tables | pd.DataFrame) -> Tables:
    """`data` if it is a snapshot, or a snapshot made of a frame of pages.

    Examples
    --------
    >>> import pandas as pd
    >>> frame = pd.DataFrame({"vaddr": [4096], "kind": ["swap"]})
    >>> tables_of(frame).arrow("pages")["swapped"].to_pylist()
    [True]
    """
    if isinstance(data, pd.DataFrame):
        pages = pages_of(data)
        facts = {"page_size": 4096, **data.attrs.get(schema.METADATA_KEY.decode(), {})}
        return Snapshot({"pages": pages, "processes": _processes_of(pages)}, facts)
    if hasattr(data, "arrow") and hasattr(data, "facts"):
        return data
    raise TableError(f"expected a snapshot or a frame of pages, found a {type(data).__name__}")


def _processes_of(pages: pa.Table) -> pa.Table:
    """A ``processes`` table that knows no more than the pids."""
    pid = pages["pid"].unique().sort()
    rest = {c.name: pa.nulls(len(pid), c.type) for c in schema.PROCESSES.columns if c.nullable}
    return schema.conform(pa.table({"pid": pid, **rest}), "processes")


def missing(frame: pd.DataFrame, names: Iterable[str]) -> list[str]:
    """Which of `names` are neither columns nor levels of the index."""
    return [name for name in names if name not in frame.columns and name not in frame.index.names]


def require(frame: pd.DataFrame, names: Iterable[str], what: str) -> None:
    """Raise `TableError` if `frame` lacks some of the columns `names` that `what` needs."""
    if lacking := missing(frame, names):
        has = ", ".join(map(str, frame.columns[:12])) or "no columns"
        raise TableError(f"{what} needs the columns {', '.join(lacking)}; the frame has {has}")


def pages_of(frame: pd.DataFrame) -> pa.Table:
    """A ``pages`` table of a frame with at least the columns `NEEDED`."""
    require(frame, NEEDED, "a frame of pages")
    if any(name in COLUMNS for name in frame.index.names):
        frame = frame.reset_index()
    names = [name for name in COLUMNS if name in frame.columns]
    try:
        given = pa.Table.from_pandas(frame[names], preserve_index=False)
    except (pa.ArrowException, TypeError) as error:
        raise TableError(f"the frame does not fit a table of pages: {error}") from error
    return schema.conform(_completed(given), "pages")


def _completed(given: pa.Table) -> pa.Table:
    """`given` with the columns that can be told from others, and nulls for the rest."""
    kind = given["kind"].cast(pa.string())
    if strange := set(kind.unique().to_pylist()) - set(KINDS):
        raise TableError(f"kind holds {sorted(map(str, strange))}; kinds are {', '.join(KINDS)}")
    known: dict[str, Any] = {
        "pid": pa.nulls(len(given), pa.int32()).fill_null(0),
        "present": pc.is_in(kind, pa.array(PRESENT_KINDS)),
        "swapped": pc.equal(kind, "swap"),
    }
    for column in schema.PAGES.columns:
        if column.name not in given.schema.names and not column.on_request:
            values = known.get(column.name, pa.nulls(len(given), column.type))
            given = given.append_column(column.name, values)
    return given
