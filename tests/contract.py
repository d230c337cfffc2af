"""What every `Source` must do, as one class of tests that the tests of each source inherit.

    class TestMySource(SourceContract):
        @pytest.fixture
        def made(self, tmp_path):
            truth = Truth(pid=7, first=0x400, words=..., texts={"7/maps": b"..."})
            return (lambda: MySource(...)), truth

``made`` gives a function that opens a fresh source, and what is true of it. The truth must
not come from the code under test: write the words with ``struct``, read the kernel with ``os``.
"""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest

from pagemap_df.errors import NotAvailable, ProcessGone

NOBODY = (1 << 22) - 1
"""A pid beyond what kernels give out by default."""


@dataclass
class Truth:
    """What is known of a source without asking it.

    Attributes
    ----------
    pid : int
        A process in it.
    first : int
        A page number of that process.
    words : uint64 array
        Its pagemap from there on, native order.
    texts : mapping of str to bytes
        Files and their content.
    page_size : int
        Bytes.
    absent : int
        The word of a page that is nowhere.
    hole : int or None
        A page number at which 16 pages are unmapped.
    end : int or None
        The page number at which the pagemap file ends.
    frames : mapping of str to mapping of int to int
        File by page frame -> frame number -> word.
    """

    pid: int
    first: int
    words: np.ndarray
    texts: Mapping[str, bytes]
    page_size: int = 4096
    absent: int = 0
    hole: int | None = None
    end: int | None = None
    frames: Mapping[str, Mapping[int, int]] = field(default_factory=dict)

    @property
    def pagemap(self) -> str:
        return f"{self.pid}/pagemap"


def open_files():
    return len(os.listdir("/proc/self/fd"))


