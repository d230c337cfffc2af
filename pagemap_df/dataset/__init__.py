"""`open_dataset`: many snapshots of many hosts as one thing, read when asked.

Opening lists directories (``host=…/ts=…``, as `store` and `watching.recording` write them, and
`moments` finds them) and reads no file. `Dataset.host` and `Dataset.between` narrow it down,
`Dataset.snapshot` gives one moment, iteration gives all of them with one in memory at a time,
and `Dataset.sql` asks DuckDB (`views`), where each table has two more columns: ``host``, and
``ts`` (UTC). A condition on these two is decided by directory names, one on sorted columns by
row groups; DuckDB spills to disc beyond its memory limit.

Deltas of a recording are not for SQL. The moments they stand for are written out as Parquet in
a temporary directory when a query first needs them, so narrow down first. The same goes for
tables on a file system that is not local.

What can go wrong (`SnapshotError`, whose path names the host): a directory without its files,
a damaged file, a delta whose base is missing. ``on_error="skip"`` leaves such moments out and
lists them under `Dataset.skipped`. `Dataset.problems` finds what is whole but looks wrong.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from .. import schema, store
from ..errors import NotAvailable, SnapshotError
from ..snapshot import Snapshot
from ..watching import recording
from . import views as duckviews
from .moments import Moment, listed, time_of

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

OnError = Literal["raise", "skip"]

_FACTS = ("page_size", "era", "release", "machine", "boot_id", "pfns", "complete", "seconds")


def open_dataset(
    path: str | os.PathLike[str], *, filesystem: Any = None, on_error: OnError = "raise"
) -> Dataset:
    """Open the snapshots below `path`.

    Parameters
    ----------
    path : path or URI
        A directory with ``host=…/ts=…`` below it, or a URI of one that pyarrow knows.
    filesystem : pyarrow.fs.FileSystem, optional
        Where `path` is, if it is neither local nor a URI.
    on_error : {"raise", "skip"}
        What to do about moments that cannot be read.

    Raises
    ------
    SnapshotError
        If there is nothing to open, or a directory lacks its files.

    Examples
    --------
    >>> import tempfile
    >>> from pagemap_df.sim.machine import Machine
    >>> root = tempfile.mkdtemp()
    >>> machine = Machine("64M", rng=1)
    >>> server = machine.spawn("server")
    >>> from pagemap_df.take import take
    >>> take(machine).to_parquet(root)
    >>> dataset = open_dataset(root)
    >>> dataset.sql("select count(distinct host) as hosts from pages")["hosts"].tolist()
    [1]
    """
    from pyarrow import fs

    if filesystem is None and "://" in os.fspath(path):
        filesystem, root = fs.FileSystem.from_uri(os.fspath(path))
    elif filesystem is None:
        filesystem, root = fs.LocalFileSystem(), os.path.abspath(path)
    else:
        root = os.fspath(path)
    found, bad = listed(filesystem, PurePosixPath(root))
    if not found and not bad:
        raise SnapshotError("directories host=…/ts=… with snapshots in them", path=root)
    if bad and on_error == "raise":
        raise SnapshotError(bad[0]["reason"], path=bad[0]["path"])
    return Dataset(root, filesystem, found, on_error, bad)


class Dataset:
    """Snapshots of hosts over time; made by `open_dataset`.

    Attributes
    ----------
    moments : tuple of Moment
        By host and time.
    skipped : list of dict
        ``host``, ``path`` and ``reason`` of what was left out.
    """

    def __init__(
        self,
        root: str,
        filesystem: Any,
        moments: Iterable[Moment],
        on_error: OnError,
        skipped: list[dict[str, str]],
    ) -> None:
        self.root, self.filesystem, self.on_error = root, filesystem, on_error
        self.moments, self.skipped = tuple(moments), skipped
        self._cache: Path | None = None
        self._facts: dict[PurePosixPath, dict[str, Any]] = {}

    def __len__(self) -> int:
        """Snapshots."""
        return len(self.moments)

    def __repr__(self) -> str:
        """One line, from the listing alone."""
        stamps = [moment.ts for moment in self.moments if moment.ts is not None]
        when = f", {min(stamps):%Y-%m-%d %H:%M:%S} to {max(stamps):%Y-%m-%d %H:%M:%S}"
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return (
            f"<Dataset of {len(self.hosts)} hosts, {len(self):,} snapshots"
            f"{when if stamps else ''}{skipped}>"
        )

    @property
    def hosts(self) -> list[str]:
        """The hosts there are."""
        return list(dict.fromkeys(moment.host for moment in self.moments))

    # -- narrowing ---------------------------------------------------------------------------

    def host(self, *names: str) -> Dataset:
        """Only these hosts; `NotAvailable` if one is not there."""
        if unknown := sorted(set(names) - set(self.hosts)):
            raise NotAvailable(f"{self.root} has no host {', '.join(unknown)}")
        return self._with(m for m in self.moments if m.host in names)

    def between(self, first: datetime | str | None, last: datetime | str | None) -> Dataset:
        """Only moments from `first` to `last`, both included; None leaves that end open.

        Times are `datetime` or ISO 8601 text, in UTC if they name no zone.
        """
        low, high = time_of(first), time_of(last)
        return self._with(
            m
            for m in self.moments
            if m.ts is not None and (low is None or m.ts >= low) and (high is None or m.ts <= high)
        )

    def _with(self, moments: Iterable[Moment]) -> Dataset:
        return Dataset(self.root, self.filesystem, moments, self.on_error, list(self.skipped))

    # -- reading -----------------------------------------------------------------------------

    def snapshot(self, ts: datetime | str | None = None, host: str | None = None) -> Snapshot:
        """The last snapshot at or before `ts` (of all, if None) of `host`.

        `host` may be left out if there is only one. `NotAvailable` if there is none.
        """
        if host is None and len(self.hosts) > 1:
            raise NotAvailable(f"which host? {self.root} has {', '.join(self.hosts[:5])} …")
        found = (self if host is None else self.host(host)).between(None, ts).moments
        if not found:
            raise NotAvailable(f"{self.root} has no snapshot of {host or 'it'} at or before {ts}")
        return recording.read(found[-1].place, self.filesystem)

    def __iter__(self) -> Iterator[Snapshot]:
        """Every snapshot by host and time, one in memory at a time."""
        for _, snap in self._walk(self.moments):
            yield snap

    def _walk(self, moments: Iterable[Moment]) -> Iterator[tuple[Moment, Snapshot]]:
        last: tuple[PurePath, Snapshot] | None = None
        for moment in moments:
            if last is not None and last[0].parent != moment.place.parent:
                last = None
            try:
                after = None if moment.whole else last
                snap = recording.read(moment.place, self.filesystem, after=after)
            except SnapshotError as error:
                self._leave_out(moment, error)
                continue
            last = (moment.place, snap)
            yield moment, snap

    def _leave_out(self, moment: Moment, error: SnapshotError) -> None:
        """Raise `error`, or note it and drop the moment, as was asked for."""
        if self.on_error == "raise":
            raise error
        reason = {"host": moment.host, "path": str(moment.place), "reason": str(error)}
        self.skipped.append(reason)
        self.moments = tuple(m for m in self.moments if m != moment)

    def timeline(self, measure: Callable[[Snapshot], pd.DataFrame] | None = None) -> pd.DataFrame:
        """A table of every snapshot, one under the other, behind ``host`` and ``ts``.

        Parameters
        ----------
        measure : callable, optional
            From a snapshot to a DataFrame. Without it, bytes in memory and in swap by process.
        """
        import pandas as pd

        frames = []
        for moment, snap in self._walk(self.moments):
            frame = (measure or _sizes)(snap)
            frame.insert(0, "host", moment.host)
            frame.insert(1, "ts", moment.ts)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    # -- asking ------------------------------------------------------------------------------

    def sql(
        self,
        query: str,
        *,
        params: Mapping[str, Any] | None = None,
        memory_limit: str = "1GiB",
        threads: int | None = None,
    ) -> pd.DataFrame:
        """Ask in SQL; the answer is a DataFrame whose integers are all nullable.

        The tables have ``host`` and ``ts`` (a timestamp in UTC); ``vmas`` also has its row
        number in its snapshot as ``vma``. One more table, ``snapshots``, has a row for each
        moment with what is known of the machine, ``page_size`` above all: hosts may differ.

        Parameters
        ----------
        params : mapping, optional
            Values for ``$name`` in the query.
        memory_limit : str
            What DuckDB may use; it spills to disc beyond that.
        threads : int, optional
            As many as there are processors, if not given.
        """
        import duckdb

        wanted = [n for n in (*schema.TABLES, "snapshots") if re.search(rf"(?i)\b{n}\b", query)]
        while True:
            try:
                with self.connect(wanted, memory_limit=memory_limit, threads=threads) as connection:
                    found = connection.sql(query, params=dict(params or {})).to_arrow_table()
                    return schema.to_pandas(found)
            except (duckdb.IOException, duckdb.InvalidInputException):
                if not self._drop_damaged(wanted):
                    raise

    def connect(
        self,
        tables: Iterable[str] = (*schema.TABLES, "snapshots"),
        *,
        memory_limit: str = "1GiB",
        threads: int | None = None,
    ) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection with `tables` as views.

        Close it when done, and keep the data set until then: its files may be temporary.
        """
        import duckdb

        spill = str(self._cached() / "spill")
        config: dict[str, Any] = {"memory_limit": memory_limit, "temp_directory": spill}
        if threads is not None:
            config["threads"] = threads
        connection = duckdb.connect(":memory:", config=config)
        try:
            connection.execute("set preserve_insertion_order = false")
            connection.execute("set enable_progress_bar = false")
            for name in tables:
                if name == "snapshots":
                    connection.register(name, self._snapshots())
                elif files := self._files(name):
                    duckviews.make(connection, name, files)
                else:
                    connection.register(name, duckviews.no_rows(name))
        except BaseException:
            connection.close()
            raise
        return connection

    def _files(self, name: str) -> list[str]:
        """A local Parquet file of table `name` for every moment."""
        from pyarrow import fs

        local = isinstance(self.filesystem, fs.LocalFileSystem)
        here = {m: m.place / f"{name}.parquet" for m in self.moments if local and m.whole}
        away = [moment for moment in self.moments if moment not in here]
        cached = {m: self._cached() / m.place.parent.name / m.place.name for m in away}
        missing = [m for m in away if not (cached[m] / f"{name}.parquet").exists()]
        for moment, snap in self._walk(missing):
            cached[moment].mkdir(parents=True, exist_ok=True)
            path = cached[moment] / f"{name}.parquet"
            store.write_table(snap.arrow(name), name, path, 1)
        return [str(here[m] if m in here else cached[m] / f"{name}.parquet") for m in self.moments]

    def _cached(self) -> Path:
        """A directory that lives as long as this object does."""
        if self._cache is None:
            self._cache = Path(tempfile.mkdtemp(prefix="pagemap_df-"))
            weakref.finalize(self, shutil.rmtree, self._cache, ignore_errors=True)
        return self._cache

    def _drop_damaged(self, tables: Iterable[str]) -> bool:
        """Leave out moments whose files cannot be opened; whether there were any."""
        before = len(self.moments)
        names = [name for name in tables if name in schema.TABLES]
        for moment in self.moments:
            try:
                for name in names if moment.whole else ():
                    path = moment.place / f"{name}.parquet"
                    store.read_table(path, name, self.filesystem)
            except SnapshotError as error:
                self._leave_out(moment, error)
        return len(self.moments) < before

    # -- what is known of the machines -------------------------------------------------------

    def facts(self, moment: Moment) -> dict[str, Any]:
        """The facts a snapshot was taken under, without reading its tables."""
        return self._facts_at(moment.place)

    def _facts_at(self, place: PurePosixPath) -> dict[str, Any]:
        chain: list[tuple[PurePosixPath, dict[str, Any]]] = []
        while place not in self._facts:
            link = recording.link(place, self.filesystem)
            if link is None:
                self._facts[place] = store.facts_at(place, self.filesystem)
            else:
                chain.append((place, link))
                place = place.parent / str(link["base"])
        facts = self._facts[place]
        for at, step in reversed(chain):
            kept = {k: v for k, v in facts.items() if k not in step["without"]}
            facts = self._facts[at] = kept | step["facts"]
        return facts

    def _snapshots(self) -> pa.Table:
        rows = []
        for moment in self.moments:
            try:
                facts = self.facts(moment)
            except SnapshotError as error:
                self._leave_out(moment, error)
                continue
            row = {"host": moment.host, "ts": moment.ts and moment.ts.replace(tzinfo=None)}
            rows.append(row | {name: facts.get(name) for name in _FACTS})
        text = [(n, pa.string()) for n in _FACTS if n not in ("page_size", "complete", "seconds")]
        types = dict([("page_size", pa.int64()), ("complete", pa.bool_()), *text])
        types["seconds"] = pa.float64()
        fields = [("host", pa.string()), ("ts", pa.timestamp("us"))]
        return pa.Table.from_pylist(rows, pa.schema(fields + [(n, types[n]) for n in _FACTS]))

    def problems(self) -> list[str]:
        """What is whole but looks wrong, one sentence each, the host first.

        Two machines under one name (boots that take turns), clocks that were set, and moments
        that were skipped. Reads the facts of every moment.
        """
        found = [f"{skip['host']}: {skip['reason']}" for skip in self.skipped]
        for host in self.hosts:
            facts = [self.facts(m) for m in self.moments if m.host == host]
            boots = [f.get("boot_id") for f in facts]
            turns = [b for a, b in zip([None, *boots], boots, strict=False) if a != b]
            if len(turns) > len(set(turns)):
                found.append(f"{host}: its boots take turns: two machines have this name")
            jumps = [f["watch"]["clock_jump"] for f in facts if "clock_jump" in f.get("watch", ())]
            if jumps:
                found.append(f"{host}: its clock was set by {jumps[-1]:+.0f} s while recording")
        return found


def _sizes(snap: Snapshot) -> pd.DataFrame:
    """Bytes in memory and in swap of each process."""
    pages, page = snap.arrow("pages"), int(snap.facts["page_size"])
    wanted = [("present", "sum"), ("swapped", "sum")]
    sums = pages.select(["pid", "present", "swapped"]).group_by("pid").aggregate(wanted)
    who = snap.arrow("processes").select(["pid", "name"])
    who = who.set_column(1, "name", who["name"].cast(pa.string()))
    joined = who.join(sums, "pid").sort_by("pid")
    sizes = {
        name: pc.multiply(pc.fill_null(joined[f"{name}_sum"], 0).cast(pa.int64()), page)
        for name in ("present", "swapped")
    }
    return schema.to_pandas(pa.table({"pid": joined["pid"], "name": joined["name"], **sizes}))
