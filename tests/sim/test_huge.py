"""Huge pages and same-page merging, as on Linux 6.18."""

import errno

import pytest

from pagemap_df.sim import Machine, Process
from tests.sim.helpers import check, flags, letters, pfns, seen, smap


@pytest.fixture
def advised(task: Process) -> int:
    first = task.mmap(1024)
    task.madvise(first, 1024, "HUGEPAGE")
    return first


class TestTransparent:
    def test_a_write_brings_512_pages_in_a_row(self, task: Process, advised: int):
        task.write(range(advised + 7, advised + 8))
        assert letters(task, advised, 512) == "X" * 512
        found = pfns(task, advised, 512)
        assert found == list(range(found[0], found[0] + 512))
        assert smap(task, advised)["AnonHugePages"] == 2048
        assert {"THP", "COMPOUND_HEAD"} <= flags(task.machine, found[0])
        assert {"THP", "COMPOUND_TAIL", "ANON"} <= flags(task.machine, found[9])

    def test_a_read_brings_the_huge_zero_page(self, task: Process, advised: int):
        task.read(range(advised, advised + 1))
        assert letters(task, advised, 512) == "p" * 512
        assert smap(task, advised)["Rss"] == 0
        assert task.machine.facts()["huge_zero_pfn"] == pfns(task, advised, 1)[0]

    def test_policy_and_room(self, task: Process, advised: int):
        plain, short = task.mmap(1024), task.mmap(511)
        task.madvise(short, 511, "HUGEPAGE")
        for first in (plain, short):
            task.write(range(first, first + 1))
            assert letters(task, first, 3) == "X.."

    def test_a_cgroup_without_room_gets_small_pages(self, machine: Machine):
        task = machine.spawn("small", cgroup=machine.cgroup("small", "1M"))
        first = task.mmap(512)
        task.madvise(first, 512, "HUGEPAGE")
        task.write(range(first, first + 1))
        assert letters(task, first, 3) == "X.."

    def test_a_page_table_is_in_the_way(self, task: Process):
        first = task.mmap(512)
        task.write(range(first, first + 1))
        task.madvise(first, 512, "HUGEPAGE")
        task.write(range(first + 1, first + 2))
        assert letters(task, first, 3) == "XX."
        task.madvise(first, 512, "DONTNEED")
        task.write(range(first, first + 1))
        assert letters(task, first, 512) == "X" * 512

    def test_a_partial_unmap_splits_the_mapping_alone(self, task: Process, advised: int):
        task.write(range(advised, advised + 1))
        task.munmap(advised + 500, 12)
        assert smap(task, advised)["AnonHugePages"] == 0
        assert "THP" in flags(task.machine, pfns(task, advised, 1)[0])
        assert smap(task, advised)["Rss"] == 2000

    def test_the_writer_of_a_shared_one_splits_its_own(self, task: Process, advised: int):
        task.write(range(advised, advised + 1))
        child = task.fork()
        old = pfns(task, advised, 512)
        child.write(range(advised + 3, advised + 4))
        assert smap(child, advised)["AnonHugePages"] == 0
        assert smap(task, advised)["AnonHugePages"] == 2048
        new = pfns(child, advised, 512)
        assert [n for n in range(512) if new[n] != old[n]] == [3]
        check(task.machine)

    def test_bit_56_of_a_pmd_is_that_of_its_first_page(self, task: Process, advised: int):
        task.write(range(advised, advised + 1))
        child = task.fork()
        child.munmap(advised, 1)
        assert letters(task, advised, 512) == "X" * 512
        other = task.fork()
        other.munmap(advised + 1, 511)
        assert letters(task, advised, 512) == "P" * 512

    def test_collapse(self, task: Process):
        first = task.mmap(1024)
        task.write(range(first + 3, first + 5))
        old = pfns(task, first + 3, 1)
        with pytest.raises(OSError, match="collapsed") as error:
            task.madvise(first, 1024, "COLLAPSE")
        assert error.value.errno == errno.EINVAL
        assert smap(task, first)["AnonHugePages"] == 2048
        assert pfns(task, first + 3, 1) != old
        check(task.machine)

    def test_paged_out_zeroes_come_back_as_the_zero_page(self, task: Process, advised: int):
        task.machine.swapon("8M")
        task.write(range(advised + 5, advised + 8))
        task.madvise(advised, 512, "PAGEOUT")
        assert letters(task, advised, 512) == "Z" * 5 + "SSS" + "Z" * 504
        check(task.machine)


class TestPool:
    def test_shared_and_private(self, machine: Machine, task: Process):
        assert machine.huge_pages(3) == 3
        private, shared = task.mmap(512, huge=True), task.mmap(512, huge=True, shared=True)
        task.read(range(private + 9, private + 10))
        task.write(range(shared, shared + 1))
        assert letters(task, private, 512) == "X" * 512
        assert letters(task, shared, 512) == "x" * 512
        assert {"HUGE", "COMPOUND_TAIL"} <= flags(machine, pfns(task, private + 9, 1)[0])
        figures = smap(task, private)
        assert (figures["Rss"], figures["Private_Hugetlb"]) == (0, 2048)
        child = task.fork()
        assert letters(child, private, 512) == "P" * 512
        assert letters(child, shared, 512) == "." * 512
        child.write(range(private, private + 1))
        assert pfns(child, private, 1) != pfns(task, private, 1)
        child.exit()
        task.exit()
        assert len(machine.kernel.huge_pool) == 3

    def test_an_empty_pool(self, machine: Machine, task: Process):
        with pytest.raises(OSError, match="pool") as error:
            task.mmap(512, huge=True)
        assert error.value.errno == errno.ENOMEM


class TestMerging:
    def test_equal_pages_become_one(self, machine: Machine, task: Process):
        first = task.mmap(6)
        task.madvise(first, 6, "MERGEABLE")
        task.write(range(first, first + 4), 9)
        task.write(range(first + 4, first + 6))
        child = task.fork()
        machine.ksm_run()
        assert letters(task, first, 6) == "PPPPPP"
        assert len(set(pfns(task, first, 4))) == 1
        assert {"KSM", "ANON"} <= flags(machine, pfns(task, first, 1)[0])
        assert machine.words("kpagecount", pfns(task, first, 1)[0], 1).tolist() == [8]
        child.write(range(first, first + 1), 9)
        assert letters(child, first, 6) == "XPPPPP"
        check(machine)

    def test_zeroes_and_unmerging(self, machine: Machine, task: Process):
        machine.kernel.knobs.ksm_zero = True
        first = task.mmap(4)
        task.madvise(first, 4, "MERGEABLE")
        task.write(range(first, first + 2), 0)
        task.write(range(first + 2, first + 4), 5)
        machine.ksm_run()
        assert letters(task, first, 4) == "ZZPP"
        task.madvise(first, 4, "UNMERGEABLE")
        assert letters(task, first + 2, 2) == "XX"
        assert not seen(task, first, 4).file.any()
        check(machine)
