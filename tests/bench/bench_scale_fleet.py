"""Data sets larger than memory: time against rows, memory from outside, two workers against one.

``PAGEMAP_ROWS`` is the size of the largest of five data sets, by default a billion page rows.
Hosts are made on the spot, some million rows each; a smaller data set is the first hosts of it.
"""

import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from pagemap_df import fleet, schema
from pagemap_df.algebra.holders import sets
from pagemap_df.dataset import open_dataset
from pagemap_df.entries import KINDS
from pagemap_df.snapshot import Snapshot
from tests.bench.harness import Report

ROWS = int(os.environ.get("PAGEMAP_ROWS", "1_000_000_000"))
HOSTS = 96
PIDS = 8
SIZES = (6, 12, 24, 48, 96)
ROOT = Path(__file__).parents[2]

PSS = """
select host, pid, sum(page_size / mapcount) as pss
from pages join snapshots using (host, ts) where present group by all order by all
"""


def run(report: Report) -> None:
    """All of it."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("PAGEMAP_SCRATCH")) as root:
        for number in range(HOSTS):
            host(number, ROWS // HOSTS).to_parquet(root, compression_level=1)
        linear(report, Path(root), "pss")
        linear(report, Path(root), "sets")
        workers(report, Path(root))


def host(number: int, rows: int) -> Snapshot:
    """One host: processes that each map a part of what the first has, and pages of their own."""
    rng = np.random.default_rng(number)
    each = rows // PIDS
    shared = rng.random(each) < 0.3
    run = np.cumsum(rng.random(each) < 0.1)
    pfns, counts = [], []
    for pid in range(PIDS):
        own = np.arange(each) + run + (pid + 1) * 4 * each
        pfns.append(np.where(shared, np.arange(each), own))
        counts.append(np.where(shared, PIDS, 1))
    n = each * PIDS
    nothing = {name: pa.nulls(n) for name in ("swap_type", "swap_offset", "soft_dirty", "vma")}
    kinds = pa.array(np.full(n, KINDS.index("present"), np.int8))
    no, yes = np.zeros(n, np.bool_), np.ones(n, np.bool_)
    pages = {
        "pid": np.repeat(np.arange(1, PIDS + 1, dtype=np.int32), each),
        "vaddr": np.tile(np.arange(each) * 4096, PIDS),
        "kind": pa.DictionaryArray.from_arrays(kinds, pa.array(KINDS)),
        "present": yes, "swapped": no, "pfn": np.concatenate(pfns),
        "file": no, "exclusive": np.concatenate(counts) == 1, "uffd_wp": no, "guard": no,
        "mapcount": np.concatenate(counts).astype(np.int32), **nothing,
    }  # fmt: skip
    who = {
        "pid": np.arange(1, PIDS + 1), "mm": np.arange(1, PIDS + 1), "name": ["worker"] * PIDS,
        **{name: pa.nulls(PIDS) for name in ("ppid", "cmdline", "uid", "start_time", "cgroup",
                                             "state")},
    }  # fmt: skip
    tables = {
        "pages": schema.conform(pa.table(pages), "pages"),
        "processes": schema.conform(pa.table(who), "processes"),
        "frames": schema.empty("frames"),
    }
    facts = {"host": f"h{number:03}", "page_size": 4096, "pfns": "visible", "complete": True}
    return Snapshot(tables, {**facts, "taken_at": "2026-11-23T00:00:00.000000+00:00"})


def ask(what: str, root: str, hosts: int) -> None:
    """Answer one question over the first hosts and print how long it took.

    Runs in a process of its own, which has asked one host before: imports are not counted.
    """
    dataset = open_dataset(root)
    for some in (1, hosts):
        narrow = dataset.host(*dataset.hosts[:some])
        began = time.perf_counter()
        if what == "pss":
            assert len(narrow.sql(PSS, memory_limit="2GiB")) == some * PIDS
        else:
            assert len(fleet.map(sets, narrow)) >= some * PIDS
    print(time.perf_counter() - began)


def linear(report: Report, root: Path, what: str) -> None:
    """Time over five sizes: the slope of a fit through doublings, and the highest memory."""
    asked = [_asked(what, root, hosts) for hosts in SIZES]
    took, peaks = zip(*asked, strict=True)
    slope = statistics.linear_regression(np.log2(SIZES).tolist(), np.log2(took).tolist()).slope
    per = ROWS / 1e6 / HOSTS
    sizes = (f"{n * per:.0f} M rows {s:.1f} s" for n, s in zip(SIZES, took, strict=True))
    print("  " + ", ".join(sizes))
    report.value(f"{what}: doubling the rows, times the time", 2**slope, 2.2, "x")
    report.value(f"{what}: least that a doubling takes", -(2**slope), -1.9, "x")
    report.value(f"{what}: highest memory", max(peaks) / (1 << 30), 4.0, " GiB")


_ASK = """
import sys
from tests.bench.bench_scale_fleet import ask
ask(sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


def _asked(what: str, root: Path, hosts: int) -> tuple[float, int]:
    """Seconds of a question in a process of its own, and its highest memory seen from outside."""
    command = [sys.executable, "-c", _ASK, what, str(root), str(hosts)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    highest = 0
    while child.poll() is None:
        try:
            status = Path(f"/proc/{child.pid}/status").read_text()
        except ProcessLookupError:
            break
        line = status.partition("VmHWM:")[2].split()
        highest = max(highest, int(line[0]) << 10 if line else 0)
        time.sleep(0.02)
    said, _ = child.communicate()
    assert child.returncode == 0
    return float(said), highest


def workers(report: Report, root: Path) -> None:
    """The same question on one Dask worker and on two."""
    from distributed import Client, LocalCluster

    dataset = open_dataset(root)
    took = {}
    for number in (1, 2):
        with (
            LocalCluster(
                n_workers=number,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
            client.get_executor() as executor,
        ):
            fleet.map("select 1 as one from pages limit 1", dataset, executor)
            began = time.perf_counter()
            fleet.map(PSS, dataset, executor)
            took[number] = time.perf_counter() - began
    report.value("two workers / one, speed inverted", took[2] / took[1], 1 / 1.6, "x")
