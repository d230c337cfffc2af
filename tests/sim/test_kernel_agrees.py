"""The same operations on the simulator and on the kernel this runs on, page by page."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from pagemap_df import entries
from pagemap_df.sim import Machine, Process
from tests import living
from tests.living import PAGE, Child, Region
from tests.sim.helpers import letters

pytestmark = pytest.mark.kernel

MODERN = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 15)


class Pair:
    """A simulated and a living process that do the same, in a mapping each."""

    def __init__(self, child: Child, task: Process, region: Region, first: int) -> None:
        self.child, self.task, self.region, self.first = child, task, region, first

    def part(self, pages: range) -> range:
        return range(self.first + pages.start, self.first + pages.stop, pages.step)

    def write(self, pages: range) -> None:
        for page in pages:
            self.child.call(
                "memcpy", self.region.start + page * PAGE, struct.pack("Q", page + 1), 8
            )
        self.task.write(self.part(pages))

    def read(self, pages: range) -> None:
        self.child.ask("read", self.region.start, pages)
        self.task.read(self.part(pages))

    def madvise(self, pages: range, advice: str) -> None:
        number = getattr(living, advice)
        self.child.madvise(self.region[pages.start : pages.stop], number)
        self.task.madvise(self.first + pages.start, len(pages), advice)

    def fork(self) -> "Pair":
        return Pair(self.child.fork(), self.task.fork(), self.region, self.first)

    def agree(self) -> str:
        """What both show; they must show the same."""
        count = self.region.pages
        ours = letters(self.task, self.first, count)
        with Path(f"/proc/{self.child.pid}/pagemap").open("rb") as file:
            file.seek(self.region.start // PAGE * 8)
            words = np.frombuffer(file.read(count * 8), np.uint64)
        found = entries.unpack(words, entries.layout("E7"))
        theirs = "".join(
            "." if not (p or e) else "S" if e else "X" if x else "P"
            for p, e, x in zip(found.present, found.entry, found.exclusive, strict=True)
        )
        assert theirs == ours.upper().replace("Z", "P")
        return ours


@pytest.fixture
def start():
    if not MODERN:
        pytest.skip("the simulator has the rules of Linux 6.18")
    with living.spawn() as child:
        child.call("sched_setaffinity", 0, 8, struct.pack("Q", 1 << min(os.sched_getaffinity(0))))

        def make(pages: int = 40, align: int = 16, **options: object) -> Pair:
            task = Machine("256M", rng=1).spawn("task")
            region = child.mmap_alone(pages, align=align)
            return Pair(child, task, region, task.mmap(pages, at=0x200000))

        yield make


def test_first_touch_fork_and_copy_on_write(start):
    one = start()
    one.read(range(5))
    one.write(range(3, 20))
    assert one.agree() == "ZZZ" + "X" * 17 + "." * 20
    two = one.fork()
    two.write(range(3, 9))
    one.write(range(7, 12))
    three = two.fork()
    three.madvise(range(10, 15), "DONTNEED")
    for pair in (one, two, three):
        pair.agree()
    assert "P" in one.agree()


def test_guards(start):
    one = start()
    if not living.is_supported(one.child, living.GUARD_INSTALL):
        pytest.skip("this kernel has no guard markers")
    one.write(range(10))
    one.madvise(range(5, 15), "GUARD_INSTALL")
    two = one.fork()
    one.madvise(range(12), "DONTNEED")
    two.madvise(range(8), "GUARD_REMOVE")
    assert one.agree() == "." * 5 + "S" * 10 + "." * 25
    two.agree()


def test_huge_pages(start):
    with living.thp():
        one = start(1100, align=512)
        one.madvise(range(1100), "HUGEPAGE")
        one.read(range(3, 4))
        one.write(range(600, 601))
        assert one.agree() == "p" * 512 + "X" * 512 + "." * 76
        two = one.fork()
        two.write(range(700, 703))
        one.write(range(100, 101))
        two.madvise(range(520, 530), "DONTNEED")
        one.agree()
        two.agree()


def test_swap(start):
    with living.swap_area(16):
        one = start()
        one.task.machine.swapon("16M")
        one.write(range(30))
        living.page_out(one.child, one.region[4:20])
        one.task.madvise(one.first + 4, 16, "PAGEOUT")
        two = one.fork()
        one.read(range(5, 9))
        two.write(range(7, 12))
        three = one.fork()
        three.read(range(4, 12))
        for pair in (one, two, three):
            assert "S" in pair.agree()
