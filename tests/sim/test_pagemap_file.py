"""The file of 2008 and its descendants: order of checks, errno, short reads, seeks."""

import errno
import os

import numpy as np
import pytest

from pagemap_df.sim import Machine, Process, Reader, UserBuffer
from pagemap_df.sim.mm.pagetable import PageTable
from pagemap_df.sim.proc.walk import walk

END = 0x7FFFFFFFF


@pytest.fixture
def pages(task: Process) -> int:
    first = task.mmap(6, at=0x123456)
    task.write(range(first, first + 3))
    return first


def refused(code: int):
    return pytest.raises(OSError, check=lambda error: error.errno == code)


class TestSeed:
    def test_words(self, machine: Machine, task: Process, pages: int):
        machine.swapon("1M")
        task.madvise(pages + 1, 1, "PAGEOUT")
        seed = machine.open_pagemap(task.pid, era="E0")
        words = np.frombuffer(seed.pread(32, pages * 8), np.uint64).tolist()
        assert words[1] == 0xE000000000000020
        assert words[3] == 0xE000000000000000
        modern = np.frombuffer(machine.open_pagemap(task.pid).pread(8, pages * 8), np.uint64)
        assert words[0] == modern[0] & ((1 << 55) - 1)

    def test_as_written_stores_one_byte_a_word_but_the_last(self, machine, task, pages):
        meant = machine.open_pagemap(task.pid, era="E0").pread(24, pages * 8)
        wrote = machine.open_pagemap(task.pid, era="E0", as_written=True).pread(24, pages * 8)
        expected = b"".join(meant[n : n + 1] + bytes(7) for n in (0, 8)) + meant[16:]
        assert wrote == expected != meant

    def test_as_written_keeps_stale_bytes(self, machine, task, pages):
        buffer = UserBuffer(bytearray(b"\xaa" * 16))
        machine.open_pagemap(task.pid, era="E0", as_written=True).pread(16, pages * 8, buffer)
        assert buffer.data[1:8] == b"\xaa" * 7

    def test_as_written_at_the_end_of_memory_even_the_last_is_one_byte(self, machine, task):
        seed = machine.open_pagemap(task.pid, era="E0", as_written=True)
        buffer = UserBuffer(bytearray(b"\xaa" * 24))
        assert len(seed.pread(24, (END - 2) * 8, buffer)) == 16
        assert buffer.data == (b"\x00" + b"\xaa" * 7) * 2 + b"\xaa" * 8

    def test_a_partial_last_word_and_the_position_after_it(self, machine, task, pages):
        seed = machine.open_pagemap(task.pid, era="E0")
        seed.lseek(pages * 8)
        whole = seed.pread(16, pages * 8)
        assert seed.read(12) == whole[:12]
        assert seed.position == pages * 8 + 12
        with refused(errno.EINVAL):
            seed.read(8)
        seed.lseek(4, os.SEEK_CUR)
        assert len(seed.read(8)) == 8

    @pytest.mark.parametrize(
        ("page", "length"), [(END - 1, 8), (END, 0), (END + 5, 0), ((1 << 60) - 2, 0)]
    )
    def test_the_end(self, machine, task, page: int, length: int):
        seed = machine.open_pagemap(task.pid, era="E0")
        assert len(seed.pread(8 if length == 0 else 16, page * 8)) == length

    def test_permission_comes_before_alignment_and_is_asked_at_each_read(self, machine, task):
        seed = machine.open_pagemap(task.pid, Reader(uid=task.uid), era="E0")
        with refused(errno.EINVAL):
            seed.pread(8, 3)
        task.dumpable = False
        with refused(errno.EACCES):
            seed.pread(8, 3)
        task.exit()
        with refused(errno.ESRCH):
            seed.pread(8, 3)

    def test_a_zombie_has_nothing_but_its_position_is_checked_first(self, machine, task):
        seed = machine.open_pagemap(task.pid, era="E0")
        task.exit(reap=False)
        with refused(errno.EINVAL):
            seed.pread(8, 3)
        assert seed.pread(8, 0) == b""

    def test_losing_permission_between_the_checks(self, machine, task, pages):
        seed = machine.open_pagemap(task.pid, Reader(uid=task.uid), era="E0")
        seed.race = lambda: setattr(task, "dumpable", False)
        with refused(errno.EIO):
            seed.pread(8, pages * 8)

    def test_buffers(self, machine, task, pages):
        seed = machine.open_pagemap(task.pid, era="E0")
        seed.lseek(pages * 8)
        with refused(errno.EFAULT):
            seed.read(8, UserBuffer(bytearray(8), writable=0))
        assert seed.position == pages * 8
        with refused(errno.EFAULT):
            seed.read(24, UserBuffer(bytearray(24), writable=16))
        assert seed.position == pages * 8 + 16

    def test_no_room_for_the_pins(self, task):
        machine = Machine("1M")
        small = machine.spawn("small")
        hog = small.mmap(machine.kernel.frames.free)
        small.write(range(hog, hog + machine.kernel.frames.free))
        with refused(errno.ENOMEM):
            machine.open_pagemap(small.pid, era="E0").pread(
                1 << 20, 0, UserBuffer(bytearray(1 << 20))
            )

    def test_reading_destroys_huge_mappings(self, machine, task):
        machine.huge_pages(1)
        first = task.mmap(512, huge=True)
        task.write(range(first, first + 1))
        seed = machine.open_pagemap(task.pid, era="E0", as_written=True)
        assert seed.pread(8, first * 8) == (0xE000000000000000).to_bytes(8, "little")
        assert machine.words(f"{task.pid}/pagemap", first, 1).tolist() == [0]

    def test_open_looks_at_the_mode_only(self, machine, task):
        with refused(errno.EACCES):
            machine.open_pagemap(task.pid, Reader(uid=5), era="E0")


