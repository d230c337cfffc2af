"""One process family with every kind of memory in it, for tests against the kernel's figures.

What this kernel or this container does not allow is left out and named in ``missing``.
"""

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import living


class Zoo(NamedTuple):
    """A child, its own forked child, and the regions by name (``start`` is the same in both)."""

    parent: living.Child
    child: living.Child
    regions: dict[str, living.Region]
    missing: set[str]


def populate(child: living.Child, directory: Path, missing: set[str]) -> dict[str, living.Region]:
    """Map and touch one region of every kind; each alone in its VMA."""
    file = living.file_of(directory / "data", 64)
    fd = child.open(file)
    alone = child.mmap_alone
    zoo = {name: alone(32) for name in ("anon", "zero", "lazy", "swapped", "scattered")}
    zoo |= {name: alone(16) for name in ("locked", "guard", "untouched", "merged")}
    zoo["cow"] = alone(32, fd=fd)
    zoo["file"] = alone(64, fd=fd, shared=True, prot=living.R)
    zoo["shmem"] = alone(48, fd=child.memfd(b"pool", 48), shared=True)
    zoo["shared_anon"] = alone(16, shared=True)
    zoo["readonly"] = alone(16)
    for name in ("anon", "lazy", "swapped", "scattered", "guard", "readonly"):
        child.write(zoo[name], "random" if name == "scattered" else "forward")
    child.read(zoo["zero"])
    child.write(zoo["zero"][4:8])
    child.read(zoo["cow"])
    child.write(zoo["cow"][10:20])
    child.read(zoo["file"])
    child.write(zoo["shmem"][:30])
    child.read(zoo["shmem"][30:40])
    child.write(zoo["shared_anon"][:8])
    child.fill(zoo["merged"][:8], 7)
    child.fill(zoo["merged"][8:], 0)
    child.mlock(zoo["locked"])
    child.mprotect(zoo["readonly"], living.R)
    child.madvise(zoo["lazy"][:20], living.FREE)
    for name, pages, advice in (
        ("guard", zoo["guard"][5:9], living.GUARD_INSTALL),
        ("merged", zoo["merged"], living.MERGEABLE),
    ):
        if living.is_supported(child, advice):
            child.madvise(pages, advice)
        else:
            missing.add(name)
    return zoo


def add_huge(child: living.Child, zoo: dict[str, living.Region]) -> None:
    """Transparent huge pages: whole, with a hole, split by its middle, and only read."""
    names = ("huge", "huge_hole", "huge_split", "huge_zero")
    zoo |= {name: child.mmap_alone(1024, align=512) for name in names}
    for name in names:
        child.madvise(zoo[name], living.HUGEPAGE)
    child.read(zoo["huge_zero"][:1])
    for name in names[:3]:
        child.write(zoo[name][:1])
    child.madvise(zoo["huge_hole"][100:228], living.DONTNEED)
    child.mprotect(zoo["huge_split"][256:512], living.R)


def add_hugetlb(child: living.Child, zoo: dict[str, living.Region]) -> None:
    """hugetlb pages, private and shared."""
    zoo["hugetlb"] = child.mmap(1024, flags=living.HUGETLB)
    zoo["hugetlb_shared"] = child.mmap(512, flags=living.HUGETLB, shared=True)
    child.write(zoo["hugetlb"], range(0, 1024, 512))
    child.write(zoo["hugetlb_shared"][:1])


@contextmanager
def opened(directory: Path) -> Iterator[Zoo]:
    """The whole family, quiet, while the ``with`` lasts."""
    living.need_root()
    missing: set[str] = set()
    with contextlib.ExitStack() as stack:

        def enter(name: str, context: AbstractContextManager[Any]) -> Any:
            try:
                return stack.enter_context(context)
            except pytest.skip.Exception:
                missing.add(name)
                return None

        enter("swap", living.swap_area())
        settle = enter("merged", living.ksm()) or (lambda: None)
        enter("huge", living.thp())
        enter("hugetlb", living.hugetlb(4))
        parent = stack.enter_context(living.spawn())
        zoo = populate(parent, directory, missing)
        if "huge" not in missing:
            add_huge(parent, zoo)
        if "hugetlb" not in missing:
            add_hugetlb(parent, zoo)
        settle()
        if "swap" not in missing:
            living.page_out(parent, zoo["swapped"])
            parent.madvise(zoo["shmem"][:10], living.PAGEOUT)
        child = parent.fork()
        rewrite(parent, child, zoo)
        settle()
        parent.stop()
        child.stop()
        os.sync()
        yield Zoo(parent, child, zoo, missing)


def rewrite(parent: living.Child, child: living.Child, zoo: dict[str, living.Region]) -> None:
    """Break some of what the two share."""
    child.write(zoo["anon"][:5])
    child.read(zoo["file"][:20])
    child.write(zoo["swapped"][:3])
    parent.read(zoo["swapped"][10:12])
    if "huge" in zoo:
        child.write(zoo["huge"][:1])
        child.madvise(zoo["huge_split"][:1], living.DONTNEED)
    if "hugetlb" in zoo:
        child.write(zoo["hugetlb"][:1])
