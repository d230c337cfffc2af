"""Snapshots of living processes against what the kernel says of them by other roads."""

import json
import os
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pagemap_df import Procfs, RawDump, pageflags, take
from pagemap_df.errors import NotAvailable, ProcessGone
from pagemap_df.source import scan
from tests import living, zoo
from tests import words as made
from tests.living import PAGE

pytestmark = pytest.mark.kernel

AGING = ~pageflags.mask("REFERENCED", "ACTIVE", "LRU", "UPTODATE", "LOCKED", "WRITEBACK", "IDLE")


# -- other roads ------------------------------------------------------------------------


def raw_words(pid, region):
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        raw = os.pread(file.fileno(), 8 * region.pages, region.start // PAGE * 8)
    return [word for (word,) in struct.iter_unpack("=Q", raw)]


def frame_words(name, pfns):
    try:
        file = open(f"/proc/{name}", "rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        pytest.skip(f"/proc/{name} cannot be read: {error}")
    with file:
        return [struct.unpack("=q", os.pread(file.fileno(), 8, 8 * pfn))[0] for pfn in pfns]


def smaps(pid):
    """start -> field -> bytes."""
    out = {}
    for line in Path(f"/proc/{pid}/smaps").read_bytes().decode(errors="replace").splitlines():
        head = line.split()[0]
        if not head.endswith(":"):
            here = out[int(head.split("-")[0], 16)] = {}
        elif line.endswith(" kB"):
            here[head[:-1]] = 1024 * int(line.split()[1])
    return out


def rows_of(snap, pid, region):
    pages = snap.pages
    return pages[(pages.pid == pid) & (pages.vaddr >= region.start) & (pages.vaddr < region.end)]


# -- a family with memory of every kind -------------------------------------------------


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    with zoo.opened(tmp_path_factory.mktemp("zoo")) as family:
        yield family


@pytest.fixture(scope="module")
def snap(family):
    pids = [family.parent.pid, family.child.pid]
    return take(pids=pids, join=["mapcount", "flags", "cgroup", "huge"], smaps=True, raw=True)


def members(family):
    return (family.parent, family.child)


def test_every_populated_page_is_a_row_and_no_other(family, snap):
    for member in members(family):
        for name, region in family.regions.items():
            rows = rows_of(snap, member.pid, region)
            words = raw_words(member.pid, region)
            there = [
                (region.start + i * PAGE, word)
                for i, word in enumerate(words)
                if word >> 62 or (word >> 57 & 1)
            ]
            assert rows.vaddr.tolist() == [vaddr for vaddr, _ in there], name
            assert [w % (1 << 64) for w in rows.word.tolist()] == [w for _, w in there], name


def test_every_row_says_what_its_word_says(snap):
    era = snap.facts["era"]
    for row in snap.pages.sample(3000, random_state=1).to_dict("records"):
        slow = made.naive(row["word"] % (1 << 64), era)
        assert row["present"] == slow.present
        assert (row["pfn"] if slow.present else None) == (slow.frame if slow.present else None)
        if row["swapped"]:
            assert (row["swap_type"], row["swap_offset"]) == (slow.frame % 32, slow.frame // 32)
        for name in ("file", "exclusive", "uffd_wp", "guard"):
            assert slow.flags[name] is None or row[name] == slow.flags[name]


def test_rows_are_sorted_and_lie_in_their_vma(snap):
    pages, vmas = snap.pages, snap.vmas
    keys = list(zip(pages.pid, pages.vaddr, strict=True))
    assert keys == sorted(set(keys))
    home = vmas.loc[pages.vma].reset_index(drop=True)
    assert (home.pid == pages.pid).all()
    assert ((home.start <= pages.vaddr) & (pages.vaddr < home.end)).all()
    assert not vmas.changed.any()


def test_vmas_are_the_lines_of_maps(family, snap):
    for member in members(family):
        lines = [line.split() for line in Path(f"/proc/{member.pid}/maps").read_text().splitlines()]
        mine = snap.vmas[snap.vmas.pid == member.pid]
        seen = [f"{row.start:08x}-{row.end:08x} {row.perms}" for row in mine.itertuples()]
        assert seen == [f"{line[0]} {line[1]}" for line in lines if line[-1] != "[vsyscall]"]


def test_pages_add_up_to_the_kernels_own_figures(family, snap):
    """Rss, Anonymous, hugetlb and Swap of smaps, VMA by VMA."""
    for member in members(family):
        kernel = smaps(member.pid)
        pages = snap.pages[snap.pages.pid == member.pid]
        flags = pages["flags"].fillna(0).to_numpy(np.int64)
        hugetlb, anon = (flags & pageflags.mask(name) != 0 for name in ("HUGE", "ANON"))
        counted = (pages.kind == "present").to_numpy() & ~hugetlb
        for start, vma in zip(snap.vmas.start, snap.vmas.index, strict=True):
            if snap.vmas.pid[vma] != member.pid:
                continue
            inside = (pages.vma == vma).to_numpy(bool)
            theirs = kernel[start]
            where = (hex(start), snap.vmas.path[vma])
            assert PAGE * (inside & counted).sum() == theirs["Rss"], where
            assert PAGE * (inside & counted & anon).sum() == theirs["Anonymous"], where
            held = theirs["Shared_Hugetlb"] + theirs["Private_Hugetlb"]
            assert PAGE * (inside & hugetlb).sum() == held, where
            if snap.vmas.kind[vma] != "shmem":
                assert PAGE * (inside & pages.swapped.to_numpy()).sum() == theirs["Swap"], where
            huge = inside & pages["huge"].fillna(False).to_numpy(bool) & counted
            huge_pages = (
                theirs["AnonHugePages"] + theirs["ShmemPmdMapped"] + theirs["FilePmdMapped"]
            )
            assert PAGE * huge.sum() == huge_pages, where


def test_figures_of_smaps_are_the_kernels(family, snap):
    for member in members(family):
        kernel = smaps(member.pid)
        for row in snap.vmas[snap.vmas.pid == member.pid].to_dict("records"):
            if row["path"]:
                continue  # files that the whole machine maps never rest
            for name, value in kernel[row["start"]].items():
                column = f"smaps_{name.lower()}"
                if column in row and name != "Referenced":
                    assert row[column] == value, name
            assert row["smaps_pagesize"] == kernel[row["start"]]["KernelPageSize"]


def test_pagemap_scan_finds_the_same_pages(family, snap):
    for member in members(family):
        fd = os.open(f"/proc/{member.pid}/pagemap", os.O_RDONLY)
        try:
            if not scan.available(fd):
                pytest.skip("this kernel has no PAGEMAP_SCAN")
            for name, region in family.regions.items():
                for category, column in (("PRESENT", "present"), ("SWAPPED", None)):
                    found = []
                    for part in scan.regions(
                        fd, region.start, region.end, all_of=scan.mask(category)
                    ):
                        for start, end, _ in part.tolist():
                            found += range(start, end, PAGE)
                    rows = rows_of(snap, member.pid, region)
                    there = rows.present if column else ~rows.present
                    assert rows.vaddr[there].tolist() == found, (name, category)
        finally:
            os.close(fd)


def test_joined_columns_are_what_the_files_say_of_every_frame(family, snap):
    for member in members(family):
        for name, region in family.regions.items():
            rows = rows_of(snap, member.pid, region)
            rows = rows[rows.present]
            pfns = rows.pfn.tolist()
            assert rows.mapcount.tolist() == frame_words("kpagecount", pfns), name
            if name not in ("file", "cow"):
                assert rows.cgroup.tolist() == frame_words("kpagecgroup", pfns), name
            theirs = np.array(frame_words("kpageflags", pfns), np.int64)
            ours = rows["flags"].to_numpy(np.int64)
            np.testing.assert_array_equal(ours & AGING, theirs & AGING, err_msg=name)


def test_what_is_not_in_memory_has_no_frame_and_no_facts_of_one(snap):
    gone = snap.pages[~snap.pages.present]
    assert len(gone) > 30
    assert gone[["pfn", "mapcount", "flags", "cgroup"]].isna().all().all()
    here = snap.pages[snap.pages.present]
    assert here[["pfn", "mapcount", "flags"]].notna().all().all()
    assert here[["swap_type", "swap_offset"]].isna().all().all()


def test_kinds_of_the_zoo(family, snap):
    parent, regions = family.parent.pid, family.regions

    def kinds(name):
        counts = rows_of(snap, parent, regions[name]).kind.value_counts()
        return counts[counts > 0].to_dict()

    assert kinds("anon") == {"present": 32}
    assert kinds("zero") == {"zero": 28, "present": 4}
    assert kinds("swapped") == {"swap": 30, "present": 2}
    assert kinds("guard") == {"present": 12, "marker_guard": 4}
    assert kinds("untouched") == {}
    assert kinds("huge_zero")["huge_zero"] == 512
    assert kinds("huge")["present"] == 512
    assert kinds("hugetlb") == {"present": 1024}
    guard = rows_of(snap, parent, regions["guard"])
    assert not guard.swapped.any()
    assert guard[guard.kind == "marker_guard"].swap_type.isna().all()


def test_frames_are_those_of_the_pages(snap):
    assert snap.frames.pfn.tolist() == sorted(set(snap.pages.pfn.dropna()))
    some = snap.pages.dropna(subset="pfn").drop_duplicates("pfn").set_index("pfn").sort_index()
    assert snap.frames.mapcount.tolist() == some.mapcount.tolist()


def test_swaps_are_the_lines_of_proc(snap):
    lines = Path("/proc/swaps").read_text().splitlines()[1:]
    assert snap.swaps.path.tolist() == [line.split()[0] for line in lines]
    assert (snap.swaps["size"] // 1024).tolist() == [int(line.split()[2]) for line in lines]
    assert set(snap.pages.swap_type.dropna()) <= set(snap.swaps.swap_type.dropna())


def test_processes_are_what_stat_and_status_say(family, snap):
    for member in members(family):
        row = snap.processes.set_index("pid").loc[member.pid]
        text = Path(f"/proc/{member.pid}/stat").read_text()
        after = text.rpartition(")")[2].split()
        assert row["name"] == text[text.index("(") + 1 : text.rindex(")")]
        assert (row.state, row.ppid, row.start_time) == (after[0], int(after[1]), int(after[19]))
        command = Path(f"/proc/{member.pid}/cmdline").read_bytes().split(b"\0")[:-1]
        assert row.cmdline == b" ".join(command).decode()
        assert row.uid == os.getuid()
        assert row.mm == member.pid


def test_facts_of_a_whole_capture(snap):
    assert snap.facts["skipped"] == []
    assert snap.facts["unknown"] == {}
    assert snap.facts["complete"] is False
    assert snap.facts["seconds"] > 0
    json.dumps(snap.facts)


# -- the bit that lies ------------------------------------------------------------------


@pytest.mark.parametrize(("dropped", "name"), [(slice(0, 1), "all but"), (slice(1, 512), "only")])
def test_map_counts_of_a_partly_shared_huge_page(dropped, name):
    """For a page mapped by one huge entry, bit 56 repeats what is true of its first 4 KiB."""
    with living.thp(), living.spawn() as parent:
        heap = parent.mmap_alone(2048, align=512)
        parent.madvise(heap, living.HUGEPAGE)
        parent.write(heap, range(0, 2048, 512))
        child = parent.fork()
        for at in (0, 512, 1024):
            child.madvise(heap[at : at + 512][dropped], living.DONTNEED)
        # A neighbour in the same batch that is mapped by small pages.
        small = parent.mmap_alone(40)
        parent.write(small)
        snap = take(pids=[parent.pid, child.pid], join=["mapcount", "huge"])
        for member in (parent, child):
            for region in (heap, small):
                rows = rows_of(snap, member.pid, region)
                assert rows.mapcount.tolist() == frame_words("kpagecount", rows.pfn.tolist())
        mine = rows_of(snap, parent.pid, heap)
        if not mine["huge"].all():
            pytest.skip("no huge pages could be had")
        assert mine.mapcount.value_counts().to_dict() == (
            {1: 3, 2: 2048 - 3} if name == "all but" else {1: 3 * 511, 2: 3 + 512}
        )


# -- markers, reservations --------------------------------------------------------------

UFFDIO_API, UFFDIO_REGISTER, UFFDIO_WRITEPROTECT = 0xC018AA3F, 0xC020AA00, 0xC018AA06
WP_UNPOPULATED, PAGEFAULT_FLAG_WP, MODE_WP, USER_MODE_ONLY = 1 << 13, 1, 2, 1


def test_write_protected_pages_that_were_never_touched_are_not_in_swap():
    if os.uname().machine != "x86_64":
        pytest.skip("the number of userfaultfd(2) is known here for x86-64 only")
    with living.spawn() as child:
        heap = child.mmap_alone(16)
        child.write(heap[:4])
        try:
            fd = child.call("syscall", 323, USER_MODE_ONLY)
            features = WP_UNPOPULATED | PAGEFAULT_FLAG_WP
            child.call("ioctl", fd, UFFDIO_API, struct.pack("=3Q", 0xAA, features, 0))
        except OSError as error:
            pytest.skip(f"no userfaultfd with markers: {error}")
        where = (heap.start, 16 * PAGE)
        child.call("ioctl", fd, UFFDIO_REGISTER, struct.pack("=4Q", *where, MODE_WP, 0))
        child.call("ioctl", fd, UFFDIO_WRITEPROTECT, struct.pack("=3Q", *where, 1))
        rows = rows_of(take(pids=child.pid), child.pid, heap)
    assert rows.kind.tolist() == ["present"] * 4 + ["marker_uffd"] * 12
    assert rows.uffd_wp.all()
    assert not rows.swapped.any()


def test_a_reservation_of_a_tebibyte_costs_what_was_touched():
    def seconds(child):
        best = []
        for _ in range(5):
            began = time.perf_counter()
            snap = take(pids=child.pid)
            best.append(time.perf_counter() - began)
        return min(best), snap

    with living.spawn() as child:
        without, _ = seconds(child)
        vast = child.mmap_alone((1 << 40) // PAGE, flags=living.NORESERVE)
        child.madvise(vast, living.NOHUGEPAGE)
        touched = range(0, vast.pages, vast.pages // 1000 + 1)
        child.write(vast, touched)
        with_, snap = seconds(child)
        rows = rows_of(snap, child.pid, vast)
        assert ((rows.vaddr - vast.start) // PAGE).tolist() == list(touched)
        if snap.facts["scan"]:
            assert with_ - without < 0.2


def test_holes_have_rows_when_asked_for():
    with living.spawn() as child:
        heap = child.mmap_alone(64)
        child.write(heap, range(0, 64, 2))
        rows = rows_of(take(pids=child.pid, holes=True, raw=True), child.pid, heap)
        assert rows.vaddr.tolist() == list(range(heap.start, heap.end, PAGE))
        assert rows.kind.tolist() == ["present", "absent"] * 32
        assert (rows.word[rows.kind == "absent"] & ~(1 << 55) == 0).all()
        assert not rows.present[rows.kind == "absent"].any()


# -- who shares memory ------------------------------------------------------------------


def test_processes_in_one_address_space_are_said_to_be():
    with living.spawn() as child:
        heap = child.mmap(8)
        child.write(heap)
        twin, fork = child.share_memory(), child.fork()
        snap = take(pids=[child.pid, twin.pid, fork.pid])
        mm = snap.processes.set_index("pid").mm
        if mm.isna().all():
            pytest.skip("kcmp(2) is refused here")
        first = min(child.pid, twin.pid)
        assert mm[child.pid] == mm[twin.pid] == first
        assert mm[fork.pid] == fork.pid
        assert rows_of(snap, twin.pid, heap).exclusive.tolist() == [False] * 8
        fork.kill()
        again = take(pids=[child.pid, twin.pid])
        for pid in (child.pid, twin.pid):
            assert rows_of(again, pid, heap).exclusive.tolist() == [True] * 8


# -- what happens meanwhile -------------------------------------------------------------


class Meddling(Procfs):
    """The live kernel, but something happens when file `path` is asked for the n-th time."""

    def __init__(self, path, nth, act):
        super().__init__("/proc")
        self.path, self.nth, self.act = path, nth, act
        self._seen, self._guard = 0, threading.Lock()

    def text(self, path):
        self._meet(path)
        return super().text(path)

    def words_into(self, path, first, out):
        self._meet(path)
        return super().words_into(path, first, out)

    def _meet(self, path):
        with self._guard:
            self._seen += path == self.path
            if self._seen == self.nth and path == self.path:
                self.act()


@pytest.mark.parametrize(
    ("path", "nth"),
    [("stat", 1), ("maps", 1), ("status", 1), ("pagemap", 1), ("pagemap", 2), ("cmdline", 1),
     ("cgroup", 1), ("smaps", 1), ("maps", 2)],
)  # fmt: skip
def test_a_process_that_leaves_meanwhile_costs_the_others_nothing(path, nth):
    with living.spawn() as parent:
        parent.write(parent.mmap(64))
        child = parent.fork()
        other = parent.fork()
        with Meddling(f"{child.pid}/{path}", nth, child.kill) as source:
            pids = [parent.pid, child.pid, other.pid]
            snap = take(source, pids=pids, join=["mapcount", "huge"], smaps=True)
        assert child._pidfd < 0, "it was not killed: the file was never asked for"
        assert snap.processes.pid.tolist() == [parent.pid, other.pid]
        assert set(snap.pages.pid) == set(snap.vmas.pid) == {parent.pid, other.pid}
        assert snap.pages.vma.max() < len(snap.vmas)
        (skip,) = snap.facts["skipped"]
        assert skip["pid"] == child.pid
        assert skip["reason"]


def test_mappings_that_change_meanwhile_are_marked():
    with living.spawn() as child:
        kept, gone, split = (child.mmap_alone(16) for _ in range(3))
        for region in (kept, gone, split):
            child.write(region)

        def meddle():
            child.munmap(gone)
            child.mprotect(split[4:8], living.R)
            child.mmap_alone(8)

        with Meddling(f"{child.pid}/maps", 2, meddle) as source:
            vmas = take(source, pids=child.pid).vmas.set_index("start")
        assert not vmas.changed[kept.start]
        assert vmas.changed[gone.start]
        assert vmas.changed[split.start]
        assert vmas.changed.sum() <= 8
        assert not take(pids=child.pid).vmas.changed.any()


def test_exec_meanwhile_marks_everything():
    script = "echo ready; read word; exec /bin/sleep 60"
    with subprocess.Popen(
        ["/bin/sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as shell:
        assert shell.stdout.readline() == b"ready\n"
        name = Path(f"/proc/{shell.pid}/comm")

        def meddle():
            shell.stdin.write(b"go\n")
            shell.stdin.flush()
            living.wait_until(lambda: name.read_text() == "sleep\n", "exec")

        try:
            with Meddling(f"{shell.pid}/maps", 2, meddle) as source:
                snap = take(source, pids=shell.pid)
            assert snap.vmas.changed.all()
            with Meddling(f"{shell.pid}/pagemap", 2, lambda: None) as source:
                assert not take(source, pids=shell.pid).vmas.changed.any()
        finally:
            shell.kill()


# -- processes without memory -----------------------------------------------------------


@contextmanager
def zombie():
    with subprocess.Popen(["/bin/true"]) as dead:
        living.wait_until(
            lambda: Path(f"/proc/{dead.pid}/stat").read_text().split()[2] == "Z", "a zombie"
        )
        yield dead.pid


def test_a_zombie_is_passed_over():
    with zombie() as dead, living.spawn() as child:
        snap = take(pids=[dead, child.pid])
        assert snap.processes.pid.tolist() == [child.pid]
        (skip,) = snap.facts["skipped"]
        assert skip == {"pid": dead, "reason": "zombie: it has exited and its memory is gone"}
        with pytest.raises(ProcessGone, match=f"process {dead}: zombie"):
            take(pids=dead)


def test_a_process_whose_main_thread_has_exited_is_not_called_dead():
    script = (
        "import ctypes, sys, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "SYS_exit = {'x86_64': 60}.get(__import__('os').uname().machine, 93)\n"
        "ctypes.CDLL(None).syscall(SYS_exit, 0)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        try:
            assert program.stdout.readline() == b"ready\n"
            program.stdin.write(b"\n")
            program.stdin.flush()
            stat = Path(f"/proc/{program.pid}/stat")
            living.wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", "exit")
            with pytest.raises(ProcessGone, match=r"main thread has exited; 1 other still"):
                take(pids=program.pid)
        finally:
            program.kill()


def test_a_kernel_thread_is_passed_over():
    if Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("no kernel threads in this pid namespace")
    snap = take(pids=[2, os.getpid()])
    assert snap.facts["skipped"] == [
        {"pid": 2, "reason": "kernel thread: it has no memory of its own"}
    ]


def test_nobody_there():
    nobody = (1 << 22) - 1
    with pytest.raises(ProcessGone, match=str(nobody)):
        take(pids=nobody)
    with pytest.raises(ProcessGone):
        take(pids=[])
    snap = take(pids=[os.getpid(), nobody])
    assert [skip["pid"] for skip in snap.facts["skipped"]] == [nobody]


# -- rights -----------------------------------------------------------------------------


def as_nobody(script):
    """What a script prints as JSON when it runs without any right, in a process it may see."""
    living.need_root()
    head = (
        "import ctypes, json, os, sys\nfrom pagemap_df import take\n"
        "from pagemap_df.errors import NotPermitted\nimport pandas\n"
        "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "PR_SET_DUMPABLE = 4; ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + script], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_without_rights_frames_are_null_and_the_facts_say_why():
    found = as_nobody(
        "snap = take(pids=os.getpid(), join=['mapcount', 'flags'])\n"
        "p = snap.pages\n"
        "print(json.dumps({'pfn': int(p.pfn.notna().sum()), 'rows': len(p), 'facts': snap.facts,"
        " 'mapcount': int(p.mapcount.notna().sum()), 'present': int(p.present.sum())}))\n"
    )
    assert found["rows"] > 100
    assert found["present"] > 100
    assert found["pfn"] == found["mapcount"] == 0
    assert found["facts"]["pfns"] == "hidden"
    assert "CAP_SYS_ADMIN" in found["facts"]["pfns_why"]
    assert "CAP_SYS_ADMIN" in found["facts"]["unknown"]["mapcount"]


def test_without_rights_the_others_are_listed_with_a_reason():
    found = as_nobody(
        "snap = take()\n"
        "print(json.dumps({'pids': snap.processes.pid.tolist(), 'me': os.getpid(),"
        " 'facts': snap.facts}))\n"
    )
    assert found["me"] in found["pids"]
    assert found["facts"]["complete"] is False
    refused = {skip["pid"]: skip["reason"] for skip in found["facts"]["skipped"]}
    assert "CAP_SYS_PTRACE" in refused[1]
    assert not set(refused) & set(found["pids"])


def test_without_rights_asking_for_another_is_not_permitted():
    found = as_nobody(
        "try: take(pids=1)\nexcept NotPermitted as error: print(json.dumps(str(error)))\n"
    )
    assert found.startswith("process 1: ")


def test_everything_readable():
    snap = take()
    assert os.getpid() in set(snap.processes.pid)
    pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    assert len(pids - set(snap.processes.pid) - {s["pid"] for s in snap.facts["skipped"]}) < 20
    if os.geteuid() == 0:
        reasons = [s["reason"].partition(":")[0] for s in snap.facts["skipped"]]
        assert reasons.count("kernel thread") > 10


# -- choosing ---------------------------------------------------------------------------


def test_selection_by_name():
    with living.spawn() as child:
        child.call("prctl", 15, b"odd name*", 0, 0, 0)  # PR_SET_NAME
        for pattern in ("odd name[*]", "odd*", "?dd name*"):
            assert take(name=pattern).processes.pid.tolist() == [child.pid], pattern
        command = os.path.basename(sys.executable)
        assert child.pid in take(name=command).processes.pid.tolist()
        assert take(name="ODD*").processes.pid.tolist() == []
        chosen = take(name="odd*", pids=[child.pid, os.getpid()])
        assert chosen.processes.pid.tolist() == [child.pid]


def test_selection_by_cgroup():
    living.need_root()
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    places = [Path(fields[4]) for fields in mounts if "cgroup2" in fields]
    if not places:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    group = places[0] / f"pagemap_df-take-{os.getpid()}"
    try:
        (group / "inner").mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    try:
        with living.spawn() as child:
            (group / "inner" / "cgroup.procs").write_text(str(child.pid))
            for name in (f"/{group.name}", group.name, f"{group.name}/inner/"):
                assert take(cgroup=name).processes.pid.tolist() == [child.pid], name
            assert take(cgroup=group.name[:-1]).processes.pid.tolist() == []
            assert take(cgroup=f"{group.name}/other").processes.pid.tolist() == []
    finally:
        for place in (group / "inner", group):
            living.wait_until(lambda p=place: not (p / "cgroup.procs").read_text(), "empty")
            place.rmdir()


def test_pids_may_be_numbers_of_any_kind_in_any_order():
    with living.spawn() as child:
        mine = np.array([child.pid, os.getpid(), child.pid], np.int32)
        for pids in (mine, iter(mine.tolist()), list(mine), tuple(map(np.int64, mine))):
            snap = take(pids=pids)
            assert snap.processes.pid.tolist() == sorted({child.pid, os.getpid()})
            json.dumps(snap.facts)
        assert take(pids=np.int64(child.pid)).processes.pid.tolist() == [child.pid]
        gone = take(pids=np.array([child.pid, (1 << 22) - 1])).facts
        assert json.loads(json.dumps(gone["skipped"]))[0]["pid"] == (1 << 22) - 1


def test_only_what_can_be_joined():
    with pytest.raises(ValueError, match="join takes mapcount, flags, cgroup, huge, not 'pss'"):
        take(pids=os.getpid(), join=["mapcount", "pss"])
    assert "mapcount" in take(pids=os.getpid(), join="mapcount").pages


def test_a_join_that_a_source_cannot_give_is_null_with_the_reason():
    dump = RawDump(made.a_capture("E7").tobytes(), era="E7")
    snap = take(dump, join=["mapcount", "huge"])
    assert snap.pages[["mapcount", "huge"]].isna().all().all()
    assert "has no kpagecount" in snap.facts["unknown"]["mapcount"]
    assert snap.facts["unknown"]["huge"]


# -- the rest ---------------------------------------------------------------------------


def test_the_table_of_all_frames():
    living.need_root()
    snap = take(pids=os.getpid(), machine_frames=True)
    frames = snap.frames
    assert (frames.pfn == np.arange(len(frames))).all()
    some = np.random.default_rng(7).integers(0, len(frames), 3000).tolist()
    ours = frames.loc[some, "mapcount"].to_numpy()
    assert (ours == frame_words("kpagecount", some)).mean() > 0.9, "frames come and go"
    reserved = [pfn for pfn, word in zip(some, frame_words("kpageflags", some), strict=True)
                if word >> 32 & 1]  # fmt: skip
    assert (frames["flags"].to_numpy(np.int64)[reserved] >> 32 & 1).all()
    with open("/proc/kpagecount", "rb", buffering=0) as file:
        assert os.pread(file.fileno(), 8, 8 * (len(frames) - 1))
        assert not os.pread(file.fileno(), 8, 8 * len(frames))


def test_a_progress_bar_on_request(capsys):
    quiet = take(pids=os.getpid())
    assert capsys.readouterr().err == ""
    loud = take(pids=[os.getpid()], progress=True)
    assert "processes" in capsys.readouterr().err
    assert loud.processes.pid.tolist() == quiet.processes.pid.tolist()
    take(pids=os.getpid(), progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_source_that_came_open_stays_open():
    with Procfs() as source:
        for _ in range(2):
            assert len(take(source, pids=os.getpid()).processes) == 1
    before = len(os.listdir("/proc/self/fd"))
    take(pids=os.getpid())
    assert len(os.listdir("/proc/self/fd")) == before


def test_names_with_odd_bytes(tmp_path):
    odd = tmp_path / os.fsdecode(b"\xff a\tb (deleted)")
    with living.spawn() as child:
        fd = child.open(living.file_of(odd, 4))
        region = child.mmap_alone(4, fd=fd, shared=True)
        child.read(region)
        vmas = take(pids=child.pid).vmas.set_index("start")
        assert vmas.path[region.start] == str(tmp_path) + "/\\xff a\tb (deleted)"
        assert vmas.kind[region.start] == "file"
        assert vmas.inode[region.start] == odd.stat().st_ino


def test_a_tree_that_is_not_there():
    with pytest.raises(NotAvailable, match="nowhere"):
        take("/nowhere")
