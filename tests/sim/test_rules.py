"""Rows of the semantics of Linux 6.18, each as a test on a small machine."""

import errno

import pytest

from pagemap_df.sim import Machine, Process
from tests.sim.helpers import check, flags, letters, pfns, smap


def touched(process: Process, pages: int = 8, **options: object) -> int:
    first = process.mmap(pages, **options)
    process.write(range(first, first + pages))
    return first


class TestFirstTouch:
    def test_mmap_maps_nothing(self, task: Process):
        assert letters(task, task.mmap(4), 4) == "...."

    def test_read_of_private_memory_is_the_zero_page_and_not_resident(self, task: Process):
        first = task.mmap(4)
        task.read(range(first, first + 2))
        assert letters(task, first, 4) == "ZZ.."
        assert smap(task, first)["Rss"] == 0
        assert task.machine.words("kpagecount", pfns(task, first, 1)[0], 1).tolist() == [0]

    def test_write_makes_an_exclusive_page(self, task: Process):
        first = touched(task, 1)
        assert letters(task, first, 1) == "X"
        named = flags(task.machine, pfns(task, first, 1)[0])
        assert {"UPTODATE", "MMAP", "ANON", "SWAPBACKED", "OWNER_2"} <= named

    def test_write_after_read_leaves_the_zero_page(self, task: Process):
        first = task.mmap(1)
        task.read(range(first, first + 1))
        task.write(range(first, first + 1))
        assert letters(task, first, 1) == "X"

    def test_read_of_shared_memory_allocates(self, task: Process):
        first = task.mmap(2, shared=True)
        task.read(range(first, first + 1))
        assert letters(task, first, 2) == "x."
        assert "DIRTY" not in flags(task.machine, pfns(task, first, 1)[0])

    @pytest.mark.parametrize(("prot", "pages"), [("rw", "XX"), ("r", "ZZ")])
    def test_populate(self, task: Process, prot: str, pages: str):
        assert letters(task, task.mmap(2, prot=prot, populate=True), 2) == pages

    def test_mlock_populates_unless_onfault(self, task: Process):
        first, second = task.mmap(2), task.mmap(2, prot="r")
        task.mlock(first, 2)
        task.mlock(second, 2, onfault=True)
        assert letters(task, first, 2) == "XX"
        assert letters(task, second, 2) == ".."
        assert smap(task, first)["Locked"] == 8

    def test_mlock_without_access_is_enomem(self, task: Process):
        first = task.mmap(2, prot="none")
        with pytest.raises(OSError, match="populated") as error:
            task.mlock(first, 2)
        assert error.value.errno == errno.ENOMEM

    @pytest.mark.parametrize(("advice", "pages"), [("POPULATE_READ", "Z"), ("POPULATE_WRITE", "X")])
    def test_populate_by_advice(self, task: Process, advice: str, pages: str):
        first = task.mmap(1)
        task.madvise(first, 1, advice)
        assert letters(task, first, 1) == pages

    def test_beyond_the_end_of_a_file_is_a_bus_error(self, machine: Machine, task: Process):
        first = task.mmap(4, machine.file("lib", 2))
        assert task.read(range(first, first + 4)) == "SIGBUS"
        assert machine.outcomes[0].what == "SIGBUS"

    def test_stack_grows(self, task: Process):
        low = task.mm.vmas[-3].first
        task.write(range(low - 5, low))
        assert letters(task, low - 5, 5) == "XXXXX"


