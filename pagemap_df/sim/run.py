"""Running scripts: names become processes, mappings and files; operations become calls.

An operation that Linux would refuse is noted in `Machine.outcomes` with its errno and line,
and the run goes on, as a program does that does not look at what its calls return. A process
that was killed does nothing any more; operations of it are noted, too. A script that makes no
sense (an unknown name, a slice outside its mapping) is a `ScriptError` with the line.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import ScriptError
from .grammar import Operation, Part
from .mm.files import File
from .mm.hardware import size_of
from .outcome import Outcome
from .process import Process
from .script import Script

if TYPE_CHECKING:
    from .machine import Machine

Mapped = tuple[int, int]
"""First page and length of a named mapping."""


@dataclass
class Run:
    """A script on its way through a machine.

    Attributes
    ----------
    processes, files, groups : dict
        By the names of the script. Processes that have ended stay, with what ended them; a
        child that was never born is its dead parent.
    mappings : dict
        For each process, its named mappings.
    """

    machine: Machine
    processes: dict[str, Process] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    mappings: dict[str, dict[str, Mapped]] = field(default_factory=dict)

    def all(self, script: Script, snap: Callable[[str, Run], None] | None = None) -> None:
        """Carry out a whole script; `snap` is called with the name of each snapshot."""
        for operation in script:
            if operation.op == "snap":
                if snap is not None:
                    snap(str(operation.words["name"]), self)
            else:
                self.step(operation)

    def step(self, operation: Operation) -> None:
        """Carry out one operation other than ``snap``."""
        self.machine.line = operation.line
        try:
            if operation.process is None:
                _MACHINE_OPS[operation.op](self, operation)
            else:
                process = self.process(operation, operation.process)
                if process.space is None:
                    self.note(operation, "ESRCH", "the process has ended")
                    return
                _PROCESS_OPS[operation.op](self, operation, process)
        except OSError as error:
            self.note(operation, errno.errorcode.get(error.errno or 0, "?"), str(error))
        finally:
            self.machine.line = None

    def note(self, operation: Operation, what: str, detail: str) -> None:
        """Remember that an operation failed."""
        name = operation.process or ""
        self.machine.outcomes.append(Outcome(name, what, f"{operation}: {detail}", operation.line))

    def wrong(self, operation: Operation, expected: str, found: object) -> ScriptError:
        """The error for a word of an operation."""
        return ScriptError(expected, offset=operation.line, unit="line", found=found)

    def process(self, operation: Operation, name: str) -> Process:
        """A process by name."""
        if name not in self.processes:
            raise self.wrong(operation, f"a process ({', '.join(self.processes)})", name)
        return self.processes[name]

    def file(self, operation: Operation, name: str) -> File:
        """A file by name."""
        if name not in self.files:
            raise self.wrong(operation, f"a file ({', '.join(self.files)})", name)
        return self.files[name]

    def image(self, operation: Operation) -> File | None:
        """The program that an operation starts, if it names one."""
        name = operation.words.get("image")
        if name is None:
            return None
        file = self.file(operation, name)
        if not file.pages:
            raise self.wrong(operation, "an image with pages", f"{name}, which is empty")
        return file

    def part(self, operation: Operation, key: str = "part") -> tuple[str, range]:
        """A slice of a mapping of the process: its name and virtual pages."""
        part = Part.of(str(operation.words[key]))
        first, pages = self.mapping(operation, part.name)
        return part.name, _pages(part, pages, first)

    def mapping(self, operation: Operation, name: str) -> Mapped:
        """A mapping of the process by name."""
        assert operation.process is not None
        known = self.mappings[operation.process]
        if name not in known:
            raise self.wrong(operation, f"a mapping ({', '.join(known)})", name)
        return known[name]

    def place(self, operation: Operation) -> int | None:
        """The page that ``at=`` means."""
        if "at" not in operation.words:
            return None
        name, _, plus = str(operation.words["at"]).partition("+")
        return self.mapping(operation, name)[0] + int(plus or 0)


def _pages(part: Part, pages: int, first: int) -> range:
    """Virtual pages of a slice; a slice may reach beyond what is mapped, as addresses may."""
    start = part.pages.start
    stop = part.pages.stop
    low = 0 if start is None else start + pages if start < 0 else start
    high = pages if stop is None else stop + pages if stop < 0 else stop
    return range(first + low, first + max(low, high), part.pages.step or 1)


def _new(run: Run, operation: Operation, known: dict[str, Any]) -> str:
    name = str(operation.words["name"])
    if name in known:
        raise run.wrong(operation, "a name that is not taken", name)
    return name


def _memory(run: Run, operation: Operation) -> None:
    size = run.machine.kernel.frames.memory
    if size_of(operation.words["size"]) != size:
        raise run.wrong(
            operation, f"the memory of this machine, {size >> 20}M", operation.words["size"]
        )


def _swap(run: Run, operation: Operation) -> None:
    kind = "partition" if operation.words.get("partition") else "file"
    run.machine.swapon(operation.words["size"], priority=operation.words.get("prio"), kind=kind)


def _swapoff(run: Run, operation: Operation) -> None:
    areas, number = run.machine.kernel.swap.areas, operation.words["type"]
    if not 0 <= number < len(areas) or areas[number] is None:
        raise run.wrong(operation, "the type of a swap area that is on", number)
    run.machine.swapoff(number)


def _file(run: Run, operation: Operation) -> None:
    name = _new(run, operation, run.files)
    cold = bool(operation.words.get("cold"))
    run.files[name] = run.machine.file(name, operation.words["pages"], cold=cold)


def _memfd(run: Run, operation: Operation) -> None:
    name = _new(run, operation, run.files)
    run.files[name] = run.machine.memfd(name, operation.words["pages"])


def _truncate(run: Run, operation: Operation) -> None:
    run.machine.truncate(run.file(operation, operation.words["file"]), operation.words["pages"])


def _unlink(run: Run, operation: Operation) -> None:
    run.machine.unlink(run.file(operation, operation.words["file"]))


def _cgroup(run: Run, operation: Operation) -> None:
    name = _new(run, operation, run.groups)
    run.groups[name] = run.machine.cgroup(name, operation.words.get("limit"))


def _knob(run: Run, operation: Operation) -> None:
    name, _, value = str(operation.words["setting"]).partition("=")
    knobs = run.machine.kernel.knobs
    if name == "thp":
        knobs.thp = value
    elif name == "fault_around":
        knobs.fault_around = 1 << max(0, int(value).bit_length() - 1)
    else:
        setattr(knobs, name, value == "1")


def _proc(run: Run, operation: Operation) -> None:
    name = _new(run, operation, run.processes)
    words = operation.words
    group = words.get("cgroup")
    if group is not None and group not in run.groups:
        raise run.wrong(operation, f"a cgroup ({', '.join(run.groups)})", group)
    image = run.image(operation)
    run.processes[name] = run.machine.spawn(
        name, image, uid=words.get("uid", 1000), cgroup=run.groups[group] if group else 0
    )
    run.mappings[name] = {}


def _fork(run: Run, operation: Operation) -> None:
    parent = run.process(operation, operation.words["parent"])
    for name in operation.words["children"]:
        if name in run.processes:
            raise run.wrong(operation, "a name that is not taken", name)
        if parent.space is None:
            run.note(operation, "ESRCH", "the process has ended")
            run.processes[name], run.mappings[name] = parent, {}
            continue
        run.processes[name] = parent.fork(name)
        run.mappings[name] = dict(run.mappings[operation.words["parent"]])


def _exit(run: Run, operation: Operation) -> None:
    process = run.process(operation, operation.words["name"])
    if process.space is not None:
        process.exit()


_MACHINE_OPS: dict[str, Callable[[Run, Operation], object]] = {
    "memory": _memory,
    "swap": _swap,
    "swapoff": _swapoff,
    "file": _file,
    "memfd": _memfd,
    "truncate": _truncate,
    "unlink": _unlink,
    "cgroup": _cgroup,
    "hugepages": lambda run, item: run.machine.huge_pages(item.words["count"]),
    "knob": _knob,
    "ksm": lambda run, item: run.machine.ksm_run(),
    "reclaim": lambda run, item: run.machine.reclaim(item.words["pages"]),
    "proc": _proc,
    "fork": _fork,
    "exit": _exit,
}


def _mmap(run: Run, operation: Operation, process: Process) -> None:
    words = operation.words
    options: dict[str, Any] = {
        name: True for name in ("populate", "huge", "noreserve", "growsdown") if words.get(name)
    }
    file, offset = None, 0
    if isinstance(words["what"], int):
        pages = words["what"]
    else:
        part = Part.of(words["what"])
        file = run.file(operation, part.name)
        inside = _pages(part, file.pages, 0)
        pages, offset = len(inside), inside.start
    shared = words["sharing"] == "shared"
    first = process.mmap(
        pages,
        file,
        offset,
        shared=shared,
        prot=words["prot"],
        at=run.place(operation),
        **options,
    )
    assert operation.process is not None
    run.mappings[operation.process][words["name"]] = (first, pages)


def _brk(run: Run, operation: Operation, process: Process) -> None:
    assert operation.process is not None
    first = process.brk(operation.words["pages"])
    run.mappings[operation.process][operation.words["name"]] = (first, operation.words["pages"])


def _mremap(run: Run, operation: Operation, process: Process) -> None:
    name, pages = run.part(operation)
    new, keep = operation.words["pages"], bool(operation.words.get("keep"))
    first = process.mremap(pages.start, len(pages), new, to=run.place(operation), keep=keep)
    assert operation.process is not None
    run.mappings[operation.process][name] = (first, new)


def _fwrite(run: Run, operation: Operation, process: Process) -> None:
    part = Part.of(str(operation.words["part"]))
    file = run.file(operation, part.name)
    process.fwrite(file, _pages(part, file.pages, 0))


def _write(run: Run, operation: Operation, process: Process) -> None:
    process.write(run.part(operation)[1], operation.words.get("value"))


def _exec(run: Run, operation: Operation, process: Process) -> None:
    process.exec(operation.words["name"], run.image(operation))
    assert operation.process is not None
    run.mappings[operation.process] = {}


def _on_range(name: str, *words: str) -> Callable[[Run, Operation, Process], object]:
    """An operation that is a method on a range of pages, with further words as arguments."""

    def call(run: Run, operation: Operation, process: Process) -> None:
        pages = run.part(operation)[1]
        if pages.step != 1:
            raise run.wrong(operation, "a slice without a step", operation.words["part"])
        arguments = [operation.words[word] for word in words]
        options = {"onfault": True} if operation.words.get("onfault") else {}
        getattr(process, name)(pages.start, len(pages), *arguments, **options)

    return call


_PROCESS_OPS: dict[str, Callable[[Run, Operation, Process], object]] = {
    "mmap": _mmap,
    "brk": _brk,
    "read": lambda run, item, process: process.read(run.part(item)[1]),
    "write": _write,
    "fwrite": _fwrite,
    "munmap": _on_range("munmap"),
    "mprotect": _on_range("mprotect", "prot"),
    "mremap": _mremap,
    "madvise": _on_range("madvise", "advice"),
    "mlock": _on_range("mlock"),
    "munlock": _on_range("munlock"),
    "exec": _exec,
}
