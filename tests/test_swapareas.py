"""Numbers of swap areas: against every numbering there could be, and against the kernel."""

import contextlib
import os
import struct
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemap_df.procstatus import SwapArea
from pagemap_df.source import probe
from pagemap_df.take import swapareas, take
from tests import living
from tests import words as made

PAGE = 4096


def areas_of(*sizes):
    return [SwapArea(b"/%d" % i, "file", size * PAGE, 0, -2) for i, size in enumerate(sizes)]


def numberings(areas, highest, grown):
    """All rising numberings that agree with what was seen, by trying each."""
    for numbers in combinations(range(swapareas.MAX_TYPES), len(areas)):
        line = dict(zip(numbers, areas, strict=True))
        if all(
            number in line and slot <= line[number].size // PAGE for number, slot in highest.items()
        ) and all(
            number not in line or line[number].path in paths for number, paths in grown.items()
        ):
            yield numbers


@settings(max_examples=120)
@given(st.data())
def test_a_line_is_certain_if_all_numberings_agree_on_it(data):
    few = 6
    old, swapareas.MAX_TYPES = swapareas.MAX_TYPES, few
    try:
        areas = areas_of(*data.draw(st.lists(st.integers(1, 5), max_size=4)))
        highest = data.draw(st.dictionaries(st.integers(0, few - 1), st.integers(1, 6), max_size=3))
        paths = st.frozensets(st.sampled_from([area.path for area in areas] or [b"/x"]), min_size=1)
        grown = data.draw(st.dictionaries(st.integers(0, few - 1), paths, max_size=2))
        found = swapareas.pin(areas, highest, PAGE, grown=grown)
        possible = list(numberings(areas, highest, grown))
    finally:
        swapareas.MAX_TYPES = old
    for line, pin in enumerate(found):
        numbers = {numbering[line] for numbering in possible}
        assert pin.swap_type == (numbers.pop() if len(numbers) == 1 else None)
        assert pin.evidence


@pytest.mark.parametrize(
    ("sizes", "highest", "expected"),
    [
        ((9,), {}, [None]),
        ((9,), {1: 3}, [1]),
        ((9, 9), {0: 3, 1: 3}, [0, 1]),
        ((9, 9), {1: 3}, [None, None]),
        ((9, 9), {0: 3}, [0, None]),
        ((9, 5), {1: 7}, [1, None]),
        ((5, 9), {1: 7}, [0, 1]),
        ((9, 9), {31: 7}, [None, 31]),
        ((9, 9, 9), {0: 1, 2: 1, 5: 1}, [0, 2, 5]),
        ((9, 9, 9), {0: 1, 2: 1}, [0, None, None]),
        ((5,), {1: 7}, [None]),
        ((9,), {0: 1, 1: 1}, [None]),
        ((), {}, []),
    ],
)
def test_what_was_seen_decides(sizes, highest, expected):
    found = swapareas.pin(areas_of(*sizes), highest, PAGE)
    assert [pin.swap_type for pin in found] == expected


def test_a_contradiction_is_said_to_be_one():
    (pin,) = swapareas.pin(areas_of(5), {1: 7}, PAGE)
    assert "fit no order of the areas" in pin.evidence


def test_pages_of_our_own_decide_what_the_others_left_open():
    a, b = areas_of(9, 9)
    open_ = swapareas.pin([a, b], {1: 3}, PAGE)
    assert [pin.swap_type for pin in open_] == [None, None]
    known = swapareas.pin([a, b], {1: 3}, PAGE, grown={1: frozenset({b.path})})
    assert [pin.swap_type for pin in known] == [0, 1]
    both = swapareas.pin([a, b], {1: 3}, PAGE, grown={1: frozenset({a.path, b.path})})
    assert [pin.swap_type for pin in both] == [None, None]


def test_what_was_recorded_wins():
    a, b = areas_of(9, 9)
    found = swapareas.pin([a, b], {}, PAGE, told={b.path: 4})
    assert [pin.swap_type for pin in found] == [None, 4]
    assert found[1].evidence == "recorded by the source"


@pytest.mark.kernel
def test_a_sample_goes_to_the_area_that_has_the_highest_priority():
    with living.swap_area(), living.swap_area(priority=100) as second:
        highest, grown = probe.swap_sample()
        assert len(highest) == 1
        ((number, slot),) = highest.items()
        assert grown[number] == {bytes(second)}
        assert slot >= 1
        pinned = take(name="no such process").swaps.set_index("path").swap_type
        assert pinned[str(second)] == number


def types_in(child, region):
    """Swap types of a region, by a road of its own."""
    with open(f"/proc/{child.pid}/pagemap", "rb", buffering=0) as pagemap:
        raw = os.pread(pagemap.fileno(), 8 * region.pages, region.start // PAGE * 8)
    slow = [made.naive(word, "E7") for (word,) in struct.iter_unpack("=Q", raw)]
    return {word.frame % 32 for word in slow if word.entry}


@pytest.mark.kernel
def test_a_number_is_right_after_the_first_area_has_gone():
    """One line is left, but its entries do not say 0; added again, the first is first again."""
    with living.spawn() as child, contextlib.ExitStack() as stack:
        heap = child.mmap_alone(32)
        child.write(heap)
        first = stack.enter_context(contextlib.ExitStack())
        first.enter_context(living.swap_area())
        second = str(stack.enter_context(living.swap_area()))
        first.close()
        living.page_out(child, heap)
        (number,) = types_in(child, heap)
        assert number > 0
        snap = take(pids=child.pid)
        row = snap.swaps.set_index("path").loc[second]
        assert row.swap_type == number
        assert "the only number that fits" in row.evidence
        mine = snap.pages[snap.pages.swapped]
        assert len(mine) == 32
        assert set(mine.swap_type) == {number}
        assert mine.swap_offset.min() >= 1
        third = str(stack.enter_context(living.swap_area()))
        lines = take(pids=child.pid).swaps.set_index("path").swap_type
        assert lines[second] == number
        assert lines.index.tolist().index(third) < lines.index.tolist().index(second)
        if number == 1:
            assert lines[third] == 0
