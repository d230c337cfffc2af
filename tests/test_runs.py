"""Array algorithms against the plainest Python that says the same."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pagemap_df import runs

small = st.integers(0, 12)
keys = st.lists(st.one_of(small, st.integers(0, 2**62)), max_size=30)
holders = st.lists(st.lists(small, max_size=8), max_size=7)


def ints(values):
    return np.array(values, np.int64)


def laid_out(holders):
    """Rows of all holders, one after the other, and where each begins."""
    return ints([key for held in holders for key in held]), ints(np.cumsum([0, *map(len, holders)]))


@given(st.lists(small, max_size=20), st.data())
def test_range_sums_are_sums_of_slices(values, data):
    cuts = st.integers(0, len(values))
    ranges = [sorted(pair) for pair in data.draw(st.lists(st.tuples(cuts, cuts), max_size=5))]
    lo, hi = ints([a for a, _ in ranges]), ints([b for _, b in ranges])
    assert runs.range_sums(ints(values), lo, hi).tolist() == [sum(values[a:b]) for a, b in ranges]


@given(st.lists(st.tuples(small, small), max_size=6))
def test_concatenated_ranges_are_the_rows_of_each(pairs):
    ranges = [sorted(pair) for pair in pairs]
    lo, hi = ints([a for a, _ in ranges]), ints([b for _, b in ranges])
    assert runs.concatenated(lo, hi).tolist() == [n for a, b in ranges for n in range(a, b)]


@given(st.lists(st.tuples(small, small), max_size=30))
def test_runs_break_exactly_where_a_column_does_not_step(rows):
    a, b = ints([x for x, _ in rows]), ints([y for _, y in rows])
    lo, hi = runs.runs((a, 1), (b, 0))
    expected = []
    for n, row in enumerate(rows):
        if n and row == (rows[n - 1][0] + 1, rows[n - 1][1]):
            expected[-1][1] = n + 1
        else:
            expected.append([n, n + 1])
    assert np.stack([lo, hi], 1).tolist() == expected


@given(keys)
def test_codes_are_equal_exactly_where_keys_are(values):
    code, n, key = runs.codes(ints(values))
    assert all(0 <= c < n for c in code.tolist())
    back = code if key is None else key[code]
    assert back.tolist() == values


@given(holders)
def test_every_code_has_its_exact_set_of_holders(held):
    rows, at = laid_out(held)
    n = int(rows.max(initial=-1)) + 1
    found = runs.sets(rows, n, at)
    expected = [[h for h, some in enumerate(held) if key in some] for key in range(n)]
    assert [runs.members(found, int(s)) for s in found.of] == expected
    offsets, flat = runs.member_lists(found, found.of)
    assert [flat[a:b].tolist() for a, b in itertools.pairwise(offsets)] == expected


@given(holders)
def test_two_codes_have_one_set_exactly_if_the_same_hold_them(held):
    rows, at = laid_out(held)
    n = int(rows.max(initial=-1)) + 1
    of = runs.sets(rows, n, at).of.tolist()
    exact = [frozenset(h for h, some in enumerate(held) if key in some) for key in range(n)]
    assert all((of[a] == of[b]) == (exact[a] == exact[b]) for a in range(n) for b in range(n))


def test_many_sets_and_small_holders_take_the_sorting_road_to_the_same_sets():
    held = [[n, n + 1, 7] for n in range(300)]
    rows, at = laid_out(held)
    found = runs.sets(rows, 301, at)
    assert runs.members(found, int(found.of[7])) == list(range(300))
    assert runs.members(found, int(found.of[200])) == [199, 200]


@given(st.sets(small), st.sets(small))
def test_matched_is_the_intersection_with_rows(a, b):
    left, right = ints(sorted(a)), ints(sorted(b))
    i, j = runs.matched(left, right)
    assert left[i].tolist() == right[j].tolist() == sorted(a & b)
    assert left[runs.missing(len(left), i)].tolist() == sorted(a - b)


@given(st.lists(st.integers(0, 200), max_size=12).map(sorted))
def test_blocks_fill_free_ranges_as_a_buddy_allocator_would(edges):
    edges = sorted(set(edges))
    edges = edges[: len(edges) // 2 * 2]
    first, stop = edges[::2], edges[1::2]
    expected = [0] * 5
    for at, end in zip(first, stop, strict=True):
        while at < end:
            order = max(k for k in range(5) if at % (1 << k) == 0 and at + (1 << k) <= end)
            expected[order] += 1
            at += 1 << order
    assert runs.aligned_blocks(ints(first), ints(stop), 5).tolist() == expected


def test_nothing_in_nothing_out():
    none = ints([])
    assert runs.runs((none, 1))[0].tolist() == []
    assert runs.bounds(none)[1].tolist() == [0]
    assert runs.codes(none)[1] == 0
    assert runs.matched(none, ints([1]))[0].tolist() == []
    assert runs.member_lists(runs.sets(none, 0, ints([0])), np.zeros(0, np.int32))[1].tolist() == []
