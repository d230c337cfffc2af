"""`RawDump`: bare pagemap words in a file, and what you know about them.

``dd if=/proc/PID/pagemap`` leaves words without a word about where they came from. Told the
address of the first page (and, where the words leave it open, era, page size and byte
order), a dump reads like a process with one mapping.

What can go wrong: the file is not a whole number of words, the era cannot be told or is not
the one given, the byte order is the other one. Each is a `FormatError` with the offset.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import eras, proctext
from ..entries import Words, layout
from ..errors import FormatError, NotAvailable, ProcessGone
from . import Source


class RawDump(Source):
    """A file of pagemap words, seen as the one process of a machine.

    Parameters
    ----------
    data : path or bytes
        The words, 8 bytes each.
    start : int
        Address of the first page, bytes.
    era : str, optional
        One of `entries.ERAS`; found from the words if not given.
    page_size : int, optional
        Bytes. From the words where they carry it, else this machine's.
    byte_order : {"little", "big"}
        Of the machine that wrote the words.
    pid : int
        The pid its rows will have.
    **facts
        More of what `Source.facts` lists, such as ``pfns="hidden"`` or ``zero_pfns=[15154]``.

    Examples
    --------
    >>> dump = RawDump((0x86 << 56 | 0x12345).to_bytes(8, "little"), start=0x8048000,
    ...                byte_order="little")
    >>> dump.facts()["era"], dump.facts()["page_size"], dump.text("1/maps")[:17]
    ('E2', 4096, b'08048000-08049000')
    """

    def __init__(
        self,
        data: str | os.PathLike[str] | bytes,
        *,
        start: int = 0,
        era: str | None = None,
        page_size: int | None = None,
        byte_order: Literal["little", "big"] = sys.byteorder,
        pid: int = 1,
        **facts: Any,
    ) -> None:
        self.name = "words" if isinstance(data, bytes) else os.fspath(data)
        raw = data if isinstance(data, bytes) else _bytes_of(Path(data))
        if len(raw) % 8:
            raise FormatError(
                "a whole number of 8-byte words (the file was cut)",
                path=self.name,
                offset=len(raw) // 8 * 8,
                found=f"{len(raw) % 8} bytes more",
            )
        words = np.frombuffer(raw, np.dtype(np.uint64).newbyteorder(byte_order))
        self._words = words.astype(np.uint64, copy=False)
        self._pid = pid
        evidence = {}
        if era is None:
            found = eras.infer(self._words, path=self.name)
            era, page_size = (
                found.era,
                page_size or (1 << found.page_shift if found.page_shift else None),
            )
            evidence = {"era_evidence": found.evidence}
        page_size = page_size or mmap.PAGESIZE
        if start % page_size:
            raise FormatError(
                f"a start address that is a multiple of the page size {page_size}",
                path=self.name,
                found=hex(start),
            )
        self._first = start // page_size
        self._absent = layout(era, page_size.bit_length() - 1).absent
        self._facts = {
            "source": f"dump {self.name}",
            "era": era,
            "page_size": page_size,
            "byte_order": byte_order,
            "pfns": "visible",
            **evidence,
            **facts,
        }

    def facts(self) -> Mapping[str, Any]:
        """See `Source.facts`: what was told, and the era found."""
        return self._facts

    def pids(self) -> list[int]:
        """See `Source.pids`."""
        return [self._pid]

    def text(self, path: str) -> bytes:
        """See `Source.text`; ``maps`` is one unnamed mapping over the whole dump."""
        self._check(path)
        if path != f"{self._pid}/maps":
            raise NotAvailable(f"{self.name}: a dump has no {path}")
        page = int(self._facts["page_size"])
        end = (self._first + len(self._words)) * page
        vma = proctext.Vma(self._first * page, end, "rw-p", 0, "00:00", 0, b"")
        return proctext.format_maps([vma]) if len(self._words) else b""

    def words(self, path: str, first: int, count: int) -> Words:
        """See `Source.words`; absent before the dump begins, nothing behind its end."""
        self._check(path)
        if path != f"{self._pid}/pagemap":
            raise NotAvailable(f"{self.name}: a dump has no {path}")
        at = first - self._first
        before = np.full(min(max(-at, 0), max(count, 0)), self._absent, np.uint64)
        inside = self._words[max(at, 0) : max(at + count, 0)]
        return np.concatenate([before, inside]) if len(before) else inside.copy()

    def where(self, path: str, first: int) -> tuple[str, int]:
        """See `Source.where`."""
        return self.name, 8 * (first - self._first)

    def _check(self, path: str) -> None:
        head = path.partition("/")[0]
        if head.isdigit() and int(head) != self._pid:
            raise ProcessGone(f"{self.name}: the dump is of process {self._pid}, not {head}")


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise NotAvailable(f"{path}: no such file") from error
