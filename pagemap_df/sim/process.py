"""Processes and their system calls.

A `Process` is what a program sees: mappings by address, calls that return or raise `OSError`
with the kernel's errno. Sizes and positions are in **pages**; `mmap` returns the number of
the first page. Touching what may not be touched kills the process with a signal, as it
would on Linux: the call returns the name of the signal and `Process.signal` keeps it.

What can go wrong: system calls of a process that has ended raise `ProcessGone`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..errors import ProcessGone
from .mm import madvise as advice_of
from .mm import mmap as calls
from .mm.fault import access
from .mm.files import File
from .mm.hardware import OutOfFrames
from .mm.kernel import Signal
from .mm.mremap import mremap
from .mm.vma import (
    ACCESS,
    ACCOUNT,
    EXEC,
    GROWSDOWN,
    LOCKED,
    LOCKONFAULT,
    MAYEXEC,
    MAYREAD,
    MAYSHARE,
    MAYWRITE,
    NORESERVE,
    READ,
    SHARED,
    STACK_GAP,
    WRITE,
    AddressSpace,
    Vma,
    fail,
)

if TYPE_CHECKING:
    from .machine import Machine

_PROT = {"r": READ, "w": WRITE, "x": EXEC, "-": 0}
_MAY = MAYREAD | MAYWRITE | MAYEXEC
_STACK_LIMIT = 2048


def protection(text: str) -> int:
    """Flags for ``rw``, ``r-x``, ``none`` and the like.

    Examples
    --------
    >>> protection("r-x") == READ | EXEC, protection("none")
    (True, 0)
    """
    if text == "none":
        return 0
    flags = 0
    for letter in text:
        if letter not in _PROT:
            raise ValueError(f"protection is made of r, w, x and -, or none; not {text!r}")
        flags |= _PROT[letter]
    return flags


class Process:
    """One process of a machine. Made by `Machine.spawn` and `fork`.

    Attributes
    ----------
    pid, ppid : int
    name : str
    uid : int
    start_time : int
        Ticks after boot.
    space : AddressSpace or None
        None once it has ended.
    signal : str or None
        What killed it.
    command : bytes
        Its arguments, joined by blanks.
    dumpable : bool
        Whether its owner may look into it (``PR_SET_DUMPABLE``).
    """

    def __init__(self, machine: Machine, pid: int, ppid: int, name: str, space: AddressSpace):
        self.machine, self.pid, self.ppid, self.name = machine, pid, ppid, name
        self.uid, self.start_time = 1000, machine.now()
        self.space: AddressSpace | None = space
        self.signal: str | None = None
        self.dumpable = True
        self.command = name.encode()

    def __repr__(self) -> str:
        """Number and name."""
        return f"<Process {self.pid} {self.name}>"

    @property
    def mm(self) -> AddressSpace:
        """The address space; `ProcessGone` if it has ended."""
        if self.space is None:
            raise ProcessGone(f"process {self.pid} ({self.name}) has ended")
        return self.space

    def _run(self, call: Callable[[], int | None]) -> int | None:
        """Carry out a call that may fault; kill for memory until it fits, or we are killed."""
        while True:
            try:
                return call()
            except OutOfFrames as short:
                victim = self.machine.out_of_memory(short)
                if victim is self or victim is None:
                    return None

    def read(self, pages: range) -> str | None:
        """Read a byte of each page (ascending); the signal that ended it, if one did."""
        return self._touch(pages, write=False)

    def write(self, pages: range, value: int | None = None) -> str | None:
        """Write to each page; equal `value` makes equal pages, none makes all different."""
        return self._touch(pages, write=True, value=value)

    def _touch(self, pages: range, *, write: bool, value: int | None = None) -> str | None:
        kernel, space = self.machine.kernel, self.mm

        def touch() -> None:
            for some in self._with_stacks(pages):
                access(kernel, space, some, write=write, value=value)

        try:
            self._run(touch)
        except Signal as signal:
            self.machine.kill(self, signal.name)
        return self.signal

    def _with_stacks(self, pages: range) -> Iterator[range]:
        """All of `pages` in their order; mappings grow down to those that lie below them."""
        begin = at = 0
        while at < len(pages):
            vma = self.mm.find(pages[at])
            if vma is None:
                yield pages[begin:at]
                begin, vma = at, self._grown(pages[at])
            if vma is None:
                break
            at = -(-(vma.stop - pages.start) // pages.step)
        yield pages[begin:]

    def _grown(self, page: int) -> Vma | None:
        """The mapping above a hole, grown down to it (``expand_downwards``), if it may."""
        space = self.mm
        at = space.index(page)
        if at >= len(space.vmas):
            return None
        vma, room = space.vmas[at], 0
        if at:
            below = space.vmas[at - 1]
            gap = STACK_GAP if below.has(ACCESS) and not below.has(GROWSDOWN) else 0
            room = below.stop + gap
        if not vma.has(GROWSDOWN) or page < room or vma.stop - page > _STACK_LIMIT:
            return None
        self.machine.kernel.anon_prepare(space, vma)
        vma.offset -= vma.first - page
        vma.first = page
        return vma

    def fwrite(self, file: File, pages: range) -> None:
        """write(2) to pages of a file; beyond its end it grows."""
        self._run(lambda: self.machine.write_file(self.mm, file, pages))

    def mmap(
        self,
        pages: int,
        file: File | None = None,
        offset: int = 0,
        *,
        shared: bool = False,
        prot: str = "rw",
        at: int | None = None,
        replace: bool = True,
        populate: bool = False,
        huge: bool = False,
        noreserve: bool = False,
        growsdown: bool = False,
    ) -> int:
        """Make a mapping: its first page.

        Without a file it is anonymous; with `huge` it comes from the huge page pool. `at` is
        MAP_FIXED, and without `replace` MAP_FIXED_NOREPLACE.
        """
        flags = protection(prot) | _MAY
        if growsdown and (shared or huge or file is not None):
            raise fail(errno.EINVAL, "only private anonymous memory grows down")
        if shared:
            flags |= SHARED | MAYSHARE
            if huge:
                file = file or self.machine.huge_file(pages)
            else:
                file = file or self.machine.shared_anonymous(pages)
        elif huge:
            file = file or self.machine.huge_file(pages)
        elif flags & WRITE and not noreserve:
            flags |= ACCOUNT
        flags |= NORESERVE * noreserve | GROWSDOWN * growsdown
        first = self._run(
            lambda: calls.mmap(
                self.machine.kernel,
                self.mm,
                pages,
                flags,
                file=file,
                offset=offset,
                fixed=at,
                replace=replace,
                fill=populate,
            )
        )
        return -1 if first is None else first

    def munmap(self, first: int, pages: int) -> None:
        """Unmap a range."""
        calls.munmap(self.machine.kernel, self.mm, first, first + pages)

    def mprotect(self, first: int, pages: int, prot: str) -> None:
        """Change protection."""
        stop = first + pages
        calls.mprotect(self.machine.kernel, self.mm, first, stop, protection(prot))

    def mremap(
        self, first: int, old: int, new: int, *, to: int | None = None, keep: bool = False
    ) -> int:
        """Resize or move a mapping: where it is then. `keep` is MREMAP_DONTUNMAP."""
        moved = self._run(
            lambda: mremap(self.machine.kernel, self.mm, first, old, new, fixed=to, keep=keep)
        )
        return -1 if moved is None else moved

    def brk(self, pages: int) -> int:
        """Make the heap so many pages long: its first page."""
        space = self.mm
        self._run(lambda: calls.brk(self.machine.kernel, space, space.brk_first + pages))
        return space.brk_first

    def madvise(self, first: int, pages: int, advice: str) -> None:
        """Give advice, by its name without MADV_."""
        kernel, space = self.machine.kernel, self.mm
        self._run(lambda: advice_of.madvise(kernel, space, first, first + pages, advice))

    def mlock(self, first: int, pages: int, *, onfault: bool = False) -> None:
        """Lock a range in memory."""
        kernel, space = self.machine.kernel, self.mm
        self._run(lambda: calls.mlock(kernel, space, first, first + pages, onfault=onfault))

    def munlock(self, first: int, pages: int) -> None:
        """Unlock a range."""
        calls.munlock(self.mm, first, first + pages)

    def mlockall(self, *, onfault: bool = False) -> None:
        """Lock what is mapped and what will be."""
        space = self.mm
        space.lock_future = LOCKED | LOCKONFAULT * onfault
        for vma in list(space.vmas):
            if vma.has(READ | WRITE):
                self.mlock(vma.first, len(vma), onfault=onfault)

    def fork(self, name: str | None = None) -> Process:
        """A child that starts as a copy."""
        return self.machine.fork(self, name)

    def exec(self, name: str, image: File | None = None) -> None:
        """Start another program: a new address space, as `Machine.spawn` makes it."""
        self.machine.exec(self, name, image)

    def exit(self, *, reap: bool = True) -> None:
        """End; unless reaped by its parent, a zombie stays."""
        self.machine.end(self, reap=reap)

    def vma(self, page: int) -> Vma:
        """The mapping at a page; EFAULT if there is none."""
        found = self.mm.find(page)
        if found is None:
            raise fail(errno.EFAULT, "nothing is mapped there")
        return found
