"""The 64-bit words of ``/proc/<pid>/pagemap``: every layout there has been, both directions.

The file holds one native-endian word for each virtual page and nothing that says which
layout was used. Nine layouts, called eras here, have been in kernels (boundaries are those
of mainline; distributions moved some of them):

====== ==================== =============================================================
era    kernels              a word is
====== ==================== =============================================================
E0     2.6.25-rc1, -rc2     bare PFN, or 0b111 on top: swap entry, or all zero below: absent
E1     2.6.25-rc3 to -rc6   bare PFN, or 0b010 on top: swap entry, or 0b001 on top: absent
E2     2.6.25-rc7 to 3.4    present, swapped, page shift in bits 55-60, frame (f16278c679aa)
E3     3.5 to 3.10          the same with bit 61, file or shared (052fb0d635df)
E4v1   3.11 to 4.2          E3, until somebody writes 4 to a clear_refs file (541c237c0923)
E4v2   3.11 to 4.2          afterwards: bit 55 soft-dirty in place of the page shift
E5     4.3 to 5.13          E4v2 with bit 56, mapped exclusively (77bb499bb60f)
E6     5.14 to 6.14         the same with bit 57, userfaultfd write-protected (fb8e37f35a2f)
E7     6.15 on              the same with bit 58, guard region
====== ==================== =============================================================

`unpack` turns words into `Fields`, `pack` turns them back; together they are the identity.
`kinds` says what a word means: bit 62 alone also covers migration, poison and device
entries and page table markers, none of which is in swap.

What can go wrong: words that cannot have been written under the era given. `unpack` does
not look; `impossible` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bits import BitsOf, constant, everywhere, somewhere, unvarying

Words = NDArray[np.uint64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

ERAS = ("E0", "E1", "E2", "E3", "E4v1", "E4v2", "E5", "E6", "E7")

KINDS = (
    "absent",
    "present",
    "zero",
    "huge_zero",
    "swap",
    "migration",
    "hwpoison",
    "device",
    "marker_uffd",
    "marker_guard",
    "marker_poison",
    "unknown_special",
)
"""What a word says. `kinds` gives indices into this tuple."""

PRESENT = 1 << 63
ENTRY = 1 << 62
FRAME = (1 << 55) - 1
SHIFT_AT, SHIFT_FIELD = 55, 0b111111 << 55
FLAGS: Mapping[str, int] = MappingProxyType(
    {
        "file": 1 << 61,
        "guard": 1 << 58,
        "uffd_wp": 1 << 57,
        "exclusive": 1 << 56,
        "soft_dirty": 1 << 55,
    }
)
"""Mask of each flag, in the eras that have it."""

_TAG_AT = 61
_SWAP_TAG = {"E0": 0b111, "E1": 0b010}
_ABSENT = {"E0": 0b111 << _TAG_AT, "E1": 0b001 << _TAG_AT}
_FLAGS_OF = {
    "E0": (),
    "E1": (),
    "E2": (),
    "E3": ("file",),
    "E4v1": ("file",),
    "E4v2": ("file", "soft_dirty"),
    "E5": ("file", "soft_dirty", "exclusive"),
    "E6": ("file", "soft_dirty", "exclusive", "uffd_wp"),
    "E7": ("file", "soft_dirty", "exclusive", "uffd_wp", "guard"),
}

SWAP_TYPE_BITS = 5
"""MAX_SWAPFILES_SHIFT: the low bits of a swap entry's frame field are the swap type."""

MARKER_TYPE = 31
MARKERS: Mapping[str, int] = MappingProxyType(
    {"marker_uffd": 1, "marker_poison": 2, "marker_guard": 4}
)
"""Offset bit of each page table marker (PTE_MARKER_* in include/linux/swapops.h)."""


