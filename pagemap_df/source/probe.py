"""What this kernel's pagemap shows this reader, found by trying it on pages of our own.

Distributions backport, security modules refuse, containers drop capabilities; so no fact is
derived from a version number that a few scratch pages can tell: one written, one only read,
one untouched, one made a guard page.

Out: the facts that `Source.facts` describes. What can go wrong: ``/proc/self/pagemap`` cannot
be opened at all (`NotAvailable`, or `NotPermitted` on Linux 4.0 to 4.2).
"""

from __future__ import annotations

import gzip
import mmap
import os
import re
import sys
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from .. import entries, eras
from ..entries import Words
from ..errors import NotAvailable, NotPermitted
from ..pageflags import parse_release
from ..procstatus import SwapArea, parse_swaps
from . import scan

MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_PAGEOUT, MADV_GUARD_INSTALL = 14, 15, 21, 102

_THP = Path("/sys/kernel/mm/transparent_hugepage")


def kernel_facts() -> dict[str, Any]:
    """Facts of the running kernel and of this process's rights, as `Source.facts` has them."""
    uname = os.uname()
    facts: dict[str, Any] = {
        "host": uname.nodename,
        "release": uname.release,
        "version": uname.version,
        "machine": uname.machine,
        "byte_order": sys.byteorder,
        "page_size": mmap.PAGESIZE,
        "clock_ticks": os.sysconf("SC_CLK_TCK"),
        **_boot_facts(),
    }
    try:
        fd = os.open("/proc/self/pagemap", os.O_RDONLY)
    except PermissionError as error:
        raise NotPermitted(
            "/proc/self/pagemap: expected to open it; Linux 4.0 to 4.2 and some security "
            "modules ask for CAP_SYS_ADMIN, run as root"
        ) from error
    except FileNotFoundError as error:
        raise NotAvailable(
            "/proc/self/pagemap is not there: this system has no procfs, or its kernel was "
            "built without CONFIG_PROC_PAGE_MONITOR"
        ) from error
    try:
        facts.update(_scratch_facts(fd, uname.release))
    finally:
        os.close(fd)
    return facts


