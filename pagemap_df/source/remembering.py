"""`Remembering`: a source that can say whether it would answer as it did the last time.

It stands before another source and passes every question on. Of each answer that a page table
can change it keeps a digest (32 bytes for up to half a megabyte of words). `changed` puts the
same questions again and stops at the first answer that differs; it decodes nothing and makes
no tables, so it costs little more than the kernel takes to show the words.

What is compared: the list of processes, ``maps``, the words of ``pagemap`` and of the frame
files, the populated and huge ranges, and ``/proc/swaps``. Not compared are ``stat`` and
``status``, whose clocks run anyhow: a process that only went from sleeping to running has not
changed.

It also counts what looking costs those who are looked at: the time inside reads of their
``pagemap`` and ``maps``, which is an upper bound of the time their memory map was locked, and
the time they were frozen.

What can go wrong: what goes wrong with the source behind it. In `changed`, that is a change.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from typing import Any

import numpy as np

from ..entries import Words
from ..errors import NotAvailable, NotPermitted, ProcessGone
from . import Source

_IDLE = ("stat", "status", "statm")


class Remembering(Source):
    """Pass questions on to `source` and remember the answers' digests.

    Examples
    --------
    >>> import os
    >>> from pagemap_df.source.procfs import Procfs
    >>> with Remembering(Procfs()) as source:
    ...     words = source.words("self/pagemap", 0, 16)
    ...     source.changed()
    False
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.live = source.live
        self._locked = self._stopped = 0.0
        self._counting = threading.Lock()
        self._answers: dict[tuple[Any, ...], object] = {}

    def forget(self) -> None:
        """Forget all answers: what comes now is remembered instead."""
        self._answers.clear()

    def spent(self) -> dict[str, float]:
        """``locked_seconds`` and ``stopped_seconds`` since the last call."""
        found = {"locked_seconds": self._locked, "stopped_seconds": self._stopped}
        self._locked = self._stopped = 0.0
        return found

    def changed(self) -> bool:
        """Whether any answer is different now."""
        at = None
        try:
            for question, answer in list(self._answers.items()):
                if at is not None and question[1] != at:
                    self.source.release(at)
                at = question[1] if isinstance(question[1], int) else None
                if self._ask(question) != answer:
                    return True
        except (ProcessGone, NotPermitted, NotAvailable):
            return True
        finally:
            if at is not None:
                self.source.release(at)
        return False

    def _ask(self, question: tuple[Any, ...]) -> object:
        what, _, *rest = question
        ask: Callable[..., object] = getattr(self, f"_{what}")
        return ask(*rest)

    # -- questions that are remembered -------------------------------------------------------

    def pids(self) -> list[int]:
        """See `Source.pids`."""
        found = self.source.pids()
        self._answers["pids", None] = tuple(found)
        return found

    def _pids(self) -> object:
        return tuple(self.source.pids())

    def text(self, path: str) -> bytes:
        """See `Source.text`."""
        with self._timed(path):
            found = self.source.text(path)
        if path.rpartition("/")[2] not in _IDLE:
            self._answers["text", _pid(path), path] = _digest(found)
        return found

    def _text(self, path: str) -> object:
        with self._timed(path):
            return _digest(self.source.text(path))

    def words(self, path: str, first: int, count: int) -> Words:
        """See `Source.words`."""
        with self._timed(path):
            found = self.source.words(path, first, count)
        self._answers["words", _pid(path), path, first, count] = _digest(found)
        return found

    def words_into(self, path: str, first: int, out: Words) -> int:
        """See `Source.words_into`."""
        with self._timed(path):
            got = self.source.words_into(path, first, out)
        self._answers["words", _pid(path), path, first, len(out)] = _digest(out[:got])
        return got

    def _words(self, path: str, first: int, count: int) -> object:
        out = np.empty(count, np.uint64)
        with self._timed(path):
            got = self.source.words_into(path, first, out)
        return _digest(out[:got])

    def populated(self, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """See `Source.populated`."""
        found = tuple(self.source.populated(pid, start, end))
        self._answers["populated", pid, pid, start, end] = found
        yield from found

    def _populated(self, pid: int, start: int, end: int) -> object:
        return tuple(self.source.populated(pid, start, end))

    def huge(self, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """See `Source.huge`."""
        found = tuple(self.source.huge(pid, start, end))
        self._answers["huge", pid, pid, start, end] = found
        yield from found

    def _huge(self, pid: int, start: int, end: int) -> object:
        return tuple(self.source.huge(pid, start, end))

    def zero(self, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """See `Source.zero`."""
        found = tuple(self.source.zero(pid, start, end))
        self._answers["zero", pid, pid, start, end] = found
        yield from found

    def _zero(self, pid: int, start: int, end: int) -> object:
        return tuple(self.source.zero(pid, start, end))

    # -- questions that are only passed on ---------------------------------------------------

    def facts(self) -> Mapping[str, Any]:
        """See `Source.facts`."""
        return self.source.facts()

    def where(self, path: str, first: int) -> tuple[str, int]:
        """See `Source.where`."""
        return self.source.where(path, first)

    def release(self, pid: int) -> None:
        """See `Source.release`."""
        self.source.release(pid)

    def same_memory(self, pid: int, other: int) -> bool | None:
        """See `Source.same_memory`."""
        return self.source.same_memory(pid, other)

    def swap_sample(self) -> tuple[dict[int, int], dict[int, frozenset[bytes]]]:
        """See `Source.swap_sample`."""
        return self.source.swap_sample()

    def frozen(self, pids: Iterable[int]) -> AbstractContextManager[Mapping[str, Any]]:
        """See `Source.frozen`; the time inside is counted."""
        return self._frozen(pids)

    @contextmanager
    def _frozen(self, pids: Iterable[int]) -> Iterator[Mapping[str, Any]]:
        began = time.perf_counter()
        try:
            with self.source.frozen(pids) as found:
                yield found
        finally:
            self._stopped += time.perf_counter() - began

    @contextmanager
    def _timed(self, path: str) -> Iterator[None]:
        """Count the time inside as time under the lock of the process that `path` is of."""
        began = time.perf_counter()
        try:
            yield
        finally:
            if path.endswith(("/pagemap", "/maps", "/smaps")):
                with self._counting:
                    self._locked += time.perf_counter() - began

    def close(self) -> None:
        """See `Source.close`."""
        self.source.close()


def _pid(path: str) -> int | None:
    head = path.partition("/")[0]
    return int(head) if head.isdigit() else None


def _digest(data: Any) -> bytes:
    return sha256(data).digest()
