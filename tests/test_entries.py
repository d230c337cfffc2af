"""Words of every era taken apart and put together, against the layouts written out by hand."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemap_df import bits, entries
from pagemap_df.entries import (
    FLAGS,
    KINDS,
    Fields,
    Meaning,
    impossible,
    kinds,
    layout,
    pack,
    unpack,
)
from tests import words as made

SPECIALS = {28: "migration", 29: "migration", 30: "migration", 31: "marker"}
HERE = Meaning(SPECIALS, zero_pfns=(0x3B32,), huge_zero_pfn=0x39D800)
OLD = Meaning({30: "migration", 31: "migration"})

ABSENT, P, S = "absent", "present", "swap"


def array(*words):
    return np.array(words, np.uint64)


def kind(word, era, meaning=HERE, shift=12):
    return KINDS[kinds(unpack(array(word), layout(era, shift)), meaning)[0]]


# era, page shift, word, kind, frame, flags that are set
VECTORS = [
    ("E0", 12, 0x0000000000000000, P, 0, ""),
    ("E0", 12, 0x0000000000012345, P, 0x12345, ""),
    ("E0", 12, 0xE000000000000000, ABSENT, 0, ""),
    ("E0", 12, 0xE000000000000021, S, (1, 1), ""),
    ("E0", 12, 0xE000000000000020, S, (0, 1), ""),
    ("E0", 12, 0xE00000000002469E, "migration", (30, 0x1234), ""),
    ("E1", 12, 0x2000000000000000, ABSENT, 0, ""),
    ("E1", 12, 0x4000000000000020, S, (0, 1), ""),
    ("E2", 12, 0x0600000000000000, ABSENT, 0, ""),
    ("E2", 12, 0x0000000000000000, ABSENT, 0, ""),
    ("E2", 12, 0x8600000000012345, P, 0x12345, ""),
    ("E2", 16, 0x8800000000012345, P, 0x12345, ""),
    ("E2", 12, 0x4600000000000020, S, (0, 1), ""),
    ("E3", 12, 0xA600000000012345, P, 0x12345, "file"),
    ("E4v1", 12, 0xA600000000012345, P, 0x12345, "file"),
    ("E4v2", 12, 0x8080000000012345, P, 0x12345, "soft_dirty"),
    ("E4v2", 12, 0x0080000000000000, ABSENT, 0, "soft_dirty"),
    ("E5", 12, 0x81000000001EC6CE, P, 0x1EC6CE, "exclusive"),
    ("E7", 12, 0x81000000001EC6CE, P, 0x1EC6CE, "exclusive"),
    ("E5", 12, 0x80000000001EC6CE, P, 0x1EC6CE, ""),
    ("E5", 12, 0xA10000000031FCDC, P, 0x31FCDC, "file exclusive"),
    ("E5", 12, 0x8000000000003B32, "zero", 0x3B32, ""),
    ("E6", 12, 0xA00000000039D800, "huge_zero", 0x39D800, "file"),
    ("E6", 12, 0x8300000000427F54, P, 0x427F54, "exclusive uffd_wp"),
    ("E6", 12, 0x420000000000003F, "marker_uffd", (31, 1), "uffd_wp"),
    ("E6", 12, 0x4000000000000C40, S, (0, 0x62), ""),
    ("E6", 12, 0x40000000000005C1, S, (1, 0x2E), ""),
    ("E7", 12, 0x440000000000009F, "marker_guard", (31, 4), "guard"),
    ("E7", 12, 0x8000000000000000, P, 0, ""),
    ("E7", 12, 0x4000000000000000, S, 0, ""),
    ("E7", 12, 0x4400000000000000, "marker_guard", 0, "guard"),
]


@pytest.mark.parametrize(("era", "shift", "word", "expected", "frame", "flags"), VECTORS)
def test_known_word(era, shift, word, expected, frame, flags):
    found = unpack(array(word), layout(era, shift))
    meaning = OLD if era < "E5" else HERE
    assert KINDS[kinds(found, meaning)[0]] == expected
    if isinstance(frame, tuple):
        slot = found.frame[0]
        assert (entries.swap_type(slot), entries.swap_offset(slot)) == frame
    else:
        assert found.frame[0] == frame
    shown = {name for name in FLAGS if (bits := getattr(found, name)) is not None and bits[0]}
    assert shown == set(flags.split())
    assert not impossible(array(word), layout(era, shift))[0]


@pytest.mark.parametrize(
    ("word", "right", "wrong"),
    [
        (0x8600000000012345, "E2", "E7"),
        (0x0600000000000000, "E2", "E7"),
        (0xE000000000000021, "E0", "E5"),
        (0x0000000000012345, "E0", "E5"),
    ],
)
def test_word_read_under_the_wrong_era_is_impossible_there(word, right, wrong):
    assert not impossible(array(word), layout(right))[0]
    assert impossible(array(word), layout(wrong))[0]


# -- both ways --------------------------------------------------------------------------


eras_and_shifts = st.tuples(st.sampled_from(made.ERAS), st.integers(12, 16))


@given(st.data(), eras_and_shifts)
def test_pack_undoes_unpack(data, how):
    words = data.draw(made.captures(*how, max_size=20))
    assert not impossible(words, layout(*how)).any()
    np.testing.assert_array_equal(pack(unpack(words, layout(*how)), layout(*how)), words)


@given(st.data(), eras_and_shifts)
def test_unpack_undoes_pack(data, how):
    era, _ = how
    n = data.draw(st.integers(0, 12))
    state = np.array(data.draw(st.lists(st.sampled_from("PSA"), min_size=n, max_size=n)))
    frame = np.array(data.draw(st.lists(made.frames, min_size=n, max_size=n)), np.int64)
    some = st.lists(st.booleans(), min_size=n, max_size=n)
    flags = {made.NAMES[letter]: np.array(data.draw(some), np.bool_) for letter in made.HAS[era]}
    given_ = Fields(state == "P", state == "S", np.where(state == "A", 0, frame), **flags)
    back = unpack(pack(given_, layout(*how)), layout(*how))
    for f in fields(Fields):
        left, right = getattr(given_, f.name), getattr(back, f.name)
        assert (left is None) == (right is None), f.name
        if left is not None:
            np.testing.assert_array_equal(left, right, err_msg=f.name)


@given(st.data(), eras_and_shifts)
def test_unpack_says_what_a_word_by_word_reading_says(data, how):
    words = data.draw(made.captures(*how, max_size=20))
    found = unpack(words, layout(*how))
    for i, word in enumerate(words.tolist()):
        slow = made.naive(word, how[0])
        assert (found.present[i], found.entry[i], found.frame[i]) == slow[:3]
        for name, value in slow.flags.items():
            bits = getattr(found, name)
            assert value is None if bits is None else bits[i] == value


@given(st.data(), eras_and_shifts)
def test_unpacking_in_place_gives_the_same(data, how):
    words = data.draw(made.captures(*how, max_size=20))
    apart = unpack(words.copy(), layout(*how))
    spent = words.copy()
    inside = unpack(spent, layout(*how), spent)
    assert np.shares_memory(inside.frame, spent) or not len(words)
    for f in fields(Fields):
        left, right = getattr(apart, f.name), getattr(inside, f.name)
        if left is None:
            assert right is None
        else:
            np.testing.assert_array_equal(left, right)


def test_unpack_leaves_its_input_alone_unless_told():
    words = array(0x81000000001EC6CE, 0xE000000000000021)
    for era in ("E0", "E7"):
        unpack(words, layout(era))
    assert words.tolist() == [0x81000000001EC6CE, 0xE000000000000021]


def test_plain_zero_of_early_kernels_is_packed_as_the_absent_word():
    for era in made.SHIFTED:
        assert pack(unpack(array(0), layout(era)), layout(era))[0] == layout(era).absent


def test_a_flag_that_an_era_lacks_is_dropped():
    one = Fields(np.array([True]), np.array([False]), np.array([7]), guard=np.array([True]))
    assert pack(one, layout("E6"))[0] == 1 << 63 | 7


# -- impossible words -------------------------------------------------------------------


@pytest.mark.parametrize("era", made.ERAS[2:])
@pytest.mark.parametrize(
    "word",
    [3 << 62 | 9, 1 << 61, 9, 1 << 63 | 1 << 60 | 1 << 59 | 1 << 55 | 9],
    ids=["present and entry", "file on empty", "frame on empty", "reserved bits"],
)
def test_words_that_no_kernel_writes(era, word):
    stamp = layout(era).stamp
    assert impossible(array(word | stamp), layout(era))[0]


def test_guard_belongs_to_entries_alone():
    words = array(1 << 63 | 1 << 58, 1 << 58, 1 << 62 | 1 << 58)
    assert impossible(words, layout("E7")).tolist() == [True, True, False]


@pytest.mark.parametrize(("era", "letter"), [("E2", "F"), ("E4v2", "X"), ("E5", "U"), ("E6", "G")])
def test_a_flag_before_its_time_is_impossible(era, letter):
    word = 1 << 62 | 1 << made.AT[letter] | layout(era).stamp | 9
    assert impossible(array(word), layout(era))[0]


def test_another_page_shift_is_impossible():
    assert impossible(array(0x8800000000012345), layout("E2", 12))[0]
    assert impossible(array(0x2000000000000001), layout("E1"))[0]


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=20), eras_and_shifts)
def test_what_is_not_impossible_comes_back_word_for_word(words, how):
    words = np.array(words, np.uint64)
    fine = words[~impossible(words, layout(*how)) & (words != 0)]
    np.testing.assert_array_equal(pack(unpack(fine, layout(*how)), layout(*how)), fine)


# -- kinds ------------------------------------------------------------------------------


def entry(swap_type, offset, flags=0):
    return 1 << 62 | flags | offset << 5 | swap_type


FULL = Meaning(
    {24: "hwpoison", 25: "migration", 28: "device", 30: "unknown_special", 31: "marker"},
    zero_pfns=(100, 200),
    huge_zero_pfn=0x400,
    huge_zero_frames=4,
)
U, G = 1 << 57, 1 << 58


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (0, "absent"),
        (1 << 55, "absent"),
        (1 << 63 | 99, "present"),
        (1 << 63 | 100, "zero"),
        (1 << 63 | 200, "zero"),
        (5 << 61 | 0x400, "huge_zero"),
        (5 << 61 | 0x403, "huge_zero"),
        (5 << 61 | 0x404, "present"),
        (5 << 61 | 0x3FF, "present"),
        (entry(0, 1), "swap"),
        (entry(23, 1), "swap"),
        (entry(24, 77), "hwpoison"),
        (entry(25, 77), "migration"),
        (entry(28, 77), "device"),
        (entry(30, 77), "unknown_special"),
        (entry(31, 1, U), "marker_uffd"),
        (entry(31, 2), "marker_poison"),
        (entry(31, 4, G), "marker_guard"),
        (entry(31, 5, G), "marker_guard"),
        (entry(31, 8), "unknown_special"),
        (entry(0, 9, U), "swap"),
        (U, "marker_uffd"),
        (1 << 62 | U, "unknown_special"),
        (1 << 62 | G, "marker_guard"),
        (1 << 62, "swap"),
        (1 << 63, "present"),
    ],
)
def test_kind(word, expected):
    assert kind(word, "E7", FULL) == expected


def test_every_kind_is_reached():
    words = [0, 1 << 63 | 9, 1 << 63 | 100, 1 << 63 | 0x400, entry(0, 1), entry(24, 1)]
    words += [entry(25, 1), entry(28, 1), entry(30, 1), *(entry(31, bit) for bit in (1, 2, 4))]
    codes = kinds(unpack(array(*words), layout("E7")), FULL)
    assert {KINDS[code] for code in codes} == set(KINDS)


def test_an_exclusive_page_is_never_a_zero_page():
    """Zero pages have no map count; the frame of a page that has one is a coincidence."""
    assert kind(1 << 63 | 1 << 56 | 99, "E7", Meaning(zero_pfns=(99,))) == "present"
    mixed = array(1 << 63 | 1 << 56 | 99, 1 << 63 | 99)
    for meaning, name in (
        (Meaning(zero_pfns=(99,)), "zero"),
        (Meaning(huge_zero_pfn=99), "huge_zero"),
    ):
        codes = kinds(unpack(mixed, layout("E7")), meaning)
        assert [KINDS[code] for code in codes] == ["present", name]


def test_type_31_is_a_swap_area_where_nothing_is_special():
    assert kind(entry(31, 4), "E3", Meaning()) == "swap"


@given(st.data(), st.sampled_from(made.ERAS))
def test_kind_of_a_word_does_not_depend_on_its_neighbours(data, era):
    words = data.draw(made.captures(era, max_size=12))
    together = kinds(unpack(words, layout(era)), HERE)
    alone = [kinds(unpack(words[i : i + 1], layout(era)), HERE)[0] for i in range(len(words))]
    assert together.tolist() == alone


def test_no_words_have_no_kinds():
    for era in made.ERAS:
        assert kinds(unpack(array(), layout(era))).tolist() == []


# -- masks and helpers ------------------------------------------------------------------


def test_masks_are_disjoint_and_single_bits():
    masks = [entries.PRESENT, entries.ENTRY, *FLAGS.values()]
    assert all(mask.bit_count() == 1 for mask in masks)
    assert sum(masks) | entries.FRAME == sum(masks) + entries.FRAME
    assert len(set(masks)) == len(masks)
    assert entries.FRAME == 2**55 - 1
    assert entries.SHIFT_FIELD & (entries.FRAME | entries.PRESENT | entries.ENTRY) == 0


@pytest.mark.parametrize(
    ("shift", "bits"),
    [(12, {57, 58}), (13, {55, 57, 58}), (14, {56, 57, 58}), (15, {55, 56, 57, 58}), (16, {59})],
)
def test_page_shift_stands_in_bits_55_to_60(shift, bits):
    assert layout("E3", shift).stamp == sum(1 << bit for bit in bits)
    assert layout("E3", shift).shifted
    assert not layout("E7", shift).shifted


@given(st.integers(0, 31), st.integers(0, (1 << 50) - 1))
def test_swap_frame_and_its_parts(number, offset):
    frame = entries.swap_frame(number, offset)
    assert (entries.swap_type(frame), entries.swap_offset(frame)) == (number, offset)


@given(st.lists(st.integers(0, (1 << 64) - 1)))
def test_top_byte(words):
    assert bits.top_byte(np.array(words, np.uint64)).tolist() == [w >> 56 for w in words]


@pytest.mark.parametrize(("era", "shift"), [("E8", 12), ("", 12), ("E7", 7), ("E7", 31)])
def test_layouts_that_never_were(era, shift):
    with pytest.raises(ValueError, match=r"era is one of|page_shift"):
        layout(era, shift)


def test_some_of_the_fields():
    words = array(1 << 63 | 5, 1 << 63 | 6, 1 << 62 | 7 << 5)
    found = unpack(words, layout("E7"))
    for index in (slice(1, 3), np.array([1, 2]), np.array([False, True, True])):
        some = found[index]
        assert some.frame.tolist() == [6, 7 << 5]
        assert some.present.tolist() == [True, False]
        assert some.guard.tolist() == [False, False]
    nothing = found[np.array([], np.int64)]
    assert len(nothing.frame) == len(nothing.present) == len(nothing.guard) == 0
