"""Algorithms on bare arrays of pages and frames: ranges, runs, unions, exact sets, matching.

The ground floor of the analyses. Nothing here knows of tables, kernels or units; everything
is NumPy in, NumPy out, a few passes, no hashing. Words:

range
    rows ``[lo, hi)`` of an array; ``lo`` and ``hi`` are given as two arrays.
run
    neighbouring rows in which every column goes up by its step.
code
    a key (PFN, swap slot) written as a small number from 0, so that an array can be indexed by
    it. Keys that are small themselves stay as they are; others are ranked by sorting.
holder
    whoever has a key; rows of one holder lie together, holder ``i`` has the range
    ``bounds[i] : bounds[i + 1]``.

What can go wrong: nothing is checked here. Callers pass integer arrays without unknown values
and in the order each function asks for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .entries import Ints

_CHAINS = 1 << 16

_ROOM = 4
"""Codes may take this many times the room of the keys before ranking pays."""


def range_sums(values: NDArray[Any], lo: Ints, hi: Ints) -> Ints:
    """Sum of `values` in each range; 0 for an empty one. Ranges may lie anyhow.

    Examples
    --------
    >>> range_sums(np.array([1, 2, 3]), np.array([0, 1, 3]), np.array([2, 3, 3]))
    array([3, 5, 0])
    """
    out = np.zeros(len(lo), np.int64)
    some = np.flatnonzero(hi > lo)
    if len(some):
        # The end of the array cannot be an index of reduceat: stop before, add what is missed.
        last = len(values) - 1
        first, stop = lo[some], np.minimum(hi[some], last)
        pairs = np.stack([first, stop], axis=1).ravel()
        out[some] = np.add.reduceat(values, pairs, dtype=np.int64)[::2]
        out[some[(hi[some] > last) & (first < last)]] += np.int64(values[last])
    return out


def concatenated(lo: Ints, hi: Ints) -> Ints:
    """The rows of all ranges, one range after the other.

    Examples
    --------
    >>> concatenated(np.array([5, 0]), np.array([7, 3]))
    array([5, 6, 0, 1, 2])
    """
    lengths = hi - lo
    ends = np.cumsum(lengths)
    return np.repeat(lo - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)


def bounds(sorted_keys: NDArray[Any]) -> tuple[NDArray[Any], Ints]:
    """The different keys of a sorted array, and where each begins, with the length behind.

    Examples
    --------
    >>> keys, at = bounds(np.array([3, 3, 8]))
    >>> keys.tolist(), at.tolist()
    ([3, 8], [0, 2, 3])
    """
    if not len(sorted_keys):
        return sorted_keys, np.zeros(1, np.int64)
    starts = np.flatnonzero(np.r_[True, sorted_keys[1:] != sorted_keys[:-1]])
    return sorted_keys[starts], np.append(starts, len(sorted_keys))


def runs(*columns: tuple[NDArray[Any], int]) -> tuple[Ints, Ints]:
    """Where each run begins and ends: every column goes up by its step from row to row.

    Parameters
    ----------
    *columns : tuple of ndarray and int
        A column and its step; step 0 asks for equal values.

    Examples
    --------
    >>> page, pfn = np.array([1, 2, 3, 9]), np.array([70, 71, 90, 91])
    >>> lo, hi = runs((page, 1), (pfn, 1))
    >>> lo.tolist(), hi.tolist()
    ([0, 2, 3], [2, 3, 4])
    """
    n = len(columns[0][0])
    if n == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    breaks = np.zeros(n - 1, np.bool_)
    for values, step in columns:
        breaks |= values[1:] != values[:-1] + values.dtype.type(step)
    inner = np.flatnonzero(breaks) + 1
    return np.r_[0, inner], np.r_[inner, n]


def codes(keys: Ints) -> tuple[NDArray[Any], int, Ints | None]:
    """Codes of `keys`, how many codes there may be, and the key of each code.

    The third is None if keys are their own codes.

    Examples
    --------
    >>> codes(np.array([10, 13, 10]))
    (array([10, 13, 10]), 14, None)
    >>> code, n, key = codes(np.array([10, 10**12, 10]))
    >>> code.tolist(), n, key.tolist()
    ([0, 1, 0], 2, [10, 1000000000000])
    """
    if not len(keys):
        return keys, 0, None
    n = int(keys.max()) + 1
    if n <= max(_ROOM * len(keys), 1 << 16):
        return keys, n, None
    key, code = np.unique(keys, return_inverse=True)
    return code, len(key), key


class Sets(NamedTuple):
    """Which set of holders has each code. Sets are numbered; 0 is the empty set.

    Attributes
    ----------
    of : ndarray of int32
        Set of each code.
    parent, member : ndarray of int32
        Set ``s`` is set ``parent[s]`` and holder ``member[s]``, who comes after all in it.
    """

    of: NDArray[np.int32]
    parent: NDArray[np.int32]
    member: NDArray[np.int32]


def sets(code: NDArray[Any], n: int, at: Ints) -> Sets:
    """The exact set of holders of each code, in one pass over the rows.

    Holders are taken in order. Each moves the codes it has from the set they were in to that
    set with it added; sets grow as a trie, so two codes end in one set exactly if the same
    holders have them. No set is ever hashed or compared.

    Examples
    --------
    >>> found = sets(np.array([0, 1, 1, 2, 1]), 3, np.array([0, 2, 4, 5]))
    >>> [members(found, int(s)) for s in found.of]
    [[0], [0, 1, 2], [1]]
    """
    of = np.zeros(n, np.int32)
    parents, joined = [np.zeros(1, np.int32)], [np.full(1, -1, np.int32)]
    made = 1
    for holder, (lo, hi) in enumerate(zip(at[:-1].tolist(), at[1:].tolist(), strict=True)):
        mine = code[lo:hi]
        old = of[mine]
        grown, new = _renumbered(old, made)
        of[mine] = new
        parents.append(grown)
        joined.append(np.full(len(grown), holder, np.int32))
        made += len(grown)
    return Sets(of, np.concatenate(parents), np.concatenate(joined))


def _renumbered(old: NDArray[np.int32], made: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The different numbers in `old`, and `old` with those numbered from `made` on."""
    if made > len(old) * 4:
        different, rank = np.unique(old, return_inverse=True)
        return different, (rank + made).astype(np.int32)
    seen = np.zeros(made, np.bool_)
    seen[old] = True
    different = np.flatnonzero(seen).astype(np.int32)
    number = np.zeros(made, np.int32)
    number[different] = np.arange(made, made + len(different))
    return different, number[old]


