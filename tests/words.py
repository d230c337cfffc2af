"""Pagemap words for tests: strategies for hypothesis, and a decoder that shares no code.

`naive` takes one word apart with ``if`` and shifts, after the tables of kernel documentation,
so that the vectorised codec has something to be compared with.
"""

import random
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

ERAS = ("E0", "E1", "E2", "E3", "E4v1", "E4v2", "E5", "E6", "E7")
SHIFTED = ("E2", "E3", "E4v1")
HAS = {
    "E0": "",
    "E1": "",
    "E2": "",
    "E3": "F",
    "E4v1": "F",
    "E4v2": "FD",
    "E5": "FDX",
    "E6": "FDXU",
    "E7": "FDXUG",
}
AT = {"F": 61, "G": 58, "U": 57, "X": 56, "D": 55}
NAMES = {"F": "file", "G": "guard", "U": "uffd_wp", "X": "exclusive", "D": "soft_dirty"}


class Naive(NamedTuple):
    """What one word says: bits, frame (0 where there is none), flags by name (None: no such)."""

    present: bool
    entry: bool
    frame: int
    flags: dict[str, bool | None]


def naive(word: int, era: str) -> Naive:
    """One word, the slow way."""
    flags = {
        name: bool(word >> AT[letter] & 1) if letter in HAS[era] else None
        for letter, name in NAMES.items()
    }
    if era in ("E0", "E1"):
        tag, low = word >> 61, word % (1 << 61)
        if tag == 0:
            return Naive(True, False, low, flags)
        if era == "E0":
            return Naive(False, low != 0, low, flags)
        return Naive(False, tag == 2, low if tag == 2 else 0, flags)
    return Naive(bool(word >> 63 & 1), bool(word >> 62 & 1), word % (1 << 55), flags)


frames = st.one_of(
    st.integers(1, 1 << 22),
    st.integers(1, (1 << 55) - 1),
    st.builds(lambda t, o: t | o << 5, st.integers(0, 31), st.integers(1, 9)),
    st.builds(lambda t, o: t | o << 5, st.integers(0, 31), st.integers(1, (1 << 50) - 1)),
)


@st.composite
def words(draw: Any, era: str, page_shift: int = 12) -> int:
    """One word that a kernel of `era` can write; never PFN 0, and not the plain 0 of 2.6.26."""
    state = draw(st.sampled_from("PSA"))
    frame = draw(frames)
    if era in ("E0", "E1"):
        swap, absent = {"E0": (7 << 61, 7 << 61), "E1": (2 << 61, 1 << 61)}[era]
        return {"P": frame, "S": swap | frame, "A": absent}[state]
    word = page_shift << 55 if era in SHIFTED else 0
    allowed = {"P": "FDXU", "S": "FDXUG", "A": "DU"}[state]
    for letter in allowed:
        if letter in HAS[era] and draw(st.booleans()):
            word |= 1 << AT[letter]
    return word | {"P": 1 << 63 | frame, "S": 1 << 62 | frame, "A": 0}[state]


def captures(era: str, page_shift: int = 12, **sizes: int) -> Any:
    """Many words of one era, as a uint64 array."""
    return st.lists(words(era, page_shift), **sizes).map(lambda found: np.array(found, np.uint64))


def a_capture(era: str, count: int = 256, page_shift: int = 12) -> np.ndarray:
    """A plausible capture: frames in a run, some pages in swap, some nowhere; always the same."""
    dice = random.Random(count)
    out = []
    for i in range(count):
        frame, state = 0x1EC600 + i, dice.choice("PPSA")
        if era in ("E0", "E1"):
            swap, absent = {"E0": (7 << 61, 7 << 61), "E1": (2 << 61, 1 << 61)}[era]
            out.append({"P": frame, "S": swap | i + 1 << 5, "A": absent}[state])
            continue
        word = {"P": 1 << 63 | frame, "S": 1 << 62 | i + 1 << 5, "A": 0}[state]
        word |= page_shift << 55 if era in SHIFTED else 0
        for letter in "FX":
            if state == "P" and letter in HAS[era]:
                word |= dice.randrange(2) << AT[letter]
        out.append(word)
    return np.array(out, np.uint64)
