"""Layout: folios counted by hand and as thpmaps would, frames as page-types counts them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pagemap_df import layout, pageflags, schema
from pagemap_df.errors import NotAvailable
from pagemap_df.procstatus import IoRange, parse_iomem
from pagemap_df.snapshot import Snapshot
from pagemap_df.take import take
from tests import kernel_tools, living
from tests.handmade import FACTS, PAGE, snapshot

THP = pageflags.mask("THP", "ANON", "SWAPBACKED", "LRU")
HEAD, TAIL = THP | pageflags.mask("COMPOUND_HEAD"), THP | pageflags.mask("COMPOUND_TAIL")


def with_folios(line, folios, seen=(), join=("mapcount", "flags", "huge")):
    """A snapshot of one mapping; `folios`: (head frame, pages); `seen`: frames known by flags."""
    snap = snapshot({7: [line]}, join=join)
    known = {}
    for head, pages in folios:
        known |= {head: HEAD} | dict.fromkeys(range(head + 1, head + pages), TAIL)
    pages = snap._tables["pages"]
    flags = [known.get(pfn, 0) for pfn in pages["pfn"].to_pylist()]
    at = pages.schema.get_field_index("flags")
    snap._tables["pages"] = pages.set_column(
        at, pages.schema.field(at), [pa.array(flags, pa.int64())]
    )
    rows = [{"pfn": pfn, "flags": known.get(pfn, 0)} for pfn in sorted(seen)]
    frames = pa.Table.from_pylist(rows, schema=schema.FRAMES.schema())
    snap._tables["frames"] = frames
    return snap


def mapped(first, count):
    return " ".join(f"a{pfn}" for pfn in range(first, first + count))


def row_of(snap):
    (row,) = layout.huge(snap).to_dict("records")
    return {name: row[name] // PAGE for name in (*layout.FITS, "small", "rss")}


def test_a_whole_folio_at_a_multiple_of_its_size_is_aligned():
    snap = with_folios(f"heap rw-p {mapped(16, 4)} a99", [(16, 4)], seen=[20])
    assert row_of(snap) == {
        "aligned": 4,
        "unaligned": 0,
        "partial": 0,
        "uncertain": 0,
        "small": 1,
        "rss": 5,
    }
    (row,) = layout.folios(snap).to_dict("records")
    assert (row["type"], row["entry"], row["fit"], row["folio"], row["bytes"]) == (
        "anon",
        "pte",
        "aligned",
        4 * PAGE,
        4 * PAGE,
    )


def test_a_whole_folio_elsewhere_is_unaligned():
    snap = with_folios(f"heap rw-p - {mapped(16, 4)}", [(16, 4)], seen=[20])
    assert row_of(snap)["unaligned"] == 4


def test_a_folio_without_its_head_or_its_end_is_partial():
    tail_only = with_folios(f"heap rw-p - {mapped(17, 3)}", [(16, 4)], seen=[20])
    assert row_of(tail_only)["partial"] == 3
    cut = with_folios(f"heap rw-p {mapped(16, 4)}", [(16, 8)], seen=[20])
    assert row_of(cut)["partial"] == 4
    odd = with_folios(f"heap rw-p {mapped(16, 3)}", [(16, 4)])
    assert row_of(odd)["partial"] == 3


def test_two_folios_side_by_side_are_two():
    snap = with_folios(f"heap rw-p {mapped(16, 8)}", [(16, 4), (20, 4)], seen=[24])
    assert row_of(snap)["aligned"] == 8
    assert layout.folios(snap).folio.tolist() == [4 * PAGE]


def test_an_end_that_nobody_saw_is_uncertain_unless_a_huge_entry_maps_it():
    assert row_of(with_folios(f"heap rw-p {mapped(16, 4)}", [(16, 4)]))["uncertain"] == 4
    by_pmd = mapped(16, 4).replace(" ", "! ") + "!"
    snap = with_folios(f"heap rw-p {by_pmd}", [(16, 4)])
    assert row_of(snap)["aligned"] == 4
    assert layout.huge(snap).pmd.tolist() == [4 * PAGE]
    unknown = with_folios(f"heap rw-p {mapped(16, 4)}", [(16, 4)], join=("mapcount", "flags"))
    assert layout.huge(unknown).pmd.isna().all()
    assert layout.folios(unknown).entry.isna().all()


def test_huge_pages_need_flags():
    with pytest.raises(NotAvailable, match=r"pages.flags.*join"):
        layout.huge(snapshot({7: ["heap rw-p a1"]}, join=()))


def test_runs_are_neighbours_in_both_worlds():
    (row,) = layout.contiguity(snapshot({7: ["heap rw-p a1 a2 a9 - a10 s1 a3"]})).to_dict("records")
    assert (row["bytes"] // PAGE, row["runs"], row["longest"] // PAGE) == (5, 4, 2)
    assert row["mean"] == 5 * PAGE / 4
    assert len(layout.contiguity(snapshot({7: ["heap rw-p s1"]}))) == 0
    with pytest.raises(NotAvailable, match="not root"):
        layout.contiguity(snapshot({7: ["heap rw-p a1"]}, hidden=True))


def machine(*flags):
    """All frames of a machine by the names of their flags."""
    words = [pageflags.mask(*names.split()) for names in flags]
    columns = {"pfn": np.arange(len(words)), "flags": words}
    columns |= {"mapcount": pa.nulls(len(words)), "cgroup": pa.nulls(len(words))}
    return Snapshot({"frames": schema.conform(pa.table(columns), "frames")}, FACTS)


def test_every_frame_has_one_use():
    snap = machine(
        "BUDDY", "SLAB ANON KSM", "PGTABLE", "RESERVED", "RESERVED ZERO_PAGE", "HUGE", "ANON KSM",
        "ANON SWAPBACKED", "SWAPBACKED LRU", "LRU UPTODATE", "OFFLINE", "HWPOISON LRU", "", "",
    )  # fmt: skip
    table = layout.usage(snap)
    assert dict(zip(table.use, table.frames, strict=True)) == {
        "offline": 1,
        "poisoned": 1,
        "free": 1,
        "slab": 1,
        "page tables": 1,
        "reserved": 1,
        "hugetlb": 1,
        "zero page": 1,
        "KSM": 1,
        "anonymous": 1,
        "shared memory": 1,
        "page cache": 1,
        "kernel": 2,
    }
    assert "holes" in table.attrs["accuracy"]["frames"]


def test_frames_outside_of_ram_are_holes():
    ram = [IoRange(0, 2 * PAGE, "System RAM", 0), IoRange(0, PAGE, "Kernel code", 1)]
    table = layout.usage(machine("", "BUDDY", "", ""), ram)
    assert dict(zip(table.use, table.frames, strict=True)) == {"hole": 2, "free": 1, "kernel": 1}
    with pytest.raises(NotAvailable, match="CAP_SYS_ADMIN"):
        layout.usage(machine(""), [IoRange(None, None, "System RAM", 0)])


def test_free_frames_are_blocks_of_the_buddy_allocator():
    table = layout.fragmentation(machine("", *["BUDDY"] * 7, "")).set_index("order")
    assert table.blocks.tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    assert table.unusable.tolist()[:4] == [0, 1 / 7, 3 / 7, 1]
    assert layout.fragmentation(machine("", "")).unusable.isna().all()


def test_the_machine_is_needed_for_questions_about_it():
    seen = snapshot({7: ["heap rw-p a1"]})
    for ask in (layout.usage, layout.fragmentation, layout.histogram):
        with pytest.raises(NotAvailable, match="machine_frames=True"):
            ask(seen)
    table = layout.histogram(seen, of="pages")
    assert table.names.tolist() == ["LRU MMAP ANON SWAPBACKED"]


def words_of(path, first, count):
    with Path(path).open("rb", buffering=0) as file:
        return np.frombuffer(os.pread(file.fileno(), count * 8, first * 8), np.uint64).tolist()


def flags_of(pfn):
    return words_of("/proc/kpageflags", pfn, 1)[0]


def thpmaps(pid, start, end):
    """Pages by the definition of tools/mm/thpmaps, one page after the other."""
    words = words_of(f"/proc/{pid}/pagemap", start // PAGE, (end - start) // PAGE)
    pages = {start // PAGE + n: word & (1 << 55) - 1 for n, word in enumerate(words) if word >> 63}
    flags = {pfn: flags_of(pfn) for pfn in pages.values()}
    left = {vpn: pfn for vpn, pfn in pages.items() if flags[pfn] >> 22 & 1}
    found = dict.fromkeys(layout.FITS, 0)
    while left:
        vpn, pfn = next(iter(left.items()))
        length = 1
        while left.get(vpn + length) == pfn + length and not flags[pfn + length] >> 15 & 1:
            length += 1
        whole = flags[pfn] >> 15 & 1 and not flags_of(pfn + length) >> 16 & 1
        found["partial" if not whole else "unaligned" if vpn % length else "aligned"] += length
        for n in range(length):
            del left[vpn + n]
    return found


@pytest.mark.kernel
def test_live_huge_pages_are_what_thpmaps_says(tmp_path):
    living.need_root()
    with living.thp(), living.spawn() as child:
        regions = {name: child.mmap_alone(1024, align=512) for name in ("whole", "half", "split")}
        for region in regions.values():
            child.madvise(region, living.HUGEPAGE)
            child.write(region[:1])
        child.madvise(regions["half"][256:512], living.DONTNEED)
        child.mprotect(regions["split"][:256], living.R)
        moved = child.mmap_alone(1024, align=512)
        child.call(
            "mremap",
            regions["split"].start + 256 * PAGE,
            256 * PAGE,
            256 * PAGE,
            3,
            moved.start + 7 * PAGE,
        )
        file = child.mmap(64, prot=living.R, fd=child.open(living.file_of(tmp_path / "f", 64)))
        child.read(file)
        child.stop()
        snap = take(pids=[child.pid], join=["flags", "huge"], machine_frames=True)
        for row in layout.huge(snap).to_dict("records"):
            ours = {fit: row[fit] // PAGE for fit in layout.FITS}
            assert ours == thpmaps(child.pid, row["start"], row["end"]), row
        table = layout.huge(snap).set_index("start")
        assert table.pmd[regions["whole"].start] == table.aligned[regions["whole"].start] == 2 << 20
        assert table.partial[regions["half"].start] == 1 << 20
        assert table.partial[regions["split"].start] == 1 << 20
        without = layout.huge(take(pids=[child.pid], join=["flags", "huge"])).set_index("start")
        half = without.loc[regions["half"].start]
        assert half.partial + half.uncertain == 1 << 20


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    return kernel_tools.build(tmp_path_factory.mktemp("kernel"))


THPMAPS = {
    "pmd": r"(?:anon|file)-thp-pmd-aligned-\d+kB",
    "aligned": r"(?:anon|file)-thp-pte-aligned-\d+kB",
    "unaligned": r"(?:anon|file)-thp-pte-unaligned-\d+kB",
    "partial": r"(?:anon|file)-thp-pte-partial",
}


@pytest.mark.kernel
def test_live_huge_pages_are_what_the_kernels_thpmaps_prints(tools):
    with living.thp(), living.spawn() as child:
        regions = [child.mmap_alone(1024, align=512) for _ in range(3)]
        for region in regions:
            child.madvise(region, living.HUGEPAGE)
            child.write(region)
        child.madvise(regions[1][256:300], living.DONTNEED)
        child.mprotect(regions[2][:256], living.R)
        child.stop()
        snap = take(pids=[child.pid], join=["flags", "huge"], machine_frames=True)
        program = [sys.executable, tools / "thpmaps", "--pid", str(child.pid)]
        told = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    table, seen = layout.huge(snap).set_index("start"), 0
    for part in re.split(r"^(?=\d{10}: )", told, flags=re.MULTILINE)[1:]:
        start = int(part.split()[1].split("-")[0], 16)
        theirs = {
            name: 1024 * sum(map(int, re.findall(rf"^{pattern}: +(\d+) kB", part, re.MULTILINE)))
            for name, pattern in THPMAPS.items()
        }
        if start in table.index:
            row = table.loc[start]
            ours = {name: int(row[name]) for name in THPMAPS}
            ours["aligned"] -= ours["pmd"]
            assert ours == theirs, part
            seen += ours["pmd"] + ours["partial"]
    assert seen > 8 << 20


@pytest.mark.kernel
def test_live_frames_are_used_as_page_types_counts_them(tools):
    """The machine goes on living between two looks: what is steady must be the same."""
    living.need_root()
    snap = take(pids=os.getpid(), machine_frames=True)
    tool = [tools / "page-types", "--raw"]
    told = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in told.splitlines() if line.startswith("0x")]
    theirs = {int(line[0], 16): int(line[1]) for line in lines}
    table = layout.histogram(snap)
    ours = dict(zip(table["flags"], table.frames, strict=True))
    assert sum(theirs.values()) == sum(ours.values())
    steady = pageflags.mask("RESERVED")
    assert {w: n for w, n in ours.items() if w == steady} == {
        w: n for w, n in theirs.items() if w == steady
    }
    differ = sum(abs(theirs.get(w, 0) - ours.get(w, 0)) for w in {*theirs, *ours})
    assert differ < sum(theirs.values()) / 20


@pytest.mark.kernel
def test_live_memory_is_where_meminfo_says(tmp_path):
    living.need_root()
    with living.spawn() as child:
        heap = child.mmap(16384)
        before = take(pids=child.pid, join=["flags"], machine_frames=True)
        child.write(heap)
        after = take(pids=child.pid, join=["flags"], machine_frames=True)
    ram = parse_iomem(Path("/proc/iomem").read_bytes())
    uses = [layout.usage(snap, ram).set_index("use").frames for snap in (before, after)]
    assert uses[1]["anonymous"] - uses[0]["anonymous"] > 12000
    total = sum(r.end - r.start for r in ram if r.name == "System RAM" and r.depth == 0)
    assert uses[0].drop("hole").sum() * PAGE == pytest.approx(total, rel=1e-4)
    assert layout.fragmentation(after).free.sum() == uses[1]["free"] * PAGE
