"""The PAGEMAP_SCAN ioctl: which pages of a range are what, without reading their words.

Linux 6.7 and later (52526ca7fdb9). One call over a reservation of a tebibyte takes as long
as its populated part needs. The kernel merges neighbouring pages that answer alike.

In: an open pagemap file, a range, categories asked for. Out: regions as an int64 array of
shape (n, 3): start, end (bytes, half-open), categories.

What can go wrong: the ioctl is missing (`NotAvailable`), a category is newer than the
kernel (likewise), the process has gone (`ProcessGone`, or no regions: 6.18 walks what is left
of its memory). A region may be cut in two where one call ended and the next began.
"""

from __future__ import annotations

import errno
import fcntl
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..errors import NotAvailable, ProcessGone

REQUEST = 0xC0606610
"""``_IOWR('f', 16, struct pm_scan_arg)``."""

CATEGORIES = {
    "WPALLOWED": 1 << 0,
    "WRITTEN": 1 << 1,
    "FILE": 1 << 2,
    "PRESENT": 1 << 3,
    "SWAPPED": 1 << 4,
    "PFNZERO": 1 << 5,
    "HUGE": 1 << 6,
    "SOFT_DIRTY": 1 << 7,
    "GUARD": 1 << 8,
}
"""PAGE_IS_* of include/uapi/linux/fs.h. SWAPPED counts every entry that is not present."""

_ARG = struct.Struct("=12Q")
_WALK_END = 4
_REGIONS = 512


def mask(*names: str) -> int:
    """The categories called `names`, or'ed.

    Examples
    --------
    >>> mask("PRESENT", "SWAPPED")
    24
    """
    return sum({CATEGORIES[name] for name in names})


def regions(
    fd: int,
    start: int,
    end: int,
    *,
    any_of: int = 0,
    all_of: int = 0,
    inverted: int = 0,
    report: int = 0,
) -> Iterator[NDArray[np.int64]]:
    """Walk [start, end) of the process behind the pagemap `fd`, some 500 regions at a time.

    Parameters
    ----------
    any_of, all_of : int
        Categories of which a page must have at least one, and all.
    inverted : int
        Categories that are flipped before the test.
    report : int
        Categories that are told apart in the answer; pages equal in these merge.

    Yields
    ------
    int64 array of shape (n, 3)
        start, end, categories; ascending.
    """
    found = np.empty((_REGIONS, 3), np.int64)
    while start < end:
        arg = bytearray(
            _ARG.pack(
                _ARG.size, 0, start, end, 0, found.ctypes.data, _REGIONS, 0,
                inverted, all_of, any_of, report,
            )
        )  # fmt: skip
        count = _call(fd, arg)
        if count:
            yield found[:count].copy()
        if count < _REGIONS:
            return
        # The kernel leaves walk_end at a stale value when it gathers more than one bounce
        # buffer of 512 regions, so never resume before what was reported (fs/proc/task_mmu.c,
        # pagemap_scan_flush_buffer in 6.18).
        start = max(_ARG.unpack(arg)[_WALK_END], int(found[count - 1, 1]))


def _call(fd: int, arg: bytearray) -> int:
    try:
        return int(fcntl.ioctl(fd, REQUEST, arg, True))
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise ProcessGone("the process left during PAGEMAP_SCAN") from error
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            raise NotAvailable(
                "this kernel has no PAGEMAP_SCAN, or not all the categories asked for "
                "(Linux 6.7 and later have it)"
            ) from error
        raise


def available(fd: int) -> bool:
    """Whether the kernel behind the pagemap `fd` answers PAGEMAP_SCAN."""
    try:
        _call(fd, bytearray(_ARG.pack(_ARG.size, *[0] * 11)))
    except NotAvailable:
        return False
    return True