@dataclass(frozen=True)
class Layout:
    """How words of one era on one page size are cut up. Made by `layout`.

    Attributes
    ----------
    era : str
        One of `ERAS`.
    page_shift : int
        log2 of the base page size in bytes.
    flags : Mapping[str, int]
        Mask of each flag this era has.
    tagged : bool
        True for E0 and E1, whose three top bits are a tag rather than flags.
    stamp : int
        Bits set in every word: the page shift in E2, E3 and E4v1, else 0.
    """

    era: str
    page_shift: int
    flags: Mapping[str, int] = field(hash=False)
    tagged: bool
    stamp: int

    @property
    def absent(self) -> int:
        """The word of a page that is nowhere."""
        return _ABSENT.get(self.era, self.stamp)

    @property
    def shifted(self) -> bool:
        """Whether bits 55 to 60 hold the page shift."""
        return self.stamp != 0


@lru_cache(maxsize=64)
def layout(era: str, page_shift: int = 12) -> Layout:
    """The layout of `era` on pages of ``2 ** page_shift`` bytes.

    Examples
    --------
    >>> hex(layout("E2").absent), hex(layout("E2", page_shift=16).absent)
    ('0x600000000000000', '0x800000000000000')
    """
    if era not in ERAS:
        raise ValueError(f"era is one of {', '.join(ERAS)}, not {era!r}")
    if not 8 <= page_shift <= 30:
        raise ValueError(f"page_shift is log2 of the page size in bytes, not {page_shift!r}")
    stamp = page_shift << SHIFT_AT if era in ("E2", "E3", "E4v1") else 0
    flags = MappingProxyType({name: FLAGS[name] for name in _FLAGS_OF[era]})
    return Layout(era, page_shift, flags, era in _SWAP_TAG, stamp)


@dataclass(frozen=True)
class Fields:
    """Words taken apart. Arrays of equal shape; a flag is None where the era has no such bit.

    Attributes
    ----------
    present : bool array
        A page frame is mapped.
    entry : bool array
        Not present, but the page table slot is not empty (bit 62). In swap or special.
    frame : int64 array
        The PFN where present; `swap_frame` of type and offset where `entry`; else 0.
        0 everywhere if the reader lacked the right to see it.
    file, exclusive, soft_dirty, uffd_wp, guard : bool array or None
        The flags.
    """

    present: Bools
    entry: Bools
    frame: Ints
    file: Bools | None = None
    exclusive: Bools | None = None
    soft_dirty: Bools | None = None
    uffd_wp: Bools | None = None
    guard: Bools | None = None

    def __getitem__(self, index: slice | Bools | Ints) -> Fields:
        """The same fields of some of the words."""
        frame = self.frame[index]
        picked: dict[str, Any] = {"frame": frame}
        for name in (f.name for f in fields(self) if f.name != "frame"):
            bits = getattr(self, name)
            if bits is not None:
                one = constant(bits) and len(frame) > 0
                picked[name] = unvarying(bool(bits[0]), len(frame)) if one else bits[index]
        return replace(self, **picked)


def swap_frame(swap_type: Ints | int, offset: Ints | int) -> Ints:
    """The frame field of a swap entry.

    Examples
    --------
    >>> hex(swap_frame(1, 0x2e))
    '0x5c1'
    """
    return np.asarray(offset, np.int64)[()] << SWAP_TYPE_BITS | np.asarray(swap_type, np.int64)[()]


def swap_type(frame: Ints) -> Ints:
    """The swap type inside a frame field."""
    return frame & ((1 << SWAP_TYPE_BITS) - 1)


def swap_offset(frame: Ints) -> Ints:
    """The slot, or a special entry's PFN or marker bits, inside a frame field."""
    return frame >> SWAP_TYPE_BITS


