"""Tables as people and programs read them: aligned text, or JSON.

In text, addresses are hex and sizes carry a unit; in JSON, both are plain integers. Null is
``-`` and ``null``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import humanize

if TYPE_CHECKING:
    import pandas as pd

HEX = frozenset({"vaddr", "start", "end", "word", "flags"})
"""Columns printed in hex."""


PLAIN = frozenset(
    (
        *("pid", "ppid", "uid", "mm", "cgroup", "vma", "processes", "n_pids", "names"),
        *("pfn", "pfn_before", "pfn_after", "parent_pfn", "child_pfn", "mapcount"),
        *("frames", "slots", "runs", "blocks", "order", "step", "hosts"),
        *("swap_type", "swap_offset", "first_slot", "last_slot", "priority"),
    )
)
"""Integer columns of the analyses that are numbers or counts; the others are bytes."""


def sizes_of(frame: pd.DataFrame) -> list[str]:
    """The columns of an analysis that hold bytes."""
    return [
        str(name)
        for name in frame.columns
        if name not in PLAIN | HEX and frame[name].dtype.kind in "iu"
    ]


def size(value: int) -> str:
    """Bytes for people, in powers of 1024.

    Examples
    --------
    >>> size(0), size(69632), size(3 << 30)
    ('0', '68.0 KiB', '3.0 GiB')
    """
    return "0" if value == 0 else str(humanize.naturalsize(value, binary=True))


def text(frame: pd.DataFrame, sizes: Iterable[str] = (), *, limit: int | None = None) -> str:
    """`frame` as aligned columns; those named in `sizes` are bytes.

    With `limit`, only so many rows, and a line that says how many were left out.

    Examples
    --------
    >>> import pandas as pd
    >>> print(text(pd.DataFrame({"vaddr": [4096], "rss": [8192]}), ["rss"]))
    vaddr    rss
    0x1000  8.0 KiB
    """
    sizes = set(sizes)
    shown = frame if limit is None else frame.head(limit)
    columns = [[name, *_cells(shown[name], name, sizes)] for name in shown.columns]
    right = [name in sizes or _is_number(frame[name]) for name in shown.columns]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in zip(*columns, strict=True):
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    if len(shown) < len(frame):
        lines.append(f"… {len(frame) - len(shown):,} more rows")
    return "\n".join(lines)


def _is_number(values: pd.Series[Any]) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values))


def _cells(values: pd.Series[Any], name: str, sizes: set[str]) -> list[str]:
    known = values.notna().tolist()
    return [
        _cell(value, name, sizes) if there else "-"
        for value, there in zip(values.tolist(), known, strict=True)
    ]


def _cell(value: Any, name: str, sizes: set[str]) -> str:
    if name in sizes:
        return size(int(value))
    if name in HEX:
        return hex(int(value) & (1 << 64) - 1)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    return " ".join(map(str, value)) if hasattr(value, "tolist") else str(value)


def records(frame: pd.DataFrame) -> str:
    """`frame` as a JSON array with one object a row.

    Examples
    --------
    >>> import pandas as pd
    >>> print(records(pd.DataFrame({"pfn": pd.array([7, None], "Int64")})))
    [
      {"pfn": 7},
      {"pfn": null}
    ]
    """
    lines = list(json_lines(frame))
    return "[\n  " + ",\n  ".join(lines) + "\n]" if lines else "[]"


def json_lines(frame: pd.DataFrame) -> Iterable[str]:
    """One JSON object a row."""
    # A list column holds NumPy arrays.
    return (json.dumps(row, default=lambda array: array.tolist()) for row in _rows(frame))


def _rows(frame: pd.DataFrame) -> Iterable[dict[str, Any]]:
    columns = {}
    for name in frame.columns:
        known = frame[name].notna().tolist()
        values = frame[name].tolist()
        columns[name] = [v if there else None for v, there in zip(values, known, strict=True)]
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
