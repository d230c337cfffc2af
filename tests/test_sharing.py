"""Sharing: hand-computed cases, and random machines against dictionaries of Python sets."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemap_df import sharing
from pagemap_df.errors import NotAvailable, ProcessGone, TableError
from tests.handmade import PAGE, address, snapshot

FAMILY = {
    10: ["heap rw-p a1 a2 a3 z s5", "lib r-xp f20 f21+", "shm rw-s m30"],
    11: ["heap rw-p a1 a2 a4 - s5", "lib r-xp f20", "shm rw-s m30"],
    12: ["heap rw-p a9 k50 k50 g", "lib r-xp f20"],
}


def pages(table, *columns):
    """Columns in pages, None for null."""
    return [
        [
            None if v is None else v / PAGE
            for v in table[c].astype(object).where(table[c].notna(), None)
        ]
        for c in columns
    ]


def by_pid(table):
    return table.set_index("pid")


def test_a_familys_figures_are_what_one_counts_by_hand():
    table = by_pid(sharing.processes(snapshot(FAMILY)))
    assert pages(table, "rss", "uss", "shared", "anon", "file", "shmem", "swap", "zero") == [
        [6, 5, 4],
        [1, 1, 1],
        [5, 4, 3],
        [3, 3, 3],
        [2, 1, 1],
        [1, 1, 0],
        [1, 1, 0],
        [1, 0, 0],
    ]
    # a1, a2 halves, a3 whole, f20 a third, f21 half, m30 half; in 4096ths of a byte
    assert table.pss[10] == (16777216 + 4 * 8388608 + 5592405) // 4096
    assert table.ksm[12] == 2 * PAGE
    assert table.pss[12] == (16777216 + 2 * 8388608 + 5592405) // 4096


def test_vmas_are_cut_to_bytes_one_by_one_and_processes_once():
    """Three sharers: a third of a page is cut, so three thirds in three VMAs are less."""
    snap = snapshot({7: ["x rw-p f1++", "y rw-p f2++", "z rw-p f3++"]})
    assert sharing.vmas(snap).pss.tolist() == [1365, 1365, 1365]
    assert sharing.processes(snap).pss.tolist() == [3 * 5592405 // 4096]


def test_null_is_not_zero_without_map_counts():
    table = by_pid(sharing.processes(snapshot(FAMILY, join=("flags",))))
    assert table.pss.isna().all()
    assert pages(table, "uss")[0] == [1, 1, 1]
    assert table.anonhugepages.isna().all()
    assert "exclusive bit" in sharing.processes(snapshot(FAMILY, join=())).attrs["accuracy"]["pss"]


def test_with_all_processes_entries_can_be_counted_instead():
    whole = {10: ["heap rw-p a1 a2"], 11: ["heap rw-p a1 f3 f3"]}
    known = sharing.processes(snapshot(whole))
    counted = sharing.processes(snapshot(whole, join=("flags", "huge"), facts={"complete": True}))
    assert counted.pss.tolist() == known.pss.tolist()
    assert counted.uss.tolist() == known.uss.tolist()
    assert sharing.processes(snapshot(whole, join=())).pss.isna().all()


def test_reference_counts_of_old_kernels_are_not_taken_for_map_counts():
    old = snapshot({7: ["heap rw-p a1+ a2"]}, facts={"release": "2.6.25"})
    assert sharing.processes(old).pss.isna().all()
    averaging = snapshot({7: ["heap rw-p a1"]}, facts={"mapcount": "average"})
    assert "averages" in sharing.processes(averaging).attrs["accuracy"]["pss"]


def test_swap_pss_is_known_only_if_everyone_is_there():
    some = {10: ["heap rw-p s1 s2"], 11: ["heap rw-p s1"]}
    assert sharing.processes(snapshot(some)).swappss.isna().all()
    everyone = sharing.processes(snapshot(some), complete=True)
    assert pages(everyone, "swappss") == [[1.5, 0.5]]


def test_flags_tell_ksm_and_lazyfree_and_without_them_nobody_does():
    snap = {7: ["heap rw-p a1 l2 k3 k3"]}
    table = sharing.vmas(snapshot(snap))
    assert pages(table, "ksm", "lazyfree", "anon") == [[2], [1], [4]]
    blind = sharing.vmas(snapshot(snap, join=("mapcount",)))
    assert blind.ksm.isna().all()
    assert blind.lazyfree.isna().all()
    assert pages(blind, "anon", "rss") == [[4], [4]]


def test_hugetlb_stays_outside_of_rss_and_pss():
    table = sharing.vmas(snapshot({7: ["tlb rw-p h1 h2+"], 8: ["heap rw-p h3"]}))
    assert pages(table, "rss", "pss", "private_hugetlb", "shared_hugetlb") == [
        [0, 0],
        [0, 0],
        [1, 1],
        [1, 0],
    ]


def test_pmd_mapped_pages_are_anon_huge_pages_and_others_are_not():
    table = sharing.vmas(snapshot({7: ["heap rw-p a1! a2!", "shm rw-s m3!", "lib r-xp f4! f5"]}))
    assert pages(table, "anonhugepages", "shmempmdmapped", "filepmdmapped") == [
        [2, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
    ]


def test_a_process_without_mappings_has_no_figures():
    table = by_pid(sharing.processes(snapshot({2: [], 7: ["heap rw-p a1"]})))
    assert table.loc[2, ["vss", "rss", "pss", "swap"]].isna().all()
    assert table.rss[7] == PAGE


def test_a_group_is_a_union_and_never_counts_twice():
    (row,) = sharing.groups(snapshot(FAMILY)).to_dict("records")
    assert row["group"] == "all"
    assert [row[c] / PAGE for c in ("mapped", "union", "inside", "outside", "alone", "swap")] == [
        15,
        9,  # a1 a2 a3 a4 f20 f21 m30 a9 k50
        4,  # a1 a2 f20 m30
        1,  # f21
        8,
        1,
    ]


def test_groups_share_with_each_other_as_outsiders():
    groups = sharing.groups(snapshot(FAMILY), by={10: "old", 11: "old", 12: "new"})
    groups = groups.set_index("group")
    assert groups.processes.to_dict() == {"old": 2, "new": 1}
    assert (groups.union / PAGE).to_dict() == {"old": 7, "new": 3}
    assert (groups.inside / PAGE).to_dict() == {"old": 4, "new": 0}
    assert (groups.outside / PAGE).to_dict() == {"old": 2, "new": 1}


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("name", {"web": 2, "db": 1}),
        ("uid", {"0": 1, "33": 2}),
        ("tree", {"10 web": 2, "12 db": 1}),
        (re.compile("w.b"), {"web": 2}),
        (re.compile("(w|d)[eb]"), {"w": 2, "d": 1}),
        ({11: "mine"}, {"mine": 1}),
    ],
)
def test_groups_are_made_by_column_tree_pattern_or_hand(by, expected):
    who = {
        10: {"name": "web", "cmdline": "web -x", "ppid": 1, "uid": 33},
        11: {"name": "web", "cmdline": "web -y", "ppid": 10, "uid": 33},
        12: {"name": "db", "cmdline": None, "ppid": 1},
    }
    groups = sharing.groups(snapshot(FAMILY, who=who), by=by)
    assert dict(zip(groups.group, groups.processes, strict=True)) == expected


def test_a_group_by_no_column_or_of_nobody_is_an_error():
    with pytest.raises(TableError, match=r"there are pid.*cgroup.*tree"):
        sharing.groups(snapshot(FAMILY), by="colour")
    with pytest.raises(TableError, match="no process belongs"):
        sharing.groups(snapshot(FAMILY), by=re.compile("nginx"))


def test_one_address_space_is_counted_once():
    twins = {10: ["heap rw-p a1 a2"], 11: ["heap rw-p a1 a2"], 12: ["heap rw-p a1"]}
    snap = snapshot(twins, mm={11: 10})
    table = by_pid(sharing.processes(snap))
    assert table.mm.to_dict() == {10: 10, 11: 10, 12: 12}
    assert table.pss[10] == table.pss[11] == PAGE + PAGE // 2
    assert sharing.groups(snap)[["union", "mapped", "pss"]].iloc[0].tolist() == [
        2 * PAGE,
        3 * PAGE,
        2 * PAGE,
    ]
    assert {tuple(pids) for pids in sharing.sets(snap).pids} == {(10, 12), (10,)}
    assert sharing.groups(snap, by={11: "x"}).union[0] == 2 * PAGE
    assert sharing.cost(snap, 11).frees[0] == 0
    counted = sharing.processes(snapshot(twins, mm={11: 10}, join=("flags",)), complete=True)
    assert counted.pss.tolist() == table.pss.tolist()


def test_sets_name_exactly_who_holds_what():
    table = sharing.sets(snapshot(FAMILY))
    found = {tuple(row.pids): (row.frames, row.outside // PAGE) for row in table.itertuples()}
    assert found == {
        (10, 11): (3, 0),
        (10, 11, 12): (1, 0),
        (10,): (2, 1),
        (11,): (1, 0),
        (12,): (2, 0),
    }
    slots = sharing.sets(snapshot(FAMILY), of="slots")
    assert [(list(row.pids), row.slots) for row in slots.itertuples()] == [([10, 11], 1)]


def test_the_matrix_is_what_two_hold_together():
    table = sharing.matrix(snapshot(FAMILY)) // PAGE
    assert table.to_numpy().tolist() == [[6, 4, 1], [4, 5, 1], [1, 1, 3]]
    assert table.index.tolist() == table.columns.tolist() == [10, 11, 12]


def test_every_mechanism_of_sharing_is_told_apart():
    lines = [
        "heap rw-p a1 a2 z",
        "lib r-xp f3",
        "shm rw-s m4",
        "x rw-p k5",
        "tlb rw-s h6",
        "vdso r-xp f7",
    ]
    table = sharing.mechanisms(snapshot({1: lines, 2: lines[:1] + lines[1:]}))
    mine = table[table.pid == 1].set_index("mechanism")
    assert (mine.mapped / PAGE).to_dict() == {
        "page cache": 1,
        "shared memory": 1,
        "fork": 2,
        "KSM": 1,
        "zero page": 1,
        "vDSO": 1,
        "hugetlb": 1,
    }
    with pytest.raises(NotAvailable, match="join=\\['flags'\\]"):
        sharing.mechanisms(snapshot(FAMILY, join=()))


def test_cost_is_what_only_this_process_maps():
    snap = snapshot({7: ["heap rw-p a1 a2+ k3 k3 s4", "lib r--p f5 f6+", "shm rw-s m7"], 8: []})
    row = sharing.cost(snap, 7, complete=True).iloc[0] // PAGE
    assert row[["frees", "leaves", "keeps", "frees_swap"]].tolist() == [2, 2, 2, 1]
    assert row.fork_may_add == 5  # a1 a2 k3 k3 and the one in swap
    assert sharing.cost(snap, 7).frees_swap.isna().all()
    assert sharing.cost(snap, 8).frees_swap.tolist() == [0]
    with pytest.raises(ProcessGone, match="no process 99"):
        sharing.cost(snap, 99)


def test_hidden_frames_say_why_instead_of_nothing():
    snap = snapshot({7: ["heap rw-p a1"]}, hidden=True)
    for ask in (sharing.sets, sharing.matrix, sharing.groups, lambda s: sharing.cost(s, 7)):
        with pytest.raises(NotAvailable, match=r"not root.*CAP_SYS_ADMIN"):
            ask(snap)


def test_empty_snapshots_give_empty_tables():
    empty = snapshot({})
    assert (
        len(sharing.processes(empty)) == len(sharing.vmas(empty)) == len(sharing.sets(empty)) == 0
    )
    assert sharing.matrix(empty).shape == (0, 0)
    assert len(sharing.mechanisms(empty)) == 0
    some = snapshot({7: ["heap rw-p - -"]})
    assert sharing.groups(some).union.tolist() == [0]
    dtypes = [list(map(str, sharing.processes(s).dtypes)) for s in (some, snapshot(FAMILY))]
    assert dtypes[0] == dtypes[1]


def test_pages_in_any_order_give_the_same_and_twice_the_same_page_is_refused():
    snap, shuffled = snapshot(FAMILY), snapshot(FAMILY)
    table = shuffled._tables["pages"]
    shuffled._tables["pages"] = table.take(list(range(len(table)))[::-1])
    assert sharing.processes(snap).equals(sharing.processes(shuffled))
    shuffled._tables["pages"] = table.take([0, 0])
    with pytest.raises(TableError, match="vaddr occurs twice"):
        sharing.processes(shuffled)


BEFORE = {
    10: ["heap rw-p a1 a2 a3 a4 a5 a6 a7", "lib r-xp f20"],
    11: ["heap rw-p a1 a2 a3 a4 a5 a6 a7"],
}
AFTER = {10: ["heap rw-p a1 a2 a33 a44 s5 - a8"], 11: ["heap rw-p a1 a22 a3 a45 a5 a6 a8"]}
FATES = ["shared", "by_child", "by_parent", "by_both", "swapped", "freed_by_parent", "shared"]


def test_lost_sharing_is_told_by_who_wrote():
    table = sharing.lost(snapshot(BEFORE), snapshot(AFTER), parent=10, child=11, per="page")
    assert table.state.tolist() == FATES
    assert table.vaddr.tolist() == [address(0, n) for n in range(7)]
    (row,) = sharing.lost(snapshot(BEFORE), snapshot(AFTER), parent=10, child=11).to_dict("records")
    assert row["path"] == "[heap]"
    assert row["lost"] == 3 * PAGE
    assert row["shared"] == 2 * PAGE


def test_lost_from_just_before_the_fork_follows_anonymous_pages():
    before = snapshot({10: BEFORE[10]})
    table = sharing.lost(before, snapshot(AFTER), parent=10, child=11, per="page")
    assert table.state.tolist() == FATES


def test_lost_with_one_snapshot_does_not_say_who():
    table = sharing.lost(snapshot(AFTER), parent=10, child=11, per="page")
    assert table.state.tolist() == [
        "shared",
        "unshared",
        "unshared",
        "unshared",
        "swapped",
        "shared",
    ]


def test_a_child_that_is_gone_has_freed_everything():
    after = snapshot({10: BEFORE[10]})
    (row,) = sharing.lost(snapshot(BEFORE), after, parent=10, child=11).to_dict("records")
    assert row["freed_by_child"] == 7 * PAGE
    reused = snapshot(BEFORE, who={11: {"start_time": 12345}})
    (row,) = sharing.lost(snapshot(BEFORE), reused, parent=10, child=11).to_dict("records")
    assert row["freed_by_child"] == 7 * PAGE


def test_lost_between_two_machines_is_refused():
    with pytest.raises(TableError, match="boot_id"):
        sharing.lost(snapshot(BEFORE), snapshot(AFTER, facts={"boot_id": "c"}), parent=10, child=11)
    with pytest.raises(ProcessGone):
        sharing.lost(snapshot(BEFORE), snapshot(AFTER), parent=10, child=99)


page = st.one_of(
    st.tuples(st.sampled_from("afmk"), st.integers(1, 12)).map(
        lambda p: f"{p[0]}{p[1] * 4 + 'afmk'.index(p[0])}"
    ),
    st.sampled_from(["-", "z", "g", "s1", "s2"]),
)
mapping = st.lists(page, min_size=1, max_size=6).map(lambda words: "heap rw-p " + " ".join(words))
machines = st.dictionaries(st.integers(3, 9), st.lists(mapping, max_size=3), max_size=5)


def frames_of(lines):
    return [word for line in lines for word in line.split()[2:] if word[0] in "afmk"]


@settings(max_examples=60)
@given(machines)
def test_random_machines_agree_with_sets_of_frames(machine):
    snap = snapshot(machine)
    held = {pid: frames_of(lines) for pid, lines in machine.items()}
    everyone = [word for words in held.values() for word in words]
    table = by_pid(sharing.processes(snap, complete=True))
    for pid, words in held.items():
        if not machine[pid]:
            continue
        share = sum(PAGE * 4096 // everyone.count(w) for w in words)
        assert table.rss[pid] == len(words) * PAGE
        assert table.pss[pid] == share // 4096
        assert table.uss[pid] == sum(everyone.count(w) == 1 for w in words) * PAGE
    exact = {}
    for word in set(everyone):
        who = tuple(sorted(pid for pid, words in held.items() if word in words))
        exact[who] = exact.get(who, 0) + 1
    found = sharing.sets(snap)
    assert {tuple(row.pids): row.frames for row in found.itertuples()} == exact
    matrix = sharing.matrix(snap)
    for a in matrix.index:
        for b in matrix.index:
            assert matrix.loc[a, b] == len(set(held[a]) & set(held[b])) * PAGE
    if machine:
        row = sharing.groups(snap).iloc[0]
        assert row["union"] == len(set(everyone)) * PAGE
        assert row["mapped"] == len(everyone) * PAGE
        assert row["inside"] == sum(n for who, n in exact.items() if len(who) > 1) * PAGE
        assert row["outside"] == 0
