"""PAGEMAP_SCAN: matching, merging, limits, and where walk_end is left."""

import errno

import pytest

from pagemap_df.sim import Machine, Process, Scan
from pagemap_df.source.scan import mask

PRESENT = mask("PRESENT")


def run(machine: Machine, task: Process, **asked: int) -> tuple[list[tuple[int, int, int]], int]:
    """Regions in pages from `first`, and walk_end likewise."""
    first = asked.pop("first")
    pages = asked.pop("pages")
    request = Scan(first << 12, first + pages << 12, **asked)
    answer = machine.open_pagemap(task.pid).scan(request)
    regions = [((a >> 12) - first, (b >> 12) - first, k) for a, b, k in answer.regions]
    return regions, (answer.walk_end >> 12) - first


@pytest.fixture
def first(machine: Machine, task: Process) -> int:
    machine.swapon("1M")
    first = task.mmap(10)
    task.write(range(first + 1, first + 5))
    task.madvise(first + 4, 1, "PAGEOUT")
    task.read(range(first + 6, first + 7))
    return first


def test_equal_neighbours_merge(machine, task, first):
    regions, end = run(machine, task, first=first, pages=10, mask=PRESENT, returned=PRESENT)
    assert regions == [(1, 4, 8), (6, 7, 8)]
    assert end == 10


def test_categories(machine, task, first):
    task.madvise(first + 8, 1, "GUARD_INSTALL")
    regions, _ = run(machine, task, first=first, pages=10)
    kinds = dict.fromkeys(range(10), 0)
    for low, high, found in regions:
        kinds |= dict.fromkeys(range(low, high), found)
    assert kinds[1] == mask("PRESENT", "WRITTEN")
    assert kinds[4] == mask("SWAPPED", "WRITTEN")
    assert kinds[6] == mask("PRESENT", "WRITTEN", "PFNZERO")
    assert kinds[8] == mask("SWAPPED", "WRITTEN", "GUARD")


def test_inverted_and_anyof(machine, task, first):
    regions, _ = run(
        machine, task, first=first, pages=10, inverted=PRESENT, mask=PRESENT, returned=0
    )
    assert regions == [(0, 1, 0), (4, 6, 0), (7, 10, 0)]
    either = mask("SWAPPED", "PFNZERO")
    regions, _ = run(machine, task, first=first, pages=10, anyof=either, returned=either)
    assert regions == [(4, 5, 16), (6, 7, 32)]


def test_limits(machine, task, first):
    asked = {"first": first, "pages": 10, "mask": PRESENT, "returned": PRESENT}
    assert run(machine, task, max_pages=2, **asked) == ([(1, 3, 8)], 3)
    assert run(machine, task, max_pages=3, **asked) == ([(1, 4, 8)], 6)
    assert run(machine, task, vec_len=1, **asked) == ([(1, 4, 8)], 6)


def test_walk_end_stays_behind_after_many_regions(machine, task):
    first = task.mmap(4096)
    task.write(range(first, first + 4096, 2))
    regions, end = run(
        machine, task, first=first, pages=4096, mask=PRESENT, returned=PRESENT, vec_len=4096
    )
    assert (len(regions), regions[-1][1], end) == (2048, 4095, 3072)


def test_holes_of_the_table_are_not_written_and_unmapped_ones_not_there(machine, task):
    first = task.mmap(4096)
    assert run(machine, task, first=first, pages=4096)[0] == [(0, 4096, 0)]
    assert run(machine, task, first=first - 2000, pages=1000)[0] == []


def test_errors(machine, task, first):
    file = machine.open_pagemap(task.pid)
    for bad, code in (
        (Scan(1, 4096), errno.EINVAL),
        (Scan(0, 4096, mask=1 << 20), errno.EINVAL),
        (Scan(0, 4096, flags=4), errno.EINVAL),
        (Scan(8192, 4096), errno.EFAULT),
        (Scan(0, 1 << 60), errno.EFAULT),
        (Scan(first << 12, first + 1 << 12, flags=2), errno.EPERM),
    ):
        with pytest.raises(OSError, check=lambda error, code=code: error.errno == code):
            file.scan(bad)
    assert file.scan(Scan(0, 0)).regions == []
    old = machine.open_pagemap(task.pid, era="E5")
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOTTY):
        old.scan(Scan(0, 4096))
    task.exit()
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ESRCH):
        file.scan(Scan(0, 4096))
