"""`PagemapFile`: an open ``/proc/<pid>/pagemap`` with read, pread, lseek and PAGEMAP_SCAN.

Three ages of rules, in the order they are checked (the first that applies decides):

================  ============================  =============================================
E0, E1            2.6.25-rc1 to -rc5            at each read: ESRCH task gone, EACCES may not
                                                attach, EINVAL position not a multiple of 8,
                                                0 no memory of its own, ENOMEM, EFAULT buffer,
                                                EIO attach refused the second time
E2 to E4v2        2.6.26 to 4.2                 at each read: ESRCH, EINVAL position or count,
                                                0 for count 0, EACCES, 0 without memory
E5 to E7          4.3 on                        at open: EACCES, ESRCH without memory; at read:
                                                EINVAL, 0; frames hidden by the credentials
                                                that the file was opened with
================  ============================  =============================================

In the first age an unaligned count is no error: the low bytes of the last word are copied,
and the next read fails for its position. With ``as_written`` the store has the bug that
the first kernels had: the cursor is a ``char *``, so every word but the last one of a full
buffer puts down only its low byte and skips seven (fixed by aae8679b0ebc, 2.6.26-rc6).

What can go wrong: every error is an `OSError` with the kernel's errno.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from ... import entries
from ...entries import Words, layout
from ..mm.hardware import PAGE_SIZE
from ..mm.vma import AddressSpace, fail
from ..process import Process
from .pagemap_scan import Scan, scan
from .walk import walk
from .words import fields

if TYPE_CHECKING:
    from ..machine import Machine

_WORD = 8
_MOST = 0x7FFFF000
"""MAX_RW_COUNT: what one read is cut down to."""
_SEED, _MIDDLE = ("E0", "E1"), ("E2", "E3", "E4v1", "E4v2")


@dataclass
class Reader:
    """Who reads: ids, and the two capabilities that matter."""

    uid: int = 0
    ptrace: bool | None = None
    admin: bool | None = None

    @property
    def may_ptrace(self) -> bool:
        """CAP_SYS_PTRACE, which root has unless told otherwise."""
        return self.uid == 0 if self.ptrace is None else self.ptrace

    @property
    def is_admin(self) -> bool:
        """CAP_SYS_ADMIN."""
        return self.uid == 0 if self.admin is None else self.admin


@dataclass
class UserBuffer:
    """Memory that is read into.

    Attributes
    ----------
    data : bytearray
        What is there; it keeps what a read does not overwrite.
    start : int
        Its address.
    writable : int or None
        How many bytes, from the start on, can be written to; all if None.
    """

    data: bytearray
    start: int = 0
    writable: int | None = None

    @property
    def room(self) -> int:
        """Bytes that can be written."""
        return len(self.data) if self.writable is None else min(self.writable, len(self.data))


@dataclass
class PagemapFile:
    """An open file. Made by `Machine.open_pagemap`.

    Attributes
    ----------
    position : int
        Signed 64-bit.
    race : callable, optional
        Called between the two attach checks of the seed: where a process could turn private.
    """

    machine: Machine
    process: Process
    reader: Reader
    era: str
    as_written: bool = False
    position: int = 0
    race: Callable[[], None] | None = None
    _space: AddressSpace | None = field(init=False)

    def __post_init__(self) -> None:
        """Check what is checked at open."""
        self._space = self.process.space
        if self.era in _SEED + _MIDDLE:
            if not (self.reader.uid in (0, self.process.uid)):
                raise fail(errno.EACCES, "the file's mode is 0400")
            return
        if not self._may_attach():
            raise fail(errno.EACCES, "not yours to look at")
        if self._space is None:
            raise fail(errno.ESRCH, "no memory of its own")

    def _may_attach(self) -> bool:
        """ptrace_may_attach of the time, ptrace_may_access(READ) of today."""
        own = self.reader.uid == self.process.uid and self.process.dumpable
        return own or self.reader.may_ptrace

    def read(self, count: int, buffer: UserBuffer | None = None) -> bytes:
        """read(2): the bytes that a fresh buffer of zeroes, or `buffer`, has then."""
        return self._read_at(self.position, count, buffer, advance=True)

    def pread(self, count: int, position: int, buffer: UserBuffer | None = None) -> bytes:
        """pread(2): like `read`, with no change of position."""
        return self._read_at(position, count, buffer, advance=False)

    def lseek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """lseek(2): any 64-bit position will do, and SEEK_END will not.

        A position from -4095 to -1 is taken, and looks like an error to the C library.
        """
        if whence not in (os.SEEK_SET, os.SEEK_CUR):
            raise fail(errno.EINVAL, "neither SEEK_SET nor SEEK_CUR")
        base = self.position if whence == os.SEEK_CUR else 0
        self.position = (base + offset + (1 << 63)) % (1 << 64) - (1 << 63)
        if -4096 < self.position < 0:
            raise OSError(-self.position, os.strerror(-self.position))
        return self.position

    def scan(self, request: Scan) -> Scan:
        """ioctl(PAGEMAP_SCAN); `Scan.regions` and `Scan.walk_end` are filled in."""
        if self.era in _SEED + _MIDDLE + ("E5",):
            raise fail(errno.ENOTTY, "Linux 6.7 has PAGEMAP_SCAN")
        if self.process.space is not self._space or self._space is None:
            raise fail(errno.ESRCH, "its memory is gone")
        return scan(self.machine.kernel, self._space, request)

    def _read_at(
        self, position: int, count: int, buffer: UserBuffer | None, *, advance: bool
    ) -> bytes:
        if position < 0 or count < 0 or position + count >= 1 << 63:
            raise fail(errno.EINVAL, "position")
        count = min(count, _MOST)
        buffer = buffer or UserBuffer(bytearray(count))
        if self.era in _SEED:
            done, error = self._seed(position, count, buffer)
        else:
            done, error = self._later(position, count, buffer)
        if advance:
            self.position = position + done
        if error:
            raise fail(error, "buffer")
        return bytes(buffer.data[:done])

    def _seed(self, position: int, count: int, buffer: UserBuffer) -> tuple[int, int]:
        """``pagemap_read`` of 85863e475e59: bytes produced, and the errno if it ends in one."""
        if self.machine.processes.get(self.process.pid) is not self.process:
            raise fail(errno.ESRCH, "the task is gone")
        if not self._may_attach():
            raise fail(errno.EACCES, "may not attach")
        if position % _WORD:
            raise fail(errno.EINVAL, "position is not a multiple of 8")
        space = self.process.space
        if space is None:
            return 0, 0
        pinned = -(-(buffer.start % PAGE_SIZE + count) // PAGE_SIZE)
        if pinned * _WORD > self.machine.kernel.frames.free * PAGE_SIZE:
            raise fail(errno.ENOMEM, "no room for the array of pinned pages")
        if count and not buffer.room:
            raise fail(errno.EFAULT, "the buffer cannot be pinned")
        if self.race is not None:
            self.race()
        if not self._may_attach():
            raise fail(errno.EIO, "may not attach any more")
        wanted = -(-count // _WORD)
        words = self._walk(space, position // _WORD, wanted)
        done = min(count, len(words) * _WORD)
        error = errno.EFAULT if done > buffer.room else 0
        if self.as_written:
            _store_bytes(words, count, buffer)
        else:
            _store(words, min(done, buffer.room), buffer)
        return (buffer.room // _WORD * _WORD if error else done), error

    def _later(self, position: int, count: int, buffer: UserBuffer) -> tuple[int, int]:
        """Reading since 2.6.26, and since 4.3."""
        middle = self.era in _MIDDLE
        gone = self.machine.processes.get(self.process.pid) is not self.process
        if middle and gone:
            raise fail(errno.ESRCH, "the task is gone")
        if position % _WORD or count % _WORD:
            raise fail(errno.EINVAL, "position or count is not a multiple of 8")
        if count == 0:
            return 0, 0
        if middle and not self._may_attach():
            raise fail(errno.EACCES, "may not attach")
        space = self.process.space if middle else self._space
        if space is None or (not middle and self.process.space is not space):
            return 0, 0
        words = self._walk(space, position // _WORD, count // _WORD)
        done = len(words) * _WORD
        if done > buffer.room:
            _store(words, buffer.room // PAGE_SIZE * PAGE_SIZE, buffer)
            return 0, errno.EFAULT
        _store(words, done, buffer)
        return done, 0

    def _walk(self, space: AddressSpace, first: int, count: int) -> Words:
        """The words of up to `count` pages; fewer at the end of the address space."""
        cut = layout(self.era)
        count = max(0, min(count, space.task_size - first))
        words = np.full(count, cut.absent, np.uint64)
        bad = self.as_written and self.era in _SEED
        for step in walk(space.table, first, first + count, clear_bad=bad):
            if step.ptes is not None:
                found = fields(self.machine.kernel, step.ptes)
                if self.era not in _SEED + _MIDDLE and not self.reader.is_admin:
                    found = replace(found, frame=np.zeros_like(found.frame))
                words[step.first - first : step.stop - first] = entries.pack(found, cut)
        return words


def _store(words: Words, size: int, buffer: UserBuffer) -> None:
    """Copy the first `size` bytes, as the author meant it."""
    buffer.data[:size] = words[: -(-size // _WORD)].tobytes()[:size]


def _store_bytes(words: Words, count: int, buffer: UserBuffer) -> None:
    """Store as written: one byte of each word, and all of the word that fills the buffer."""
    last = count // _WORD - (count % _WORD == 0) if count else 0
    for number in range(min(len(words), buffer.room // _WORD)):
        if number < last:
            buffer.data[number * _WORD] = int(words[number]) & 0xFF
    if len(words) > last and count:
        rest = min(count - last * _WORD, max(0, buffer.room - last * _WORD))
        buffer.data[last * _WORD : last * _WORD + rest] = words[last].tobytes()[:rest]
