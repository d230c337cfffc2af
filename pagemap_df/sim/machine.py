"""`Machine`: a computer whose memory behaves as Linux's does, and that can be looked at.

It has frames, swap, files, cgroups and processes, and it *is* a
`pagemap_df.source.Source`: what it prints has the kernel's format, its words the layout of
any era. Everything random (addresses, the order of frames) comes from one generator; the same
seed and the same calls give the same bytes.

What can go wrong: memory runs out, and a process is killed for it; that and every signal is
noted in `Machine.outcomes`, not raised.

Examples
--------
>>> machine = Machine("64M", rng=1)
>>> server = machine.spawn("server")
>>> heap = server.mmap(100)
>>> server.write(range(heap, heap + 100))
>>> worker = server.fork()
>>> worker.write(range(heap, heap + 10))
>>> machine.rss(worker) - machine.rss(server)
0
>>> [hex(word >> 56) for word in machine.words(f"{worker.pid}/pagemap", heap + 9, 2).tolist()]
['0x81', '0x80']
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .. import eras, tree
from ..entries import ERAS, Words, layout
from ..errors import NotAvailable, ProcessGone
from ..snapshot import Snapshot
from ..source import Source
from ..take import take
from .devices import TASK_SIZE, Devices
from .exec import must_be_program, new_space, start
from .mm import pagetable as pt
from .mm.files import File
from .mm.fork import copy_space
from .mm.hardware import BLOCK, PAGE_SIZE, OutOfFrames
from .mm.mmap import close
from .mm.vma import AddressSpace
from .outcome import Outcome
from .proc import proctree
from .proc.pagemap_file import PagemapFile, Reader
from .proc.words import kpagecgroup, kpagecount, kpageflags, pagemap
from .process import Process
from .run import Run
from .script import Script


class Machine(Devices, Source):
    """A simulated machine.

    Parameters
    ----------
    memory : int or str
        RAM, as in ``"4G"``.
    rng : int or numpy.random.Generator
        Seed, or generator, of all that is random.
    era : str
        Which layout the words have (`pagemap_df.entries.ERAS`).
    thp : str
        ``always``, ``madvise`` or ``never``.
    """

    live = True
    task_size = TASK_SIZE

    def __init__(
        self,
        memory: int | str = "4G",
        *,
        rng: int | np.random.Generator = 0,
        era: str = "E7",
        thp: str = "madvise",
    ) -> None:
        self.rng = np.random.default_rng(rng)
        if era not in ERAS:
            raise ValueError(f"era is one of {', '.join(ERAS)}, not {era!r}")
        super().__init__(memory, self.rng, thp)
        self.era = era
        self.processes: dict[int, Process] = {}
        self.outcomes: list[Outcome] = []
        self.line: int | None = None
        self.boot_id = "-".join(self.rng.bytes(n).hex() for n in (4, 2, 2, 2, 6))
        self._ticks, self._last_pid = 100, 0
        self._vdso = self.device_file(b"[vdso]", 2)
        self.spawn("init", uid=0)

    def now(self) -> int:
        """Clock ticks since boot; each process takes one."""
        self._ticks += 1
        return self._ticks

    # ---- processes --------------------------------------------------------------------

    def spawn(
        self,
        name: str,
        image: File | None = None,
        *,
        uid: int = 1000,
        cgroup: int = 0,
        parent: Process | None = None,
    ) -> Process:
        """A new process, as after fork and exec: a stack, the vDSO, and its image if given.

        `ValueError` for an image without pages, which the kernel takes for no program either.
        """
        must_be_program(image)
        process = Process(
            self,
            self._next_pid(),
            parent.pid if parent else 1,
            name,
            new_space(self.kernel, self.rng),
        )
        process.uid = uid
        if process.pid == 1:
            process.ppid = 0
        self.processes[process.pid] = process
        start(process, cgroup, image, self._vdso, self.rng)
        return process

    def _next_pid(self) -> int:
        self._last_pid = max(self._last_pid + 1, 1001) if self._last_pid else 1
        return self._last_pid

    def adopt(self, process: Process) -> None:
        """Take in a process that was made elsewhere."""
        self.processes[process.pid] = process
        self._last_pid = max(self._last_pid, process.pid)

    def fork(self, parent: Process, name: str | None = None) -> Process:
        """A copy of a process."""
        space = copy_space(self.kernel, parent.mm)
        child = Process(self, self._next_pid(), parent.pid, name or parent.name, space)
        child.uid = parent.uid
        self.processes[child.pid] = child
        return child

    def exec(self, process: Process, name: str, image: File | None = None) -> None:
        """Give a process a new program; `ValueError` for an image without pages."""
        must_be_program(image)
        cgroup = process.mm.cgroup
        self._drop_space(process.mm)
        process.name, process.space = name, new_space(self.kernel, self.rng)
        start(process, cgroup, image, self._vdso, self.rng)

    def end(self, process: Process, signal: str | None = None, *, reap: bool = True) -> None:
        """Let a process end, and be reaped or stay a zombie."""
        if process.space is not None:
            self._drop_space(process.space)
        process.space, process.signal = None, signal
        if reap:
            del self.processes[process.pid]
        for other in self.processes.values():
            if other.ppid == process.pid:
                other.ppid = 1

    def _drop_space(self, space: AddressSpace) -> None:
        """``exit_mmap``."""
        self.kernel.spaces.remove(space)
        for vma in space.vmas:
            close(self.kernel, space, vma)

    def kill(self, process: Process, signal: str, detail: str = "") -> None:
        """End a process by a signal, and note it."""
        self.outcomes.append(Outcome(process.name, signal, detail, self.line))
        self.end(process, "SIGKILL" if signal == "OOM" else signal)

    def out_of_memory(self, short: OutOfFrames) -> Process | None:
        """Kill the process that has most, in the cgroup that is full if one is; who it was."""
        number = next(
            (n for n, group in enumerate(self.kernel.cgroups) if group.name == short.cgroup), None
        )
        able = [
            process
            for process in self.processes.values()
            if process.pid != 1
            and process.space
            and (number is None or process.mm.cgroup == number)
        ]
        if not able:
            return None
        victim = max(able, key=lambda process: (proctree.badness(process.mm), process.pid))
        self.kill(victim, "OOM", str(short))
        return victim

    def rss(self, process: Process) -> int:
        """Resident pages of a process."""
        return proctree.counters(self.kernel, process.mm)["rss"]

    def run(self, script: Script, **options: Any) -> dict[str, Snapshot]:
        """Run a script: the snapshots it takes, by name. `options` are those of `take`."""
        snapshots: dict[str, Snapshot] = {}

        def snap(name: str, run: Run) -> None:
            snapshots[name] = take(self, **options)

        Run(self).all(script, snap)
        return snapshots

    def write_procfs(self, directory: str | os.PathLike[str]) -> None:
        """Write a tree shaped like /proc, for tools that read smaps, pagemap or kpage* there.

        psutil takes it as ``PROCFS_PATH``, smem as ``--source`` if it is called ``proc`` (and
        the folder above it is given), and `take` as it is.
        """
        tree.record(self, directory)

    def open_pagemap(
        self,
        pid: int,
        reader: int | Reader = 0,
        era: str | None = None,
        *,
        as_written: bool = False,
    ) -> PagemapFile:
        """Open a process's pagemap as user `reader` would, on a kernel of any era.

        With `as_written`, E0 and E1 have the bugs they had: the one-byte store, and PMDs of
        huge pages cleared by looking at them.

        Examples
        --------
        >>> machine = Machine("64M")
        >>> task = machine.spawn("task")
        >>> page = task.mmap(3)
        >>> task.write(range(page, page + 3))
        >>> seed = machine.open_pagemap(task.pid, era="E0")
        >>> seed.lseek(page * 8) == page * 8
        True
        >>> len(seed.read(12)), seed.position % 8
        (12, 4)
        >>> seed.read(8)
        Traceback (most recent call last):
        OSError: [Errno 22] Invalid argument (position is not a multiple of 8)
        """
        who = reader if isinstance(reader, Reader) else Reader(reader)
        return PagemapFile(self, self.process(pid), who, era or self.era, as_written)

    # ---- what /proc shows -------------------------------------------------------------

    def facts(self) -> Mapping[str, Any]:
        """See `Source.facts`."""
        frames = self.kernel.frames
        facts: dict[str, Any] = {
            "source": "simulated machine",
            "era": self.era,
            "page_size": PAGE_SIZE,
            "byte_order": "little",
            "release": _RELEASES[self.era],
            "machine": "x86_64",
            "host": "simulated",
            "boot_id": self.boot_id,
            "pfns": "visible",
            "soft_dirty": False,
            "zero_pfns": [frames.zero],
            "specials": {str(n): kind for n, kind in eras.likely_specials(self.era).items()},
            "pmd_size": BLOCK * PAGE_SIZE,
            "mapcount": "exact",
            "clock_ticks": 100,
            "swap_types": {
                proctree.swap_name(area): number
                for number, area in enumerate(self.kernel.swap.areas)
                if area is not None
            },
            "task_size": TASK_SIZE * PAGE_SIZE,
        }
        if frames.huge_zero is not None:
            facts["huge_zero_pfn"] = frames.huge_zero
        return facts

    def pids(self) -> list[int]:
        """See `Source.pids`."""
        return sorted(self.processes)

    def process(self, pid: int) -> Process:
        """The process with a number; `ProcessGone` if there is none."""
        if pid not in self.processes:
            raise ProcessGone(f"process {pid}: no such process in this machine")
        return self.processes[pid]

    def text(self, path: str) -> bytes:
        """See `Source.text`."""
        head, _, rest = path.partition("/")
        if head.isdigit():
            return proctree.process_text(self.kernel, self.process(int(head)), rest)
        return proctree.machine_text(self.kernel, path)

    def words(self, path: str, first: int, count: int) -> Words:
        """See `Source.words`."""
        head, _, rest = path.partition("/")
        if head.isdigit() and rest == "pagemap":
            space = self.process(int(head)).mm
            count = max(0, min(count, space.task_size - first))
            return pagemap(self.kernel, space, first, count, layout(self.era))
        files = {"kpagecount": kpagecount, "kpageflags": kpageflags, "kpagecgroup": kpagecgroup}
        if path not in files:
            raise NotAvailable(f"{path}: this machine has no such file of words")
        span = self.kernel.frames.span
        return files[path](self.kernel, min(first, span), min(first + count, span))

    def populated(self, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """See `Source.populated`: runs of 512 pages with something in them."""
        low, high = start // PAGE_SIZE, -(-end // PAGE_SIZE)
        for first, ptes in self.process(pid).mm.table.runs(low, high):
            edges = np.flatnonzero(np.diff(ptes != pt.NONE, prepend=False, append=False))
            for begin, stop in edges.reshape(-1, 2).tolist():
                yield (first + begin) * PAGE_SIZE, (first + stop) * PAGE_SIZE

    def huge(self, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """See `Source.huge`."""
        low, high = start // PAGE_SIZE, -(-end // PAGE_SIZE)
        for first, ptes in self.process(pid).mm.table.runs(low, high):
            edges = np.flatnonzero(np.diff(pt.has(ptes, pt.PMD), prepend=False, append=False))
            for begin, stop in edges.reshape(-1, 2).tolist():
                yield (first + begin) * PAGE_SIZE, (first + stop) * PAGE_SIZE

    def same_memory(self, pid: int, other: int) -> bool | None:
        """See `Source.same_memory`."""
        return pid == other


_RELEASES = {
    "E0": "2.6.25-rc1",
    "E1": "2.6.25-rc3",
    "E2": "2.6.34",
    "E3": "3.5.0",
    "E4v1": "3.11.0",
    "E4v2": "3.11.0",
    "E5": "5.4.0",
    "E6": "6.6.0",
    "E7": "6.18.0",
}
