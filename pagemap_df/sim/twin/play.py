"""`Play`: a script on its way through the kernel, as `Run` is one on its way through a model.

Each operation becomes the system calls it is named after, in the process it is named after.
What fails is noted with its errno, who dies with the signal, and the rest goes on.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from ...errors import ProcessGone
from ..grammar import Part
from ..mm.hardware import PAGE_SIZE, size_of
from ..outcome import Outcome
from ..process import protection
from ..run import Mapped
from ..run import _pages as span
from ..script import Operation
from . import abi
from .arena import IMAGE, STOP, Model
from .session import Session
from .shelf import Shelf
from .task import Task

_libc = ctypes.CDLL(None, use_errno=True)


class Play:
    """One script, real processes. A context manager; leaving it, they are gone.

    Parameters
    ----------
    host : Session
    model : Model
        Always one operation ahead: it says where mappings are to be put.
    press : bool
        Whether there will be memory pressure: the processes then get a cgroup to feel it in.

    Attributes
    ----------
    tasks : dict
        The live processes by name.
    mappings : dict
        For each process, its named mappings.
    outcomes : list of Outcome
    """

    def __init__(self, host: Session, model: Model, *, press: bool = False) -> None:
        self.host, self.model = host, model
        self.tasks: dict[str, Task] = {}
        self.mappings: dict[str, dict[str, Mapped]] = {}
        self.outcomes: list[Outcome] = []
        self.shelf = Shelf(host.files)
        self._groups: dict[str, Path] = {}
        self._swaps: list[Path | None] = []
        self._home = host.cgroup("all", None) if press else None

    def __enter__(self) -> Self:
        """Nothing is there yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, close the files, switch the swap off, reset the knobs."""
        for task in self.tasks.values():
            task.close()
            self.host.server.ask("wait", task.pid)
        self.shelf.close()
        for path in self._swaps:
            if path is not None:
                _libc.swapoff(os.fsencode(path))
        self.host.reset()
        for path in self._groups.values():
            path.rmdir()
        if self._home is not None:
            self._home.rmdir()

    def step(self, operation: Operation) -> None:
        """Carry out one operation other than ``snap``."""
        name = operation.process
        try:
            if name is None:
                _MACHINE_OPS[operation.op](self, operation)
            elif name in self.tasks:
                _PROCESS_OPS[operation.op](self, operation, self.tasks[name])
            else:
                self._note(operation, "ESRCH")
        except OSError as error:
            if isinstance(error, ProcessGone) and name in self.tasks:
                self._note(operation, self._end(name))
            else:
                self._note(operation, errno.errorcode.get(error.errno or 0, repr(error)))
        self.shelf.empty(self._is_gone)
        self.host.drain()
        if any(self._swaps) and "PAGEOUT" in operation.words.values():
            self.host.settle()

    def _note(self, operation: Operation, what: str) -> None:
        self.outcomes.append(Outcome(operation.process or "", what, str(operation), operation.line))

    def _end(self, name: str) -> str:
        """See a process off; the signal that ended it."""
        task = self.tasks.pop(name)
        task.close()
        number = self.host.server.ask("wait", task.pid)
        return signal.Signals(number).name if number else "exit"

    def _is_gone(self, name: str) -> bool:
        return self.model.run.files[name].number not in self.model.machine.kernel.files

    # ---- names ------------------------------------------------------------------------

    def _inside(self, name: str, part: Part) -> range:
        return span(part, self.shelf.pages(name), 0)

    def part(self, operation: Operation) -> range:
        """The virtual pages an operation is about."""
        part = Part.of(str(operation.words["part"]))
        assert operation.process is not None
        first, pages = self.mappings[operation.process][part.name]
        return span(part, pages, first)

    def _place(self, operation: Operation) -> int | None:
        if "at" not in operation.words:
            return None
        name, _, plus = str(operation.words["at"]).partition("+")
        assert operation.process is not None
        return self.mappings[operation.process][name][0] + int(plus or 0)

    def _planned(self, operation: Operation, name: str) -> int:
        """First page of a mapping where the model has it; 0 if it has none."""
        assert operation.process is not None
        return max(self.model.run.mappings[operation.process].get(name, (0, 0))[0], 0)

    # ---- the machine ------------------------------------------------------------------

    def swap(self, operation: Operation) -> None:
        """swapon(2). A partition is played by a file."""
        number = self._swaps.index(None) if None in self._swaps else len(self._swaps)
        path = self.host.swap_file(number, size_of(operation.words["size"]) // PAGE_SIZE)
        priority = operation.words.get("prio")
        flags = 0 if priority is None else abi.SWAP_PREFER | priority
        if _libc.swapon(os.fsencode(path), flags):
            raise OSError(ctypes.get_errno(), "swapon")
        self._swaps[number : number + 1] = [path]

    def swapoff(self, operation: Operation) -> None:
        """swapoff(2)."""
        number = operation.words["type"]
        if _libc.swapoff(os.fsencode(self._swaps[number])):
            raise OSError(ctypes.get_errno(), "swapoff")
        self._swaps[number] = None

    def file(self, operation: Operation) -> None:
        """A file, in the page cache or not."""
        words = operation.words
        self.shelf.file(words["name"], words["pages"], cold=bool(words.get("cold")))

    def cgroup(self, operation: Operation) -> None:
        """A memory cgroup."""
        name, limit = operation.words["name"], operation.words.get("limit")
        size = None if limit is None else size_of(limit)
        self._groups[name] = self.host.cgroup(name, size, self._home)

    def reclaim(self, operation: Operation) -> None:
        """Memory pressure on all processes of the script, and on nothing that is not of it."""
        assert self._home is not None
        for task in self.tasks.values():
            task.ask("stay", IMAGE * PAGE_SIZE, STOP * PAGE_SIZE)
        self.host.press(self._home, operation.words["pages"] * PAGE_SIZE)
        self.host.settle()

    def knob(self, operation: Operation) -> None:
        """A setting."""
        name, _, value = str(operation.words["setting"]).partition("=")
        self.host.set(name, str(int(value) * PAGE_SIZE) if name == "fault_around" else value)

    def proc(self, operation: Operation) -> None:
        """A new process, with nothing in the arena."""
        words = operation.words
        name = words["name"]
        self.tasks[name] = task = self.host.spawn()
        self.mappings[name] = {}
        group = self._groups[words["cgroup"]] if "cgroup" in words else self._home
        if group is not None:
            task.ask("poke", str(group / "cgroup.procs"), str(task.pid))
        self._settle(name, task, words.get("image"))
        if "uid" in words:
            task.ask("become", words["uid"])

    def _settle(self, name: str, task: Task, image: str | None) -> None:
        """Put heap and image of a new program where the model expects them."""
        space = self.model.run.processes[name].space
        if space is not None:
            task.ask("move_heap", space.brk_first * PAGE_SIZE)
        if image is None:
            return
        pages = self._inside(image, Part.of(image)).stop
        text = max(1, pages * 3 // 4)
        base = self.model.image[name] + self.model.image_moves(name)
        self._map_image(task, image, (base, 0, text), write=False)
        if pages > text:
            self._map_image(task, image, (base + text, text, pages - text), write=True)

    def _map_image(
        self, task: Task, image: str, where: tuple[int, int, int], *, write: bool
    ) -> None:
        """Text or data of a program, and the page of it that is touched first."""
        start, offset, pages = (number * PAGE_SIZE for number in where)
        prot = protection("rw" if write else "r-x")
        task.ask(
            "mmap_file", start, pages, prot, abi.PRIVATE | abi.FIXED, self.shelf.link(image), offset
        )
        touch: tuple[Any, ...] = (start, start + PAGE_SIZE, PAGE_SIZE)
        task.ask("write", *touch, self.shelf.labels(1)) if write else task.ask("read", *touch)

    def fork(self, operation: Operation) -> None:
        """Children, one after the other."""
        parent = operation.words["parent"]
        for name in operation.words["children"]:
            self.mappings[name] = {}
            if parent not in self.tasks:
                self._note(operation, "ESRCH")
                continue
            self.tasks[parent].ask("fork", abi.CLONE_PARENT)
            self.tasks[name] = self.host.accept()
            self.mappings[name] = dict(self.mappings[parent])

    def exit(self, operation: Operation) -> None:
        """The end of a process."""
        if operation.words["name"] in self.tasks:
            self._end(operation.words["name"])

    # ---- a process --------------------------------------------------------------------

    def mmap(self, operation: Operation, task: Task) -> None:
        """mmap(2), where the model has it."""
        words = operation.words
        flags = abi.SHARED if words["sharing"] == "shared" else abi.PRIVATE
        flags |= sum(bit for name, bit in abi.OPTIONS.items() if words.get(name))
        place = self._place(operation)
        where = self._planned(operation, words["name"]) if place is None else place
        if where:
            flags |= abi.NOREPLACE if place is None else abi.FIXED
        prot = protection(words["prot"])
        if isinstance(words["what"], int):
            pages = words["what"]
            size = pages * PAGE_SIZE
            got = task.call("mmap", where * PAGE_SIZE, size, prot, flags | abi.ANONYMOUS, -1, 0)
        else:
            part = Part.of(words["what"])
            inside = self._inside(part.name, part)
            pages = len(inside)
            arguments = (self.shelf.link(part.name), inside.start * PAGE_SIZE)
            size = pages * PAGE_SIZE
            got = task.ask("mmap_file", where * PAGE_SIZE, size, prot, flags, *arguments)
        self._named(operation)[words["name"]] = (got // PAGE_SIZE, pages)

    def _named(self, operation: Operation) -> dict[str, Mapped]:
        assert operation.process is not None
        return self.mappings[operation.process]

    def brk(self, operation: Operation, task: Task) -> None:
        """brk(2)."""
        words = operation.words
        assert operation.process is not None
        first = self.model.run.mappings[operation.process][words["name"]][0]
        task.call("syscall", abi.BRK, (first + words["pages"]) * PAGE_SIZE)
        self._named(operation)[words["name"]] = (first, words["pages"])

    def mremap(self, operation: Operation, task: Task) -> None:
        """mremap(2). Where the model moves, growing in place is tried first, then that move."""
        words, pages = operation.words, self.part(operation)
        name = Part.of(str(words["part"])).name
        start, old, new = (
            pages.start * PAGE_SIZE,
            len(pages) * PAGE_SIZE,
            words["pages"] * PAGE_SIZE,
        )
        place, planned = self._place(operation), self._planned(operation, name)
        flags = abi.MAYMOVE | (abi.DONTUNMAP if words.get("keep") else 0)
        to = (planned if place is None else place) * PAGE_SIZE
        if place is not None or (words.get("keep") and planned != pages.start):
            flags |= abi.REMAP_FIXED
        elif words.get("keep"):
            to = 0
        elif not words.get("keep") and planned != pages.start and new > old:
            try:
                got = task.call("mremap", start, old, new, 0, 0)
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    raise
                flags |= abi.REMAP_FIXED
            else:
                self._named(operation)[name] = (got // PAGE_SIZE, words["pages"])
                return
        got = task.call("mremap", start, old, new, flags, to)
        self._named(operation)[name] = (got // PAGE_SIZE, words["pages"])

    def read(self, operation: Operation, task: Task) -> None:
        """Loads."""
        task.ask("read", *_addresses(self.part(operation)))

    def write(self, operation: Operation, task: Task) -> None:
        """Stores: of a few bytes that nobody else has, or of pages full of one value."""
        pages, value = self.part(operation), operation.words.get("value")
        if value is None:
            task.ask("write", *_addresses(pages), self.shelf.labels(len(pages)))
        else:
            task.ask("fill", *_addresses(pages), value)

    def fwrite(self, operation: Operation, task: Task) -> None:
        """write(2)."""
        part = Part.of(str(operation.words["part"]))
        pages = self._inside(part.name, part)
        label = self.shelf.labels(len(pages))
        task.ask("pwrite", self.shelf.link(part.name), pages.start, pages.stop, pages.step, label)

    def exec(self, operation: Operation, task: Task) -> None:
        """execve(2), of the same helper; all mappings are gone then."""
        assert operation.process is not None
        task.tell("exec")
        self.tasks[operation.process] = fresh = self.host.accept()
        task.close()
        self.mappings[operation.process] = {}
        self._settle(operation.process, fresh, operation.words.get("image"))

    def on_range(self, operation: Operation, task: Task) -> None:
        """munmap, mprotect, madvise, mlock and munlock."""
        pages = self.part(operation)
        call, *rest = _RANGE_CALLS[operation.op](operation)
        task.call(call, pages.start * PAGE_SIZE, len(pages) * PAGE_SIZE, *rest)


def _addresses(pages: range) -> tuple[int, int, int]:
    return pages.start * PAGE_SIZE, pages.stop * PAGE_SIZE, pages.step * PAGE_SIZE


_RANGE_CALLS: dict[str, Callable[[Operation], tuple[Any, ...]]] = {
    "munmap": lambda item: ("munmap",),
    "mprotect": lambda item: ("mprotect", protection(item.words["prot"])),
    "madvise": lambda item: ("madvise", abi.ADVICE[item.words["advice"]]),
    "mlock": lambda item: ("mlock2", abi.ONFAULT) if item.words.get("onfault") else ("mlock",),
    "munlock": lambda item: ("munlock",),
}

_PROCESS_OPS: dict[str, Callable[[Play, Operation, Task], object]] = {
    "mmap": Play.mmap,
    "brk": Play.brk,
    "read": Play.read,
    "write": Play.write,
    "fwrite": Play.fwrite,
    "mremap": Play.mremap,
    "exec": Play.exec,
    **dict.fromkeys(_RANGE_CALLS, Play.on_range),
}

_MACHINE_OPS: dict[str, Callable[[Play, Operation], object]] = {
    "memory": lambda play, item: None,
    "swap": Play.swap,
    "swapoff": Play.swapoff,
    "file": Play.file,
    "memfd": lambda play, item: play.shelf.memfd(item.words["name"], item.words["pages"]),
    "truncate": lambda play, item: play.shelf.truncate(item.words["file"], item.words["pages"]),
    "unlink": lambda play, item: play.shelf.unlink(item.words["file"]),
    "cgroup": Play.cgroup,
    "hugepages": lambda play, item: play.host.set("hugepages", str(item.words["count"])),
    "knob": Play.knob,
    "ksm": lambda play, item: play.host.merge(),
    "reclaim": Play.reclaim,
    "proc": Play.proc,
    "fork": Play.fork,
    "exit": Play.exit,
}