def _scratch_facts(fd: int, release: str) -> dict[str, Any]:
    """Write to one page, read one, leave one alone, guard one; then read their words."""
    page = mmap.PAGESIZE
    with mmap.mmap(-1, 4 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as scratch:
        scratch.madvise(MADV_NOHUGEPAGE) if _THP.exists() else None
        scratch[0] = 1
        scratch[page]
        try:
            scratch.madvise(MADV_GUARD_INSTALL, 3 * page, page)
            guard = True
        except OSError:
            guard = False
        words = np.empty(4, np.uint64)
        view = np.frombuffer(scratch, np.uint8)
        os.preadv(fd, [words.data], view.ctypes.data // page * 8)
        del view
    written, read, untouched, guarded = (int(word) for word in words)
    facts = told_by_scratch(written, read, untouched, guarded if guard else 0, release, page)
    facts["scan"] = scan.available(fd)
    return facts


def told_by_scratch(
    written: int, read: int, untouched: int, guarded: int, release: str, page_size: int
) -> dict[str, Any]:
    """What the words of four scratch pages tell; `guarded` is 0 if guarding was refused."""
    era = _era(written, guarded, release, page_size)
    frame = written & entries.FRAME
    facts: dict[str, Any] = {
        "era": era,
        "pfns": "visible" if frame else "hidden",
        "soft_dirty": "soft_dirty" in entries.layout(era).flags
        and bool(untouched & entries.FLAGS["soft_dirty"]),
    }
    if not frame:
        facts["pfns_why"] = (
            "the reader has no CAP_SYS_ADMIN in the initial user namespace, so the kernel "
            "shows every frame number and swap slot as 0"
        )
    elif read & entries.PRESENT:
        facts["zero_pfns"] = [read & entries.FRAME]
    return facts


def swap_sample(pages: int = 16) -> tuple[dict[int, int], dict[int, frozenset[bytes]]]:
    """Push scratch pages of our own out to swap, and look at their entries.

    Returns
    -------
    highest_slot : dict of int to int
        Swap type -> highest slot given to our pages; empty if they stayed in memory.
    grown : dict of int to frozenset of bytes
        Swap type -> the areas whose use grew by at least as much.
    """
    size = pages * mmap.PAGESIZE
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as scratch:
        scratch.write(bytes(range(1, 129)) * (size // 128))
        before = _swaps()
        try:
            scratch.madvise(MADV_PAGEOUT)
        except OSError:
            return {}, {}
        after = _swaps()
        words = np.empty(pages, np.uint64)
        view = np.frombuffer(scratch, np.uint8)
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            os.preadv(file.fileno(), [words.data], view.ctypes.data // mmap.PAGESIZE * 8)
        del view
    return told_by_sample(words, before, after, mmap.PAGESIZE)


def told_by_sample(
    words: Words, before: Sequence[SwapArea], after: Sequence[SwapArea], page_size: int
) -> tuple[dict[int, int], dict[int, frozenset[bytes]]]:
    """What the words of pages pushed out tell, with the areas before and after."""
    used = {area.path: area.used for area in before}
    found = entries.unpack(words, entries.layout("E7"))
    frames = found.frame[found.entry & (found.frame != 0)]
    types, offsets = entries.swap_type(frames), entries.swap_offset(frames)
    highest, grown = {}, {}
    for number in np.unique(types).tolist():
        slots = offsets[types == number]
        highest[number] = int(slots.max())
        grown[number] = frozenset(
            area.path
            for area in after
            if area.used - used.get(area.path, area.used) >= len(slots) * page_size
        )
    return highest, {number: paths for number, paths in grown.items() if paths}


def _swaps() -> list[SwapArea]:
    return parse_swaps(Path("/proc/swaps").read_bytes())


def _era(written: int, guarded: int, release: str, page_size: int) -> str:
    """The era of a page that we wrote to and of one that we tried to guard."""
    by_release = eras.era_of_release(parse_release(release))
    if written & entries.SHIFT_FIELD == (page_size.bit_length() - 1) << entries.SHIFT_AT:
        return by_release if by_release in ("E2", "E3", "E4v1") else "E3"
    if not written & entries.FLAGS["exclusive"]:
        return "E4v2"
    if guarded & entries.FLAGS["guard"]:
        return "E7"
    return by_release if by_release in ("E5", "E6", "E7") else "E5"


def huge_zeros_made() -> int:
    """How often this kernel has made the huge zero page since boot; it frees it at times."""
    try:
        counters = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    found = re.search(r"^thp_zero_page_alloc (\d+)", counters, re.MULTILINE)
    return int(found[1]) if found else 0


def huge_zero() -> int | None:
    """First frame of the huge zero page; None where no reader is given one at the moment.

    Looking for it takes mapping it, which makes one where there is none: ask
    `huge_zeros_made` first.
    """
    try:
        size = int((_THP / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        return None
    with mmap.mmap(-1, 2 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as scratch:
        try:
            scratch.madvise(MADV_HUGEPAGE)
        except OSError:
            return None
        view = np.frombuffer(scratch, np.uint8)
        start = view.ctypes.data
        del view
        aligned = -start % size
        scratch[aligned]
        words = np.empty(size // mmap.PAGESIZE, np.uint64)
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            os.preadv(file.fileno(), [words.data], (start + aligned) // mmap.PAGESIZE * 8)
    return told_by_huge_page(words)


def told_by_huge_page(words: Words) -> int | None:
    """First frame of the huge zero page, if the words of a huge page only read show one.

    Where ``use_zero_page`` is off a read is given a huge page of its own, and bit 56 says so.
    """
    frames = (words & np.uint64(entries.FRAME)).astype(np.int64)
    run = frames[0] != 0 and frames[0] % len(frames) == 0 and np.all(np.diff(frames) == 1)
    own = int(words[0]) & entries.FLAGS["exclusive"]
    return int(frames[0]) if run and not own else None


@lru_cache(maxsize=1)
def _boot_facts() -> dict[str, Any]:
    """What does not change before the next boot."""
    facts: dict[str, Any] = {}
    try:
        facts["boot_id"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        facts["pmd_size"] = int((_THP / "hpage_pmd_size").read_text())
    except (OSError, ValueError):
        pass
    release = os.uname().release
    options = _options(release)
    return facts if options is None else {**facts, **told_by_options(release, options)}


def told_by_options(release: str, options: Collection[str]) -> dict[str, Any]:
    """What the options that a kernel was built with tell."""
    special = eras.specials(parse_release(release), options)
    return {
        "specials": {str(number): kind for number, kind in special.items()},
        "mapcount": "average" if "NO_PAGE_MAPCOUNT" in options else "exact",
    }


def _options(release: str) -> set[str] | None:
    """The options that are ``y`` in this kernel's configuration, None if nobody tells."""
    text = None
    for path in (Path("/proc/config.gz"), Path(f"/boot/config-{release}")):
        try:
            raw = path.read_bytes()
        except OSError:
            continue
        text = gzip.decompress(raw) if path.suffix == ".gz" else raw
        break
    if text is None:
        return None
    return {name.decode() for name in re.findall(rb"^CONFIG_(\w+)=y$", text, re.MULTILINE)}
