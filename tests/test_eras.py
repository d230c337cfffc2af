"""Which era wrote the words: every rule, whole captures, and captures that nobody can tell."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pagemap_df import eras
from pagemap_df.entries import KINDS, layout, unpack
from pagemap_df.errors import EraError, PagemapWarning
from tests import words as made

PRESENT, ENTRY, FILE = 1 << 63, 1 << 62, 1 << 61
U, G, X, D = 1 << 57, 1 << 58, 1 << 56, 1 << 55


def array(*words):
    return np.array(words, np.uint64)


def infer(*words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PagemapWarning)
        return eras.infer(array(*words), path="dump")


# -- one rule after the other -----------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "era", "shift"),
    [
        ((0xE000000000000000, 0x12345), "E0", None),
        ((0xE000000000000021,), "E0", None),
        ((0x2000000000000000,), "E1", None),
        ((0x2000000000000000, 0x4000000000000020, 0x12345), "E1", None),
        ((0x4000000000000020, 0x12345), "E1", None),
        ((0x12345, 0x12346), "E0", None),
        ((0x8600000000012345, 0x0600000000000000), "E2", 12),
        ((0x8600000000012345, 0), "E2", 12),
        ((0x0600000000000000,), "E2", 12),
        ((0x4600000000000020,), "E2", 12),
        ((0x8800000000012345, 0x0800000000000000), "E2", 16),
        ((13 << 55 | PRESENT | 5, 13 << 55), "E2", 13),
        ((14 << 55 | PRESENT | 5, 14 << 55), "E2", 14),
        ((15 << 55 | PRESENT | 5, 15 << 55), "E2", 15),
        ((0xA600000000012345, 0x0600000000000000), "E3", 12),
        ((0xA800000000012345, 0x8800000000012345), "E3", 16),
        ((0x8080000000012345, 0x4080000000000020), "E4v2", None),
        ((0x8000000000012345, 0), "E4v2", None),
        ((0x81000000001EC6CE, 0), "E5", None),
        ((0x8180000000012345, 0x0080000000000000), "E5", None),
        ((0x8000000000000000, 0xA000000000000000, 0), "E5", None),
        ((0x8300000000427F54,), "E6", None),
        ((0x8200000000427F54,), "E6", None),
        ((0x420000000000003F,), "E6", None),
        ((0x81000000001EC6CE, ENTRY | 31 | 2 << 5), "E6", None),
        ((0x81000000001EC6CE, U), "E6", None),
        ((X | ENTRY | 30 | 77 << 5,), "E5", None),
        ((0x440000000000009F,), "E7", None),
        ((0x4400000000000000, 0x8000000000000000), "E7", None),
    ],
)
def test_rule(words, era, shift):
    found = infer(*words)
    assert (found.era, found.page_shift) == (era, shift)
    assert found.candidates[0] == era
    assert found.evidence


@pytest.mark.parametrize("words", [(), (0,), (0, 0, 0)])
def test_nothing_to_go_by_is_an_error_that_says_what_to_pass(words):
    with pytest.raises(EraError, match=r"dump: .*pass era="):
        infer(*words)


@pytest.mark.parametrize(
    ("words", "offset"),
    [
        ((0x8600000000012345, 0x8600000000012345, 0x8100000000012345), 16),
        ((0xE000000000000020, 0x8600000000012345), 8),
        ((0x81000000001EC6CE, PRESENT | ENTRY | 1), 8),
        ((0x81000000001EC6CE, 1 << 60 | PRESENT | 1), 8),
    ],
)
def test_words_of_no_era_are_an_error_at_the_first_wrong_byte(words, offset):
    with pytest.raises(EraError) as caught:
        infer(*words)
    assert caught.value.offset == offset
    assert caught.value.path == "dump"
    assert f"{words[offset // 8]:#018x}" in str(caught.value)


@pytest.mark.parametrize("words", [(0x12345,), (0x8000000000012345, 0), (0x4000000000000020,)])
def test_words_that_leave_two_readings_warn(words):
    with pytest.warns(PagemapWarning, match=r"dump: .*pass era= to decide"):
        eras.infer(array(*words), path="dump")


@pytest.mark.parametrize("words", [(0x81000000001EC6CE,), (0x8600000000012345,), (0xE000 << 48,)])
def test_words_that_read_alike_in_all_eras_left_do_not_warn(words):
    eras.infer(array(*words))


# -- whole captures ---------------------------------------------------------------------


def decoded(words, era, shift):
    found = unpack(words, layout(era, shift))
    return {
        name: getattr(found, name)
        for name in ("present", "entry", "frame", "file", "exclusive", "soft_dirty", "uffd_wp",
                     "guard")
    }  # fmt: skip


@given(st.data(), st.sampled_from(made.ERAS), st.integers(12, 16))
def test_the_era_found_reads_as_the_true_one_wherever_it_claims_to_know(data, era, shift):
    words = data.draw(made.captures(era, shift, min_size=1, max_size=30))
    absent = {"E0": 7 << 61, "E1": 1 << 61}.get(era, 0)
    assume(np.any(words & ~np.uint64(D | U) != absent) or era in made.SHIFTED)
    found = infer(*words.tolist())
    if found.page_shift is not None:
        assert found.page_shift == shift
    ours, truth = decoded(words, found.era, shift), decoded(words, era, shift)
    for name, true in truth.items():
        if true is not None and ours[name] is not None:
            np.testing.assert_array_equal(ours[name], true, err_msg=f"{name} as {found.era}")
    assert era in found.candidates or found.era > era, "only a newer era may be claimed wrongly"


@given(st.data(), st.sampled_from(made.ERAS))
def test_the_era_found_can_have_written_every_word(data, era):
    words = data.draw(made.captures(era, min_size=1, max_size=30))
    assume(np.any(words << np.uint64(9)) or era in ("E0", "E1", *made.SHIFTED))
    found = infer(*words.tolist())
    eras.check(words, layout(found.era, found.page_shift or 12))


@pytest.mark.parametrize("era", made.ERAS)
def test_words_in_the_other_byte_order_are_an_error_that_says_so(era):
    words = made.a_capture(era)
    true = infer(*words.tolist()).era
    with pytest.raises(EraError, match=f"in the other byte order they are era {true}") as caught:
        infer(*words.byteswap().tolist())
    assert "pass byte_order=" in str(caught.value)
    with pytest.raises(EraError, match="byte_order="):
        eras.check(words.byteswap(), layout(true), path="dump")


@pytest.mark.parametrize("era", made.ERAS)
def test_noise_is_refused_without_advice_on_byte_order(era):
    noise = np.random.default_rng(1).integers(0, 1 << 63, 512, np.int64).view(np.uint64) << 1
    with pytest.raises(EraError) as caught:
        eras.check(noise, layout(era))
    assert "byte_order" not in str(caught.value)
    with pytest.raises(EraError):
        infer(*noise.tolist())


def test_check_counts_from_where_it_is_told():
    words = array(0x81000000001EC6CE, PRESENT | ENTRY)
    with pytest.raises(EraError) as caught:
        eras.check(words, layout("E7"), path="7/pagemap", offset=8000)
    assert caught.value.offset == 8 * 1001
    eras.check(words[:1], layout("E7"))


# -- releases and special types ---------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "era"),
    [
        ((2, 6, 25), "E2"), ((3, 4, 113), "E2"), ((3, 5), "E3"), ((3, 10, 0), "E3"),
        ((3, 11), "E4v1"), ((4, 2, 8), "E4v1"), ((4, 3), "E5"), ((5, 13, 19), "E5"),
        ((5, 14), "E6"), ((6, 14), "E6"), ((6, 15, 0), "E7"), ((6, 19), "E7"), ((7, 0), "E7"),
    ],
)  # fmt: skip
def test_era_of_a_release(release, era):
    assert eras.era_of_release(release) == era


ALL = ("MEMORY_FAILURE", "MIGRATION", "DEVICE_PRIVATE", "PTE_MARKER")
NO_DEVICE = ("MEMORY_FAILURE", "MIGRATION", "PTE_MARKER")
BARE = ("MIGRATION", "PTE_MARKER")
H, M, V, K, E = "hwpoison", "migration", "device", "marker", "marker_poison"
MH = {29: H, 30: M, 31: M}
M2 = {30: M, 31: M}


@pytest.mark.parametrize(
    ("versions", "everything", "no_device", "bare"),
    [
        ([(2, 6, 25), (2, 6, 31)], M2, M2, M2),
        ([(2, 6, 33), (3, 10), (4, 13)], MH, MH, M2),
        ([(4, 14), (5, 13)], {27: H, 28: M, 29: M, 30: V, 31: V}, MH, M2),
        (
            [(5, 14), (5, 18)],
            {25: H, 26: M, 27: M, 28: V, 29: V, 30: V, 31: V},
            MH,
            M2,
        ),
        (
            [(5, 19), (6, 1)],
            {22: H, 23: M, 24: M, 25: M, 26: V, 27: V, 28: V, 29: V, 30: K, 31: E},
            {26: H, 27: M, 28: M, 29: M, 30: K, 31: E},
            {27: M, 28: M, 29: M, 30: K, 31: E},
        ),
        (
            [(6, 3), (6, 14)],
            {23: H, 24: M, 25: M, 26: M, 27: V, 28: V, 29: V, 30: V, 31: K},
            {27: H, 28: M, 29: M, 30: M, 31: K},
            {28: M, 29: M, 30: M, 31: K},
        ),
        (
            [(6, 15), (6, 19)],
            {24: H, 25: M, 26: M, 27: M, 28: V, 29: V, 30: V, 31: K},
            {27: H, 28: M, 29: M, 30: M, 31: K},
            {28: M, 29: M, 30: M, 31: K},
        ),
    ],
)
def test_special_types_by_version_and_configuration(versions, everything, no_device, bare):
    for version in versions:
        assert eras.specials(version, ALL) == everything
        assert eras.specials(version, NO_DEVICE) == no_device
        assert eras.specials(version, BARE) == bare
    assert eras.specials(versions[0]) == everything


def test_the_marker_of_5_19_counts_only_if_configured():
    assert eras.specials((5, 19), ("MIGRATION",)) == {28: M, 29: M, 30: M, 31: E}
    assert eras.specials((6, 18), ("MIGRATION",)) == {28: M, 29: M, 30: M, 31: K}


def test_all_numbers_shift_where_pages_cannot_migrate():
    assert eras.specials((3, 0), ("MEMORY_FAILURE",)) == {31: H}
    assert eras.specials((6, 18), ("MEMORY_FAILURE", "PTE_MARKER")) == {30: H, 31: K}
    assert eras.specials((2, 6, 27), ()) == {}


@pytest.mark.parametrize("era", made.ERAS)
def test_likely_specials_cover_every_configuration(era):
    """A number that is special under some configuration is never taken for a swap area."""
    versions = {
        "E0": [(2, 6, 25)], "E1": [(2, 6, 25)], "E2": [(2, 6, 25), (3, 4)], "E3": [(3, 5)],
        "E4v1": [(4, 2)], "E4v2": [(4, 2)], "E5": [(4, 13), (4, 14), (5, 13)],
        "E6": [(5, 14), (5, 19), (6, 1), (6, 3), (6, 14)], "E7": [(6, 15), (6, 19)],
    }[era]  # fmt: skip
    likely = eras.likely_specials(era)
    for version in versions:
        for options in (ALL, NO_DEVICE, BARE):
            assert eras.specials(version, options).keys() <= likely.keys()
    assert set(likely.values()) <= {*KINDS, "marker"}