class TestFiles:
    def test_fault_around_is_aligned_in_virtual_pages(self, machine: Machine, task: Process):
        file = machine.file("lib", 100)
        first = task.mmap(100, file, at=0x100005)
        task.read(range(first + 5, first + 6))
        assert letters(task, first, 20) == "x" * 16 + "...."
        task.read(range(first + 40, first + 41))
        assert letters(task, first + 27, 17).strip(".") == "x" * 16

    def test_fault_around_stops_at_the_page_table(self, machine: Machine, task: Process):
        first = task.mmap(40, machine.file("lib", 40), at=512 * 77 - 4)
        task.read(range(first, first + 1))
        assert letters(task, first, 6) == "xxxx.."

    def test_write_fault_brings_one_page(self, machine: Machine, task: Process):
        file = machine.file("lib", 20)
        first, second = task.mmap(20, file), task.mmap(20, file, shared=True)
        task.write(range(first + 3, first + 4))
        task.write(range(second + 3, second + 4))
        assert letters(task, first, 5) == "...X."
        assert letters(task, second, 5) == "...x."

    def test_private_copy_goes_with_dontneed(self, machine: Machine, task: Process):
        first = task.mmap(1, machine.file("lib", 1))
        task.read(range(first, first + 1))
        original = pfns(task, first, 1)
        task.write(range(first, first + 1))
        assert letters(task, first, 1) == "X"
        assert pfns(task, first, 1) != original
        task.madvise(first, 1, "DONTNEED")
        task.read(range(first, first + 1))
        assert pfns(task, first, 1) == original

    def test_truncate_takes_private_copies_too(self, machine: Machine, task: Process):
        file = machine.file("lib", 4)
        first = task.mmap(4, file)
        task.write(range(first, first + 4))
        machine.truncate(file, 2)
        assert letters(task, first, 4) == "XX.."
        check(machine)

    def test_remove_punches_a_hole(self, machine: Machine, task: Process):
        first = touched(task, 3, shared=True)
        old = pfns(task, first, 3)
        task.madvise(first + 1, 1, "REMOVE")
        assert letters(task, first, 3) == "x.x"
        task.read(range(first + 1, first + 2))
        assert smap(task, first)["Rss"] == 12
        assert old[0] == pfns(task, first, 1)[0]


class TestFork:
    def test_written_memory_is_copied_and_shared(self, task: Process):
        first = task.mmap(4)
        task.read(range(first, first + 1))
        task.write(range(first + 1, first + 3))
        child = task.fork()
        assert letters(child, first, 4) == letters(task, first, 4) == "ZPP."
        assert pfns(child, first, 4) == pfns(task, first, 4)
        assert smap(task, first)["Pss"] == 4

    def test_memory_only_read_is_not_copied(self, task: Process):
        first = task.mmap(4)
        task.read(range(first, first + 4))
        assert letters(task.fork(), first, 4) == "...."

    def test_file_is_copied_only_after_a_private_write(self, machine: Machine, task: Process):
        file = machine.file("lib", 32)
        clean, written = task.mmap(16, file), task.mmap(16, file, 16)
        for first in (clean, written):
            task.read(range(first, first + 16))
        task.write(range(written, written + 1))
        child = task.fork()
        assert letters(child, clean, 16) == "." * 16
        assert letters(child, written, 3) == "Ppp"

    def test_shared_memory_starts_empty(self, task: Process):
        assert letters(task.fork(), touched(task, 4, shared=True), 4) == "...."

    def test_dontfork_and_wipeonfork(self, task: Process):
        left, wiped = touched(task, 2), touched(task, 2)
        task.madvise(left, 2, "DONTFORK")
        task.madvise(wiped, 2, "WIPEONFORK")
        child = task.fork()
        assert child.mm.find(left) is None
        assert child.mm.find(wiped) is not None
        assert letters(child, wiped, 2) == ".."

    def test_guard_markers_are_inherited(self, task: Process):
        first = task.mmap(3)
        task.madvise(first + 1, 1, "GUARD_INSTALL")
        assert letters(task.fork(), first, 3) == ".S."


class TestCopyOnWrite:
    def test_the_writer_gets_the_new_page(self, machine: Machine, task: Process):
        first = touched(task, 1)
        old = pfns(task, first, 1)
        child = task.fork()
        child.write(range(first, first + 1))
        assert pfns(task, first, 1) == old != pfns(child, first, 1)
        assert letters(task, first, 1) == letters(child, first, 1) == "X"
        assert "OWNER_2" not in flags(machine, old[0])
        task.write(range(first, first + 1))
        assert pfns(task, first, 1) == old
        assert "OWNER_2" in flags(machine, old[0])

    def test_the_last_sharer_keeps_the_page(self, task: Process):
        first = touched(task, 1)
        old = pfns(task, first, 1)
        task.fork().exit()
        assert letters(task, first, 1) == "X"
        task.write(range(first, first + 1))
        assert pfns(task, first, 1) == old


