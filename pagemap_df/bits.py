"""Single bits of many words, as bools; a bit that does not vary costs no memory.

Whole blocks of a page map agree in most of their bits. Such a bit is one element repeated
without memory (stride 0), and whoever knows to ask (`everywhere`, `somewhere`) need not look
at the others. `entries` makes such arrays and `columns` packs them; to NumPy they are arrays
like any other, but read-only. Nothing can go wrong here.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray


def unvarying(value: bool, count: int) -> NDArray[np.bool_]:
    """One bit, `count` times, on one byte; what `np.broadcast_to` makes, ten times as fast."""
    return np.ndarray(count, np.bool_, b"\1" if value else b"\0", strides=(0,))


def constant(values: NDArray[np.bool_]) -> bool:
    """Whether this is a bit that does not vary: one element, repeated without memory."""
    return values.strides == (0,) and len(values) > 0


def everywhere(values: NDArray[np.bool_]) -> bool:
    """Whether all of `values` are true; costs nothing for a bit that does not vary."""
    return bool(values[0]) if constant(values) else bool(values.all())


def somewhere(values: NDArray[np.bool_]) -> bool:
    """Whether any of `values` is true; costs nothing for a bit that does not vary."""
    return bool(values[0]) if constant(values) else bool(values.any())


def top_byte(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Bits 56 to 63 of each word, contiguous: an eighth of the memory for seven flags."""
    view = np.ascontiguousarray(words).view(np.uint8)
    return np.ascontiguousarray(view[7::8] if sys.byteorder == "little" else view[0::8])


class BitsOf:
    """One bit of each of many words, for one mask after the other.

    Examples
    --------
    >>> bit = BitsOf(np.array([0b101, 0b100], np.uint64))
    >>> bit(0b001).tolist(), bit(0b100).tolist(), constant(bit(0b100))
    ([True, False], [True, True], True)
    """

    def __init__(self, words: NDArray[np.uint64]) -> None:
        self.words = words
        self.somewhere = int(np.bitwise_or.reduce(words)) if len(words) else 0
        self.everywhere = int(np.bitwise_and.reduce(words)) if len(words) else 0
        self._top: NDArray[np.uint8] | None = None

    def __call__(self, mask: int) -> NDArray[np.bool_]:
        """Whether the bit in `mask` is set, for each word."""
        if not self.somewhere & mask or self.everywhere & mask:
            return unvarying(bool(self.everywhere & mask), len(self.words))
        if mask >> 56:
            if self._top is None:
                self._top = top_byte(self.words)
            return np.asarray(np.not_equal(self._top & np.uint8(mask >> 56), 0))
        return np.asarray(np.not_equal(self.words & np.uint64(mask), 0))
