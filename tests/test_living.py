"""The children do what they are told, hold still, and leave nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import living

pytestmark = pytest.mark.kernel


def words(child, region):
    with Path(f"/proc/{child.pid}/pagemap").open("rb", buffering=0) as file:
        raw = os.pread(file.fileno(), region.pages * 8, region.start // living.PAGE * 8)
    return [int.from_bytes(raw[i : i + 8], sys.byteorder) for i in range(0, len(raw), 8)]


def present(child, region):
    return [bool(word >> 63) for word in words(child, region)]


def frames(child, region):
    return [word & (1 << 55) - 1 for word in words(child, region)]


def swaps():
    return Path("/proc/swaps").read_text().splitlines()[1:]


def test_a_child_touches_just_the_pages_it_is_told_to():
    with living.spawn() as child:
        heap = child.mmap(8)
        assert present(child, heap) == [False] * 8
        child.write(heap[2:4])
        child.read(heap[7:])
        assert present(child, heap) == [False, False, True, True, False, False, False, True]
        child.madvise(heap, living.DONTNEED)
        child.write(heap, range(0, 8, 3))
        assert [n for n, is_in in enumerate(present(child, heap)) if is_in] == [0, 3, 6]


def test_random_order_touches_every_page_once():
    with living.spawn() as child:
        heap = child.mmap(64)
        child.write(heap, "random")
        assert all(present(child, heap))
        assert child.read(heap) == sum(range(1, 65))


def test_a_forked_child_obeys_by_itself_and_copies_what_it_writes():
    living.need_root()
    with living.spawn() as child:
        heap = child.mmap(4)
        child.write(heap)
        worker = child.fork()
        worker.write(heap[:1])
        both = zip(frames(child, heap), frames(worker, heap), strict=True)
        assert [mine == theirs for mine, theirs in both] == [False, True, True, True]


def test_a_file_name_may_hold_any_bytes(tmp_path):
    name = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a b\xff\n\\012 (deleted)"))
    living.file_of(name, 3)
    with living.spawn() as child:
        data = child.mmap(3, prot=living.R, fd=child.open(name, os.O_RDONLY))
        assert child.read(data) == 1 + 2 + 3
        assert b"a b\xff\\012\\012 (deleted)" in Path(f"/proc/{child.pid}/maps").read_bytes()


def test_a_huge_reservation_costs_nothing_but_what_is_touched():
    with living.spawn() as child:
        desert = child.mmap(1 << 28, flags=living.NORESERVE)
        child.write(desert[1 << 20 : (1 << 20) + 2])
        assert present(child, desert[(1 << 20) - 1 : (1 << 20) + 3]) == [False, True, True, False]


def test_an_error_in_the_child_is_an_error_here():
    with living.spawn() as child, pytest.raises(OSError, match="Invalid argument"):
        child.madvise(child.mmap(1), 9999)


def test_a_stopped_child_stays_stopped_until_resumed():
    with living.spawn() as child:
        child.stop()
        child.resume()
        child.write(child.mmap(1))


def test_the_whole_family_is_gone_afterwards():
    with living.spawn() as child:
        worker = child.fork()
        twin = child.share_memory()
        worker.stop()
        pids = [child.pid, worker.pid, twin.pid]
        same = [Path(f"/proc/{pid}/maps").read_text() for pid in (child.pid, twin.pid)]
        assert same[0] == same[1]
    living.wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "all gone")


def test_huge_pages_are_whole_where_asked_for():
    with living.thp(), living.spawn() as child:
        huge = child.mmap_alone(1024, align=512)
        assert huge.start % (512 * living.PAGE) == 0
        child.madvise(huge, living.HUGEPAGE)
        child.write(huge[:1])
        assert present(child, huge) == [True] * 512 + [False] * 512


def test_ksm_merges_equal_pages_and_the_knob_goes_back():
    living.need_root()
    knob = Path("/sys/kernel/mm/ksm/run")
    before = knob.read_text()
    with living.ksm() as settle, living.spawn() as child:
        heap = child.mmap(4)
        child.fill(heap, 7)
        child.madvise(heap, living.MERGEABLE)
        settle()
        assert len(set(frames(child, heap))) == 1
    assert knob.read_text() == before


def test_hugetlb_pages_come_and_go():
    pool = Path("/proc/sys/vm/nr_hugepages")
    before = pool.read_text()
    with living.hugetlb(2), living.spawn() as child:
        child.write(child.mmap(512, flags=living.HUGETLB)[:1])
    assert pool.read_text() == before


def test_pages_go_to_a_swap_file_that_is_gone_afterwards():
    with living.swap_area() as path, living.spawn() as child:
        heap = child.mmap(16)
        child.write(heap)
        living.page_out(child, heap)
        assert all(word >> 62 == 1 for word in words(child, heap))
        assert any(str(path) in line for line in swaps())
    assert not path.exists()
    assert not any(str(path) in line for line in swaps())


def test_the_swap_file_is_gone_even_if_the_test_is_killed():
    living.need_root()
    program = (
        "import sys, living\n"
        "with living.swap_area() as path:\n"
        "    print(path, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    victim = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    with victim:
        path = victim.stdout.readline().strip()
        victim.kill()
    assert path
    living.wait_until(
        lambda: not Path(path).exists() and not any(path in line for line in swaps()), "undone"
    )
