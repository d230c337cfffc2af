"""Names for the bits of ``/proc/kpageflags``, and what ``/proc/kpagecount`` counts.

Both files hold one 64-bit word per page frame, indexed by PFN. This module turns a word, or a
column of them, into names and back. The table `FLAGS` is the one place where bit, name and
kernel version stand; everything else here is computed from it.

The numbers are the kernel's own (``KPF_*`` in include/uapi/linux/kernel-page-flags.h for bits
below 32, include/linux/kernel-page-flags.h above), so one name means one bit on every machine.
Two bits changed their name with their meaning: 23 (BALLOON, then OFFLINE) and 34 (MAPPEDTODISK,
then OWNER_2). Bits from 32 on are for kernel developers and promised to nobody. Bit 40
(SOFTDIRTY) is a number that tools use among themselves; the kernel never sets it.

What to keep in mind when reading them:

- A word is taken without locks. Neighbouring frames may be words of different moments.
- From Linux 6.10 the later frames of a compound page repeat the flags of its head, so DIRTY or
  REFERENCED of a single page within a folio cannot be known. Before, they are mostly empty.
- DIRTY and REFERENCED are those of the folio. The bits of page table entries are not here.
- A word of 0 is no sign of a hole: it is also a frame the kernel uses without any of these.
- Distributions port changes back. Names are therefore given for any bit set, whatever the
  release; only `columns` and `explain` hold a release against the table.

What can go wrong: a name that is no flag, or no flag of that release, raises `NotAvailable`; a
release that is no version raises `FormatError`; words of another type than 64-bit integers
raise `TableError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import FormatError, NotAvailable, TableError

Bools = NDArray[np.bool_]
Release = tuple[int, ...]


class Flag(NamedTuple):
    """One name of one bit.

    Attributes
    ----------
    bit : int
        Its number, 0 the lowest.
    name : str
        The kernel's, without ``KPF_``.
    since : tuple of int
        First Linux version that reports it.
    until : tuple of int or None
        First Linux version that does not any more.
    meaning : str
        One line.
    """

    bit: int
    name: str
    since: Release
    until: Release | None
    meaning: str


_SEED = (2, 6, 25)
_MORE = (2, 6, 31)
_TIDY = (6, 12)

FLAGS = (
    Flag(0, "LOCKED", _SEED, None, "locked, for instance while being read; 0 before 2.6.29"),
    Flag(1, "ERROR", _SEED, _TIDY, "input or output failed"),
    Flag(2, "REFERENCED", _SEED, None, "used since the kernel last looked, as the folio knows"),
    Flag(3, "UPTODATE", _SEED, None, "holds valid data; also on some free pages"),
    Flag(4, "DIRTY", _SEED, None, "to be written back, as the folio knows"),
    Flag(5, "LRU", _SEED, None, "on a list of reclaim; not yet while in a per-CPU batch"),
    Flag(6, "ACTIVE", _SEED, None, "on the active list of reclaim"),
    Flag(7, "SLAB", _SEED, None, "belongs to the kernel's slab allocator"),
    Flag(8, "WRITEBACK", _SEED, None, "being written back; garbled before 2.6.29"),
    Flag(9, "RECLAIM", _SEED, None, "to be freed once written; garbled before 2.6.29"),
    Flag(10, "BUDDY", _SEED, None, "free; only first of its block before about 4.6"),
    Flag(11, "MMAP", _MORE, None, "mapped by a process; by 6.18 its folio is, somewhere"),
    Flag(12, "ANON", _MORE, None, "anonymous: has no file behind it"),
    Flag(13, "SWAPCACHE", _MORE, None, "in the swap cache: has a swap slot too"),
    Flag(14, "SWAPBACKED", _MORE, None, "goes to swap when reclaimed: anonymous or shmem"),
    Flag(15, "COMPOUND_HEAD", _MORE, None, "first page of a compound page"),
    Flag(16, "COMPOUND_TAIL", _MORE, None, "later page of a compound page"),
    Flag(17, "HUGE", _MORE, None, "part of a hugetlb page"),
    Flag(18, "UNEVICTABLE", _MORE, None, "on the unevictable list, for instance locked"),
    Flag(19, "HWPOISON", (2, 6, 32), None, "hardware found the memory broken"),
    Flag(20, "NOPAGE", _MORE, None, "no such frame; never reported by 6.18, where holes read 0"),
    Flag(21, "KSM", (2, 6, 32), None, "merged with equal pages (KSM)"),
    Flag(22, "THP", (3, 4), None, "part of a large folio or transparent huge page of any size"),
    Flag(23, "BALLOON", (3, 18), (5, 1), "given back to the hypervisor by a balloon driver"),
    Flag(23, "OFFLINE", (5, 1), None, "logically offline: ballooned, or memory not plugged in"),
    Flag(24, "ZERO_PAGE", (4, 0), None, "the zero page, or with THP the huge zero page"),
    Flag(25, "IDLE", (4, 3), None, "marked idle and not used since"),
    Flag(26, "PGTABLE", (4, 18), None, "holds a page table"),
    Flag(32, "RESERVED", _MORE, None, "reserved: firmware, kernel image, memory map"),
    Flag(33, "MLOCKED", _MORE, None, "locked into memory by a process"),
    Flag(34, "MAPPEDTODISK", _MORE, _TIDY, "has blocks on disk; anonymous, from 5.19: exclusive"),
    Flag(34, "OWNER_2", _TIDY, None, "for its owner; anonymous: exclusive to one process"),
    Flag(35, "PRIVATE", _MORE, None, "carries private data of its owner, as buffer heads"),
    Flag(36, "PRIVATE_2", _MORE, None, "for its owner, as a filesystem's own cache"),
    Flag(37, "OWNER_PRIVATE", _MORE, None, "for its owner; anonymous: in the swap cache"),
    Flag(38, "ARCH", _MORE, None, "for the architecture"),
    Flag(39, "UNCACHED", _MORE, _TIDY, "mapped uncached (ia64, x86)"),
    Flag(41, "ARCH_2", (5, 10), None, "for the architecture; arm64: has memory tags"),
    Flag(42, "ARCH_3", (6, 2), None, "for the architecture; arm64: tags being set"),
)
"""Every name a bit of kpageflags has or had, by bit and version."""

_BY_NAME = {flag.name: flag for flag in FLAGS}
_RELEASE = re.compile(r"([0-9]{1,5})\.([0-9]{1,5})(?:\.([0-9]{1,5}))?(?![0-9])")


def parse_release(release: str) -> tuple[int, int, int]:
    """The version in what ``uname -r`` prints, whatever a distribution hangs behind it.

    Examples
    --------
    >>> parse_release("6.1.0-28-amd64"), parse_release("6.18-rc3"), parse_release("2.6.25.20")
    ((6, 1, 0), (6, 18, 0), (2, 6, 25))
    """
    found = _RELEASE.match(release)
    if found is None:
        raise FormatError("a kernel release such as '6.18.2-amd64'", found=release)
    return int(found[1]), int(found[2]), int(found[3] or 0)


def explain(release: str | None = None) -> list[Flag]:
    """The flags that `release` reports, or all there ever were, by bit.

    Rows are named tuples, so ``pandas.DataFrame(explain("6.18"))`` is the table to read.

    Examples
    --------
    >>> [flag.name for flag in explain("2.6.25")][-3:]
    ['WRITEBACK', 'RECLAIM', 'BUDDY']
    """
    if release is None:
        return list(FLAGS)
    version = parse_release(release)
    return [flag for flag in FLAGS if _in_force(flag, version)]


def _in_force(flag: Flag, version: Release) -> bool:
    return flag.since <= version and (flag.until is None or version < flag.until)


def _named(name: str) -> Flag:
    flag = _BY_NAME.get(name.upper().removeprefix("KPF_"))
    if flag is None:
        raise NotAvailable(
            f"no page flag is called {name!r}; there are " + ", ".join(sorted(_BY_NAME))
        )
    return flag


def bit(name: str) -> int:
    """Number of the bit called `name`, in any case, with or without ``KPF_``.

    Examples
    --------
    >>> bit("KSM"), bit("KPF_OWNER_2"), bit("mappedtodisk")
    (21, 34, 34)
    """
    return _named(name).bit


def mask(*names: str) -> int:
    """The word in which exactly the bits called `names` are set.

    Examples
    --------
    >>> hex(mask("ANON", "KSM"))
    '0x201000'
    """
    word = 0
    for name in names:
        word |= 1 << bit(name)
    return word


def names(word: int, release: str | None = None) -> tuple[str, ...]:
    """What the bits set in `word` are called, lowest first.

    Parameters
    ----------
    word : int
        A word of kpageflags, signed or not.
    release : str, optional
        Kernel the word is from; the newest names if not given.

    Returns
    -------
    tuple of str
        A bit that never had a name is ``"BIT_27"`` and so on: none is dropped.

    Examples
    --------
    >>> names(1 << 12 | 1 << 34 | 1 << 50)
    ('ANON', 'OWNER_2', 'BIT_50')
    >>> names(1 << 34, "6.1.0-28-amd64")
    ('MAPPEDTODISK',)
    """
    version = None if release is None else parse_release(release)
    return tuple(_name(number, version) for number in range(64) if word >> number & 1)


def _name(number: int, version: Release | None) -> str:
    """The last name the bit had by `version`, or its first if it had none yet."""
    known = [flag for flag in FLAGS if flag.bit == number]
    if not known:
        return f"BIT_{number}"
    by_then = [flag for flag in known if version is None or flag.since <= version]
    return by_then[-1].name if by_then else known[0].name


def describe(word: int, release: str | None = None) -> str:
    """`word` as a line to print.

    Examples
    --------
    >>> describe(mask("LRU", "ANON"))
    'LRU ANON'
    >>> describe(0)
    'no flags'
    """
    return " ".join(names(word, release)) or "no flags"


def has(flags: NDArray[Any], *names: str) -> Bools:
    """Where *all* bits called `names` are set.

    Parameters
    ----------
    flags : ndarray of int64 or uint64
        Words of kpageflags, without nulls.
    *names : str
        Flags, in any case.

    Returns
    -------
    ndarray of bool
        As long as `flags`.

    Examples
    --------
    >>> has(np.array([mask("ANON"), mask("ANON", "KSM")]), "anon", "ksm")
    array([False,  True])
    """
    if flags.dtype.kind not in "iu" or flags.dtype.itemsize != 8:
        raise TableError(
            f"flags are {flags.dtype}, expected int64 or uint64 (drop nulls before asking)"
        )
    wanted = flags.dtype.type(mask(*names))
    return np.asarray(flags & wanted == wanted)


def columns(
    flags: NDArray[Any], names: Iterable[str] | None = None, release: str | None = None
) -> dict[str, Bools]:
    """One bool array for each flag, under its name as spelled in `names`.

    Parameters
    ----------
    flags : ndarray of int64 or uint64
        Words of kpageflags, without nulls.
    names : iterable of str, optional
        Flags wanted; if not given, all that `release` reports.
    release : str, optional
        Kernel the words are from. A flag it does not report raises `NotAvailable`, for False
        would say more than is known.

    Examples
    --------
    >>> columns(np.array([1 << 12, 0]), ["ANON"])
    {'ANON': array([ True, False])}
    """
    reported = explain(release)
    wanted = [flag.name for flag in reported] if names is None else list(names)
    for name in wanted:
        if _named(name) not in reported:
            raise NotAvailable(f"Linux {release} does not report the page flag {name}")
    return {name: has(flags, name) for name in wanted}


def mapcount_meaning(release: str, *, page_mapcount: bool = True) -> str:
    """What a word of ``/proc/kpagecount`` counts on `release`.

    ``"references"``
        before Linux 2.6.26: every reference the kernel holds, not only mappings.
    ``"mappings"``
        from then on: page table entries that map the page, plus the times its whole folio is
        mapped at once. Not processes; not pins, page cache, swap cache or swap entries. The
        zero pages and pages with a type of their own (slab, page tables) read 0.
    ``"average"``
        from Linux 6.15 where ``CONFIG_NO_PAGE_MAPCOUNT`` is set: for a page of a large folio
        the mean over the folio, rounded, at least 1 if anything of it is mapped.

    Parameters
    ----------
    release : str
        As ``uname -r`` prints it.
    page_mapcount : bool, default True
        ``CONFIG_PAGE_MAPCOUNT``, which nearly all kernels set and older ones do not know.

    Examples
    --------
    >>> mapcount_meaning("2.6.25"), mapcount_meaning("6.18.2")
    ('references', 'mappings')
    """
    version = parse_release(release)
    if version < (2, 6, 26):
        return "references"
    return "mappings" if page_mapcount or version < (6, 15) else "average"
