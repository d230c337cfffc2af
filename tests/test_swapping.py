"""Swapping: slots counted by hand, and against /proc/swaps and smaps."""

from pathlib import Path

import pytest

from pagemap_df import swapping
from pagemap_df.errors import NotAvailable
from pagemap_df.take import take
from tests import living
from tests.handmade import PAGE, area, snapshot

FAMILY = {
    10: ["heap rw-p s1 s2 s3 a9 s9 s8", "x rw-p S5 g"],
    11: ["heap rw-p s1 a7 s3"],
}


def test_every_process_and_area_has_its_slots():
    snap = snapshot(FAMILY, swaps=[area(0, 5), area(1, 1, "/other")])
    table = swapping.processes(snap, complete=True)
    assert list(zip(table.pid, table.swap_type, table.area, strict=True)) == [
        (10, 0, "/swap"),
        (10, 1, "/other"),
        (11, 0, "/swap"),
    ]
    assert (table.swap / PAGE).tolist() == [5, 1, 2]
    assert (table.shared / PAGE).tolist() == [2, 0, 2]
    assert (table.swappss / PAGE).tolist() == [4, 1, 1]
    assert table.runs.tolist() == [2, 1, 2]
    assert table.first_slot.tolist() == [1, 5, 1]
    assert table.last_slot.tolist() == [9, 5, 3]
    assert table.density.tolist() == [5 / 9, 1, 2 / 3]
    assert swapping.processes(snap).swappss.isna().all()


def test_vmas_keep_their_own_slots_apart():
    table = swapping.vmas(snapshot({7: ["a rw-p s1 s2", "b rw-p s3"]}))
    assert (table.swap / PAGE).tolist() == [2, 1]
    assert table.path.tolist() == ["[a]", "[b]"]
    assert table.area.isna().all()


def test_neighbouring_pages_in_falling_slots_are_one_run():
    table = swapping.processes(snapshot({7: ["heap rw-p s9 s8 s7 - s6"]}))
    assert table.runs.tolist() == [2]


def test_slots_name_all_their_holders():
    table = swapping.slots(snapshot(FAMILY))
    found = {(row.swap_type, row.swap_offset): list(row.pids) for row in table.itertuples()}
    assert found == {
        (0, 1): [10, 11],
        (0, 2): [10],
        (0, 3): [10, 11],
        (0, 8): [10],
        (0, 9): [10],
        (1, 5): [10],
    }
    assert table.n_pids.tolist() == [2, 1, 2, 1, 1, 1]


def test_what_nobody_holds_is_unaccounted_by_area():
    swaps = [area(0, 8), area(1, 1, "/other"), area(None, 4, "/odd")]
    table = swapping.areas(snapshot(FAMILY, swaps=swaps)).set_index("path")
    assert (table.held / PAGE)[["/swap", "/other"]].tolist() == [5, 1]
    assert (table.unaccounted / PAGE)[["/swap", "/other"]].tolist() == [3, 0]
    assert table.runs["/swap"] == 2
    assert table.loc["/odd", ["held", "unaccounted", "runs", "density"]].isna().all()
    assert "shared memory" in swapping.areas(snapshot(FAMILY)).attrs["accuracy"]["unaccounted"]


def test_hidden_slots_leave_the_bytes_and_nothing_else():
    snap = snapshot(FAMILY, hidden=True, swaps=[area(0, 9)])
    table = swapping.processes(snap, complete=True)
    assert (table.swap / PAGE).tolist() == [6, 2]
    unknown = ["swap_type", "area", "shared", "swappss", "runs", "first_slot", "density"]
    assert table[unknown].isna().all(axis=None)
    assert swapping.areas(snap).unaccounted.isna().all()
    with pytest.raises(NotAvailable, match="CAP_SYS_ADMIN"):
        swapping.slots(snap)


def test_two_pids_of_one_address_space_are_one_holder():
    twins = snapshot({10: ["heap rw-p s1"], 11: ["heap rw-p s1"]}, mm={11: 10})
    assert (swapping.processes(twins, complete=True).swappss / PAGE).tolist() == [1, 1]
    assert swapping.slots(twins).n_pids.tolist() == [1]
    assert swapping.processes(twins).shared.tolist() == [0, 0]


def test_nothing_in_swap_is_an_empty_table():
    none = snapshot({7: ["heap rw-p a1 g"]})
    assert len(swapping.processes(none)) == len(swapping.vmas(none)) == 0
    assert len(swapping.slots(none)) == len(swapping.areas(none)) == 0


def test_moved_is_what_went_out_and_came_back():
    before = snapshot({10: ["heap rw-p a1 a2 s3"], 11: ["heap rw-p a4"]})
    after = snapshot({10: ["heap rw-p s1 s2 a3"], 11: ["heap rw-p a4"]})
    (row,) = swapping.moved(before, after).to_dict("records")
    assert row == {"pid": 10, "name": "p10", "swapped_out": 2 * PAGE, "swapped_in": PAGE}


@pytest.mark.kernel
def test_live_slots_agree_with_proc_swaps_and_smaps():
    with living.swap_area() as path, living.spawn() as parent:
        heap, pool = parent.mmap_alone(64), parent.mmap_alone(32, shared=True)
        parent.write(heap)
        parent.write(pool)
        living.page_out(parent, heap)
        parent.madvise(pool, living.PAGEOUT)
        child = parent.fork()
        child.write(heap[:10])
        parent.stop()
        child.stop()
        snap = take(pids=[parent.pid, child.pid])
        table = swapping.vmas(snap, complete=True).set_index("pid")
        assert table.swap.to_dict() == {parent.pid: 64 * PAGE, child.pid: 54 * PAGE}
        assert table.shared.tolist() == [54 * PAGE] * 2
        assert table.swappss.to_dict() == {parent.pid: 37 * PAGE, child.pid: 27 * PAGE}
        areas = swapping.areas(snap)
        mine = areas[areas.path == str(path)].iloc[0]
        line = next(x for x in Path("/proc/swaps").read_text().splitlines() if str(path) in x)
        assert mine.used == int(line.split()[3]) * 1024
        assert mine.held == 64 * PAGE
        assert mine.unaccounted == 32 * PAGE  # the shared memory
        kernel = Path(f"/proc/{child.pid}/smaps").read_text()
        fields = [x.split() for x in kernel.splitlines() if x.startswith("SwapPss:")]
        assert sum(int(f[1]) for f in fields) * 1024 == 27 * PAGE
