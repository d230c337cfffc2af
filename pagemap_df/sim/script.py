r"""A workload as data: scripts of memory operations, as text and as JSON.

One operation a line; ``#`` starts a comment. Addresses never appear: a mapping has a name,
its pages have numbers, and slices of them are written as in Python. Sizes without a unit are
pages, except where ``SIZE`` stands, which is bytes with ``K``, ``M``, ``G`` or ``T``.

The machine::

    memory SIZE                          RAM of the machine to run on (`Script.memory`)
    swap SIZE [prio=N] [partition]       switch on a swap area
    swapoff TYPE                         bring all of it back and switch it off
    file NAME PAGES [cold]               a file, in the page cache unless cold
    memfd NAME PAGES                     a memory file, all holes
    truncate NAME PAGES                  set the size of a file
    unlink NAME                          remove a file's name
    cgroup NAME [limit=SIZE]             a memory cgroup
    hugepages N                          size of the hugetlb pool, in huge pages
    knob NAME=VALUE                      thp=always|madvise|never, fault_around=PAGES,
                                         zero_huge=0|1, ksm_zero=0|1
    ksm run                              let same-page merging go over everything
    reclaim PAGES                        memory pressure: evict the least recently used

Processes::

    proc NAME [uid=N] [cgroup=NAME] [image=FILE]     a process with no mappings of ours
    fork NAME -> NAME ...                            children, one after the other
    exit NAME
    snap NAME                                        a snapshot; the name may have blanks

What a process does, as ``NAME: ...``::

    M = mmap PAGES private|shared anon PROT [OPTION ...]
    M = mmap FILE[SLICE] private|shared PROT [OPTION ...]
    M = brk PAGES                        the heap, made so long
    read M[SLICE]                        a byte of each page
    write M[SLICE] [value=N]             all pages different, or all equal; 0 is zeroes
    fwrite FILE[SLICE]                   write(2)
    munmap M[SLICE]
    mprotect M[SLICE] PROT
    mremap M[SLICE] PAGES [at=M+PAGES] [keep]     keep is MREMAP_DONTUNMAP
    madvise M[SLICE] ADVICE              DONTNEED, PAGEOUT, ...
    mlock M[SLICE] [onfault]
    munlock M[SLICE]
    exec NAME [image=FILE]

``PROT`` is letters of ``rwx`` and ``-``, or ``none``. ``OPTION`` is ``populate``, ``huge``,
``noreserve``, ``growsdown``, or ``at=M+PAGES`` (MAP_FIXED). ``SLICE`` is ``7``, ``2:8``,
``0:100:2``; without one it is the whole mapping.

As JSON a script is a list of objects with ``op``, ``process`` where there is one, and the
words above in small letters as keys; see `Script.dump`.

What can go wrong: `ScriptError`, with the line and the word.

Examples
--------
>>> script = Script.parse('''
... proc server
... server: heap = mmap 100 private anon rw   # a heap
... server: write heap[0:50]
... fork server -> w1 w2
... ''')
>>> print(script.dump(), end="")
proc server
server: heap = mmap 100 private anon rw
server: write heap[0:50]
fork server -> w1 w2
>>> Script.parse("proc server\nserver: wriet heap")
Traceback (most recent call last):
pagemap_df.errors.ScriptError: line 2: expected a process operation (mmap, ...), found 'wriet'
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .grammar import FORMS, Operation, Part, Place, parse_line, unparse

__all__ = ["Operation", "Part", "Script"]


@dataclass(frozen=True)
class Script:
    """Operations in order. Made by `parse`, `load` or `from_json`."""

    operations: tuple[Operation, ...]

    def __iter__(self) -> Iterator[Operation]:
        """The operations."""
        return iter(self.operations)

    def __len__(self) -> int:
        """How many."""
        return len(self.operations)

    @property
    def memory(self) -> str | None:
        """The RAM that the script wants, as in ``64M``; None if it does not say."""
        sizes = [str(item.words["size"]) for item in self if item.op == "memory"]
        return sizes[0] if sizes else None

    @staticmethod
    def parse(text: str, path: str | None = None) -> Script:
        """Read the text form; `path` is what errors call it."""
        operations = []
        for number, line in enumerate(text.splitlines(), 1):
            words = line.partition("#")[0].split()
            if words:
                operations.append(parse_line(words, Place(path, number)))
        return Script(tuple(operations))

    @staticmethod
    def load(path: str | Path) -> Script:
        """Read a file: JSON if it ends in ``.json``, else text."""
        text = Path(path).read_text(encoding="utf-8")
        if str(path).endswith(".json"):
            return Script.from_json(json.loads(text), str(path))
        return Script.parse(text, str(path))

    @staticmethod
    def from_json(objects: Iterable[Mapping[str, Any]], path: str | None = None) -> Script:
        """Read the JSON form: a list of objects."""
        operations = []
        for number, item in enumerate(objects, 1):
            words = dict(item)
            op, process = str(words.pop("op", "")), words.pop("process", None)
            line = unparse(Operation(op, words, process)) if op in FORMS else op
            operations.append(parse_line(line.split() or [""], Place(path, number)))
        return Script(tuple(operations))

    def to_json(self) -> list[dict[str, Any]]:
        """The JSON form."""
        return [
            {"op": item.op} | ({"process": item.process} if item.process else {}) | {**item.words}
            for item in self
        ]

    def dump(self) -> str:
        """The text form, without comments; `parse` gives the same operations back."""
        return "".join(f"{operation}\n" for operation in self)