def members(found: Sets, number: int) -> list[int]:
    """The holders of set `number`, ascending."""
    out = []
    while number:
        out.append(int(found.member[number]))
        number = int(found.parent[number])
    return out[::-1]


def member_lists(found: Sets, numbers: NDArray[np.int32]) -> tuple[Ints, NDArray[np.int32]]:
    """The holders of many sets: offsets into, and all of, one flat array.

    Examples
    --------
    >>> found = sets(np.array([0, 1, 1]), 2, np.array([0, 2, 3]))
    >>> offsets, flat = member_lists(found, found.of)
    >>> offsets.tolist(), flat.tolist()
    ([0, 1, 3], [0, 0, 1])
    """
    parts = [_chains(found, numbers[k : k + _CHAINS]) for k in range(0, len(numbers), _CHAINS)]
    offsets = np.zeros(len(numbers) + 1, np.int64)
    np.cumsum(np.concatenate([np.zeros(0, np.int64), *(n for n, _ in parts)]), out=offsets[1:])
    return offsets, np.concatenate([np.zeros(0, np.int32), *(flat for _, flat in parts)])


def _chains(found: Sets, numbers: NDArray[np.int32]) -> tuple[Ints, NDArray[np.int32]]:
    """How many holders each set has, and all of them, by following parents side by side."""
    layers = []
    while numbers.any():
        layers.append(np.where(numbers > 0, found.member[numbers], -1))
        numbers = found.parent[numbers]
    table = np.array(layers[::-1], np.int32).reshape(len(layers), len(numbers)).T
    mask = table >= 0
    return mask.sum(axis=1), table[mask]


def matched(a: Ints, b: Ints) -> tuple[Ints, Ints]:
    """Rows of `a` and of `b` with the same key; both ascending and without repetition.

    Examples
    --------
    >>> matched(np.array([1, 4, 6]), np.array([4, 5, 6]))
    (array([1, 2]), array([0, 2]))
    """
    if len(a) == len(b) and np.array_equal(a, b):
        every = np.arange(len(a))
        return every, every
    at = np.searchsorted(b, a)
    at[at == len(b)] = 0
    hit = np.flatnonzero(b[at] == a) if len(b) else np.zeros(0, np.int64)
    return hit, at[hit]


def taken(values: NDArray[Any], rows: Ints, nowhere: int) -> NDArray[Any]:
    """`values` at `rows`, and `nowhere` at row -1.

    Examples
    --------
    >>> taken(np.array([5, 6, 7]), np.array([2, -1, 0]), 9)
    array([7, 9, 5])
    """
    out = np.full(len(rows), nowhere, values.dtype)
    there = rows >= 0
    out[there] = values[rows[there]]
    return out


def missing(n: int, rows: Ints) -> Ints:
    """The rows below `n` that are not in `rows`.

    Examples
    --------
    >>> missing(4, np.array([1, 2]))
    array([0, 3])
    """
    out = np.ones(n, np.bool_)
    out[rows] = False
    return np.flatnonzero(out)


def aligned_blocks(first: Ints, stop: Ints, orders: int) -> Ints:
    """How many naturally aligned blocks of each order fill ranges of numbers, largest first.

    Parameters
    ----------
    first, stop : ndarray of int64
        Ranges of frame numbers, not of rows.
    orders : int
        Blocks are of 1, 2, 4 … ``2 ** (orders - 1)``.

    Examples
    --------
    >>> aligned_blocks(np.array([3]), np.array([9]), 4)    # 3, 4-7, 8
    array([2, 0, 1, 0])
    """
    count = np.zeros(orders, np.int64)
    for order in range(orders - 1):
        size = np.int64(1) << order
        odd_start = (first & size != 0) & (first < stop)
        count[order] += odd_start.sum()
        first = first + size * odd_start
        odd_stop = (stop & size != 0) & (first < stop)
        count[order] += odd_stop.sum()
        stop = stop - size * odd_stop
    count[orders - 1] = np.maximum(stop - first, 0).sum() >> (orders - 1)
    return count
