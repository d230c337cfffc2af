"""Frames, slots, page tables and mappings, each by itself."""

import numpy as np
import pytest

from pagemap_df.sim.mm import hardware
from pagemap_df.sim.mm import pagetable as pt
from pagemap_df.sim.mm.hardware import ANON, BUDDY, RESERVED, Frames, OutOfFrames, size_of
from pagemap_df.sim.mm.pagetable import PageTable
from pagemap_df.sim.mm.swapfile import SwapDevices
from pagemap_df.sim.mm.vma import ACCOUNT, READ, WRITE, AddressSpace, AnonVma, Vma


@pytest.fixture
def frames() -> Frames:
    return Frames(size_of("16M"), np.random.default_rng(1))


class TestFrames:
    def test_every_frame_is_handed_out_once(self, frames: Frames):
        count = frames.free
        assert (frames.flags & BUDDY).astype(bool).sum() == count
        given = np.concatenate([frames.alloc(1000, ANON), frames.alloc(count - 1000, ANON)])
        assert len(set(given.tolist())) == count
        assert not np.isin(given, np.flatnonzero(frames.flags & RESERVED)).any()
        with pytest.raises(OutOfFrames, match="1 page frames too few in the machine"):
            frames.alloc(1, ANON)

    def test_blocks_are_aligned_and_can_be_put_together_again(self, frames: Frames):
        block = frames.alloc_block(ANON)
        assert block is not None
        assert block[0] % 512 == 0
        assert (np.diff(block) == 1).all()
        pages = frames.alloc(frames.free, ANON)
        assert frames.alloc_block(ANON) is None
        frames.release(pages)
        assert frames.alloc_block(ANON) is not None

    def test_holes_of_a_pc(self):
        frames = Frames(size_of("4G"), np.random.default_rng(1))
        assert frames.span % 32768 == 0
        assert frames.ranges[-1] == (0x100000, 0x140060)
        for first, stop in ((0xA0, 0x100), (0xC0000, 0x100000)):
            assert not frames.flags[first:stop].any()
        assert frames.total == 1 << 20

    def test_claim_takes_what_is_asked_for(self, frames: Frames):
        before = frames.free
        frames.claim(np.array([2000, 2001, 3000]))
        assert frames.free == before - 3
        assert not np.isin([2000, 3000], frames.alloc(before - 3, ANON)).any()

    def test_order_depends_on_the_seed(self):
        orders = [
            Frames(size_of("16M"), np.random.default_rng(seed)).alloc(100, ANON).tolist()
            for seed in (1, 1, 2)
        ]
        assert orders[0] == orders[1] != orders[2]

    @pytest.mark.parametrize("text", ["", "M", "1.5G", "4X", "-1"])
    def test_sizes(self, text: str):
        with pytest.raises(ValueError, match="a size is"):
            size_of(text)


class TestSlots:
    def test_a_full_area_gives_what_it_has(self, frames: Frames):
        swap = SwapDevices(frames)
        swap.on(b"/a", "file", 11, None)
        first = swap.alloc(25)
        assert len(first) == 10
        swap.store(first, np.zeros(10, np.int64))
        assert swap.nearly_full
        swap.drop(first[3:5])
        assert swap.alloc(9).tolist() == first[3:5].tolist()

    def test_a_slot_is_free_when_neither_held_nor_cached(self, frames: Frames):
        swap = SwapDevices(frames)
        swap.on(b"/a", "file", 11, None)
        entries, pfns = swap.alloc(1), frames.alloc(1, ANON)
        swap.hold(entries)
        swap.add_to_cache(pfns, entries)
        swap.drop(entries)
        assert swap.free == 9
        assert swap.cached(entries).tolist() == pfns.tolist()
        swap.free_swap(pfns)
        assert swap.free == 10

    def test_priorities_nobody_set_fall(self, frames: Frames):
        swap = SwapDevices(frames)
        for path in (b"/a", b"/b"):
            swap.on(path, "file", 11, None)
        assert [area.priority for area in swap.areas if area] == [-2, -3]

    def test_there_are_28_types(self, frames: Frames):
        swap = SwapDevices(frames)
        for _ in range(28):
            swap.on(b"/a", "file", 2, None)
        with pytest.raises(OSError, match="no more swap types"):
            swap.on(b"/a", "file", 2, None)


