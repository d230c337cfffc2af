"""Which era wrote these words, and which swap type numbers are no swap areas there.

A pagemap file does not say how it is laid out. `infer` looks for bits that only some eras
can have set and names its evidence; `specials` computes, for a kernel version and its
configuration, which of the 32 swap types are migration, poison, device or marker entries.

What can go wrong: the words fit no era (damaged, cut in the middle of a word, or in the
other byte order), or nothing in them tells the eras apart. Both are `EraError`, and the
message says what was seen and what to pass instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from . import entries
from .entries import ENTRY, FLAGS, FRAME, PRESENT, SHIFT_AT, SHIFT_FIELD, Layout, Words
from .errors import EraError, PagemapWarning

_LARGE = 10_000
_SHIFTS = range(12, 17)
_OPTIONS = ("MEMORY_FAILURE", "MIGRATION", "DEVICE_PRIVATE", "PTE_MARKER")


@dataclass(frozen=True)
class Inference:
    """What `infer` concluded.

    Attributes
    ----------
    era : str
        The oldest era that explains the words, so that whatever could not be told is null.
    page_shift : int or None
        log2 of the page size in bytes where the words carry it (E2, E3, E4v1).
    candidates : tuple of str
        All eras that explain the words equally well.
    evidence : str
        The bits that decided, for people.
    """

    era: str
    page_shift: int | None
    candidates: tuple[str, ...]
    evidence: str


def infer(words: Words, *, path: str | None = None) -> Inference:
    """Find the era of `words` (uint64), best taken from inside mappings.

    Raises `EraError` if no era can have written them or if nothing decides; warns with
    `PagemapWarning` when two eras remain that read the same words differently.

    Examples
    --------
    >>> infer(np.array([0x8600000000012345, 0x0600000000000000], np.uint64)).era
    'E2'
    >>> infer(np.array([0x81000000001EC6CE], np.uint64)).candidates
    ('E5', 'E6', 'E7')
    """
    words = np.asarray(words, np.uint64)
    found = _first_match(words)
    if found is None:
        raise EraError(
            "words that tell their era (these are all empty or too few); pass era=",
            path=path,
            found=f"{len(words)} words",
        )
    wrong = entries.impossible(words, entries.layout(found.era, found.page_shift or 12))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise EraError(
            f"a word of era {found.era} ({found.evidence}){_other_order(words)}",
            path=path,
            offset=8 * at,
            found=f"{int(words[at]):#018x}",
        )
    if found.candidates in (("E0", "E1"), ("E4v2", "E5", "E6", "E7")):
        warnings.warn(
            PagemapWarning(
                f"{path or 'words'}: {found.evidence}; eras {', '.join(found.candidates)} "
                f"remain, {found.era} assumed; pass era= to decide"
            ),
            stacklevel=2,
        )
    return found


def _first_match(words: Words) -> Inference | None:
    """Walk the rules from the most telling evidence to the least."""
    top = words >> np.uint64(61)
    present = (words & np.uint64(PRESENT)) != 0
    entry = (words & np.uint64(ENTRY)) != 0
    frame = words & np.uint64(FRAME)

    def has(mask: int, among: np.ndarray) -> bool:
        return bool(np.any(among & ((words & np.uint64(mask)) != 0)))

    if np.any(top == 0b111):
        return Inference("E0", None, ("E0",), "a word with all three top bits set")
    if np.any(top == 0b001):
        return Inference("E1", None, ("E1",), "bit 61 on a word neither present nor swapped")
    if np.any((top == 0) & (frame != 0)):
        if np.any(top == 0b010):
            return Inference("E1", None, ("E1",), "a bare frame number beside bit 62 alone")
        return Inference("E0", None, ("E0", "E1"), "a frame number without any flag")
    shift = _common_shift(words)
    if has(FLAGS["guard"], present) or shift is not None:
        if shift is None:
            at = int(np.argmax(present & ((words & np.uint64(FLAGS["guard"])) != 0)))
            shift = (int(words[at]) & SHIFT_FIELD) >> SHIFT_AT
        if has(FLAGS["file"], present | entry):
            return Inference("E3", shift, ("E3", "E4v1"), f"page shift {shift} and bit 61")
        return Inference("E2", shift, ("E2", "E3", "E4v1"), f"page shift {shift} in every word")
    if has(FLAGS["guard"], entry):
        return Inference("E7", None, ("E7",), "bit 58 on a word that is not present")
    # A hugetlb marker shows bit 57 and neither of the top bits.
    if has(FLAGS["uffd_wp"], words != 0) or _has_marker(words, entry):
        return Inference("E6", None, ("E6", "E7"), "bit 57 or a page table marker")
    # Up to 5.16 also on migration entries.
    if has(FLAGS["exclusive"], present | entry):
        return Inference("E5", None, ("E5", "E6", "E7"), "bit 56 on words that are not empty")
    if not (present.any() or entry.any()):
        return None
    if present.any() and not np.any(present & (frame != 0)):
        return Inference("E5", None, ("E5", "E6", "E7"), "present words without a frame number")
    size = "large" if len(words) >= _LARGE else "small"
    return Inference(
        "E4v2", None, ("E4v2", "E5", "E6", "E7"), f"no bit from 56 to 60 in a {size} capture"
    )


def _common_shift(words: Words) -> int | None:
    filled = words[words != 0]
    if not len(filled):
        return None
    shifts = (filled & np.uint64(SHIFT_FIELD)) >> np.uint64(SHIFT_AT)
    first = int(shifts[0])
    return first if first in _SHIFTS and bool((shifts == first).all()) else None


def _has_marker(words: Words, entry: np.ndarray) -> bool:
    frame = (words[entry] & np.uint64(FRAME)).view(np.int64)
    offset = entries.swap_offset(frame)
    return bool(
        np.any((entries.swap_type(frame) == entries.MARKER_TYPE) & (offset > 0) & (offset < 8))
    )


def _other_order(words: Words) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PagemapWarning)
            other = _first_match(words.byteswap())
    except EraError:
        return ""
    if other is None:
        return ""
    layout = entries.layout(other.era, other.page_shift or 12)
    if entries.impossible(words.byteswap(), layout).any():
        return ""
    return f"; read in the other byte order they are era {other.era}: pass byte_order="


def check(words: Words, layout: Layout, *, path: str | None = None, offset: int = 0) -> None:
    """Raise `EraError` at the first of `words` that `layout`'s era cannot have written.

    `offset` is that of ``words[0]`` in the file at `path`, in bytes.
    """
    wrong = entries.impossible(words, layout)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise EraError(
            f"a word of era {layout.era}{_other_order(words)}",
            path=path,
            offset=offset + 8 * at,
            found=f"{int(words[at]):#018x}",
        )


def era_of_release(version: tuple[int, ...]) -> str:
    """The era a mainline release writes. For 3.11 to 4.2, ``E4v1``, which it starts in.

    Distributions backport, so a running kernel is probed instead; this is for captures
    that say their release and nothing else.

    Examples
    --------
    >>> era_of_release((2, 6, 32)), era_of_release((4, 15, 0)), era_of_release((6, 18, 2))
    ('E2', 'E5', 'E7')
    """
    era = "E2"
    for since, name in (
        ((3, 5), "E3"),
        ((3, 11), "E4v1"),
        ((4, 3), "E5"),
        ((5, 14), "E6"),
        ((6, 15), "E7"),
    ):
        if tuple(version[:2]) >= since:
            era = name
    return era


def specials(version: tuple[int, ...], options: Collection[str] = _OPTIONS) -> dict[int, str]:
    """Swap types that are no swap area on a mainline `version` built with `options`.

    `options` names those of MEMORY_FAILURE, MIGRATION, DEVICE_PRIVATE and PTE_MARKER that
    are configured. The numbers fill the top of 0 to 31 in that order
    (include/linux/swap.h). The value is an entry of `entries.KINDS`, or ``"marker"``, whose
    offset bits say which marker.

    Examples
    --------
    >>> specials((6, 18), ("MIGRATION", "PTE_MARKER"))
    {28: 'migration', 29: 'migration', 30: 'migration', 31: 'marker'}
    >>> specials((2, 6, 27))
    {30: 'migration', 31: 'migration'}
    """
    version = tuple(version[:3])

    def count(option: str, *steps: tuple[tuple[int, ...], int]) -> int:
        if option not in options:
            return 0
        return max(((since, n) for since, n in steps if version >= since), default=((), 0))[1]

    numbers = [
        *["hwpoison"] * count("MEMORY_FAILURE", ((2, 6, 32), 1)),
        *["migration"] * count("MIGRATION", ((2, 6, 18), 2), ((5, 19), 3)),
        *["device"] * count("DEVICE_PRIVATE", ((4, 14), 2), ((5, 14), 4), ((6, 15), 3)),
    ]
    # Since 6.2 the number is reserved whether or not markers are configured.
    if version >= (6, 2) or (version >= (5, 19) and "PTE_MARKER" in options):
        numbers.append("marker")
    if (5, 19) <= version < (6, 2):
        numbers.append("marker_poison")
    first = (1 << entries.SWAP_TYPE_BITS) - len(numbers)
    return {first + i: kind for i, kind in enumerate(numbers)}


def likely_specials(era: str) -> dict[int, str]:
    """The special types to assume when the configuration is not known.

    Before 5.14 the numbers hardly depended on it. Later type 31 is told by its offset, and
    22 to 30 are special under some configuration, a 23rd swap area under none seen.

    Examples
    --------
    >>> likely_specials("E3")
    {29: 'hwpoison', 30: 'migration', 31: 'migration'}
    """
    if era in ("E0", "E1", "E2", "E3", "E4v1", "E4v2"):
        return specials((3, 0))
    unknown = dict.fromkeys(range(22, entries.MARKER_TYPE), "unknown_special")
    return {**unknown, entries.MARKER_TYPE: "marker"}