class TestAdvice:
    def test_dontneed_of_shared_memory_keeps_the_page(self, task: Process):
        first = touched(task, 1, shared=True)
        old = pfns(task, first, 1)
        task.madvise(first, 1, "DONTNEED")
        assert letters(task, first, 1) == "."
        task.read(range(first, first + 1))
        assert pfns(task, first, 1) == old

    def test_dontneed_of_locked_memory(self, task: Process):
        first = task.mmap(2)
        task.mlock(first, 2)
        with pytest.raises(OSError, match="locked") as error:
            task.madvise(first, 2, "DONTNEED")
        assert error.value.errno == errno.EINVAL
        task.madvise(first, 2, "DONTNEED_LOCKED")
        assert letters(task, first, 2) == ".."

    def test_free_is_clean_until_written(self, task: Process):
        first = touched(task, 2)
        task.madvise(first, 2, "FREE")
        task.write(range(first, first + 1))
        figures = smap(task, first)
        assert letters(task, first, 2) == "XX"
        assert (figures["Private_Clean"], figures["Private_Dirty"], figures["LazyFree"]) == (
            4,
            4,
            4,
        )

    def test_free_of_a_file_is_refused(self, machine: Machine, task: Process):
        first = task.mmap(1, machine.file("lib", 1))
        with pytest.raises(OSError, match="private") as error:
            task.madvise(first, 1, "FREE")
        assert error.value.errno == errno.EINVAL

    def test_lazily_freed_memory_goes_without_swap_traffic(self, machine: Machine, task: Process):
        machine.swapon("1M")
        first = touched(task, 2)
        task.madvise(first, 2, "FREE")
        task.madvise(first, 2, "PAGEOUT")
        assert letters(task, first, 2) == ".."

    def test_guard_kills_and_can_be_removed(self, machine: Machine, task: Process):
        first = touched(task, 3)
        task.madvise(first + 1, 1, "GUARD_INSTALL")
        assert letters(task, first, 3) == "XSX"
        assert hex(machine.words(f"{task.pid}/pagemap", first + 1, 1)[0]) == "0x440000000000009f"
        task.madvise(first, 3, "DONTNEED")
        assert letters(task, first, 3) == ".S."
        child = task.fork()
        assert child.read(range(first, first + 3)) == "SIGSEGV"
        task.madvise(first, 3, "GUARD_REMOVE")
        assert task.write(range(first, first + 3)) is None

    def test_a_hole_is_enomem_after_the_rest_was_done(self, task: Process):
        first = touched(task, 3)
        task.munmap(first + 1, 1)
        with pytest.raises(OSError, match="hole") as error:
            task.madvise(first, 3, "DONTNEED")
        assert error.value.errno == errno.ENOMEM
        assert letters(task, first, 3) == "..."


