"""A machine loaded from a snapshot shows the same tables, and goes on from there."""

import pandas as pd
import pytest

from pagemap_df.errors import NotAvailable
from pagemap_df.sim import Machine, Run, Script, load
from pagemap_df.take import take
from tests import living
from tests.sim.helpers import check, letters
from tests.sim.test_machine_source import WORKLOAD

SAME = {
    "pages": ["pid", "vaddr", "kind", "pfn", "swap_type", "swap_offset", "file", "exclusive"],
    "vmas": ["pid", "start", "end", "perms", "offset", "device", "inode", "path", "kind"],
    "swaps": ["swap_type", "path", "kind", "size", "used", "priority"],
    "processes": ["pid", "ppid", "name", "cmdline", "uid", "start_time", "cgroup"],
}


def same(one, other, **left_out) -> None:
    for table, columns in SAME.items():
        columns = [name for name in columns if name not in left_out.get(table, ())]
        pd.testing.assert_frame_equal(
            getattr(one, table)[columns], getattr(other, table)[columns], check_categorical=False
        )


@pytest.fixture
def run() -> Run:
    run = Run(Machine("64M", rng=5))
    run.all(Script.parse(WORKLOAD))
    run.all(
        Script.parse(
            """
            a: big = mmap 1024 private anon rw
            a: madvise big HUGEPAGE
            a: write big[0:3]
            a: read big[600]
            a: madvise heap[290:300] GUARD_INSTALL
            a: read heap[200:210]
            """
        )
    )
    return run


@pytest.mark.parametrize("join", [(), ("mapcount", "flags", "huge")])
def test_the_same_tables(run: Run, join: tuple[str, ...]):
    snap = take(run.machine, join=join, smaps=bool(join))
    same(take(load(snap), join=join), snap)


def test_what_if(run: Run):
    before = take(run.machine, join=["mapcount", "huge"])
    machine = load(before)
    check(machine)
    a, b = run.processes["a"].pid, run.processes["b"].pid
    machine.process(b).exit()
    first = run.mappings["a"]["heap"][0]
    machine.process(a).write(range(first, first + 20))
    worker = machine.process(a).fork("worker")
    assert letters(worker, first, 20) == "P" * 20
    machine.process(a).madvise(first, 50, "DONTNEED")
    check(machine)


def test_hidden_frames_cannot_be_loaded(run: Run):
    snap = take(run.machine)
    with pytest.raises(NotAvailable, match="as root"):
        load(snap.with_facts({**snap.facts, "pfns": "hidden"}))


@pytest.mark.kernel
def test_a_snapshot_of_this_kernel():
    living.need_root()
    with living.left_alone(), living.spawn() as child:
        region = child.mmap(50)
        child.write(region[0:20])
        other = child.fork()
        other.write(region[0:5])
        snap = take(pids=[child.pid, other.pid], join=["mapcount"])
        machine = load(snap)
        same(take(machine), snap, processes=("start_time",))
        first = region.start // 4096
        twin = machine.process(child.pid).fork("twin")
        assert letters(twin, first, 21) == "P" * 20 + "."
