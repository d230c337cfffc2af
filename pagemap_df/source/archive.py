"""`Archive`: what `collector` left of a host, as a source.

The archive is unpacked into a temporary directory shaped like ``/proc`` for as long as the
source is open, its words at their natural offset in sparse files, and read by `Procfs`. What
the collector only tried (words of scratch pages, the kernel's options) is given its meaning
here, by `probe`, which does so for the kernel it runs on.

A process that the collector had to leave out, or that a limit cut short, is in `pids`, and each
question about it is answered with the reason, so that `take` lists it as skipped and does not
call the snapshot complete.

What can go wrong (`FormatError`, with the path): the file is no such archive, it was cut, a
member is damaged, or a newer collector wrote it.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from .. import procstatus
from ..errors import FormatError, NotAvailable, NotPermitted, ProcessGone
from . import collector, probe, scan
from .procfs import FACTS_FILE, Procfs

_NAME = re.compile(r"(?:(\d+)/)?([a-z_]+(?:\.[a-z]+)?)(?:\.(\d+))?")
_LAST_WORD = 1 << 52


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a file that begins as the collector's archives do."""
    try:
        with tarfile.open(path, "r|*") as tar:
            first = tar.next()
            return first is not None and first.name == collector.FIRST
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError):
        return False


class Archive(Procfs):
    """A collector's archive.

    Parameters
    ----------
    path : path
        The file that ``collector.py -o`` wrote.

    Raises
    ------
    FormatError
        If it is not a whole archive.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        unpacked = tempfile.TemporaryDirectory(prefix="pagemap_df-")
        try:
            self.told, self.end = _unpack(Path(path), Path(unpacked.name))
            everybody = self.end["all"] and all(skip["gone"] for skip in self.end["skipped"])
            facts = {**_facts(self.told), "complete": everybody}
            facts["source"] = f"archive {os.fspath(path)}"
            (Path(unpacked.name) / FACTS_FILE).write_text(json.dumps(facts))
            left = {int(skip["pid"]): skip for skip in self.end["skipped"]}
            # A tree needs a process; an archive may hold none that could be read.
            for pid in left:
                (Path(unpacked.name) / str(pid)).mkdir(exist_ok=True)
            super().__init__(unpacked.name)
        except BaseException:
            unpacked.cleanup()
            raise
        self.name, self._unpacked, self._left = os.fspath(path), unpacked, left
        self._facts["source"] = facts["source"]
        self._maps_read: set[int] = set()
        self._same = {frozenset(pair) for pair in self.end["same_memory"]}

    def text(self, path: str) -> bytes:
        """See `Source.text`; ``maps`` as they were at the beginning, and then at the end."""
        pid = self._present(path)
        if pid is not None and path == f"{pid}/maps":
            after = self.root / f"{path}.after"
            if pid in self._maps_read and after.exists():
                return after.read_bytes()
            self._maps_read.add(pid)
        return super().text(path)

    def words_into(self, path: str, first: int, out: Any) -> int:
        """See `Source.words_into`."""
        self._present(path)
        return super().words_into(path, first, out)

    def _present(self, path: str) -> int | None:
        """The process that `path` is of; raises the reason if it was left out."""
        head = path.partition("/")[0]
        if not head.isdigit():
            return None
        if int(head) in self._left:
            skip = self._left[int(head)]
            kind = ProcessGone if skip["gone"] else NotPermitted
            raise kind(f"{self.name}/{head}: left out by the collector: {skip['reason']}")
        return int(head)

    def huge(self, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """See `Source.huge`."""
        return self._scanned(pid, start, end, "HUGE")

    def zero(self, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """See `Source.zero`."""
        return self._scanned(pid, start, end, "PFNZERO")

    def _scanned(self, pid: int, start: int, end: int, category: str) -> Iterator[tuple[int, int]]:
        if not self.told["probe"]["scan"]:
            raise NotAvailable(f"{self.name}: the kernel it is of had no PAGEMAP_SCAN")
        path = self.root / f"{pid}/scan"
        if path.exists():
            found = np.fromfile(path, "<u8").astype(np.int64).reshape(-1, 3)
            wanted = (found[:, 2] & scan.mask(category) != 0) & (found[:, 1] > start)
            for low, high, _ in found[wanted & (found[:, 0] < end)].tolist():
                yield max(low, start), min(high, end)

    def same_memory(self, pid: int, other: int) -> bool | None:
        """See `Source.same_memory`; as the collector was told by kcmp(2)."""
        known = self.told["machine"] in collector.KCMP
        return frozenset((pid, other)) in self._same if known else None

    def swap_sample(self) -> tuple[dict[int, int], dict[int, frozenset[bytes]]]:
        """See `Source.swap_sample`; from the pages that the collector pushed out."""
        sample = self.told["probe"].get("swap")
        if not sample:
            return {}, {}
        before, after = (
            procstatus.parse_swaps(sample[name].encode("latin-1")) for name in ("before", "after")
        )
        words = np.array(sample["words"], np.uint64)
        return probe.told_by_sample(words, before, after, int(self.told["page_size"]))

    def release(self, pid: int) -> None:
        """See `Source.release`."""
        self._maps_read.discard(pid)
        super().release(pid)


def _facts(told: Mapping[str, Any]) -> dict[str, Any]:
    """What `Source.facts` calls for, from what the collector saw; the rest shows in the words."""
    names = ("host", "release", "version", "machine", "byte_order", "page_size", "clock_ticks")
    facts: dict[str, Any] = {name: told[name] for name in (*names, "boot_id")}
    if told["pmd_size"] is not None:
        facts["pmd_size"] = int(told["pmd_size"])
    if told["options"] is not None:
        facts |= probe.told_by_options(told["release"], told["options"])
    seen = told["probe"]
    began = datetime.fromtimestamp(told["began"], UTC)
    facts |= {
        "scan": seen["scan"],
        "rights": told["rights"],
        "collected_at": began.isoformat(timespec="microseconds"),
    }
    if "written" in seen:
        facts |= probe.told_by_scratch(
            seen["written"], seen["read"], seen["untouched"], seen["guarded"],
            told["release"], told["page_size"],
        )  # fmt: skip
        if seen["huge_zero"] and facts["pfns"] == "visible":
            frame = probe.told_by_huge_page(np.array(seen["huge_zero"], np.uint64))
            if frame is not None:
                facts["huge_zero_pfn"] = frame
    return facts


# -- unpacking -------------------------------------------------------------------------------


def _unpack(path: Path, into: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Lay the archive out in `into`; gives what its first and its last member say."""
    told = end = None
    try:
        with _opened(path) as tape, tarfile.open(fileobj=tape, mode="r|") as tar:
            for member in tar:
                file = tar.extractfile(member)
                data = b"" if file is None else file.read()
                if member.name == collector.FIRST:
                    told = _said(data, member.name, path)
                elif member.name == collector.LAST:
                    end = _said(data, member.name, path)
                elif told is None:
                    break
                else:
                    _place(member.name, data, into, told, path)
            # What follows the last member holds the checksum of all of it.
            while tape.read(1 << 20):
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise FormatError(f"a whole collector archive ({error})", path=str(path)) from error
    if told is None:
        raise FormatError(f"an archive that begins with {collector.FIRST}", path=str(path))
    if end is None:
        raise FormatError(
            f"a whole collector archive, which ends with {collector.LAST}; this one was cut",
            path=str(path),
        )
    return told, end


