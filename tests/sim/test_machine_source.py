"""A machine as a `Source`: the contract, consistent numbers, and invariants of random workloads."""

import numpy as np
import pandas as pd
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pagemap_df import proctext
from pagemap_df.sim import Machine, Run, Script
from pagemap_df.take import take
from tests.contract import SourceContract, Truth
from tests.sim.helpers import check, letters, pfns, pss_units, smap


@pytest.mark.parametrize("era", ["E0", "E3", "E7"])
class TestMachine(SourceContract):
    @pytest.fixture
    def made(self, era):
        machine = Machine("32M", era=era, rng=3)
        task = machine.spawn("task")
        first = task.mmap(100, at=0x400)
        task.write(range(first, first + 100, 2))
        present = {"E0": 0, "E3": 0x86 << 56, "E7": 0x81 << 56}[era]
        absent = {"E0": 0xE << 60, "E3": 6 << 56, "E7": 0}[era]
        space = task.mm.table
        words = np.array(
            [
                present | (space.get(first + n) & ((1 << 50) - 1)) if n % 2 == 0 else absent
                for n in range(100)
            ],
            np.uint64,
        )
        pfn = space.get(first) & ((1 << 50) - 1)
        truth = Truth(
            task.pid,
            first,
            words,
            {f"{task.pid}/comm": b"task\n", f"{task.pid}/cmdline": b"task\0"},
            absent=absent,
            hole=0x200,
            end=0x7FFFFFFFF,
            frames={"kpagecount": {pfn: 1}},
        )
        return (lambda: machine), truth


WORKLOAD = """
swap 4M
file lib 60
memfd shm 40
proc a
a: heap = mmap 300 private anon rw
a: text = mmap lib private r-x
a: data = mmap lib[10:30] private rw
a: seg = mmap shm shared rw
a: write heap[0:200]
a: read text
a: write data[3:8]
a: write seg[0:30]
fork a -> b c
b: write heap[0:100]
a: madvise heap[100:150] PAGEOUT
b: madvise heap[0:50] PAGEOUT
b: madvise seg PAGEOUT
c: read text
c: read seg[5:9]
"""


@pytest.fixture
def busy() -> Run:
    run = Run(Machine("64M", rng=5))
    run.all(Script.parse(WORKLOAD))
    return run


def test_take_gives_what_was_done(busy: Run):
    snap = take(busy.machine, join=["mapcount", "flags", "cgroup"], smaps=True)
    assert set(snap.processes["name"]) == {"init", "a", "b", "c"}
    pid = busy.processes["b"].pid
    first = busy.mappings["b"]["heap"][0]
    pages = snap.pages[(snap.pages["pid"] == pid) & (snap.pages["vaddr"] >= first << 12)]
    heap = pages[pages["vaddr"] < (first + 300) << 12]
    assert heap["swapped"].sum() == 50
    assert (heap["mapcount"].dropna() == [1] * 50 + [3] * 100).all()
    assert not snap.swaps.empty


def test_pss_adds_up_to_frames_in_use(busy: Run):
    total, distinct = pss_units(busy.machine)
    shares = sum(len(process.mm.vmas) for process in busy.machine.processes.values())
    assert distinct - shares <= total <= distinct


def test_rollup_is_the_sum_before_rounding(busy: Run):
    task = busy.processes["a"]
    rolled = proctext.parse_rollup(busy.machine.text(f"{task.pid}/smaps_rollup"))
    maps = proctext.parse_smaps(busy.machine.text(f"{task.pid}/smaps"))
    for name in ("Rss", "Swap", "Private_Dirty", "Anonymous"):
        assert rolled[name] == sum(each.figures[name] for each in maps)
    assert 0 <= rolled["Pss"] - sum(each.figures["Pss"] for each in maps) <= 1024 * len(maps)


def test_status_agrees_with_smaps(busy: Run):
    for process in busy.machine.processes.values():
        maps = proctext.parse_smaps(busy.machine.text(f"{process.pid}/smaps"))
        rss = sum(m.figures["Rss"] for m in maps if m.vma.path != b"[vdso]")
        assert busy.machine.rss(process) * 4096 == rss


def test_same_seed_same_bytes_and_another_seed_other_addresses():
    def everything(seed: int) -> bytes:
        run = Run(Machine("64M", rng=seed))
        run.all(Script.parse(WORKLOAD))
        task = run.processes["b"]
        first = run.mappings["b"]["heap"][0]
        text = run.machine.text(f"{task.pid}/smaps")
        return text + run.machine.words(f"{task.pid}/pagemap", first, 300).tobytes()

    assert everything(4) == everything(4) != everything(5)
    assert everything(np.random.default_rng(4)) == everything(4)