class SourceContract:
    """Inherit this and provide the fixture ``made``."""

    @pytest.fixture
    def truth(self, made):
        return made[1]

    @pytest.fixture
    def source(self, made):
        with made[0]() as source:
            yield source

    # -- facts and processes ------------------------------------------------------------

    def test_facts_are_json_and_stay_the_same(self, source, truth):
        facts = dict(source.facts())
        assert json.loads(json.dumps(facts)) == facts == dict(source.facts())
        assert facts["page_size"] == truth.page_size
        assert facts["byte_order"] in ("little", "big")
        assert facts["pfns"] in ("visible", "hidden")
        assert facts["era"] in ("E0", "E1", "E2", "E3", "E4v1", "E4v2", "E5", "E6", "E7")
        assert facts["source"]

    def test_pids_ascend(self, source, truth):
        pids = source.pids()
        assert all(type(pid) is int for pid in pids)
        assert pids == sorted(set(pids))
        assert truth.pid in pids

    # -- text ---------------------------------------------------------------------------

    def test_text_is_what_was_written(self, source, truth):
        for path, content in truth.texts.items():
            assert source.text(path) == content, path

    def test_text_of_a_file_that_is_not_there(self, source, truth):
        for path in (f"{truth.pid}/no_such_file", "no_such_file"):
            with pytest.raises(NotAvailable, match="no_such_file"):
                source.text(path)

    def test_a_process_that_is_not_there(self, source):
        assert NOBODY not in source.pids()
        with pytest.raises(ProcessGone, match=str(NOBODY)):
            source.text(f"{NOBODY}/maps")
        with pytest.raises(ProcessGone, match=str(NOBODY)):
            source.words(f"{NOBODY}/pagemap", 0, 1)
        with pytest.raises(ProcessGone, match=str(NOBODY)):
            source.words_into(f"{NOBODY}/pagemap", 0, np.empty(1, np.uint64))

    # -- words --------------------------------------------------------------------------

    def test_words_are_what_was_written(self, source, truth):
        n = len(truth.words)
        for a, b in [(0, n), (0, 1), (n // 2, n), (n - 1, n), (n // 3, n // 2), (5, 5)]:
            words = source.words(truth.pagemap, truth.first + a, b - a)
            assert words.dtype == np.uint64
            assert words.dtype.isnative
            np.testing.assert_array_equal(words, truth.words[a:b])

    def test_words_belong_to_the_caller(self, source, truth):
        source.words(truth.pagemap, truth.first, len(truth.words))[:] = 7
        words = source.words(truth.pagemap, truth.first, len(truth.words))
        np.testing.assert_array_equal(words, truth.words)

    def test_words_into_is_words(self, source, truth):
        n = len(truth.words)
        for a, b in [(0, n), (n // 3, n // 2), (4, 4)]:
            out = np.full(b - a + 2, 0x5A5A, np.uint64)
            assert source.words_into(truth.pagemap, truth.first + a, out[1:-1]) == b - a
            np.testing.assert_array_equal(out[1:-1], truth.words[a:b])
            assert out[0] == out[-1] == 0x5A5A, "wrote beside the buffer"

    def test_unmapped_pages_are_absent(self, source, truth):
        if truth.hole is None:
            pytest.skip("this source has no hole")
        words = source.words(truth.pagemap, truth.hole, 16)
        assert set(words.tolist()) <= {0, truth.absent}
        out = np.zeros(16, np.uint64)
        got = source.words_into(truth.pagemap, truth.hole, out)
        np.testing.assert_array_equal(out[:got], words)

    def test_words_end_with_the_file(self, source, truth):
        if truth.end is None:
            pytest.skip("where the file of this source ends is not known")
        at = truth.end
        assert len(source.words(truth.pagemap, at - 3, 100)) == 3
        assert len(source.words(truth.pagemap, at, 100)) == 0
        assert len(source.words(truth.pagemap, at + 1000, 100)) == 0
        out = np.full(100, 9, np.uint64)
        assert source.words_into(truth.pagemap, at - 3, out) == 3
        assert source.words_into(truth.pagemap, at, out) == 0

    def test_frames_are_what_was_written(self, source, truth):
        for path, known in truth.frames.items():
            for pfn, word in known.items():
                assert source.words(path, pfn, 1).tolist() == [word], (path, pfn)

    def test_words_of_a_file_that_is_not_there(self, source):
        with pytest.raises(NotAvailable, match="no_such_file"):
            source.words("no_such_file", 0, 1)

    def test_many_threads_read_at_once(self, made):
        opened, truth = made
        n = len(truth.words)
        before = open_files()
        for _ in range(5):
            with opened() as source, ThreadPoolExecutor(8) as pool:
                cuts = [(i * n // 32, (i + 1) * n // 32) for i in range(32)]
                parts = pool.map(
                    lambda ab: source.words(truth.pagemap, truth.first + ab[0], ab[1] - ab[0]),
                    cuts,
                )
                np.testing.assert_array_equal(np.concatenate(list(parts)), truth.words)
        assert open_files() == before

    # -- what some sources can tell -----------------------------------------------------

    def test_nothing_lies_outside_the_populated_ranges(self, source, truth):
        page, n = truth.page_size, len(truth.words)
        start, end = truth.first * page, (truth.first + n) * page
        for a, b in [
            (start, end),
            (start + page, end - page),
            (start + 3 * page, start + 4 * page),
        ]:
            ranges = list(source.populated(truth.pid, a, b))
            flat = [at for pair in ranges for at in pair]
            assert flat == sorted(flat)
            assert all(x < y and a <= x and y <= b for x, y in ranges)
            assert all(at % page == 0 for at in flat)
            inside = np.zeros(n, bool)
            for x, y in ranges:
                inside[x // page - truth.first : y // page - truth.first] = True
            seen = slice(a // page - truth.first, b // page - truth.first)
            there = ~np.isin(truth.words, (0, truth.absent))
            assert not (there & ~inside)[seen].any()

    @pytest.mark.parametrize("question", ["huge", "zero"])
    def test_ranges_of_a_kind_ascend_or_nobody_can_tell(self, source, truth, question):
        start, n = truth.first * truth.page_size, len(truth.words) * truth.page_size
        try:
            ranges = list(getattr(source, question)(truth.pid, start, start + n))
        except NotAvailable:
            return
        flat = [at for pair in ranges for at in pair]
        assert flat == sorted(flat)
        assert all(start <= at <= start + n for at in flat)

    def test_a_word_is_somewhere_in_a_file(self, source, truth):
        name, offset = source.where(truth.pagemap, truth.first)
        further, later = source.where(truth.pagemap, truth.first + 9)
        assert name == further
        assert later - offset == 72

    def test_a_process_has_its_own_memory_or_nobody_can_tell(self, source, truth):
        assert source.same_memory(truth.pid, truth.pid) in (True, None)

    def test_a_swap_sample_is_numbers_or_nothing(self, source):
        highest, grown = source.swap_sample()
        assert all(0 <= number < 32 and slot > 0 for number, slot in highest.items())
        assert all(paths for paths in grown.values())

    def test_processes_can_be_kept_still(self, source, truth):
        with source.frozen([truth.pid]) as facts:
            json.dumps(dict(facts))
            words = source.words(truth.pagemap, truth.first, len(truth.words))
            np.testing.assert_array_equal(words, truth.words)

    # -- coming and going ---------------------------------------------------------------

    def test_a_released_process_can_be_read_again(self, source, truth):
        source.release(truth.pid)
        for _ in range(3):
            np.testing.assert_array_equal(
                source.words(truth.pagemap, truth.first, len(truth.words)), truth.words
            )
            source.release(truth.pid)
            source.release(truth.pid)
        source.release(NOBODY)

    def test_closing_twice_and_leaving_give_everything_back(self, made):
        opened, truth = made
        before = open_files()
        with opened() as source:
            source.facts()
            source.words(truth.pagemap, truth.first, 1)
            for path in truth.texts:
                source.text(path)
            source.close()
            source.close()
        source.close()
        assert open_files() == before