def unpack(words: Words, layout: Layout, out: Words | None = None) -> Fields:
    """Take `words` (uint64, native order, shape (n,)) apart.

    ``frame`` is written into `out` if that is given; it may be `words` itself, which is
    then spent.

    Examples
    --------
    >>> found = unpack(np.array([0x81000000001EC6CE, 0x40000000000005C1], np.uint64), layout("E7"))
    >>> found.present.tolist(), found.exclusive.tolist()
    ([True, False], [True, False])
    >>> hex(found.frame[0]), int(swap_type(found.frame[1])), hex(swap_offset(found.frame[1]))
    ('0x1ec6ce', 1, '0x2e')
    """
    words = np.ascontiguousarray(words, np.uint64)
    if layout.tagged:
        return _unpack_tagged(words, layout, out)
    bit = BitsOf(words)
    flags = {name: bit(mask) for name, mask in layout.flags.items()}
    present, entry = bit(PRESENT), bit(ENTRY)
    frame = np.bitwise_and(words, np.uint64(FRAME), out=out).view(np.int64)
    return Fields(present, entry, frame, **flags)


def _unpack_tagged(words: Words, layout: Layout, out: Words | None) -> Fields:
    tag = words >> np.uint64(_TAG_AT)
    entry = (tag == _SWAP_TAG[layout.era]) & (words != np.uint64(layout.absent))
    frame = np.bitwise_and(words, np.uint64((1 << _TAG_AT) - 1), out=out).view(np.int64)
    frame[~(entry | (tag == 0))] = 0
    return Fields(tag == 0, entry, frame)


def pack(found: Fields, layout: Layout) -> Words:
    """Put words together; the inverse of `unpack`.

    A flag that the era lacks is dropped, as an older kernel would have done.

    Examples
    --------
    >>> one = Fields(np.array([True]), np.array([False]), np.array([0x12345]))
    >>> [hex(pack(one, layout(era))[0]) for era in ("E0", "E3", "E7")]
    ['0x12345', '0x8600000000012345', '0x8000000000012345']
    """
    words = found.frame.astype(np.int64).view(np.uint64)
    if layout.tagged:
        tags = np.uint64(_SWAP_TAG[layout.era] << _TAG_AT)
        tagged = np.where(found.entry, words | tags, np.uint64(layout.absent))
        return np.where(found.present, words, tagged)
    words = words | np.uint64(layout.stamp)
    words |= found.present.astype(np.uint64) << np.uint64(63)
    words |= found.entry.astype(np.uint64) << np.uint64(62)
    for name, mask in layout.flags.items():
        flag = getattr(found, name)
        if flag is not None:
            words |= np.where(flag, np.uint64(mask), np.uint64(0))
    return words


def impossible(words: Words, layout: Layout) -> Bools:
    """Which words no kernel of this era can have written.

    Present and swapped at once, a guard or file bit or a frame on an empty word, reserved
    bits, another page shift than the layout's. From 2.6.26 to 3.3 an empty slot inside a
    page table read as plain 0, so 0 is possible in all eras.

    Examples
    --------
    >>> words = np.array([0x8600000000012345, 0x8100000000012345], np.uint64)
    >>> impossible(words, layout("E2")).tolist(), impossible(words, layout("E7")).tolist()
    ([False, True], [True, False])
    """
    words = np.asarray(words, np.uint64)
    if layout.tagged:
        tag = words >> np.uint64(_TAG_AT)
        fits = (tag == 0) | (tag == _SWAP_TAG[layout.era]) | (words == layout.absent)
        return np.asarray(~fits)
    present = (words & np.uint64(PRESENT)) != 0
    entry = (words & np.uint64(ENTRY)) != 0
    filled = present | entry
    wrong = present & entry
    wrong |= ~filled & ((words & np.uint64(FRAME | FLAGS["file"])) != 0)
    known = PRESENT | ENTRY | FRAME | sum(layout.flags.values())
    if layout.shifted:
        wrong |= (words & np.uint64(SHIFT_FIELD)) != layout.stamp
        known |= SHIFT_FIELD
    wrong |= (words & np.uint64(~known & (1 << 64) - 1)) != 0
    if "guard" in layout.flags:
        wrong |= ~entry & ((words & np.uint64(FLAGS["guard"])) != 0)
    return np.asarray(wrong & (words != 0))