class TestMappings:
    def test_mprotect_hides_nothing_and_a_write_is_fatal(self, task: Process):
        first = touched(task, 3)
        task.mprotect(first, 3, "none")
        assert letters(task, first, 3) == "XXX"
        assert task.read(range(first, first + 1)) == "SIGSEGV"

    def test_neighbours_merge_and_split(self, task: Process):
        first = task.mmap(10)
        count = len(task.mm.vmas)
        task.mprotect(first + 3, 3, "r")
        assert len(task.mm.vmas) == count + 2
        task.mprotect(first + 3, 3, "rw")
        assert len(task.mm.vmas) == count

    def test_mremap_moves_words(self, task: Process):
        first = touched(task, 4)
        task.mmap(1, at=first + 4, prot="r")
        old = pfns(task, first, 4)
        moved = task.mremap(first, 4, 8)
        assert moved != first
        assert letters(task, first, 4) == "...."
        assert pfns(task, moved, 4) == old
        check(task.machine)

    def test_mremap_dontunmap_leaves_nothing_behind(self, task: Process):
        first = touched(task, 4)
        moved = task.mremap(first, 4, 4, keep=True)
        assert letters(task, first, 4) == "...."
        assert letters(task, moved, 4) == "XXXX"
        assert task.write(range(first, first + 4)) is None

    def test_brk_grows_and_shrinks(self, task: Process):
        first = task.brk(10)
        task.write(range(first, first + 10))
        assert b"[heap]" in task.machine.text(f"{task.pid}/maps")
        task.brk(4)
        assert letters(task, first, 10) == "XXXX......"

    def test_fixed_replaces_unless_told_not_to(self, task: Process):
        first = touched(task, 4)
        task.mmap(2, at=first + 1)
        assert letters(task, first, 4) == "X..X"
        with pytest.raises(OSError, match="something is mapped") as error:
            task.mmap(1, at=first, replace=False)
        assert error.value.errno == errno.EEXIST

    def test_exec_starts_afresh(self, machine: Machine, task: Process):
        touched(task, 100)
        task.exec("sleep", machine.file("sleep", 40))
        found = machine.text(f"{task.pid}/maps")
        assert b"/srv/sleep" in found
        stack = next(v for v in task.mm.vmas if v.first <= task.mm.stack_page < v.stop)
        assert letters(task, stack.first, 33) == "." * 30 + "XXX"
        check(machine)

    def test_what_is_empty_is_no_program(self, machine: Machine, task: Process):
        first, empty = touched(task, 2), machine.file("empty", 0)
        for start in (lambda: machine.spawn("none", empty), lambda: task.exec("none", empty)):
            with pytest.raises(ValueError, match="ENOEXEC"):
                start()
        assert letters(task, first, 2) == "XX"


class TestMemoryPressure:
    def test_without_swap_somebody_is_killed(self, machine: Machine, task: Process):
        first = task.mmap(20000)
        assert task.write(range(first, first + 20000)) == "SIGKILL"
        assert [outcome.what for outcome in machine.outcomes] == ["OOM"]
        check(machine)

    def test_with_swap_the_oldest_go(self, machine: Machine, task: Process):
        machine.swapon("128M")
        first = task.mmap(20000)
        assert task.write(range(first, first + 20000)) is None
        shown = letters(task, first, 20000)
        assert shown.count("S") + shown.count("X") == 20000
        assert shown.count("S") > 4000
        check(machine)

    def test_a_cgroup_kills_inside(self, machine: Machine):
        group = machine.cgroup("small", "1M")
        other = machine.spawn("other")
        touched(other, 2000)
        inside = machine.spawn("inside", cgroup=group)
        first = inside.mmap(1000)
        assert inside.write(range(first, first + 1000)) == "SIGKILL"
        assert other.signal is None

    @pytest.mark.parametrize("room", ["8K", "12K", "16K"])
    def test_there_may_be_too_little_to_start_in(self, machine: Machine, room: str):
        program = machine.file("program", 40)
        started = machine.spawn("started", program, cgroup=machine.cgroup("small", room))
        killed = room != "16K"
        assert started.signal == ("SIGKILL" if killed else None)
        assert (started.pid in machine.processes) is not killed
        check(machine)

    def test_a_cgroup_swaps_its_own(self, machine: Machine):
        machine.swapon("8M")
        inside = machine.spawn("inside", cgroup=machine.cgroup("small", "1M"))
        first = inside.mmap(1000)
        assert inside.write(range(first, first + 1000)) is None
        assert machine.rss(inside) <= 256
        check(machine)

    @pytest.mark.parametrize("step", [1, 7, 100])
    def test_a_file_larger_than_memory_can_be_read(self, machine: Machine, step: int):
        task = machine.spawn("task")
        first = task.mmap(40000, machine.file("huge", 40000, cold=True))
        assert task.read(range(first, first + 40000, step)) is None
        assert machine.outcomes == []
        check(machine)

    def test_dirty_pages_of_files_are_written_back(self, machine: Machine):
        task = machine.spawn("task")
        file = machine.file("huge", 20000, cold=True)
        first = task.mmap(20000, file, shared=True)
        assert task.write(range(first, first + 20000)) is None
        assert len(set(file.disk.tolist())) == 20000
        check(machine)
