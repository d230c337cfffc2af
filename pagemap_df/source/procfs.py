"""`Procfs`: the running kernel, or any directory or tar archive shaped like ``/proc``.

A copied tree holds what the kernel would have shown: text files by name, and for each
process a ``pagemap`` file with the words at their natural offset (8 bytes times the page
number). Such files are sparse; only a gibibyte in each half tebibyte is ever read. A tree may
carry the facts of its machine in ``pagemap_df.json`` (`Snapshot.write_procfs` puts it
there); without it they are inferred from the words, or told by the caller.

A process is held by one directory descriptor from its first file to `release`, so a
recycled pid can never pass for the old one: its files give ESRCH instead.

What can go wrong: see `source`. Only opening and reading happen here; no content is judged.
"""

from __future__ import annotations

import ctypes
import errno
import json
import lzma
import mmap
import os
import sys
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from .. import eras, proctext
from ..entries import Words, layout
from ..errors import FormatError, NotAvailable, NotPermitted, PagemapError, ProcessGone
from . import Source, freeze, probe, scan

FACTS_FILE = "pagemap_df.json"

_PROC_SUPER_MAGIC = 0x9FA0
_SAMPLE = 1 << 16
_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "ppc64le": 354, "s390x": 343}
_KCMP_VM = 1


