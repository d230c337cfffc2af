"""The ground floor: reading, decoding, joining, storing, importing."""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import pagemap_df as pm
from pagemap_df import columns, entries, store
from pagemap_df.source.frames import FILES
from tests import living
from tests.bench.harness import Report, seconds

PAGES = (2 << 30) // living.PAGE
CHUNKS = (1 << 12, 1 << 15, 1 << 17)
TIB = 1 << 40


def run(report: Report) -> None:
    """All of it."""
    with living.spawn() as child:
        heap = child.mmap_alone(PAGES)
        child.madvise(heap, living.NOHUGEPAGE)
        child.write(heap)
        reading(report, child, heap)
        storing(report, child, "4 KiB pages in order", 1.0)
        memory(report, child)
    with living.spawn() as child:
        reservation(report, child)
    with living.thp(), living.spawn() as child:
        heap = child.mmap_alone(PAGES, align=512)
        child.madvise(heap, living.HUGEPAGE)
        child.write(heap)
        storing(report, child, "huge pages", 0.1)
    machine(report)
    decoding(report)
    importing(report)


def reading(report: Report, child: living.Child, heap: living.Region) -> None:
    """A live process against a bare loop in its best chunk size, and the join by PFN."""
    fd = os.open(f"/proc/{child.pid}/pagemap", os.O_RDONLY)

    def bare(chunk: int) -> None:
        buffer = bytearray(8 * chunk)
        first = heap.start // living.PAGE
        for page in range(first, first + heap.pages, chunk):
            os.preadv(fd, [buffer], 8 * page)

    best = min(CHUNKS, key=lambda chunk: min(seconds(lambda: bare(chunk)) for _ in range(5)))
    pm.take(pids=child.pid)
    report.ratio(
        "take of 2 GiB / bare preadv loop",
        lambda: pm.take(pids=child.pid),
        lambda: bare(best),
        0.8,
        rounds=31,
    )
    report.ratio(
        'take with join=["mapcount"] / take',
        lambda: pm.take(pids=child.pid, join=["mapcount"]),
        lambda: pm.take(pids=child.pid),
        1.3,
        rounds=31,
    )
    os.close(fd)


def reservation(report: Report, child: living.Child) -> None:
    """What a tebibyte with 1,000 touched pages adds, in milliseconds and in memory."""
    pm.take(pids=child.pid)
    without = [seconds(lambda: pm.take(pids=child.pid)) for _ in range(15)]
    region = child.mmap(TIB // living.PAGE, flags=living.NORESERVE)
    child.write(region, range(0, region.pages, region.pages // 1000))
    with_it = [seconds(lambda: pm.take(pids=child.pid)) for _ in range(15)]
    added = 1000 * (float(np.median(with_it)) - float(np.median(without)))
    report.value("1 TiB reservation with 1,000 pages adds", added, 20, " ms")
    report.value("  and in memory, bytes per page of it", peak_of(child.pid) / (1 << 28), 0.5)


def peak_of(pid: int) -> int:
    """Bytes by which a take of `pid` raises the peak of a fresh process.

    A first take, of a small process, loads what is loaded on first use; then the kernel is
    told to forget the peak so far.
    """
    program = (
        "import re, sys, pagemap_df as pm\n"
        "def size(name):\n"
        "    return int(re.search(name + r':\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "pm.take(pids=int(sys.argv[2]))\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"
        "before = size('VmRSS')\n"
        "snap = pm.take(pids=int(sys.argv[1]))\n"
        "print(size('VmHWM') - before)\n"
    )
    with living.spawn() as small:
        command = [sys.executable, "-c", program, str(pid), str(small.pid)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return 1024 * int(answer.stdout)


def memory(report: Report, child: living.Child) -> None:
    """Peak of a take above the import, for each page row."""
    rows = len(pm.take(pids=child.pid).arrow("pages"))
    report.value("peak memory of a take, bytes per row", peak_of(child.pid) / rows, 48)


def storing(report: Report, child: living.Child, what: str, at_most: float) -> None:
    """Bytes of the pages file for each row."""
    snap = pm.take(pids=child.pid)
    heap = max(snap.arrow("vmas").to_pylist(), key=lambda vma: vma["end"] - vma["start"])
    rows = snap.arrow("pages").num_rows
    with tempfile.TemporaryDirectory() as folder:
        size = (store.write(snap, Path(folder)) / "pages.parquet").stat().st_size
    assert heap["end"] - heap["start"] > rows * living.PAGE * 0.8, "other mappings outweigh it"
    report.value(f"Parquet, {what}, bytes per page", size / rows, at_most)


def machine(report: Report) -> None:
    """The frame table of the machine against a bare sequential read of the same files."""
    from pagemap_df.source import frames

    def bare() -> None:
        buffer = bytearray(8 << 17)
        for name in FILES.values():
            with open(f"/proc/{name}", "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    with pm.Procfs() as source:
        report.ratio(
            "frame table of the machine / bare read",
            lambda: frames.machine(source),
            bare,
            1.2,
            rounds=5,
        )


def decoding(report: Report) -> None:
    """A dump in memory against filling the same columns with zeros."""
    pages = 1 << 22
    order = np.random.default_rng(1).permutation(pages).astype(np.uint64)
    words = order + np.uint64(0x100000) | np.uint64(0x81 << 56)
    reading_ = columns.Reading(entries.layout("E7"))

    def decode() -> list[object]:
        slab = columns.Slab()
        return [
            columns.block(words[at : at + columns.BLOCK], where(at), 1, reading_, slab)
            for at in range(0, pages, columns.BLOCK)
        ]

    def where(at: int) -> columns.Ranges:
        return columns.Ranges.one(at * 4096, columns.BLOCK)

    def fill() -> list[object]:
        return [
            np.full(pages * max(field.type.bit_width, 1) // 8, 0, np.uint8)
            if field.name != "kind"
            else np.full(pages, 0, np.uint8)
            for field in reading_.schema
        ]

    report.ratio("decode of a dump in memory / filling its columns", decode, fill, 3.0)


def importing(report: Report) -> None:
    """Import against that of what it stands on."""

    def imported(what: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", f"import {what}"], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    ratios = [imported("pagemap_df") / imported("pandas, pyarrow") for _ in range(9)]
    report.value("import pagemap_df / import pandas, pyarrow", float(np.median(ratios)), 1.15, "x")
