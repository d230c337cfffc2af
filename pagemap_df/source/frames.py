"""Look page frames up in ``/proc/kpagecount``, ``kpageflags`` and ``kpagecgroup``.

One word for each page frame number. Reading is cheap, asking is not: about a tenth of a
microsecond a frame in the kernel, and ten times that for a call of its own. So wanted
frames are sorted, neighbours are fetched together, and runs are spread over the cores.

What can go wrong: the files need root (`NotPermitted`); under ``subset=pid`` mounts they are
not there (`NotAvailable`). A frame may be freed and used again between the pagemap read and
this one; then the answer is about a stranger's page.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .. import schema
from ..entries import Bools, Ints
from ..errors import NotAvailable
from . import Source

FILES = {"mapcount": "kpagecount", "flags": "kpageflags", "cgroup": "kpagecgroup"}
"""The proc file behind each column that can be joined by PFN."""

_NEAR = 64
_CHUNK = 1 << 18


def lookup(source: Source, column: str, pfns: Ints) -> tuple[Ints, Bools]:
    """Words of ``FILES[column]`` for `pfns` (int64, ascending, no duplicates).

    Returns
    -------
    values : int64 array, shape of `pfns`
    known : bool array
        False behind the end of the file, where nothing is known.
    """
    values, known = np.zeros(len(pfns), np.int64), np.zeros(len(pfns), bool)
    if not len(pfns):
        return values, known
    path = FILES[column]
    source.words(path, 0, 0)
    runs = _runs_near(pfns)
    parts = np.flatnonzero(np.diff(np.cumsum(runs.length) // _CHUNK)) + 1
    edges = [0, *parts.tolist(), len(runs.first)]

    def fetch(a: int, b: int) -> None:
        rows = slice(int(runs.row[a]), int(runs.row[b]))
        values[rows], known[rows] = _fetched(source, path, pfns[rows], runs, a, b)

    if len(edges) == 2:
        fetch(*edges)
    else:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(fetch, edges[:-1], edges[1:]))
    return values, known


class _Runs(NamedTuple):
    """Stretches of the file to read, and the wanted rows in each.

    Run i is frames ``first[i]`` to ``first[i] + length[i]``, for rows ``row[i]`` to ``row[i + 1]``.
    """

    first: Ints
    length: Ints
    row: Ints


def _runs_near(pfns: Ints) -> _Runs:
    """Put wanted frames together that lie near each other, but no more than a chunk."""
    cut = (np.diff(pfns) > _NEAR) | (np.diff(pfns // _CHUNK) != 0)
    row = np.concatenate([[0], np.flatnonzero(cut) + 1, [len(pfns)]])
    first = pfns[row[:-1]]
    return _Runs(first, pfns[row[1:] - 1] + 1 - first, row)


def _fetched(
    source: Source, path: str, pfns: Ints, runs: _Runs, a: int, b: int
) -> tuple[Ints, Bools]:
    """Read runs `a` to `b` one behind the other, and pick the wanted frames out of them."""
    first, length = runs.first[a:b], runs.length[a:b]
    place = np.cumsum(length) - length
    words, got = np.zeros(int(length.sum()), np.uint64), []
    for frame, count, at in zip(first.tolist(), length.tolist(), place.tolist(), strict=True):
        got.append(source.words_into(path, frame, words[at : at + count]))
    run = np.repeat(np.arange(b - a), np.diff(runs.row[a : b + 1]))
    inside = pfns - first[run]
    return words[place[run] + inside].view(np.int64), inside < np.array(got)[run]


def machine(source: Source) -> pa.Table:
    """The ``frames`` table of the whole machine, one row for each page frame number.

    Rows run from frame 0 to the end of the files, memory holes included: holes show
    count 0 and (since 6.16) flags 0, and only ``/proc/iomem`` tells them from free frames.
    """
    columns: dict[str, pa.ChunkedArray] = {}
    rows = 0
    for name, path in FILES.items():
        try:
            columns[name] = _whole(source, path, schema.FRAMES[name].type)
            rows = max(rows, len(columns[name]))
        except NotAvailable:
            continue
    if not columns:
        raise NotAvailable("none of kpagecount, kpageflags and kpagecgroup can be read here")
    arrays = [np.arange(rows, dtype=np.int64)]
    for column in schema.FRAMES.columns[1:]:
        values = columns.get(column.name, pa.chunked_array([], column.type))
        missing = pa.nulls(rows - len(values), column.type)
        arrays.append(pa.chunked_array([*values.chunks, missing], column.type))
    return pa.table(arrays, schema=schema.FRAMES.schema([c.name for c in schema.FRAMES.columns]))


def _whole(source: Source, path: str, type_: pa.DataType) -> pa.ChunkedArray:
    """All words of a file, read in chunks on all cores."""
    source.words(path, 0, 0)
    width: type[np.integer] = np.int32 if type_ == pa.int32() else np.int64
    workers = len(os.sched_getaffinity(0))

    def read(chunk: int) -> NDArray[np.integer]:
        return source.words(path, chunk * _CHUNK, _CHUNK).view(np.int64).astype(width, copy=False)

    parts: list[NDArray[np.integer]] = []
    chunk = 0
    with ThreadPoolExecutor(workers) as pool:
        while not parts or len(parts[-1]) == _CHUNK:
            parts += pool.map(read, range(chunk, chunk + 4 * workers))
            chunk += 4 * workers
    return pa.chunked_array([pa.array(part) for part in parts if len(part)], type_)
