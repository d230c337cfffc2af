"""One page's story: every kind in words and as a row, and none invented."""

import pytest

from pagemap_df import story
from pagemap_df.errors import ProcessGone
from pagemap_df.take import take
from tests import living
from tests.handmade import PAGE, address, area, snapshot

LINES = ["heap rw-p a1 a2+ k3 z - g s5 l9", "shm rw-s m6", "lib r-xp f7", "tlb rw-p h8!"]
OTHER = {8: ["heap rw-p a1 - k3 - - - s5"]}
SNAP = snapshot({7: LINES, **OTHER}, swaps=[area(0, 2)])


@pytest.mark.parametrize(
    ("mapping", "page", "words"),
    [
        (0, 0, ["page frame 0x1", "anonymous memory", "2 page table entries", "2048 bytes to PSS"]),
        (0, 1, ["page 2 of 8 in [heap], rw-p", "2 page table entries"]),
        (0, 2, ["KSM merged", "held by process 8"]),
        (0, 3, ["zero page", "takes no memory"]),
        (0, 4, ["Nothing is there"]),
        (0, 5, ["guard page"]),
        (0, 6, ["in slot 5 of /swap", "held by process 8"]),
        (0, 7, ["One page table entry maps it, so it adds 4096 bytes to PSS."]),
        (1, 0, ["shared memory"]),
        (2, 0, ["in the page cache"]),
        (3, 0, ["hugetlb page", "out of RSS and PSS", "huge page table entry"]),
    ],
)
def test_every_kind_of_page_has_its_words(mapping, page, words):
    told = str(story.page(SNAP, 7, address(mapping, page) + 123))
    assert told.startswith(f"{address(mapping, page):#x} of process 7 (p7) is page {page + 1} of")
    for word in words:
        assert word in told


def test_the_row_has_what_the_words_say():
    (row,) = story.page(SNAP, 7, address(0)).row.to_dict("records")
    assert (row["pid"], row["vaddr"], row["pfn"], row["mapcount"]) == (7, address(0), 1, 2)
    assert (list(row["holders"]), row["pss"], row["path"]) == ([7, 8], PAGE // 2, "[heap]")


def test_dtypes_do_not_depend_on_the_page():
    rows = [story.page(SNAP, 7, address(0, n)).row for n in range(8)]
    rows.append(story.page(SNAP, 7, 0).row)
    kinds = {tuple(map(str, row.dtypes)) for row in rows}
    assert len(kinds) == 1
    assert len({tuple(row.columns) for row in rows}) == 1


def test_an_address_in_no_mapping_is_an_answer():
    found = story.page(SNAP, 7, 4096 * 3 + 5)
    assert str(found) == "0x3000 lies in no mapping of process 7 (p7)."
    assert found.row[["start", "path", "pfn", "pss"]].isna().all(axis=None)


def test_a_process_that_is_not_there_is_an_error():
    with pytest.raises(ProcessGone, match="no process 99"):
        story.page(SNAP, 99, 0)


def test_hidden_and_unjoined_columns_are_said_to_be_so():
    hidden = snapshot({7: LINES}, hidden=True, join=())
    assert "not known: not root" in str(story.page(hidden, 7, address(0)))
    assert "hidden" in str(story.page(hidden, 7, address(0, 6)))
    bare = str(story.page(snapshot({7: LINES, **OTHER}, join=()), 7, address(0)))
    assert "Others may map it too." in bare
    assert "It is anonymous." in bare


def test_many_holders_are_not_all_listed():
    many = snapshot({pid: ["heap rw-p a1"] for pid in range(10, 25)})
    assert "processes 11, 12, 13, 14, 15, 16, 17, 18 and 6 more" in str(
        story.page(many, 10, address(0))
    )


@pytest.mark.kernel
def test_a_live_page_after_fork_and_write():
    living.need_root()
    with living.spawn() as parent:
        heap = parent.mmap(2)
        parent.write(heap)
        child = parent.fork()
        child.write(heap[:1])
        snap = take(pids=[parent.pid, child.pid], join=["mapcount", "flags"])
        alone, both = (str(story.page(snap, child.pid, heap.start + n * PAGE)) for n in (0, 1))
        assert "One page table entry maps it" in alone
        assert f"held by process {parent.pid}" in both
