"""Swap slots, the swap cache and their holders, as Linux 6.18 keeps them."""

import pytest

from pagemap_df import entries, procstatus
from pagemap_df.sim import Machine, Process
from tests.sim.helpers import check, flags, letters, pfns, seen, smap


@pytest.fixture
def task(machine: Machine, task: Process) -> Process:
    machine.swapon("4M")
    return task


def out(task: Process, pages: int = 4) -> int:
    first = task.mmap(pages)
    task.write(range(first, first + pages))
    task.madvise(first, pages, "PAGEOUT")
    return first


def slots(task: Process, first: int, count: int) -> list[tuple[int, int]]:
    frame = seen(task, first, count).frame
    types, offsets = entries.swap_type(frame), entries.swap_offset(frame)
    return list(zip(types.tolist(), offsets.tolist(), strict=True))


def used(machine: Machine) -> int:
    return sum(area.used for area in procstatus.parse_swaps(machine.text("swaps"))) // 4096


def test_a_fresh_area_is_filled_from_slot_one(task: Process):
    first = out(task)
    assert letters(task, first, 4) == "SSSS"
    assert slots(task, first, 4) == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert smap(task, first)["Swap"] == smap(task, first)["SwapPss"] == 16


def test_freed_slots_are_not_reused_at_once(task: Process):
    first = out(task)
    task.madvise(first, 4, "DONTNEED")
    assert used(task.machine) == 0
    assert slots(task, out(task, 1), 1) == [(0, 5)]


def test_equal_priorities_take_turns(machine: Machine):
    task = machine.spawn("other")
    machine.swapon("1M", priority=5)
    machine.swapon("1M", priority=5)
    assert slots(task, out(task, 5), 5) == [(0, 1), (1, 1), (0, 2), (1, 2), (0, 3)]


def test_higher_priority_first_then_the_rest(machine: Machine):
    task = machine.spawn("other")
    machine.swapon("1M", priority=1)
    machine.swapon(5 * 4096, priority=9)
    assert slots(task, out(task, 6), 6) == [(1, 1), (1, 2), (1, 3), (1, 4), (0, 1), (0, 2)]


def test_a_type_is_the_lowest_free_number(machine: Machine):
    assert [machine.swapon("1M", path=f"/{name}") for name in "ab"] == [0, 1]
    machine.swapoff(0)
    assert machine.facts()["swap_types"] == {"/b": 1}
    assert machine.swapon("1M", path="/c") == 0


def test_a_read_keeps_the_slot_and_only_that_page_returns(task: Process):
    first = out(task)
    task.read(range(first + 1, first + 2))
    assert letters(task, first, 4) == "SXSS"
    assert used(task.machine) == 4
    assert "SWAPCACHE" in flags(task.machine, pfns(task, first + 1, 1)[0])
    assert smap(task, first)["Private_Clean"] == 4


def test_a_clean_page_returns_to_its_slot_and_a_written_one_gets_another(task: Process):
    first = out(task)
    task.read(range(first, first + 1))
    task.write(range(first + 1, first + 2))
    assert used(task.machine) == 3
    task.madvise(first, 4, "PAGEOUT")
    assert slots(task, first, 4) == [(0, 1), (0, 5), (0, 3), (0, 4)]


def test_fork_shares_the_entry(task: Process):
    first = out(task)
    child = task.fork()
    assert slots(child, first, 4) == slots(task, first, 4)
    assert smap(task, first)["SwapPss"] == smap(child, first)["SwapPss"] == 8
    task.read(range(first, first + 1))
    assert letters(task, first, 4) == "XSSS"
    assert smap(child, first)["SwapPss"] == 10
    child.read(range(first, first + 1))
    assert pfns(task, first, 1) == pfns(child, first, 1)
    assert letters(task, first, 1) == "P"
    check(task.machine)


def test_a_write_by_one_holder_copies_and_the_other_keeps_the_entry(task: Process):
    first = out(task, 1)
    child = task.fork()
    child.write(range(first, first + 1))
    assert (letters(task, first, 1), letters(child, first, 1)) == ("S", "X")
    check(task.machine)


def test_pages_mapped_by_others_stay(task: Process):
    first = task.mmap(2)
    task.write(range(first, first + 2))
    task.fork()
    task.madvise(first, 2, "PAGEOUT")
    assert letters(task, first, 2) == "PP"


def test_without_swap_pageout_does_nothing(machine: Machine):
    task = machine.spawn("other")
    assert letters(task, out(task), 4) == "XXXX"


def test_shared_memory_in_swap_looks_like_nothing(task: Process):
    first = task.mmap(3, shared=True)
    task.write(range(first, first + 3))
    task.madvise(first, 3, "PAGEOUT")
    assert letters(task, first, 3) == "..."
    figures = smap(task, first)
    assert (figures["Swap"], figures["SwapPss"], used(task.machine)) == (12, 0, 3)
    task.read(range(first, first + 1))
    assert used(task.machine) == 2
    check(task.machine)


def test_mremap_and_mprotect_keep_entries(task: Process):
    first = out(task)
    before = slots(task, first, 4)
    task.mprotect(first, 4, "none")
    moved = task.mremap(first, 4, 4, to=first - 1000)
    assert slots(task, moved, 4) == before


def test_swapoff_brings_everything_back(task: Process):
    first, shared = out(task), task.mmap(2, shared=True)
    task.write(range(shared, shared + 2))
    task.madvise(shared, 2, "PAGEOUT")
    task.machine.swapoff(0)
    assert letters(task, first, 4) == "XXXX"
    assert "DIRTY" in flags(task.machine, pfns(task, first, 1)[0])
    task.read(range(shared, shared + 2))
    assert letters(task, shared, 2) == "xx"
    check(task.machine)


def test_when_half_is_used_a_read_frees_the_slot(task: Process):
    first = out(task, 600)
    task.read(range(first, first + 1))
    assert used(task.machine) == 599