_CODE = {name: np.uint8(code) for code, name in enumerate(KINDS)}


@dataclass(frozen=True)
class Meaning:
    """What the numbers inside words mean on one machine: the part that words do not say.

    Attributes
    ----------
    specials : Mapping[int, str]
        Swap type number -> kind, or ``"marker"``, for the numbers that are no swap area.
        Only those present in it are special.
    zero_pfns : tuple of int
        Frames of the zero page.
    huge_zero_pfn : int or None
        First frame of the huge zero page.
    huge_zero_frames : int
        Base pages in a huge page.
    """

    specials: Mapping[int, str] = field(default_factory=dict)
    zero_pfns: tuple[int, ...] = ()
    huge_zero_pfn: int | None = None
    huge_zero_frames: int = 512


def kinds(found: Fields, meaning: Meaning = Meaning()) -> NDArray[np.uint8]:
    """Index into `KINDS` for each word.

    A reader without CAP_SYS_ADMIN sees neither PFN nor swap entry (frame 0, which is no swap
    slot: slot 0 is the area's header). Then a guard bit still tells a guard marker, a
    userfaultfd bit leaves it open whether the page is in swap (``unknown_special``), and all
    else counts as ``swap``; the zero page is ``present`` (`joins.with_zero` asks for it).

    Examples
    --------
    >>> words = np.array([0x440000000000009F, 0x4000000000000C40, 0], np.uint64)
    >>> [KINDS[code] for code in kinds(unpack(words, layout("E7")), Meaning({31: "marker"}))]
    ['marker_guard', 'swap', 'absent']
    """
    if everywhere(found.present):
        codes = np.full(len(found.frame), _CODE["present"])
    else:
        codes = found.present.astype(np.uint8)
    # The zero pages have no map count, so no kernel shows them as exclusive. A huge zero page
    # may have been given back since, and its frames be somebody's.
    if found.exclusive is None or not everywhere(found.exclusive):
        shared = found.present if found.exclusive is None else found.present & ~found.exclusive
        for pfn in meaning.zero_pfns:
            codes[shared & (found.frame == pfn)] = _CODE["zero"]
        if meaning.huge_zero_pfn is not None:
            ahead = (found.frame - meaning.huge_zero_pfn).view(np.uint64)
            codes[shared & (ahead < meaning.huge_zero_frames)] = _CODE["huge_zero"]
    if found.uffd_wp is not None and somewhere(found.uffd_wp):
        # A hugetlb marker shows bit 57 and neither of the top bits (fs/proc/task_mmu.c).
        codes[found.uffd_wp & ~(found.present | found.entry)] = _CODE["marker_uffd"]
    if somewhere(found.entry):
        at = np.flatnonzero(found.entry)
        codes[at] = _entry_kinds(found[at], meaning.specials)
    return codes


def _entry_kinds(found: Fields, specials: Mapping[int, str]) -> NDArray[np.uint8]:
    number, offset = swap_type(found.frame), swap_offset(found.frame)
    by_type = np.full(1 << SWAP_TYPE_BITS, _CODE["swap"])
    for special, kind in specials.items():
        by_type[special] = _CODE["unknown_special" if kind == "marker" else kind]
    codes = by_type[number]
    marker = np.isin(number, [n for n, kind in specials.items() if kind == "marker"])
    for kind, bit in MARKERS.items():
        codes[marker & (offset & bit != 0)] = _CODE[kind]
    hidden = found.frame == 0
    if found.uffd_wp is not None:
        codes[hidden & found.uffd_wp] = _CODE["unknown_special"]
    if found.guard is not None:
        codes[hidden & found.guard] = _CODE["marker_guard"]
    return codes