def _opened(path: Path) -> IO[bytes]:
    """The tar inside, whether packed or not."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(path)) if packed else path.open("rb")


def _said(data: bytes, name: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(data)
        if name == collector.FIRST and int(found["format"]) > collector.FORMAT:
            raise FormatError(
                f"format up to {collector.FORMAT} (a newer collector wrote this)",
                path=str(path),
                found=found["format"],
            )
        return dict(found)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError("JSON of the collector", path=f"{path}/{name}") from error


def _place(name: str, data: bytes, into: Path, told: Mapping[str, Any], path: Path) -> None:
    """Put one member where a tree has it."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise FormatError("a member name of the collector", path=str(path), found=name)
    pid, stem, part = match.groups()
    to = into / (pid or "") / stem
    to.parent.mkdir(exist_ok=True)
    if part is None:
        to.write_bytes(data)
    elif stem == "scan":
        with to.open("ab") as file:
            file.write(data)
    else:
        order = "<" if told["byte_order"] == "little" else ">"
        try:
            _spread(data, to, order)
        except ValueError as error:
            raise FormatError(
                f"ranges of words ({error})", path=f"{path}/{name}", found=data[:8]
            ) from error


def _spread(data: bytes, to: Path, order: str) -> None:
    """Write the words of one member at their natural offset, in the byte order they had."""
    if data[:8] != collector.MAGIC:
        raise ValueError(f"they begin with {collector.MAGIC!r}")
    count = int.from_bytes(data[8:16], "little")
    if 16 + 16 * count > len(data):
        raise ValueError("the list of ranges is cut")
    ranges = np.frombuffer(data, "<u8", 2 * count, 16).reshape(-1, 2)
    planes = np.frombuffer(data, np.uint8, -1, 16 + 16 * count)
    if (ranges > _LAST_WORD).any() or 8 * int(ranges[:, 1].sum()) != len(planes):
        raise ValueError("ranges and words do not agree")
    words = np.ascontiguousarray(planes.reshape(8, -1).T).view("<u8").ravel()
    words = words.astype(f"{order}u8")
    fd = os.open(to, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        at = 0
        for first, length in ranges.tolist():
            os.pwrite(fd, words[at : at + length].tobytes(), 8 * first)
            at += length
    finally:
        os.close(fd)
