"""PAGEMAP_SCAN of living children: nothing twice, nothing missing, and the same bits as pagemap."""

import contextlib
import os

import numpy as np
import pytest

from pagemap_df.errors import NotAvailable, ProcessGone
from pagemap_df.source import scan
from tests import living
from tests.living import PAGE

pytestmark = pytest.mark.kernel

NAMES = ("FILE", "PRESENT", "SWAPPED", "PFNZERO", "HUGE", "GUARD", "WRITTEN")
POPULATED = scan.mask("PRESENT", "SWAPPED")


@contextlib.contextmanager
def pagemap(pid):
    fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    try:
        if not scan.available(fd):
            pytest.skip("this kernel has no PAGEMAP_SCAN")
        yield fd
    finally:
        os.close(fd)


def words(fd, region):
    raw = os.pread(fd, 8 * region.pages, region.start // PAGE * 8)
    return np.frombuffer(raw, np.uint64)


def scanned(fd, region, **asked):
    found = list(scan.regions(fd, region.start, region.end, **asked))
    return np.concatenate([np.empty((0, 3), np.int64), *found])


def pages_of(regions, region):
    """Categories of every page of `region`; -1 where nothing was reported."""
    out = np.full(region.pages, -1, np.int64)
    for start, end, categories in regions.tolist():
        first, last = (start - region.start) // PAGE, (end - region.start) // PAGE
        assert 0 <= first < last <= region.pages
        assert (out[first:last] == -1).all(), "reported twice"
        out[first:last] = categories
    return out


@pytest.fixture(scope="module")
def child():
    with living.spawn() as child:
        yield child


@pytest.mark.parametrize("runs", [1, 511, 512, 513, 1024, 2048])
def test_any_number_of_regions_is_reported_once_and_whole(child, runs):
    """The kernel gathers 512 regions at a time, and walk_end lies when it takes several goes."""
    heap = child.mmap_alone(2 * runs)
    child.madvise(heap, living.NOHUGEPAGE)
    child.write(heap, range(0, heap.pages, 2))
    with pagemap(child.pid) as fd:
        found = scanned(fd, heap, any_of=POPULATED)
    assert len(found) == runs
    starts = heap.start + np.arange(0, heap.pages, 2) * PAGE
    np.testing.assert_array_equal(found[:, 0], starts)
    np.testing.assert_array_equal(found[:, 1], starts + PAGE)
    child.munmap(heap)


def test_neighbours_that_answer_alike_are_one_region(child):
    heap = child.mmap_alone(3000)
    child.madvise(heap, living.NOHUGEPAGE)
    child.write(heap)
    with pagemap(child.pid) as fd:
        assert scanned(fd, heap, any_of=POPULATED).tolist() == [[heap.start, heap.end, 0]]
        report = scan.mask("PRESENT", "SWAPPED")
        found = scanned(fd, heap, any_of=POPULATED, report=report)
    assert found.tolist() == [[heap.start, heap.end, scan.mask("PRESENT")]]
    child.munmap(heap)


def test_an_empty_range_and_an_untouched_one_have_no_regions(child):
    heap = child.mmap_alone(64)
    with pagemap(child.pid) as fd:
        assert len(scanned(fd, heap, any_of=POPULATED)) == 0
        assert len(scanned(fd, living.Region(heap.start, 0), any_of=POPULATED)) == 0


def test_a_reservation_of_a_tebibyte_costs_what_is_touched(child):
    vast = child.mmap_alone((1 << 40) // PAGE, flags=living.NORESERVE)
    child.madvise(vast, living.NOHUGEPAGE)
    touched = range(0, vast.pages, vast.pages // 8)
    child.write(vast, touched)
    with pagemap(child.pid) as fd:
        found = scanned(fd, vast, any_of=POPULATED)
    assert ((found[:, 0] - vast.start) // PAGE).tolist() == list(touched)
    child.munmap(vast)


@pytest.fixture(scope="module")
def mixture(child, tmp_path_factory):
    """One region of each kind, with the categories that each must have somewhere."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(living.swap_area())
        stack.enter_context(living.thp())
        fd = child.open(living.file_of(tmp_path_factory.mktemp("scan") / "file", 32))
        made = {name: child.mmap_alone(32) for name in ("anon", "zero", "swap", "guard")}
        for region in made.values():
            child.madvise(region, living.NOHUGEPAGE)
        made["file"] = child.mmap_alone(32, fd=fd, shared=True, prot=living.R)
        made["cow"] = child.mmap_alone(32, fd=fd)
        made["shmem"] = child.mmap_alone(32, shared=True)
        made["huge"] = child.mmap_alone(1024, align=512)
        made["huge_zero"] = child.mmap_alone(512, align=512)
        child.write(made["anon"], range(0, 32, 3))
        child.read(made["zero"])
        child.write(made["zero"][8:10])
        child.write(made["swap"])
        child.write(made["guard"][:20])
        child.read(made["file"])
        child.read(made["cow"])
        child.write(made["cow"][4:7])
        child.write(made["shmem"][:9])
        for name in ("huge", "huge_zero"):
            child.madvise(made[name], living.HUGEPAGE)
        child.write(made["huge"][:1])
        child.read(made["huge_zero"][:1])
        if not living.is_supported(child, living.GUARD_INSTALL):
            del made["guard"]
        else:
            child.madvise(made["guard"][10:24], living.GUARD_INSTALL)
        living.page_out(child, made["swap"])
        child.read(made["swap"][:5])
        yield made


PM_PRESENT, PM_ENTRY, PM_FILE, PM_GUARD = 1 << 63, 1 << 62, 1 << 61, 1 << 58
MUST_HAVE = {
    "anon": "PRESENT", "zero": "PFNZERO", "swap": "SWAPPED", "guard": "GUARD", "file": "FILE",
    "cow": "FILE", "shmem": "FILE", "huge": "HUGE", "huge_zero": "HUGE",
}  # fmt: skip


@pytest.mark.parametrize("kind", MUST_HAVE)
def test_categories_agree_with_the_words_of_every_page(child, mixture, kind):
    if kind not in mixture:
        pytest.skip("this kernel has no guard pages")
    region = mixture[kind]
    report = scan.mask(*NAMES)
    with pagemap(child.pid) as fd:
        found = pages_of(scanned(fd, region, any_of=POPULATED, report=report), region)
        word = words(fd, region)
    populated = word & np.uint64(PM_PRESENT | PM_ENTRY) != 0
    np.testing.assert_array_equal(found != -1, populated)
    seen = np.where(found == -1, 0, found)
    for category, bit in (("PRESENT", PM_PRESENT), ("SWAPPED", PM_ENTRY), ("GUARD", PM_GUARD)):
        there = word & np.uint64(bit) != 0
        np.testing.assert_array_equal(seen & scan.mask(category) != 0, there, err_msg=category)
    # Bit 61 is set on the huge zero page although it is no file page; the ioctl knows better.
    file = word & np.uint64(PM_FILE) != 0
    zero = seen & scan.mask("PFNZERO") != 0
    np.testing.assert_array_equal((seen & scan.mask("FILE") != 0)[~zero], file[~zero])
    assert (seen & scan.mask(MUST_HAVE[kind]) != 0).any()


def test_huge_is_what_one_entry_of_the_upper_table_maps(child, mixture):
    with pagemap(child.pid) as fd:
        both = living.Region(mixture["huge"].start, 1024)
        found = scanned(fd, both, all_of=scan.mask("HUGE"), report=scan.mask("HUGE"))
        assert found.tolist() == [[both.start, both.start + 512 * PAGE, scan.mask("HUGE")]]
        some = scanned(fd, both[100:200], all_of=scan.mask("HUGE"))
        assert some[:, :2].tolist() == [[both[100:200].start, both[100:200].end]]


def test_categories_may_be_asked_for_inverted(child, mixture):
    """Present, but neither file nor zero: what smaps calls anonymous."""
    region = mixture["cow"]
    with pagemap(child.pid) as fd:
        found = scanned(
            fd,
            region,
            all_of=scan.mask("PRESENT", "FILE", "PFNZERO"),
            inverted=scan.mask("FILE", "PFNZERO"),
        )
    assert found[:, :2].tolist() == [[region[4:7].start, region[4:7].end]]


def test_mask_knows_every_category_once():
    assert scan.mask() == 0
    assert scan.mask("HUGE", "HUGE") == scan.CATEGORIES["HUGE"]
    assert scan.mask(*scan.CATEGORIES) == (1 << 9) - 1
    with pytest.raises(KeyError):
        scan.mask("DIRTY")


# -- what goes wrong --------------------------------------------------------------------


def test_a_category_from_the_future_is_not_available(child):
    with pagemap(child.pid) as fd, pytest.raises(NotAvailable, match=r"Linux 6\.7"):
        list(scan.regions(fd, 0, PAGE, any_of=1 << 60))


def test_a_file_that_is_no_pagemap_is_not_available(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        assert not scan.available(file.fileno())
        with pytest.raises(NotAvailable):
            list(scan.regions(file.fileno(), 0, PAGE, any_of=POPULATED))


def test_a_process_that_has_left_has_nothing():
    """The kernel walks what is left of its memory; a message is not promised."""
    with living.spawn() as child:
        heap = child.mmap(4)
        child.write(heap)
        with pagemap(child.pid) as fd:
            assert len(scanned(fd, heap, any_of=POPULATED)) == 1
            child.kill()
            with contextlib.suppress(ProcessGone):
                assert len(scanned(fd, heap, any_of=POPULATED)) == 0


def test_a_range_beyond_the_address_space_is_an_error_of_the_system(child):
    with pagemap(child.pid) as fd, pytest.raises(OSError, match="Bad address"):
        list(scan.regions(fd, 1 << 60, (1 << 60) + PAGE, any_of=POPULATED))
