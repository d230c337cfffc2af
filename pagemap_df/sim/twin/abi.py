"""Numbers of system calls' arguments, as in the kernel's ``uapi`` headers (x86-64)."""

from __future__ import annotations

SHARED, PRIVATE, FIXED, ANONYMOUS = 0x01, 0x02, 0x10, 0x20
NOREPLACE = 0x100000
OPTIONS = {"populate": 0x8000, "huge": 0x40000, "noreserve": 0x4000, "growsdown": 0x100}
MAYMOVE, REMAP_FIXED, DONTUNMAP = 1, 2, 4
BRK, MOVE_PAGES, CACHESTAT = 12, 279, 451
MOVE = 2
CLONE_PARENT = 0x8000
SWAP_PREFER = 0x8000
ONFAULT = 1
ADVICE = {
    "NORMAL": 0,
    "RANDOM": 1,
    "SEQUENTIAL": 2,
    "WILLNEED": 3,
    "DONTNEED": 4,
    "FREE": 8,
    "REMOVE": 9,
    "DONTFORK": 10,
    "DOFORK": 11,
    "MERGEABLE": 12,
    "UNMERGEABLE": 13,
    "HUGEPAGE": 14,
    "NOHUGEPAGE": 15,
    "WIPEONFORK": 18,
    "KEEPONFORK": 19,
    "COLD": 20,
    "PAGEOUT": 21,
    "POPULATE_READ": 22,
    "POPULATE_WRITE": 23,
    "DONTNEED_LOCKED": 24,
    "COLLAPSE": 25,
    "GUARD_INSTALL": 102,
    "GUARD_REMOVE": 103,
}
"""Numbers of madvise(2), in ``uapi/asm-generic/mman-common.h``."""
