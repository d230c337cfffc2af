"""A small Linux memory manager that regenerates what /proc shows of memory.

::

    script  grammar ──► run ──► machine (a Source)  exec  process  load
                                   │                        │
                 ┌─────────────────┘                        ▼
                 ▼                   mm/: calls: mmap mremap madvise fork zap
    proc/: proctree smaps words              │
           pagemap_file pagemap_scan         ▼
                 │                   faults: fault anonfault filefault hugetlb thp
                 │                           │
                 │                           ▼
                 │                   reclaim pageout readahead swapoff ksm
                 │                           │
                 │                           ▼
                 └─────────────────► kernel: vma pagetable files ◄── hardware swapfile

Imports go downwards: frames and swap slots know nothing of page tables, page tables nothing
of mappings, and rules nothing of processes. A page table is arrays of 512 entries as the
hardware has them, a frame is a row of parallel arrays, so that a rule over a range is a few
array operations. The rules carry the names of their functions in the kernel's ``mm/``.

Left out, because no page map shows it or because only timing decides it: per-CPU batches,
pins, swap readahead, large folios of files, khugepaged and kswapd between two calls, NUMA,
userfaultfd. Page tables themselves cost no frames. `twin` holds the rest against a kernel.

The first design had one array of entries per mapping. Mappings merge, split and move all
the time, and each of that copied; a sparse reservation of a tebibyte cost its whole table.
Leaf tables shared by all mappings of an address space have neither trouble, and they tell a
hole from an empty entry, which the reader of 2008 does too.
"""

from __future__ import annotations

from .grammar import Operation
from .load import load
from .machine import Machine
from .outcome import Outcome
from .proc.pagemap_file import PagemapFile, Reader, UserBuffer
from .proc.pagemap_scan import Scan
from .process import Process
from .run import Run
from .script import Script

__all__ = [
    "Machine",
    "Operation",
    "Outcome",
    "PagemapFile",
    "Process",
    "Reader",
    "Run",
    "Scan",
    "Script",
    "UserBuffer",
    "load",
]
