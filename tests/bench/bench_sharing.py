"""Exact sets of holders, unions, PSS and changes, against the ways one would take otherwise.

``ROWS`` in the environment sets the size; the marks are for ten million rows.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from pagemap_df import changes, read_snapshot, schema, sharing, take
from pagemap_df.snapshot import Snapshot
from tests import living
from tests.bench.harness import Report, seconds

ROWS = int(os.environ.get("ROWS", "10000000"))
PROCESSES = 200
FAMILY = 10
GIB = (1 << 30) // living.PAGE


def machine(rows: int, seed: int = 1, moved: float = 0.0) -> Snapshot:
    """`PROCESSES` processes in families of `FAMILY`, that share 40 % of their pages.

    `moved` is the part of pages that sit in another frame than they would.
    """
    random = np.random.default_rng(seed)
    each = rows // PROCESSES
    shared = each * 2 // 5
    families = PROCESSES // FAMILY
    frames = random.permutation(PROCESSES * (each - shared) + families * shared + rows // 50)
    own = frames[: PROCESSES * (each - shared)].reshape(PROCESSES, -1)
    common = frames[own.size : own.size + families * shared].reshape(families, -1)
    pfn = np.concatenate([np.r_[own[p], common[p // FAMILY]] for p in range(PROCESSES)])
    other = np.random.default_rng(seed + 1).random(len(pfn)) < moved
    pfn[other] = random.choice(frames[-(rows // 50) :], other.sum())
    count = np.bincount(pfn)[pfn].astype(np.int32)
    pids = np.arange(1000, 1000 + PROCESSES, dtype=np.int32)
    return Snapshot(_tables(pids, each, pfn, count), {"page_size": living.PAGE})


def _tables(pids: np.ndarray, each: int, pfn: np.ndarray, count: np.ndarray) -> dict[str, pa.Table]:
    n = len(pfn)
    given = {
        "pid": np.repeat(pids, each),
        "vaddr": (1 << 30) + np.tile(np.arange(each) * living.PAGE, len(pids)),
        "kind": pa.array(["present"] * len(pids))
        .dictionary_encode()
        .take(np.arange(n) % len(pids)),
        "present": pa.array(np.ones(n, np.bool_)),
        "swapped": pa.array(np.zeros(n, np.bool_)),
        "pfn": pfn,
        "file": pa.array(np.zeros(n, np.bool_)),
        "exclusive": pa.array(count == 1),
        "vma": np.repeat(np.arange(len(pids)), each),
        "mapcount": count,
    }
    columns = [c for c in schema.PAGES.columns if not c.on_request or c.name in given]
    pages = pa.table(
        {c.name: given[c.name] if c.name in given else pa.nulls(n, c.type) for c in columns}
    )
    vmas = {"pid": pids, "start": 1 << 30, "end": (1 << 30) + each * living.PAGE, "perms": "rw-p"}
    vmas |= {
        "offset": 0,
        "device": "00:00",
        "inode": 0,
        "path": "",
        "kind": "anon",
        "changed": False,
    }
    processes = {"pid": pids, "mm": pids, "name": "worker"}
    return {
        "pages": pages,
        "vmas": _rows("vmas", vmas, len(pids)),
        "processes": _rows("processes", processes, len(pids)),
    }


def _rows(name: str, given: dict[str, object], n: int) -> pa.Table:
    columns = schema.TABLES[name].schema().names
    fill = {
        c: given[c] if isinstance(given.get(c), np.ndarray) else [given.get(c)] * n for c in columns
    }
    return pa.table(fill)


def run(report: Report) -> None:
    """All of it."""
    snap = machine(ROWS)
    exact_sets(report, snap)
    unions(report, snap)
    changed(report, snap)
    peak(report, snap)
    del snap
    live_pss(report)


def exact_sets(report: Report, snap: Snapshot) -> None:
    """The table keyed by the exact set of pids, and what else gives it."""
    pages = snap.arrow("pages").select(["pid", "pfn"])
    tenth = pages.slice(0, ROWS // 10).to_pandas()

    def by_duckdb() -> pa.Table:
        # Without hashing sets to numbers: a collision would make two sets one.
        with duckdb.connect() as connection:
            connection.register("pages", pages)
            query = "select pfn, list(distinct pid) from pages group by pfn"
            return connection.sql(query).to_arrow_table()

    def ours() -> object:
        return sharing.sets(snap)

    report.ratio("sets of holders / DuckDB list(distinct)", ours, by_duckdb, 1 / 3, rounds=3)
    slow = seconds(lambda: tenth.groupby("pfn")["pid"].agg(set)) * 10
    report.value(
        "sets of holders / pandas agg(set), a tenth, x10", seconds(ours) / slow, 1 / 50, "x"
    )


def unions(report: Report, snap: Snapshot) -> None:
    """The union of frames of all, and of every family, against one sort of the frames."""
    pfn = snap.arrow("pages")["pfn"].to_numpy()
    families = {int(pid): (pid - 1000) // FAMILY for pid in range(1000, 1000 + PROCESSES)}
    report.ratio(
        "union of all / one sort of pfn",
        lambda: sharing.groups(snap),
        lambda: np.sort(pfn),
        1,
        rounds=5,
    )
    column = snap.arrow("pages")["pfn"].to_pandas()
    report.ratio(
        "union of all / pandas sort_values of pfn",
        lambda: sharing.groups(snap),
        column.sort_values,
        1,
        rounds=5,
    )
    report.ratio(
        "unions of 20 groups / one sort of pfn",
        lambda: sharing.groups(snap, by=families),
        lambda: np.sort(pfn),
        1,
        rounds=5,
    )


def changed(report: Report, snap: Snapshot) -> None:
    """A table of changed pages against reading the two snapshots from Parquet."""
    later = machine(ROWS, moved=0.02)
    with tempfile.TemporaryDirectory() as directory:
        places = [Path(directory) / name for name in ("before", "after")]
        for moment, place in zip((snap, later), places, strict=True):
            moment.to_parquet(place)

        def read() -> object:
            return [read_snapshot(place) for place in places]

        before, after = read()
        report.ratio(
            "changed pages / reading both from Parquet",
            lambda: changes.pages(before, after),
            read,
            3,
            rounds=5,
            warm=True,
        )


_PEAK = """
import pathlib, sys
from pagemap_df import read_snapshot, sharing
snap = read_snapshot(sys.argv[1])
pathlib.Path("/proc/self/clear_refs").write_text("5")  # forget the peak of reading
sharing.sets(snap)
(line,) = [x for x in pathlib.Path("/proc/self/status").open() if x.startswith("VmHWM")]
print(int(line.split()[1]) / (1 << 20))
"""


def peak(report: Report, snap: Snapshot) -> None:
    """Most memory of a process that reads a snapshot and makes the sets."""
    with tempfile.TemporaryDirectory() as directory:
        snap.to_parquet(directory)
        command = [sys.executable, "-c", _PEAK, directory]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    report.value("peak memory of the sets, snapshot and all", float(told), 2, " GiB")


def live_pss(report: Report) -> None:
    """PSS of one live process of 2 GiB against the kernel's own sum."""
    with living.spawn() as child:
        heap = child.mmap_alone(2 * GIB)
        child.madvise(heap, living.NOHUGEPAGE)
        child.write(heap)
        rollup = Path(f"/proc/{child.pid}/smaps_rollup")

        def ours() -> object:
            return sharing.pss(child.pid)

        def by_tables() -> object:
            return sharing.processes(take(pids=child.pid, join=["mapcount"]), only=["pss"])

        report.ratio("PSS of a live 2 GiB process / smaps_rollup", ours, rollup.read_bytes, 1.5)
        report.ratio("the same by way of tables / smaps_rollup", by_tables, rollup.read_bytes, 6)
