"""`Shelf`: the files of one script, and numbers to fill pages with that no page holds yet."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ..mm.hardware import PAGE_SIZE


class Shelf:
    """Files on disk and memory files, by the names of the script.

    They stay open, so that tasks can open them whether or not they still have a name.

    Parameters
    ----------
    directory : Path
        Where those on disk are made.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.fds: dict[str, int] = {}
        self._label = 1 << 40

    def labels(self, count: int) -> int:
        """The first of so many numbers that no page holds."""
        self._label += count
        return self._label - count

    def link(self, name: str) -> str:
        """A path by which tasks open a file."""
        return f"/proc/{os.getpid()}/fd/{self.fds[name]}"

    def pages(self, name: str) -> int:
        """How long a file is."""
        return os.fstat(self.fds[name]).st_size // PAGE_SIZE

    def file(self, name: str, pages: int, *, cold: bool) -> None:
        """A clean file, written a page at a time so that its folios are small."""
        self.fds[name] = fd = os.open(self._path(name), os.O_RDWR | os.O_CREAT, 0o600)
        first = self.labels(pages)
        for page in range(pages):
            os.pwrite(fd, (first + page).to_bytes(8, "little") * (PAGE_SIZE // 8), page * PAGE_SIZE)
        os.fdatasync(fd)
        if cold:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def memfd(self, name: str, pages: int) -> None:
        """A memory file, all holes."""
        self.fds[name] = os.memfd_create(name)
        self.truncate(name, pages)

    def truncate(self, name: str, pages: int) -> None:
        """ftruncate(2)."""
        os.ftruncate(self.fds[name], pages * PAGE_SIZE)

    def unlink(self, name: str) -> None:
        """unlink(2); a memory file has no name to lose."""
        self._path(name).unlink(missing_ok=True)

    def empty(self, is_gone: Callable[[str], bool]) -> None:
        """Cut files that are neither named nor mapped any more: only we keep them."""
        for name in self.fds:
            if is_gone(name) and self.pages(name):
                self.truncate(name, 0)

    def close(self) -> None:
        """Let all of them go."""
        for name, fd in self.fds.items():
            self.truncate(name, 0)
            os.close(fd)
            self.unlink(name)

    def _path(self, name: str) -> Path:
        return self._directory / f"file-{name}"
