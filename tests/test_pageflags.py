"""Bits of kpageflags by name and kernel, held against the kernel's own headers and pages."""

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagemap_df import pageflags
from pagemap_df.errors import FormatError, NotAvailable, TableError
from tests import living

UAPI = Path("/usr/include/linux/kernel-page-flags.h")
NAMES = sorted({flag.name for flag in pageflags.FLAGS})
RELEASES = ["2.6.25", "2.6.31", "2.6.32", "3.4", "3.18", "4.3", "5.0.21", "5.1", "6.11", "6.12"]

words = st.integers(0, 2**64 - 1)


def test_bits_below_32_are_those_of_the_installed_header():
    if not UAPI.exists():
        pytest.skip(f"{UAPI} is not here (Debian: linux-libc-dev)")
    defined = {
        name: int(number)
        for name, number in re.findall(r"#define KPF_(\w+)\s+(\d+)", UAPI.read_text())
    }
    ours = {flag.name: flag.bit for flag in pageflags.FLAGS if flag.bit < 32}
    assert defined.items() <= ours.items()
    assert ours.keys() - defined.keys() <= {"BALLOON"}


@pytest.mark.parametrize(
    ("number", "name"),
    [(0, "LOCKED"), (10, "BUDDY"), (12, "ANON"), (17, "HUGE"), (21, "KSM"), (22, "THP"),
     (24, "ZERO_PAGE"), (26, "PGTABLE"), (32, "RESERVED"), (33, "MLOCKED"), (35, "PRIVATE"),
     (37, "OWNER_PRIVATE"), (38, "ARCH"), (41, "ARCH_2"), (42, "ARCH_3")],
)  # fmt: skip
def test_well_known_bits_have_their_numbers(number, name):
    assert pageflags.bit(name) == number
    assert pageflags.mask(name) == 1 << number


def test_the_table_is_in_order_and_every_name_is_one_bit():
    keys = [(flag.bit, flag.since) for flag in pageflags.FLAGS]
    assert keys == sorted(keys)
    assert len(NAMES) == len(pageflags.FLAGS)
    assert all("\n" not in flag.meaning and len(flag.meaning) < 70 for flag in pageflags.FLAGS)


@pytest.mark.parametrize("release", RELEASES)
def test_no_kernel_has_two_names_for_one_bit(release):
    bits = [flag.bit for flag in pageflags.explain(release)]
    assert len(bits) == len(set(bits))


@pytest.mark.parametrize(
    ("release", "count", "there", "gone"),
    [
        ("2.6.25", 11, {"BUDDY", "ERROR"}, {"ANON"}),
        ("2.6.31", 28, {"ANON", "UNCACHED", "MAPPEDTODISK"}, {"KSM", "HWPOISON"}),
        ("4.3.6", 34, {"BALLOON", "IDLE"}, {"OFFLINE", "PGTABLE"}),
        ("5.1-rc1", 35, {"OFFLINE", "PGTABLE"}, {"BALLOON"}),
        ("6.11.5", 37, {"MAPPEDTODISK", "ERROR", "UNCACHED"}, {"OWNER_2"}),
        ("6.18.44-fc-v595", 35, {"OWNER_2"}, {"MAPPEDTODISK", "ERROR", "UNCACHED"}),
    ],
)
def test_each_kernel_explains_the_flags_it_reports(release, count, there, gone):
    names = {flag.name for flag in pageflags.explain(release)}
    assert len(names) == count
    assert there <= names
    assert not gone & names


def test_the_explanation_is_a_table():
    table = pd.DataFrame(pageflags.explain())
    assert list(table.columns) == ["bit", "name", "since", "until", "meaning"]
    assert len(table) == len(pageflags.FLAGS)


@pytest.mark.parametrize(
    ("number", "release", "name"),
    [
        (34, None, "OWNER_2"),
        (34, "6.12", "OWNER_2"),
        (34, "6.11.99", "MAPPEDTODISK"),
        (34, "2.6.25", "MAPPEDTODISK"),
        (23, None, "OFFLINE"),
        (23, "5.0", "BALLOON"),
        (23, "5.1.0", "OFFLINE"),
        (1, "6.18", "ERROR"),
        (40, None, "BIT_40"),
        (63, "6.18", "BIT_63"),
    ],
)
def test_renamed_bits_are_called_as_their_kernel_called_them(number, release, name):
    assert pageflags.names(1 << number, release) == (name,)


@given(words, st.sampled_from([None, *RELEASES]))
def test_no_bit_is_dropped_and_none_invented(word, release):
    names = pageflags.names(word, release)
    assert len(names) == word.bit_count()
    unnamed = [int(name[4:]) for name in names if name.startswith("BIT_")]
    known = pageflags.mask(*(name for name in names if not name.startswith("BIT_")))
    assert known | sum(1 << number for number in unnamed) == word


@given(words)
def test_a_signed_word_has_the_same_names(word):
    signed = word - 2**64 if word >> 63 else word
    assert pageflags.names(signed) == pageflags.names(word)
    assert pageflags.names(np.uint64(word)) == pageflags.names(word)


def test_a_word_is_described_in_one_line():
    assert pageflags.describe(1 << 2 | 1 << 12) == "REFERENCED ANON"
    assert pageflags.describe(1 << 34, "5.19.1") == "MAPPEDTODISK"
    assert pageflags.describe(0) == "no flags"


