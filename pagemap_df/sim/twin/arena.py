"""The addresses that scripts play on, and a `Source` that shows nothing else.

A real process has a program, an allocator and libraries; a simulated one has none of them. So
the mappings of a script are put into a range of addresses that neither uses for itself, the
*arena*, and both sides are looked at through `Arena`, which cuts everything else out of
``maps`` and ``smaps``. What is read, and by whom, stays as it is: `take`.

The model says where the kernel puts a mapping, and the kernel is asked for that very place
(as a hint, so that it is free to refuse), because a kernel that places mappings itself places
them next to those of the program. Addresses are therefore the same on both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ...entries import Words
from ...source import Source
from ..machine import Machine
from ..mm.hardware import BLOCK, PAGE_SIZE
from ..run import Run
from ..script import Operation

FIRST, TOP, STOP = 0x100000000, 0x140000000, 0x160000000
"""Pages of the arena: where the heap may begin, below what mappings are put, and its end.

It lies below where the kernel loads programs: malloc asks for a longer heap above the end of
the moved one, is refused, and does without. Asked for a shorter one the kernel would agree."""

IMAGE, IMAGE_SPREAD = 0x80000000, 1 << 18
"""Where real processes map the image that a script names: out of sight, as in the model."""

_HEADER = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ ", re.MULTILINE)


class Arena(Source):
    """Another source, of which only the arena is shown."""

    def __init__(self, inner: Source) -> None:
        self._inner, self.live = inner, inner.live

    def facts(self) -> Mapping[str, Any]:
        """See `Source.facts`."""
        return self._inner.facts()

    def pids(self) -> list[int]:
        """See `Source.pids`."""
        return self._inner.pids()

    def text(self, path: str) -> bytes:
        """See `Source.text`."""
        text = self._inner.text(path)
        if path.endswith("/maps"):
            lines = text.splitlines(keepends=True)
            return b"".join(line for line in lines if _inside(line))
        if path.endswith("/smaps"):
            starts = [found.start() for found in _HEADER.finditer(text)]
            parts = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
            return b"".join(part for part in parts if _inside(part))
        return text

    def words(self, path: str, first: int, count: int) -> Words:
        """See `Source.words`."""
        return self._inner.words(path, first, count)

    def words_into(self, path: str, first: int, out: Words) -> int:
        """See `Source.words_into`."""
        return self._inner.words_into(path, first, out)

    def populated(self, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """See `Source.populated`."""
        return self._inner.populated(pid, start, end)

    def huge(self, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """See `Source.huge`."""
        return self._inner.huge(pid, start, end)

    def release(self, pid: int) -> None:
        """See `Source.release`."""
        self._inner.release(pid)

    def swap_sample(self) -> tuple[dict[int, int], dict[int, frozenset[bytes]]]:
        """Nothing: the pages that are pushed out to see would take slots away."""
        return {}, {}

    def same_memory(self, pid: int, other: int) -> bool | None:
        """See `Source.same_memory`."""
        return pid == other


def _inside(line: bytes) -> bool:
    start = int(line[: line.index(b"-")], 16)
    return FIRST * PAGE_SIZE <= start < STOP * PAGE_SIZE


class Model:
    """The simulated side: a `Run` on a `Machine` whose processes play in the arena.

    Attributes
    ----------
    machine, run : Machine, Run
    image : dict
        First page of the image of each process that has one.
    pressed : bool
        Whether there was memory pressure.
    merged_out : bool
        Whether memory pressure took a merged page.

    Parameters
    ----------
    machine : Machine
    seed : int
        Where in the arena each process puts its mappings; the same on both sides.
    """

    def __init__(self, machine: Machine, seed: int = 0) -> None:
        self.machine, self.run = machine, Run(machine)
        self.image: dict[str, int] = {}
        self.merged_out = self.pressed = False
        self._rng = np.random.default_rng(seed)

    def step(self, operation: Operation) -> None:
        """Carry out one operation other than ``snap``."""
        self.run.step(operation)
        words = operation.words
        if operation.op == "proc":
            self._settle(words["name"], "image" in words)
        if operation.op == "exec" and operation.process is not None:
            self._settle(operation.process, "image" in words)
        if operation.op == "fork" and words["parent"] in self.image:
            for child in words["children"]:
                self.image[child] = self.image[words["parent"]]

    def image_moves(self, name: str) -> int:
        """How many pages above its place in the model a process has its image."""
        first = self.image[name]
        return IMAGE + first % IMAGE_SPREAD - first

    def _settle(self, name: str, image: bool) -> None:
        """Let mappings and heap of a new address space be in the arena."""
        process = self.run.processes[name]
        self.image.pop(name, None)
        if process.space is None:
            return
        if image:
            self.image[name] = process.space.vmas[0].first
        base, heap = self._rng.integers(0, BLOCK * BLOCK, 2).tolist()
        process.space.mmap_base = TOP - base
        process.space.brk_first = process.space.brk_stop = FIRST + heap
