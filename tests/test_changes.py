"""Changes: every transition by hand, random pairs against dictionaries, live processes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemap_df import changes
from pagemap_df.errors import TableError
from pagemap_df.take import take
from tests import living
from tests.handmade import PAGE, address, snapshot

CASES = [
    ("-", "a1", "faulted_in"),
    ("z", "a1", "faulted_in"),
    ("a1", "-", "freed"),
    ("s1", "-", "freed"),
    ("a1", "g", "guard_placed"),
    ("-", "g", "guard_placed"),
    ("g", "-", "guard_removed"),
    ("g", "a1", "guard_removed"),
    ("a1", "s1", "swapped_out"),
    ("-", "s1", "swapped_out"),
    ("s1", "a1", "swapped_in"),
    ("-", "z", "zero_mapped"),
    ("z", "-", "zero_dropped"),
    ("a1", "k2", "merged"),
    ("a1", "k1", "merged"),
    ("a1", "z", "merged"),
    ("a1+", "a2", "unshared"),
    ("k1", "a2", "unshared"),
    ("f1", "a2", "unshared"),
    ("a1", "a2", "migrated"),
    ("a1+", "a2+", "migrated"),
    ("a1", "a1+", "shared"),
    ("a1+", "a1", "left_alone"),
    ("a1", "a2!", "huge_formed"),
    ("a1!", "a1", "huge_split"),
    ("s1", "s2", "other"),
]


def pair(before, after):
    return snapshot({7: [f"heap rw-p {before}"]}), snapshot({7: [f"heap rw-p {after}"]})


@pytest.mark.parametrize(("before", "after", "change"), CASES)
def test_each_change_has_its_name(before, after, change):
    (row,) = changes.pages(*pair(before, after)).to_dict("records")
    assert row["change"] == change
    assert (row["pid"], row["vaddr"], row["path"]) == (7, address(0), "[heap]")


@pytest.mark.parametrize("page", ["a1", "a1+", "k1", "f1", "m1", "s1", "z", "g", "a1!", "-"])
def test_a_page_that_stays_did_not_change(page):
    assert len(changes.pages(*pair(page, page))) == 0


def test_rows_say_where_a_page_was_and_is():
    (row,) = changes.pages(*pair("a5", "s9")).to_dict("records")
    assert (row["kind_before"], row["kind_after"], row["pfn_before"]) == ("present", "swap", 5)
    gone = changes.pages(snapshot({7: ["heap rw-p a5"]}), snapshot({7: []})).iloc[0]
    assert (gone.kind_after, gone.start, gone.path) == ("absent", address(0), "[heap]")
    assert changes.pages(*pair("a5", "s9")).pfn_after.isna().all()


def test_bytes_are_summed_by_process_and_by_vma():
    before = snapshot({7: ["heap rw-p a1 a2", "x rw-p s1"], 8: ["heap rw-p a3+"]})
    after = snapshot({7: ["heap rw-p a1 a9", "x rw-p a4"], 8: ["heap rw-p a5 a6"]})
    table = changes.processes(before, after).set_index("pid")
    moved = table[list(changes.CHANGES)] // PAGE
    assert {name: n for name, n in moved.loc[7].items() if n} == {"swapped_in": 1, "migrated": 1}
    assert {name: n for name, n in moved.loc[8].items() if n} == {"faulted_in": 1, "unshared": 1}
    assert (table[["rss_before", "rss_after", "swap_before"]] // PAGE).to_numpy().tolist() == [
        [2, 3, 1],
        [1, 2, 0],
    ]
    vmas = changes.vmas(before, after)
    assert vmas[["pid", "path"]].to_numpy().tolist() == [[7, "[heap]"], [7, "[x]"], [8, "[heap]"]]
    assert vmas[list(changes.CHANGES)].sum(axis=1).tolist() == [PAGE, PAGE, 2 * PAGE]


def test_a_pid_used_again_is_another_process():
    before = snapshot({7: ["heap rw-p a1"]})
    after = snapshot({7: ["heap rw-p a1"]}, who={7: {"start_time": 99}})
    assert sorted(changes.pages(before, after).change) == ["faulted_in", "freed"]


def test_processes_that_come_and_go_are_null_where_they_are_not():
    table = changes.processes(snapshot({7: ["heap rw-p a1"]}), snapshot({8: ["heap rw-p a2"]}))
    assert table.rss_after.isna().tolist() == [True, False]
    assert table.rss_before.isna().tolist() == [False, True]
    assert table[["freed", "faulted_in"]].to_numpy().tolist() == [[PAGE, 0], [0, PAGE]]


def test_a_timeline_is_one_step_after_the_other():
    moments = [snapshot({7: [f"heap rw-p {pages}"]}) for pages in ("a1", "a1 a2", "s1 a2")]
    table = changes.timeline(moments)
    assert table.step.tolist() == [0, 1]
    assert table.faulted_in.tolist() == [PAGE, 0]
    assert table.swapped_out.tolist() == [0, PAGE]
    with pytest.raises(TableError, match="two snapshots"):
        changes.timeline(moments[:1])


@pytest.mark.parametrize(
    ("fact", "value"), [("host", "there"), ("boot_id", "c"), ("page_size", 16384)]
)
def test_other_hosts_boots_and_page_sizes_are_refused(fact, value):
    one, other = snapshot({7: []}), snapshot({7: []}, facts={fact: value})
    with pytest.raises(TableError, match=f"cannot be compared: {fact}"):
        changes.pages(one, other)


def test_what_a_snapshot_cannot_show_is_said():
    one, other = pair("a1+ a2", "a3 a2")
    blind = snapshot({7: ["heap rw-p a3+ a2"]}, hidden=True, join=())
    assert len(changes.pages(one, blind)) == 0
    notes = changes.pages(one, blind).attrs["accuracy"]
    assert set(notes) == {"unshared", "migrated", "huge_formed", "huge_split", "merged"}
    assert changes.pages(one, other).attrs["accuracy"] == {}


words = st.lists(st.sampled_from(["-", "a1", "a2", "a3", "z", "g", "s1", "s2"]), max_size=6)
machines = st.dictionaries(st.integers(3, 6), words, max_size=3)


def laid(machine):
    lines = {pid: ["heap rw-p " + " ".join(line)] for pid, line in machine.items()}
    return snapshot(lines, join=("flags",))


def words_of(machine):
    return {(p, n): w for p, line in machine.items() for n, w in enumerate(line) if w != "-"}


@settings(max_examples=60)
@given(machines, machines)
def test_random_pairs_change_where_their_words_differ(before, after):
    old, new = words_of(before), words_of(after)
    table = changes.pages(laid(before), laid(after))
    moved = table[~table.change.isin(["shared", "left_alone"])]
    found = {(row.pid, (row.vaddr - address(0)) // PAGE) for row in moved.itertuples()}
    assert found == {key for key in old | new if old.get(key) != new.get(key)}
    total = changes.processes(laid(before), laid(after))[list(changes.CHANGES)].sum().sum()
    assert total == len(table) * PAGE


@pytest.mark.kernel
def test_live_pages_change_as_they_were_told_to():
    living.need_root()
    with living.thp(), living.swap_area(), living.spawn() as parent:
        heap, huge = parent.mmap_alone(64), parent.mmap_alone(512, align=512)
        parent.madvise(huge, living.HUGEPAGE)
        parent.write(huge[:1])
        parent.write(heap[:40])
        if not living.is_supported(parent, living.GUARD_INSTALL):
            pytest.skip("no guard regions before Linux 6.13")
        child = parent.fork()

        def look():
            return take(pids=[parent.pid, child.pid], join=["mapcount", "flags", "huge"])

        first = look()
        child.write(heap[:10])
        parent.madvise(heap[10:15], living.DONTNEED)
        parent.write(heap[40:50])
        parent.read(heap[50:52])
        parent.madvise(heap[60:], living.GUARD_INSTALL)
        parent.mprotect(huge[:256], living.R)
        living.page_out(child, heap[:5])
        table = changes.vmas(first, look())
        table = table[(table.start == heap.start) | table.start.between(huge.start, huge.end - 1)]
        table = table.groupby("pid")[list(changes.CHANGES)].sum() // PAGE
        mine, theirs = table.loc[parent.pid], table.loc[child.pid]
        assert {name: n for name, n in mine.items() if n} == {
            "guard_placed": 4,
            "zero_mapped": 2,
            "faulted_in": 10,
            "freed": 5,
            "huge_split": 512,
            "left_alone": 10,
        }
        assert {name: n for name, n in theirs.items() if n} == {
            "swapped_out": 5,
            "unshared": 5,
            "left_alone": 5,
        }
