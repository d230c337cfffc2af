"""Columns equal to a decoder that takes one word at a time, on every path through the code."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemap_df import columns, schema
from pagemap_df.columns import BLOCK, Ranges, Reading, Slab, block
from pagemap_df.entries import Meaning, layout
from tests import words as made

SPECIALS = {29: "hwpoison", 30: "migration", 31: "marker"}
MEANING = Meaning(SPECIALS, zero_pfns=(5, 9), huge_zero_pfn=0x400)
MARKERS = ((1, "marker_uffd"), (2, "marker_poison"), (4, "marker_guard"))
START = 0x7F0000000000


def kind_of(slow):
    """The kind of one word, by the words of the documentation."""
    number, offset = slow.frame % 32, slow.frame // 32
    if slow.present:
        if slow.flags["exclusive"]:  # a zero page has no map count
            return "present"
        if 0x400 <= slow.frame < 0x400 + 512:
            return "huge_zero"
        return "zero" if slow.frame in (5, 9) else "present"
    if not slow.entry:
        return "marker_uffd" if slow.flags["uffd_wp"] else "absent"
    if slow.frame == 0 and slow.flags["guard"]:
        return "marker_guard"
    if slow.frame == 0 and slow.flags["uffd_wp"]:
        return "unknown_special"
    if SPECIALS.get(number) == "marker":
        return ([kind for bit, kind in MARKERS if offset & bit] or ["unknown_special"])[-1]
    return SPECIALS.get(number, "swap")


def row_of(word, vaddr, vma, era, *, hidden, soft_dirty, raw):
    slow = made.naive(word, era)
    kind = kind_of(slow)
    slot = kind == "swap" and not hidden and slow.frame != 0
    row = {
        "pid": 7,
        "vaddr": vaddr,
        "kind": kind,
        "present": slow.present,
        "swapped": kind == "swap",
        "pfn": slow.frame if slow.present and not hidden else None,
        "swap_type": slow.frame % 32 if slot else None,
        "swap_offset": slow.frame // 32 if slot else None,
        "file": slow.flags["file"],
        "exclusive": slow.flags["exclusive"],
        "soft_dirty": slow.flags["soft_dirty"] if soft_dirty else None,
        "uffd_wp": slow.flags["uffd_wp"],
        "guard": slow.flags["guard"],
        "vma": vma,
    }
    if raw:
        row["word"] = word - (1 << 64) if word >> 63 else word
    return row


@st.composite
def situations(draw):
    """Words of one era, cut into ranges of some mappings, and a reading of them."""
    era, shift = draw(st.sampled_from(made.ERAS)), draw(st.sampled_from([12, 14, 16]))
    some = made.words(era, shift) | st.just(0)
    alike = st.builds(lambda word, n: [word] * n, made.words(era, shift), st.integers(1, 12))
    listed = draw(st.one_of(st.lists(some, max_size=24), alike))
    cuts = sorted(draw(st.sets(st.integers(0, len(listed)), max_size=4)) | {0, len(listed)})
    counts = np.diff(cuts).astype(np.int64) if len(listed) else np.array([0])
    gaps = draw(st.lists(st.integers(0, 1 << 30), min_size=len(counts), max_size=len(counts)))
    page = 1 << shift
    start = START + page * np.cumsum(np.array(gaps, np.int64) + np.append(0, counts[:-1]))
    ranges = Ranges(start, counts, np.arange(3, 3 + len(counts), dtype=np.int32))
    options = {name: draw(st.booleans()) for name in ("hidden", "soft_dirty", "holes", "raw")}
    return era, shift, np.array(listed, np.uint64), ranges, options


@settings(max_examples=400)
@given(situations(), st.booleans())
def test_block_says_what_a_word_by_word_reading_says(situation, own_slab):
    era, shift, words, ranges, options = situation
    reading = Reading(layout(era, shift), MEANING, **options)
    slab = Slab() if own_slab else None
    batch = block(words, ranges, 7, reading, slab)
    batch.validate(full=True)
    assert batch.schema.equals(reading.schema, check_metadata=True)
    seen = {name: options[name] for name in ("hidden", "soft_dirty", "raw")}
    places = [
        (start + i * reading.page_size, vma)
        for start, count, vma in zip(
            ranges.start.tolist(), ranges.count.tolist(), ranges.vma.tolist(), strict=True
        )
        for i in range(count)
    ]
    rows = [
        row_of(word, vaddr, vma, era, **seen)
        for word, (vaddr, vma) in zip(words.tolist(), places, strict=True)
    ]
    assert batch.to_pylist() == [r for r in rows if options["holes"] or r["kind"] != "absent"]


@settings(max_examples=60)
@given(st.sampled_from(made.ERAS), st.data(), st.booleans())
def test_words_that_are_all_alike_decode_as_among_others(era, data, holes):
    """A bit that never varies takes a shortcut; one stranger among the words forbids it."""
    word = data.draw(made.words(era))
    strangers = data.draw(made.captures(era, min_size=3, max_size=6))
    reading = Reading(layout(era), MEANING, holes=holes)
    alike = np.full(20, word, np.uint64)
    short = block(alike.copy(), Ranges.one(START, 20), 7, reading)
    mixed = np.concatenate([alike, strangers])
    long = block(mixed, Ranges.one(START, len(mixed)), 7, reading)
    assert long.to_pylist()[: len(short)] == short.to_pylist()


@pytest.mark.parametrize("era", made.ERAS)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, BLOCK - 1, BLOCK, BLOCK + 1])
def test_any_number_of_words(era, count):
    here = next(w for w in made.a_capture(era).tolist() if made.naive(w, era).present)
    words = np.full(count, here, np.uint64)
    words[count // 2 :] = layout(era).absent
    batch = block(words, Ranges.one(START, count, 4), 7, Reading(layout(era), holes=True))
    batch.validate(full=True)
    assert len(batch) == count
    np.testing.assert_array_equal(batch["vaddr"], START + 4096 * np.arange(count))
    assert batch["present"].true_count == count // 2
    assert set(batch["vma"].to_pylist()) <= {4}
    nulls = {name: batch[name].null_count for name in ("file", "exclusive", "uffd_wp", "guard")}
    letters = {name: letter for letter, name in made.NAMES.items()}
    assert nulls == {n: 0 if letters[n] in made.HAS[era] else count for n in nulls}


def test_no_page_there_makes_no_row_but_keeps_the_columns():
    batch = block(np.zeros(10, np.uint64), Ranges.one(START, 10), 7, Reading(layout("E7")))
    assert len(batch) == 0
    assert batch.schema.names == [c.name for c in schema.PAGES.columns if not c.on_request]


def test_addresses_of_many_ranges():
    start = np.array([0x1000, 0x9000, 0x4000_0000, 0x7FFF_FFFF_F000])
    count = np.array([3, 0, 5, 1])
    ranges = Ranges(start, count, np.array([8, 9, 10, 11], np.int32))
    expected = [
        s + i * 4096 for s, n in zip(start.tolist(), count.tolist(), strict=True) for i in range(n)
    ]
    assert ranges.addresses(4096, Slab()).tolist() == expected
    assert ranges.mappings().tolist() == [8] * 3 + [10] * 5 + [11]


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_addresses_with_other_page_sizes(page_size):
    many = Ranges(np.array([0, 1 << 40]), np.array([2, 2]), np.array([0, 1], np.int32))
    assert many.addresses(page_size, Slab()).tolist() == [
        0, page_size, 1 << 40, (1 << 40) + page_size,
    ]  # fmt: skip
    assert Ranges.one(1 << 40, 2).addresses(page_size, Slab())[1] == (1 << 40) + page_size


# -- shared memory ----------------------------------------------------------------------


def test_blocks_that_share_memory_never_change_one_another():
    """Slab, ladders and blank columns are shared; no block may write where another reads."""
    slab, batches, expected = Slab(), [], []
    dice = np.random.default_rng(3)
    for era in (*made.ERAS, *made.ERAS):
        for raw in (False, True):
            n = int(dice.integers(1, 3000))
            words = np.resize(made.a_capture(era, 997), n)
            reading = Reading(layout(era), raw=raw, holes=bool(n % 2))
            where = Ranges.one(START + n * 4096, n, n)
            batches.append(block(words, where, n, reading, slab))
            expected.append(block(words.copy(), where, n, reading, Slab()).to_pylist())
    for batch, rows in zip(batches, expected, strict=True):
        assert batch.to_pylist() == rows


@pytest.mark.parametrize("raw", [False, True])
def test_a_batch_keeps_no_memory_of_its_words(raw):
    words = made.a_capture("E7")
    before = words.copy()
    reading = Reading(layout("E7"), raw=raw)
    batch = block(words, Ranges.one(START, len(words)), 7, reading)
    np.testing.assert_array_equal(words, before)
    rows = batch.to_pylist()
    words[:] = np.uint64(0x8600000000012345)
    assert batch.to_pylist() == rows


def test_a_slab_hands_out_memory_once():
    slab = Slab()
    parts = [slab.take(n) for n in (1, 100, Slab.PIECE // 8, 5, Slab.PIECE, 3)]
    assert [len(part) for part in parts] == [1, 100, Slab.PIECE // 8, 5, Slab.PIECE, 3]
    for i, part in enumerate(parts):
        part[:] = i
    assert all((part == i).all() for i, part in enumerate(parts))


# -- readings and the small helpers -----------------------------------------------------


def test_reading_of_facts():
    facts = {
        "era": "E6", "page_size": 65536, "pfns": "hidden", "soft_dirty": False,
        "specials": {"31": "marker"}, "zero_pfns": [7], "huge_zero_pfn": 8192,
        "pmd_size": 1 << 29,
    }  # fmt: skip
    reading = columns.reading_of(facts, holes=True, raw=True)
    assert (reading.layout, reading.page_size) == (layout("E6", 16), 65536)
    assert (reading.hidden, reading.soft_dirty, reading.holes, reading.raw) == (
        True, False, True, True,
    )  # fmt: skip
    assert reading.meaning == Meaning({31: "marker"}, (7,), 8192, 8192)
    plain = columns.reading_of({"era": "E3", "page_size": 4096})
    assert plain.meaning.specials == {29: "hwpoison", 30: "migration", 31: "migration"}
    assert plain.meaning.huge_zero_frames == 512
    assert (plain.hidden, plain.soft_dirty) == (False, True)


@given(st.lists(st.one_of(st.none(), st.booleans())), st.integers(0, 5), st.integers(0, 9))
def test_bits_of_an_arrow_column_with_any_offset(values, skip, length):
    array = pa.array(values, pa.bool_()).slice(skip, length)
    listed = array.to_pylist()
    assert columns.valid_of(array).tolist() == [v is not None for v in listed]
    assert columns.true_of(array).tolist() == [v is True for v in listed]


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1)), st.integers(0, 5))
def test_values_of_an_arrow_column_with_any_offset(values, skip):
    array = pa.array(values, pa.int64()).slice(skip)
    assert columns.values_of(array, np.int64).tolist() == values[skip:]


@pytest.mark.parametrize("count", [0, 1, 9, BLOCK, BLOCK + 3])
@pytest.mark.parametrize("type_", [pa.bool_(), pa.uint8(), pa.int32(), pa.int64()])
def test_a_column_of_nothing(count, type_):
    column = columns.nothing(count, type_)
    column.validate(full=True)
    assert column.null_count == len(column) == count
    assert column.type == type_


@given(st.lists(st.tuples(st.integers(0, 99), st.booleans())))
def test_numbers_with_nulls(pairs):
    values = np.array([value for value, _ in pairs], np.int64)
    valid = np.array([there for _, there in pairs], np.bool_)
    column = columns.numbers(values, pa.int64(), valid)
    assert column.to_pylist() == [value if there else None for value, there in pairs]


@pytest.mark.parametrize("count", [0, 5, BLOCK, BLOCK + 1])
def test_the_same_number_over_and_over(count):
    assert (columns.same(9, count) == 9).all()
    assert len(columns.same(9, count)) == count
