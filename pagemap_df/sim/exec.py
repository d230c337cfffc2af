"""What exec sets up: an empty address space at random addresses, stack, vDSO, and the program.

The picture of a small program right after its start: three pages of its stack, one of its
text with what fault-around brings, one of its data.
"""

from __future__ import annotations

import numpy as np

from .devices import TASK_SIZE
from .mm.files import File
from .mm.kernel import Kernel
from .mm.vma import (
    ACCOUNT,
    DONTDUMP,
    DONTEXPAND,
    EXEC,
    GROWSDOWN,
    IO,
    MAYEXEC,
    MAYREAD,
    MAYWRITE,
    PFNMAP,
    READ,
    WRITE,
    AddressSpace,
    Vma,
)
from .process import Process

_MAY = MAYREAD | MAYWRITE | MAYEXEC
_STACK, _TOUCHED = 33, 3


def new_space(kernel: Kernel, rng: np.random.Generator) -> AddressSpace:
    """An empty address space, its stack and mappings at random places."""
    top = TASK_SIZE - 2 - int(rng.integers(0, 1 << 22))
    base = top - 0x2000 - int(rng.integers(0, 1 << 28))
    space = AddressSpace(base, TASK_SIZE, kernel.frames.zero, kernel.frames.flags)
    space.stack_page = top - 1
    kernel.spaces.append(space)
    return space


def must_be_program(image: File | None) -> None:
    """`ValueError` for a file that execve(2) would refuse with ENOEXEC."""
    if image is not None and not image.pages:
        raise ValueError(f"an image has pages, and {image.path!r} has none: ENOEXEC")


def start(
    process: Process, cgroup: int, image: File | None, vdso: File, rng: np.random.Generator
) -> None:
    """Fill the new address space of a process, unless memory runs out and it is killed."""
    space = process.mm
    space.cgroup = cgroup
    top = space.stack_page + 1
    stack = READ | WRITE | _MAY | GROWSDOWN | ACCOUNT
    space.insert(Vma(top - _STACK, top, stack, None, top - _STACK))
    special = READ | MAYREAD | MAYEXEC | DONTEXPAND | DONTDUMP | IO | PFNMAP
    low = top + 8 + int(rng.integers(0, 64))
    space.insert(Vma(low, low + 4, special, None, low, name=b"[vvar]"))
    code = READ | EXEC | _MAY | DONTEXPAND
    space.insert(Vma(low + 4, low + 4 + vdso.pages, code, vdso, 0, name=b"[vdso]"))
    vdso.users += vdso.pages
    base = 0x555555554 + int(rng.integers(0, 1 << 24))
    space.brk_first = space.brk_stop = base
    if process.write(range(top - _TOUCHED, top)) or image is None:
        return
    heap = base + image.pages + 1 + int(rng.integers(0, 1 << 13))
    space.brk_first = space.brk_stop = heap
    _map_image(process, image, base)


def _map_image(process: Process, image: File, base: int) -> None:
    """Text and data of a program, and what running it touches first."""
    text = max(1, image.pages * 3 // 4)
    process.mmap(text, image, prot="r-x", at=base)
    killed = process.read(range(base, base + 1))
    if image.pages > text and not killed:
        process.mmap(image.pages - text, image, text, prot="rw", at=base + text)
        process.write(range(base + text, base + text + 1))