@given(st.lists(words, max_size=20), st.sets(st.sampled_from(NAMES), max_size=3))
def test_arrays_and_single_words_agree(many, asked):
    unsigned = np.array(many, np.uint64)
    expected = [all(word >> pageflags.bit(name) & 1 for name in asked) for word in many]
    for flags in (unsigned, unsigned.view(np.int64)):
        answer = pageflags.has(flags, *asked)
        assert answer.dtype == np.bool_
        assert answer.tolist() == expected
        for name, column in pageflags.columns(flags, asked).items():
            assert column.tolist() == pageflags.has(flags, name).tolist()


def test_columns_are_those_the_release_reports():
    flags = np.array([pageflags.mask("ANON", "OWNER_2")])
    every = pageflags.columns(flags, release="6.18")
    assert [name for name, column in every.items() if column[0]] == ["ANON", "OWNER_2"]
    assert "MAPPEDTODISK" not in every
    assert list(pageflags.columns(flags, ["ksm", "KPF_ANON"])) == ["ksm", "KPF_ANON"]


def test_a_flag_the_kernel_does_not_report_is_not_false():
    with pytest.raises(NotAvailable, match=r"Linux 2\.6\.25 does not report the page flag KSM"):
        pageflags.columns(np.array([0]), ["KSM"], "2.6.25")


@pytest.mark.parametrize("ask", [pageflags.bit, pageflags.mask])
def test_an_unknown_name_is_answered_with_the_known_ones(ask):
    with pytest.raises(NotAvailable, match=r"no page flag is called 'ANONYMOUS'; .*ANON, "):
        ask("ANONYMOUS")


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.bool_, object])
def test_words_of_another_type_are_refused(dtype):
    with pytest.raises(TableError, match="expected int64 or uint64"):
        pageflags.has(np.zeros(3, dtype), "ANON")


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.18.44-fc-v595", (6, 18, 44)),
        ("2.6.25", (2, 6, 25)),
        ("2.6.32.71-rt", (2, 6, 32)),
        ("5.10.0-23-amd64", (5, 10, 0)),
        ("6.1", (6, 1, 0)),
        ("7.0-rc2+", (7, 0, 0)),
        ("4.18.0-553.el8_10.x86_64", (4, 18, 0)),
        ("5.15.167.4-microsoft-standard-WSL2", (5, 15, 167)),
        ("4.4.0", (4, 4, 0)),
    ],
)
def test_releases_of_all_sorts_are_understood(release, version):
    assert pageflags.parse_release(release) == version


@pytest.mark.parametrize(
    "release", ["", "linux", "6", "6.", "v6.1", "6.x", "-6.1", "6." + "9" * 5000]
)
def test_what_is_no_release_is_refused(release):
    with pytest.raises(FormatError, match="expected a kernel release such as"):
        pageflags.parse_release(release)


@given(st.text())
def test_any_text_is_a_release_or_a_format_error(text):
    try:
        assert len(pageflags.parse_release(text)) == 3
    except FormatError as error:
        assert error.found == text  # noqa: PT017


@pytest.mark.parametrize(
    ("release", "page_mapcount", "meaning"),
    [
        ("2.6.25", True, "references"),
        ("2.6.26", True, "mappings"),
        ("6.14.2", False, "mappings"),
        ("6.15", False, "average"),
        ("6.18.44", True, "mappings"),
    ],
)
def test_kpagecount_counts_other_things_on_other_kernels(release, page_mapcount, meaning):
    assert pageflags.mapcount_meaning(release, page_mapcount=page_mapcount) == meaning


@pytest.mark.kernel
def test_live_pages_carry_the_flags_their_making_implies(tmp_path):
    living.need_root()
    with living.spawn() as child:
        heap, locked, zero = child.mmap(4), child.mmap(2), child.mmap(1)
        child.write(heap)
        child.write(locked)
        child.mlock(locked)
        child.read(zero)

        def flags(region):
            first = region.start // living.PAGE
            with Path(f"/proc/{child.pid}/pagemap").open("rb", buffering=0) as pagemap:
                pagemap.seek(first * 8)
                entries = np.frombuffer(pagemap.read(region.pages * 8), np.uint64)
            frames = (entries & np.uint64((1 << 55) - 1)).tolist()
            if not any(frames):
                pytest.skip("needs CAP_SYS_ADMIN, without which frame numbers are hidden")
            with Path("/proc/kpageflags").open("rb", buffering=0) as file:
                raw = [(file.seek(frame * 8), file.read(8))[1] for frame in frames]
            return np.array([int.from_bytes(word, sys.byteorder) for word in raw], np.uint64)

        assert pageflags.has(flags(heap), "ANON", "MMAP", "SWAPBACKED", "UPTODATE").all()
        assert not pageflags.has(flags(heap), "ZERO_PAGE").any()
        assert pageflags.has(flags(zero), "ZERO_PAGE").all()
        assert pageflags.has(flags(locked), "ANON").all()
        kernel = Path("/proc/sys/kernel/osrelease").read_text()
        for word in flags(locked).tolist():
            assert not [name for name in pageflags.names(word, kernel) if name.startswith("BIT_")]


@pytest.mark.kernel
def test_this_kernel_sets_no_bit_without_a_name():
    living.need_root()
    kernel = Path("/proc/sys/kernel/osrelease").read_text().strip()
    named = pageflags.mask(*(flag.name for flag in pageflags.explain(kernel)))
    with Path("/proc/kpageflags").open("rb", buffering=0) as file:
        flags = np.frombuffer(file.read(1 << 20), np.uint64)
    assert len(flags)
    union = int(np.bitwise_or.reduce(flags))
    assert pageflags.describe(union & ~named) == "no flags"
