"""Bare words in a file: what they give, and every way in which they may be wrong."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemap_df import RawDump, read_pagemap, take
from pagemap_df.errors import EraError, FormatError, NotAvailable, PagemapWarning
from tests import words as made

START = 0x7F1234567000
OTHER = {"little": "big", "big": "little"}[sys.byteorder]


@pytest.fixture
def dump(tmp_path):
    """Write words as a file; gives its path."""

    def write(words, order=sys.byteorder):
        path = tmp_path / "words"
        path.write_bytes(words.astype(np.dtype(np.uint64).newbyteorder(order)).tobytes())
        return path

    return write


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("era", made.ERAS)
def test_a_dump_is_a_process_with_one_mapping(dump, era, order):
    words = made.a_capture(era, 500)
    df = read_pagemap(dump(words, order), start=START, era=era, byte_order=order)
    slow = [made.naive(word, era) for word in words.tolist()]
    rows = [(START + 4096 * i, s) for i, s in enumerate(slow) if s.present or s.entry]
    assert df.index.tolist() == [vaddr for vaddr, _ in rows]
    assert df.present.tolist() == [s.present for _, s in rows]
    assert df.pfn.dropna().tolist() == [s.frame for _, s in rows if s.present]
    assert df.swap_offset.dropna().tolist() == [s.frame >> 5 for _, s in rows if s.entry]
    assert df.attrs["pagemap_df"]["byte_order"] == order


@given(st.data(), st.sampled_from(made.ERAS), st.integers(12, 16))
def test_every_page_of_a_dump_has_a_row_if_holes_are_asked_for(data, era, shift):
    words = data.draw(made.captures(era, shift, max_size=40))
    source = RawDump(words.tobytes(), start=START & -(1 << shift), era=era, page_size=1 << shift)
    pages = take(source, holes=True, raw=True).arrow("pages")
    assert pages["word"].to_pylist() == words.view(np.int64).tolist()


def test_the_page_size_comes_from_the_words(dump):
    df = read_pagemap(dump(made.a_capture("E3", shift := 64, 16)), start=0x10000)
    assert shift == 64
    assert df.attrs["pagemap_df"]["page_size"] == 65536
    assert (np.diff(df.index) % 65536 == 0).all()


def test_more_facts_may_be_told(dump):
    path = dump(np.array([1 << 63 | 9, 1 << 63 | 1 << 56 | 5], np.uint64))
    df = read_pagemap(path, zero_pfns=[9], pid=77)
    assert df.kind.tolist() == ["zero", "present"]
    hidden = read_pagemap(path, pfns="hidden")
    assert hidden.pfn.isna().all()


def test_an_empty_dump_told_its_era_has_no_rows(dump):
    path = dump(np.array([], np.uint64))
    assert len(read_pagemap(path, era="E7")) == 0
    assert len(read_pagemap(path, era="E7", holes=True, raw=True).word) == 0


# -- attacks ----------------------------------------------------------------------------


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_dump_cut_in_the_middle_of_a_word(dump, cut):
    path = dump(made.a_capture("E7"))
    raw = path.read_bytes()
    path.write_bytes(raw[:-cut])
    with pytest.raises(FormatError, match="whole number of 8-byte words") as caught:
        RawDump(path)
    assert caught.value.path == str(path)
    assert caught.value.offset == len(raw) - 8


def test_a_dump_that_lost_a_few_bytes_at_its_head(dump):
    """Whole words again, but each made of parts of two."""
    path = dump(made.a_capture("E7"))
    path.write_bytes(path.read_bytes()[3:-5])
    with pytest.warns(PagemapWarning, match=f"{path}.*pass era="):
        RawDump(path)
    with pytest.raises(EraError, match=str(path)):
        read_pagemap(path, era="E7")


@pytest.mark.parametrize("start", [1, 8, 4095, START + 512])
def test_a_start_inside_a_page(dump, start):
    with pytest.raises(FormatError, match="multiple of the page size 4096") as caught:
        RawDump(dump(made.a_capture("E7")), start=start)
    assert caught.value.found == hex(start)


@pytest.mark.parametrize("era", made.ERAS)
def test_the_other_byte_order(dump, era):
    path = dump(made.a_capture(era), OTHER)
    with pytest.raises(EraError, match="pass byte_order="):
        RawDump(path)
    with pytest.raises(EraError, match="pass byte_order="):
        read_pagemap(path, era=era)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("E2", "E7"), ("E0", "E5"), ("E7", "E2"), ("E7", "E0"), ("E7", "E1"), ("E3", "E2")],
)
def test_the_wrong_era_is_an_error_at_the_first_word_that_cannot_be(dump, right, wrong):
    words = made.a_capture(right)
    words = words[[made.naive(word, right).present for word in words.tolist()]]
    path = dump(words)
    with pytest.raises(EraError, match=f"a word of era {wrong}") as caught:
        read_pagemap(path, start=START, era=wrong)
    at = caught.value.offset // 8
    assert caught.value.path == str(path)
    assert f"{words[at]:#018x}" in str(caught.value)


@pytest.mark.parametrize("size", [8, 4096, 100_000])
def test_garbage(tmp_path, size):
    path = tmp_path / "noise"
    path.write_bytes(np.random.default_rng(size).bytes(size - 8) + b"\xfe" * 8)
    with pytest.raises(EraError, match="noise"):
        read_pagemap(path, era="E7")


def test_text_is_no_dump(tmp_path):
    path = tmp_path / "maps"
    path.write_bytes(b"00400000-00401000 r-xp 00000000 08:01 1  /bin/true\n" * 8)
    with pytest.raises(FormatError, match="maps"):
        read_pagemap(path)


def test_nothing_but_zeros_needs_an_era(dump):
    path = dump(np.zeros(100, np.uint64))
    with pytest.raises(EraError, match="pass era="):
        read_pagemap(path)
    assert len(read_pagemap(path, era="E3")) == 0


def test_a_doubtful_era_is_said(dump):
    with pytest.warns(PagemapWarning, match="E4v2 assumed"):
        read_pagemap(dump(np.array([1 << 63 | 0x12345, 0], np.uint64)))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(NotAvailable, match="nowhere"):
        RawDump(tmp_path / "nowhere")
    with pytest.raises(NotAvailable, match="nowhere"):
        read_pagemap(tmp_path / "nowhere")


def test_an_era_that_never_was(dump):
    with pytest.raises(ValueError, match="era is one of"):
        RawDump(dump(made.a_capture("E7")), era="E9")