class TestPageTable:
    def test_runs_are_views_across_leaves(self):
        table = PageTable(zero=1)
        table.ensure(100, 1500)
        table.ensure(4096, 4097)
        runs = list(table.runs(100, 5000))
        assert [(page, len(ptes)) for page, ptes in runs] == [(100, 1436), (4096, 512)]
        runs[0][1][5] = 77
        assert table.get(105) == 77
        assert table.get(2000) == 0

    def test_write_read_and_forget(self):
        table = PageTable(zero=1)
        entries = np.zeros(2000, np.uint64)
        entries[[0, 1999]] = 5
        table.write(510, entries)
        assert sorted(table.leaves) == [0, 4]
        np.testing.assert_array_equal(table.read(510, 2510), entries)
        table.forget(0, 2000)
        assert sorted(table.leaves) == [4]

    def test_splitting_the_huge_zero_page_leaves_zero_pages(self):
        table = PageTable(zero=9)
        table.ensure(0, 512)
        leaf = table.leaf(0)
        assert leaf is not None
        leaf[:] = np.arange(512, 1024, dtype=np.uint64) | pt.PRESENT | pt.PMD | pt.SPECIAL
        table.split(0)
        assert table.get(3) & int(pt.PMD)
        table.split(3)
        assert set(pt.frame(leaf).tolist()) == {9}


class TestMappings:
    @pytest.fixture
    def space(self) -> AddressSpace:
        return AddressSpace(10000, 1 << 35, zero=1)

    def anon(self, first: int, stop: int, flags: int = READ | WRITE, **more: object) -> Vma:
        return Vma(first, stop, flags, None, first, **more)

    def test_neighbours_merge_on_both_sides(self, space: AddressSpace):
        for first in (10, 30, 20):
            space.insert(self.anon(first, first + 10))
        assert [(v.first, v.stop) for v in space.vmas] == [(10, 40)]

    @pytest.mark.parametrize(
        ("left", "right", "merges"),
        [
            (AnonVma(), None, True),
            (AnonVma(1), None, False),
            (AnonVma(), AnonVma(), False),
            (None, None, True),
        ],
    )
    def test_histories(self, space, left, right, merges):
        space.insert(self.anon(10, 20, anon=left))
        space.insert(self.anon(20, 30, anon=right))
        assert (len(space.vmas) == 1) is merges

    def test_other_flags_or_offsets_do_not(self, space: AddressSpace):
        space.insert(self.anon(10, 20))
        space.insert(self.anon(20, 30, READ))
        space.insert(Vma(30, 40, READ, None, 99))
        assert len(space.vmas) == 3

    def test_change_splits_and_merges(self, space: AddressSpace):
        space.insert(self.anon(10, 40))
        space.change(20, 30, lambda vma: READ)
        assert [(v.first, v.stop, v.flags) for v in space.vmas] == [
            (10, 20, 3),
            (20, 30, 1),
            (30, 40, 3),
        ]
        space.change(20, 30, lambda vma: READ | WRITE)
        assert len(space.vmas) == 1

    def test_gaps_are_found_from_the_top(self, space: AddressSpace):
        def put(pages: int, align: int = 1) -> int:
            first = space.gap(pages, align)
            assert first is not None
            space.insert(self.anon(first, first + pages, READ | ACCOUNT * (first % 2)))
            return first

        assert [put(10), put(7), put(512, 512)] == [9990, 9983, 9216]
        assert put(200) == 9983 - 200
        space.remove(9985, 9988)
        assert [put(3), put(4)] == [9985, 9779]

    def test_where_a_range_has_its_first_hole(self, space: AddressSpace):
        space.insert(self.anon(10, 20))
        space.insert(self.anon(20, 30, READ))
        assert space.contiguous(12, 25) == 25
        assert space.contiguous(12, 50) == 30
        assert space.contiguous(5, 50) == 5
        assert space.covered(10, 30)
        assert not space.covered(10, 31)


def test_names_are_those_of_the_kernel():
    assert np.uint64(1 << 34) == hardware.EXCLUSIVE
    assert np.uint64(1 << 12) == hardware.ANON