class TestLater:
    def test_alignment_comes_before_permission(self, machine, task):
        file = machine.open_pagemap(task.pid, Reader(uid=task.uid), era="E3")
        task.dumpable = False
        with refused(errno.EINVAL):
            file.pread(12, 0)
        assert file.pread(0, 0) == b""
        with refused(errno.EACCES):
            file.pread(8, 0)

    def test_e3_words(self, machine, task, pages):
        words = np.frombuffer(machine.open_pagemap(task.pid, era="E3").pread(48, pages * 8), "<u8")
        assert [hex(word >> 55) for word in words.tolist()] == ["0x10c"] * 3 + ["0xc"] * 3


class TestModern:
    def test_arguments(self, machine, task):
        file = machine.open_pagemap(task.pid)
        for count, position in ((8, 1), (4, 0), (0, 3)):
            with refused(errno.EINVAL):
                file.pread(count, position)
        assert file.pread(0, 8) == b""
        assert len(file.pread(64, (END - 3) * 8)) == 24
        assert file.pread(8, END * 8) == b""
        with refused(errno.EINVAL):
            file.pread(8, -8)

    def test_permission_is_decided_at_open(self, machine, task, pages):
        own = machine.open_pagemap(task.pid, Reader(uid=task.uid))
        task.dumpable = False
        hidden = np.frombuffer(own.pread(16, pages * 8), np.uint64)
        assert [hex(word) for word in hidden.tolist()] == ["0x8100000000000000"] * 2
        with refused(errno.EACCES):
            machine.open_pagemap(task.pid, Reader(uid=task.uid))

    def test_frames_need_sys_admin(self, machine, task, pages):
        file = machine.open_pagemap(task.pid, Reader(uid=0, admin=False))
        assert int.from_bytes(file.pread(8, pages * 8), "little") == 0x81 << 56

    def test_the_file_belongs_to_the_memory_not_the_process(self, machine, task, pages):
        file = machine.open_pagemap(task.pid)
        task.exec("other")
        assert file.pread(8, pages * 8) == b""
        other = machine.open_pagemap(task.pid)
        task.exit(reap=False)
        assert other.pread(8, 0) == b""
        with refused(errno.ESRCH):
            machine.open_pagemap(task.pid)

    def test_a_bad_buffer_moves_nothing(self, machine, task, pages):
        file = machine.open_pagemap(task.pid)
        file.lseek(pages * 8)
        with refused(errno.EFAULT):
            file.read(24, UserBuffer(bytearray(24), writable=16))
        assert file.position == pages * 8


class TestSeek:
    def test_anything_goes(self, machine, task):
        file = machine.open_pagemap(task.pid)
        assert file.lseek(1 << 62) == 1 << 62
        assert file.lseek(-4096) == -4096
        assert file.lseek(4096 + 24, os.SEEK_CUR) == 24
        with refused(errno.ENOEXEC):
            file.lseek(-8)
        assert file.position == -8
        for whence in (os.SEEK_END, os.SEEK_DATA):
            with refused(errno.EINVAL):
                file.lseek(0, whence)


class TestWalk:
    def test_holes_are_clipped_to_their_level(self):
        table = PageTable(zero=1)
        table.ensure(512**3 + 512**2, 512**3 + 512**2 + 1)
        steps = walk(table, 512**3 - 7, 512**3 + 512**2 + 512 * 2)
        assert [(step.level, step.stop - step.first) for step in steps] == [
            ("pgd", 7),
            ("pud", 512**2),
            ("pte", 512),
            ("pmd", 512),
        ]

    def test_outside_mappings_too(self, machine, task):
        task.mm.table.ensure(0x777000, 0x777001)
        leaf = task.mm.table.leaf(0x777000)
        assert leaf is not None
        leaf[0] = np.uint64(1 << 63 | 77)
        word = machine.open_pagemap(task.pid, era="E0").pread(8, 0x777000 * 8)
        assert int.from_bytes(word, "little") == 77