def test_a_tree_of_it_is_read_by_psutil(busy: Run, tmp_path, monkeypatch):
    tree = tmp_path / "proc"
    busy.machine.write_procfs(tree)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tree))
    task = busy.processes["a"]
    rolled = proctext.parse_rollup(busy.machine.text(f"{task.pid}/smaps_rollup"))
    assert psutil.Process(task.pid).memory_full_info().pss == rolled["Pss"]
    assert psutil.Process(task.pid).memory_info().rss == busy.machine.rss(task) * 4096


def test_a_tree_of_it_reads_like_the_machine(busy: Run, tmp_path):
    busy.machine.write_procfs(tmp_path / "proc")
    one, other = take(tmp_path / "proc", join=["mapcount"]), take(busy.machine, join=["mapcount"])
    columns = ["pid", "vaddr", "kind", "pfn", "swap_offset", "file", "exclusive", "mapcount"]
    pd.testing.assert_frame_equal(one.pages[columns], other.pages[columns])


def test_kpagecgroup_names_who_pays():
    machine = Machine("32M")
    group = machine.cgroup("web")
    task = machine.spawn("task", cgroup=group)
    first = task.mmap(1)
    task.write(range(first, first + 1))
    inode = machine.kernel.cgroups[group].inode
    assert machine.words("kpagecgroup", pfns(task, first, 1)[0], 1).tolist() == [inode]
    assert machine.text(f"{task.pid}/cgroup") == b"0::/web\n"


def test_kpage_files_end_at_a_section_and_show_holes_as_zero():
    machine = Machine("64M")
    assert len(machine.words("kpageflags", 0, 1 << 20)) == 32768
    assert machine.words("kpageflags", 0xA0, 2).tolist() == [0, 0]
    assert machine.words("kpagecount", 32768, 5).tolist() == []


def test_locked_pages_are_unevictable_and_pss_is_locked():
    machine = Machine("32M")
    task = machine.spawn("task")
    first = task.mmap(4)
    task.mlock(first, 4)
    assert smap(task, first)["Locked"] == 16
    task.munlock(first, 4)
    assert smap(task, first)["Locked"] == 0


def test_a_sparse_tebibyte_costs_what_is_touched():
    machine = Machine("64M")
    task = machine.spawn("shadow")
    first = task.mmap(1 << 28, noreserve=True)
    task.write(range(first, first + (1 << 28), 1 << 24))
    assert machine.rss(task) == 16 + 3
    ranges = list(machine.populated(task.pid, first << 12, first + (1 << 28) << 12))
    assert len(ranges) == 16
    assert smap(task, first)["Rss"] == 64
    child = task.fork()
    assert letters(child, first, 1) == "P"
    task.munmap(first, 1 << 28)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(
            [
                "read heap",
                "write heap",
                "write heap value=1",
                "read seg",
                "write seg",
                "read data",
                "write data",
                *(f"madvise heap {advice}" for advice in ("DONTNEED", "FREE", "PAGEOUT")),
                *(f"madvise heap {advice}" for advice in ("GUARD_INSTALL", "GUARD_REMOVE")),
                *(f"madvise big {advice}" for advice in ("PAGEOUT", "DONTNEED", "COLLAPSE")),
                "write big",
                "read big",
                "madvise heap MERGEABLE",
                "madvise seg PAGEOUT",
                "munmap data",
                "mremap heap 60",
                "mlock heap",
                "ksm run",
                "reclaim 50",
                "swapoff 0",
                "swap 1M",
                "fork",
                "truncate shm 20",
                "exit",
            ]
        ),
        st.integers(0, 39),
        st.integers(1, 40),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(OPERATIONS)
def test_invariants_hold_whatever_is_done(operations):
    machine = Machine("32M", rng=1)
    run = Run(machine)
    run.all(
        Script.parse(
            """
            swap 2M
            memfd shm 40
            file lib 40
            proc a
            a: heap = mmap 60 private anon rw
            a: seg = mmap shm shared rw
            a: data = mmap lib private rw
            a: big = mmap 1024 private anon rw
            a: madvise big HUGEPAGE
            a: write heap
            fork a -> b
            fork b -> c
            """
        )
    )
    born = 0
    for who, what, first, count in operations:
        head, _, rest = what.partition(" ")
        if head in ("ksm", "reclaim", "swap", "truncate"):
            line = what
        elif head == "swapoff":
            line = what if machine.kernel.swap.areas[0] else "ksm run"
        elif head == "fork":
            born += 1
            line = f"fork {who} -> n{born}"
        elif head == "exit":
            line = f"exit {who}" if first > 30 else "ksm run"
        else:
            name, *more = rest.split()
            line = " ".join([f"{who}: {head} {name}[{first}:{first + count}]", *more])
        run.all(Script.parse(line))
        check(machine)
    for process in list(machine.processes.values()):
        process.exit()
    check(machine)
    assert sum(area.used for area in machine.kernel.swap.areas if area) == len(
        np.flatnonzero(run.files["shm"].cache < 0)
    )