class Procfs(Source):
    """A proc root: ``/proc`` of the running kernel, a tree copied from one, or a tar of that.

    Parameters
    ----------
    root : path
        Directory, or a tar file (any compression), which is unpacked into a temporary
        directory for as long as the source is open.
    **facts
        What the tree does not say or says wrongly, by the names of `Source.facts`:
        ``era="E3"``, ``page_size=65536``, ``byte_order="big"``. Not for a live kernel.

    Examples
    --------
    >>> with Procfs("/proc") as source:
    ...     source.live, source.facts()["page_size"] >= 4096
    (True, True)
    """

    def __init__(self, root: str | os.PathLike[str] = "/proc", **facts: Any) -> None:
        self._dirs: dict[int, int] = {}
        self._files: dict[str, int] = {}
        self._opening = threading.RLock()
        self._facts: dict[str, Any] = {}
        self._huge_zeros = 0
        self._unpacked: tempfile.TemporaryDirectory[str] | None = None
        self._empty_vmas: dict[int, list[proctext.Vma]] = {}
        self.name = os.fspath(root)
        self.live = _is_procfs(Path(root))
        self.root = Path(root) if self.live else self._locate(Path(root))
        if self.live and facts:
            raise ValueError(f"{self.name} is a live kernel; it tells its facts itself")
        if not self.live:
            try:
                self._learn_facts(facts)
            except PagemapError:
                self.close()
                raise

    def _locate(self, root: Path) -> Path:
        if root.is_file():
            if not tarfile.is_tarfile(root):
                raise FormatError("a directory shaped like /proc or a tar of one", path=self.name)
            self._unpacked = tempfile.TemporaryDirectory(prefix="pagemap_df-")
            try:
                root = _unpack(root, Path(self._unpacked.name))
            except FormatError:
                self.close()
                raise
        if not root.is_dir():
            raise NotAvailable(f"{self.name}: expected a directory shaped like /proc")
        for inside in (root, root / "proc"):
            if inside.is_dir() and any(name.isdigit() for name in os.listdir(inside)):
                return inside
        found = sorted(os.listdir(root))[:5]
        self.close()
        raise FormatError(
            "a directory shaped like /proc (folders named by pid, with maps and pagemap)",
            path=self.name,
            found=found,
        )

    # -- the five questions -------------------------------------------------------------

    def facts(self) -> Mapping[str, Any]:
        """See `Source.facts`. For a live kernel, probed at the first call."""
        if not self._facts:
            self._facts = {"source": "live kernel", **probe.kernel_facts()}
        if self.live and self._facts["pfns"] == "visible":
            # There may be one only now, or one in another place.
            made = probe.huge_zeros_made()
            if made and (made != self._huge_zeros or self._facts["huge_zero_pfn"] is None):
                self._huge_zeros = made
                self._facts["huge_zero_pfn"] = probe.huge_zero()
        return self._facts

    def pids(self) -> list[int]:
        """See `Source.pids`."""
        return sorted(int(name) for name in os.listdir(self.root) if name.isdigit())

    def text(self, path: str) -> bytes:
        """See `Source.text`."""
        with self._explained(path), open(self._open(path), "rb", buffering=0) as file:
            return file.readall()

    def words(self, path: str, first: int, count: int) -> Words:
        """See `Source.words`."""
        out = np.empty(max(count, 0), np.uint64)
        return out[: self.words_into(path, first, out)]

    def words_into(self, path: str, first: int, out: Words) -> int:
        """See `Source.words_into`; reads straight into `out`."""
        fd = self._file(path)
        view, done = out.data.cast("B"), 0
        with self._explained(path):
            while done < len(view):
                got = os.preadv(fd, [view[done:]], 8 * first + done)
                if got == 0:
                    break
                done += got
        if done % 8:
            raise FormatError(
                "whole 8-byte words (the file was cut)",
                path=f"{self.name}/{path}",
                offset=8 * first + done,
            )
        if not self.live and self.facts()["byte_order"] != sys.byteorder:
            out[: done // 8].byteswap(inplace=True)
        return done // 8

    def where(self, path: str, first: int) -> tuple[str, int]:
        """See `Source.where`."""
        return f"{self.name}/{path}", 8 * first

    def populated(self, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """See `Source.populated`.

        PAGEMAP_SCAN on a live kernel. One without it is asked through smaps for mappings
        that hold nothing; zero pages in those go unseen. Holes of the file on a tree.
        """
        path = f"{pid}/pagemap"
        fd = self._file(path)
        if not self.live:
            yield from self._stored(fd, start, end)
        elif self.facts()["scan"]:
            with self._explained(path):
                for found in scan.regions(fd, start, end, any_of=scan.mask("PRESENT", "SWAPPED")):
                    for first, last, _ in found.tolist():
                        yield first, last
        elif not any(vma.start <= start and end <= vma.end for vma in self._empty(pid)):
            yield start, end

    def huge(self, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """See `Source.huge`; by PAGEMAP_SCAN, so on a live kernel only."""
        return self._scanned(pid, start, end, "HUGE")

    def zero(self, pid: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """See `Source.zero`; by PAGEMAP_SCAN, which tells the huge zero page from 6.16 on."""
        return self._scanned(pid, start, end, "PFNZERO")

    def _scanned(self, pid: int, start: int, end: int, category: str) -> Iterator[tuple[int, int]]:
        if not self.live:
            raise NotAvailable(f"a copied tree does not tell which pages are {category}")
        path, wanted = f"{pid}/pagemap", scan.mask(category)
        fd = self._file(path)
        with self._explained(path):
            for found in scan.regions(fd, start, end, all_of=wanted, report=wanted):
                for first, last, _ in found.tolist():
                    yield first, last

    def same_memory(self, pid: int, other: int) -> bool | None:
        """See `Source.same_memory`; by kcmp(2), None where that is refused."""
        number = _KCMP.get(os.uname().machine) if self._is_ours() else None
        if number is None:
            return None
        answer = ctypes.CDLL(None).syscall(number, pid, other, _KCMP_VM, 0, 0)
        return None if answer < 0 else answer == 0

    def release(self, pid: int) -> None:
        """See `Source.release`."""
        prefix = f"{pid}/"
        for path in [path for path in self._files if path.startswith(prefix)]:
            os.close(self._files.pop(path))
        if pid in self._dirs:
            os.close(self._dirs.pop(pid))
        self._empty_vmas.pop(pid, None)

    def swap_sample(self) -> tuple[dict[int, int], dict[int, frozenset[bytes]]]:
        """See `probe.swap_sample`; for the running kernel."""
        return probe.swap_sample() if self.live else super().swap_sample()

    def frozen(self, pids: Iterable[int]) -> AbstractContextManager[Mapping[str, Any]]:
        """See `freeze.frozen`; a tree has nothing to stop.

        `NotAvailable` for a procfs of another PID namespace, whose numbers mean other
        processes here.
        """
        if self.live and not self._is_ours():
            raise NotAvailable(
                f"{self.name}: its pids are of another PID namespace; to freeze them, run "
                "inside of it"
            )
        return freeze.frozen(pids, self.root) if self.live else super().frozen(pids)

    def close(self) -> None:
        """See `Source.close`."""
        for fd in (*self._files.values(), *self._dirs.values()):
            os.close(fd)
        self._files.clear()
        self._dirs.clear()
        if self._unpacked is not None:
            self._unpacked.cleanup()

    # -- how ----------------------------------------------------------------------------

    def _explained(self, path: str) -> AbstractContextManager[None]:
        return _Explained(self.name, self.root, path)

    def _file(self, path: str) -> int:
        """The descriptor of a binary file, opened when first asked for, by whatever thread."""
        if path not in self._files:
            with self._opening, self._explained(path):
                if path not in self._files:
                    self._files[path] = self._open(path)
        return self._files[path]

    def _is_ours(self) -> bool:
        """Whether pids in here are those that our own system calls understand."""
        try:
            return self.live and os.readlink(self.root / "self") == str(os.getpid())
        except OSError:
            return False

    def _open(self, path: str) -> int:
        head, _, rest = path.partition("/")
        if not head.isdigit():
            return os.open(self.root / path, os.O_RDONLY | os.O_CLOEXEC)
        pid = int(head)
        with self._opening:
            if pid not in self._dirs:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                self._dirs[pid] = os.open(self.root / head, flags)
        return os.open(rest, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._dirs[pid])

    def _stored(self, fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Ranges whose words the file stores, by asking the file system for its holes."""
        page = int(self.facts()["page_size"])
        at, stop = start // page * 8, end // page * 8
        while at < stop:
            try:
                first = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            if first >= stop:
                return
            at = min(os.lseek(fd, first, os.SEEK_HOLE), stop)
            yield first // 8 * page, -(-at // 8) * page

    def _empty(self, pid: int) -> list[proctext.Vma]:
        """Mappings that smaps says hold nothing, for kernels without PAGEMAP_SCAN."""
        if pid not in self._empty_vmas:
            maps = proctext.parse_smaps(self.text(f"{pid}/smaps"))
            self._empty_vmas[pid] = [
                entry.vma
                for entry in maps
                if not any(
                    entry.figures.get(name)
                    for name in ("Rss", "Swap", "Shared_Hugetlb", "Private_Hugetlb")
                )
            ]
        return self._empty_vmas[pid]

    def _learn_facts(self, told: Mapping[str, Any]) -> None:
        """The tree's own facts file, what the caller told, and the rest from the words."""
        facts: dict[str, Any] = {"source": f"tree {self.name}", "byte_order": sys.byteorder}
        try:
            facts.update(json.loads((self.root / FACTS_FILE).read_text()))
        except FileNotFoundError:
            pass
        except ValueError as error:
            raise FormatError(
                "JSON with the facts of the machine", path=f"{self.name}/{FACTS_FILE}"
            ) from error
        facts |= {**told, "source": f"tree {self.name}"}
        sized, era = "page_size" in facts, facts.get("era")
        self._facts = facts if sized else {**facts, "page_size": self._page_size()}
        if era is None or (not sized and layout(era).shifted):
            found = eras.infer(self._sample(), path=f"{self.name}/*/pagemap")
            self._facts.setdefault("era", found.era)
            self._facts["era_evidence"] = found.evidence
            if found.page_shift is not None and not sized:
                self._facts["page_size"] = 1 << found.page_shift
            if found.evidence.startswith("present words without"):
                self._facts.setdefault("pfns", "hidden")
                self._facts.setdefault("pfns_why", "whoever copied the tree saw no frame numbers")
        self._facts.setdefault("pfns", "visible")

    def _page_size(self) -> int:
        """The smallest page size smaps names, else that of this machine."""
        for pid in self.pids():
            try:
                entries = proctext.parse_smaps(self.text(f"{pid}/smaps"))
            except (NotAvailable, ProcessGone, NotPermitted):
                continue
            sizes = [entry.figures.get("KernelPageSize", 0) for entry in entries]
            if any(sizes):
                return min(size for size in sizes if size)
        return mmap.PAGESIZE

    def _sample(self) -> Words:
        """Words inside mappings, enough of them to tell the era."""
        page = int(self.facts()["page_size"])
        parts: list[Words] = []
        for pid in self.pids():
            try:
                for vma in proctext.parse_maps(self.text(f"{pid}/maps")):
                    if vma.end > 1 << 63:
                        continue
                    for start, end in self.populated(pid, vma.start, vma.end):
                        count = min((end - start) // page, _SAMPLE)
                        parts.append(self.words(f"{pid}/pagemap", start // page, count))
            except (NotAvailable, ProcessGone, NotPermitted):
                continue
            finally:
                self.release(pid)
            if sum(map(len, parts)) > _SAMPLE:
                break
        return np.concatenate([np.empty(0, np.uint64), *parts])


class _Explained(AbstractContextManager[None]):
    """Turn the operating system's refusals into ours, with the path and what to do."""

    def __init__(self, name: str, root: Path, path: str) -> None:
        self.name, self.root, self.path = name, root, path

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError) or error.errno is None:
            return
        where, head = f"{self.name}/{self.path}", self.path.partition("/")[0]
        if error.errno == errno.ESRCH or (error.errno == errno.ENOENT and head.isdigit()):
            gone = not (self.root / head).exists()
            if error.errno == errno.ESRCH or gone:
                raise ProcessGone(f"{where}: the process is gone or has no memory") from error
        if error.errno == errno.ENOENT:
            raise NotAvailable(f"{where}: no such file here") from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise NotPermitted(
                f"{where}: refused; expected the same user with the process dumpable, or "
                "CAP_SYS_PTRACE (for kpage* files: root)"
            ) from error


def _is_procfs(root: Path) -> bool:
    """Ask statfs(2), whose first field is the file system's magic number."""
    buffer = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform != "linux" or libc.statfs(os.fsencode(root), buffer) != 0:
        return False
    return ctypes.c_long.from_buffer(buffer).value == _PROC_SUPER_MAGIC


def _unpack(archive: Path, into: Path) -> Path:
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(into, filter="data")
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise FormatError(f"a whole tar archive ({error})", path=str(archive)) from error
    folders = [path for path in into.iterdir() if path.is_dir()]
    alone = len(folders) == 1 and not folders[0].name.isdigit()
    return folders[0] if alone and folders[0].name != "proc" else into
