"""Read tables back, or read one process's page map straight into a DataFrame."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import schema, store
from .errors import NotAvailable
from .schema import DtypeBackend
from .snapshot import Snapshot
from .source import Source
from .source.rawdump import RawDump
from .take import take

if TYPE_CHECKING:
    import pandas as pd


def read_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Read the snapshot that `Snapshot.to_parquet` wrote at or below `path`.

    Raises
    ------
    SnapshotError
        If there is none or more than one, if a file is damaged or of a newer version. The
        message names the file.
    """
    if not Path(path).exists():
        raise NotAvailable(f"{os.fspath(path)}: no such directory")
    return Snapshot(*store.read(path))


def read_pagemap(
    what: int | str | os.PathLike[str] | Source,
    *,
    pid: int | None = None,
    start: int = 0,
    dtype_backend: DtypeBackend = "numpy",
    **options: Any,
) -> pd.DataFrame:
    """The page map of one process as a DataFrame indexed by ``vaddr``.

    Parameters
    ----------
    what : int, path or Source
        A pid of the running kernel; a file of bare pagemap words; a directory or tar shaped
        like ``/proc``; a snapshot written by `Snapshot.to_parquet`; any other source, such as
        a `sim.Machine`.
    pid : int, optional
        Which process of a source or snapshot; not needed where there is only one.
    start : int
        For bare words: address of the first page, bytes.
    dtype_backend : {"numpy", "pyarrow"}
        See `schema.to_pandas`.
    **options
        For bare words those of `RawDump` (``era=``, ``page_size=``, ``byte_order=``), else
        those of `take` (``join=``, ``holes=``, ``raw=``).

    Returns
    -------
    DataFrame
        The columns of ``pages`` but ``pid``, sorted by address, which is unique. Null means
        unknown or not applicable; ``.attrs["pagemap_df"]`` says what could not be seen.

    Examples
    --------
    >>> import os
    >>> df = read_pagemap(os.getpid())
    >>> df.index.name, df.index.is_monotonic_increasing, bool(df["present"].any())
    ('vaddr', True, True)
    """
    snap, pid = _snapshot_of(what, pid, start, options)
    pids = snap.arrow("processes")["pid"].to_pylist()
    if pid is None and len(pids) != 1:
        raise NotAvailable(f"pid= is needed: there are {len(pids)} processes, {pids[:5]} …")
    if pid is not None and pid not in pids:
        raise NotAvailable(f"no process {pid} in there; there are {pids[:5]} …")
    pages = snap.arrow("pages")
    if len(pids) > 1:
        import pyarrow.compute as pc

        pages = pages.filter(pc.equal(pages["pid"], pid))
    return schema.to_pandas(pages.drop_columns("pid"), dtype_backend).set_index("vaddr")


def _snapshot_of(
    what: int | str | os.PathLike[str] | Source, pid: int | None, start: int, options: Any
) -> tuple[Snapshot, int | None]:
    if isinstance(what, int):
        return take(pids=what, **options), what
    if isinstance(what, Source):
        return take(what, pids=pid, **options), pid
    path = Path(what)
    if not path.exists():
        raise NotAvailable(f"{path}: no such file or directory")
    if path.is_dir() and store.find(path):
        return read_snapshot(path), pid
    if path.is_dir() or path.name.partition(".tar")[1] or path.suffix == ".tgz":
        return take(path, pids=pid, **options), pid
    kept = {name: options.pop(name) for name in ("join", "holes", "raw") if name in options}
    return take(RawDump(path, start=start, pid=pid or 1, **options), **kept), pid
