"""The seam where the outside world enters: bytes and text, never their meaning.

A `Source` is anything that can hand over procfs: the running kernel, a copied tree, a bare
dump, a simulated machine. Paths are relative to the proc root (``"1234/maps"``,
``"kpageflags"``). Nothing behind this seam can tell one source from another.

`procfs` is the running kernel and whatever is shaped like it, `rawdump` bare words, `archive`
what `collector` brought home; the simulated machine is a source, too. `probe` finds out what a
kernel shows to this reader, `scan` is its PAGEMAP_SCAN, `freeze` keeps processes still,
`frames` looks page frames up, `remembering` knows whether the answers are still the same.

What can go wrong: a process leaves while it is read (`ProcessGone`), a file is refused
(`NotPermitted`), a file is not there at all (`NotAvailable`). Unmapped ranges are not an
error: they read as zero words, and reading past the end gives fewer words than asked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Self

from ..entries import Words
from ..errors import NotAvailable


class Source(ABC):
    """Where bytes come from. A few questions, each answered without interpretation.

    Also a context manager; leaving it calls `close`.

    Attributes
    ----------
    live : bool
        The words come from a kernel (or a simulated one), not from a file that may be damaged.
    """

    live: bool = False

    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """What is known of the machine, JSON-ready. A fact that is not known is absent.

        ``source`` (what kind this is, for people), ``era``, ``page_size``, ``byte_order``,
        ``release``, ``machine``, ``host``, ``boot_id``, ``pfns`` ("visible" or "hidden"),
        ``pfns_why``, ``soft_dirty`` (bool), ``zero_pfns`` (list), ``huge_zero_pfn`` (None:
        there is one, and the reader was not shown its place), ``specials`` (swap type number
        as text -> kind), ``pmd_size`` (bytes), ``mapcount`` ("exact", or "average" under
        CONFIG_NO_PAGE_MAPCOUNT), ``clock_ticks`` (per second), ``swap_types`` (path as in
        /proc/swaps -> number), ``complete`` (of a copy: whether every process was copied).
        """

    @abstractmethod
    def pids(self) -> list[int]:
        """The processes there are, ascending."""

    @abstractmethod
    def text(self, path: str) -> bytes:
        """All of a text file."""

    @abstractmethod
    def words(self, path: str, first: int, count: int) -> Words:
        """At most `count` 64-bit words of a binary file from index `first`, in native order.

        ``pid/pagemap`` is indexed by virtual page, ``kpagecount``, ``kpageflags`` and
        ``kpagecgroup`` by page frame. Short at the end of the file, empty beyond it.
        May be called from several threads at once.
        """

    def words_into(self, path: str, first: int, out: Words) -> int:
        """Like `words`, into `out` (contiguous uint64); gives how many were read.

        A source that can read straight into memory overrides this to save a copy.
        """
        found = self.words(path, first, len(out))
        out[: len(found)] = found
        return len(found)

    def where(self, path: str, first: int) -> tuple[str, int]:
        """The file that word `first` of `path` lies in, and its byte offset there, for errors."""
        return path, 8 * first

    def populated(self, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Ranges (bytes, half-open, ascending) outside which ``pid`` has nothing in [start, end).

        A source that cannot tell gives the whole range.
        """
        yield (start, end)

    def release(self, pid: int) -> None:  # noqa: B027
        """Forget what was held open for `pid`."""

    def huge(self, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Ranges of [start, end) that ``pid`` maps by huge page table entries.

        `NotAvailable` from a source that cannot tell.
        """
        raise NotAvailable("this source does not tell huge page table entries")

    def zero(self, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Ranges of [start, end) where ``pid`` maps a zero page, huge or not.

        For readers who see no frame numbers. `NotAvailable` from a source that cannot tell.
        """
        raise NotAvailable("this source does not tell zero pages without frame numbers")

    def same_memory(self, pid: int, other: int) -> bool | None:
        """Whether two processes share one address space (CLONE_VM); None if nobody can tell."""
        return None

    def swap_sample(self) -> tuple[dict[int, int], dict[int, frozenset[bytes]]]:
        """Push a few pages out and see where they go; see `probe.swap_sample`."""
        return {}, {}

    def frozen(self, pids: Iterable[int]) -> AbstractContextManager[Mapping[str, Any]]:
        """Keep `pids` from running inside the ``with``; gives facts on how it was done.

        A source whose processes do not run by themselves has nothing to do.
        """
        return nullcontext({})

    def close(self) -> None:  # noqa: B027
        """Give back everything held open."""

    def __enter__(self) -> Self:
        """Use the source inside a ``with``."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close on leaving."""
        self.close()
