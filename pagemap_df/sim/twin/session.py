"""`Session`: the running kernel, made ready to play scripts, and put back as it was afterwards.

While a session is open, the machine's knobs stand as a fresh `Machine` has them, everything is
pinned to one CPU (the kernel keeps frames and swap clusters per CPU), and khugepaged sleeps.
What was changed is known to a guard process before it is changed, and the guard undoes it when
the session ends *or this program does*; there is no other road back. There is one session on a
machine at a time: the others wait.

What can go wrong: no right to do what a script needs, or swap that is not ours is on
(`NotAvailable`, `NotPermitted`); nothing has been changed then.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ...errors import NotAvailable, NotPermitted
from ...source.procfs import Procfs
from ..mm import readahead
from ..mm.hardware import BLOCK, PAGE_SIZE
from . import abi, disk
from .arena import Arena
from .task import WAIT, Task

LOCK = Path(tempfile.gettempdir()) / "pagemap_df-living.lock"
"""Held by whoever changes the machine."""

_MM = Path("/sys/kernel/mm")
_KNOBS = {
    "thp": (_MM / "transparent_hugepage/enabled", "madvise"),
    "zero_huge": (_MM / "transparent_hugepage/use_zero_page", "1"),
    "ksm_zero": (_MM / "ksm/use_zero_pages", "0"),
    "hugepages": (_MM / "hugepages/hugepages-2048kB/nr_hugepages", "0"),
    "defrag": (_MM / "transparent_hugepage/defrag", "madvise"),
    "khugepaged": (_MM / "transparent_hugepage/khugepaged/scan_sleep_millisecs", "4294967295"),
    "ksm": (_MM / "ksm/run", "0"),
    "ksm_pages": (_MM / "ksm/pages_to_scan", "100000"),
    "ksm_sleep": (_MM / "ksm/sleep_millisecs", "0"),
    "ksm_smart": (_MM / "ksm/smart_scan", "0"),
    "ksm_prune": (_MM / "ksm/stable_node_chains_prune_millisecs", "4294967295"),
}
"""Settings by the names that scripts have for them, where they are, and what they start with."""

_ROOMY = "glibc.malloc.top_pad=67108864:glibc.malloc.trim_threshold=1073741824"
"""So much heap at once that malloc never asks for more: the heap is the script's by then."""

_PATIENCE = 60.0
_CAP_SYS_ADMIN = 21
_KB = PAGE_SIZE // 1024
_RW, _PRIVATE_ANON = 3, abi.PRIVATE | abi.ANONYMOUS
_numbers = itertools.count()


class Session:
    """The kernel this runs on, ready to play. A context manager; see the module.

    Attributes
    ----------
    directory : Path
        For swap; goes with the session.
    files : Path
        For files, whose folios are single pages; goes with the session, too.
    server : Task
        Does what is to be done on the right CPU and under guard.
    source : Source
        The arena of the running kernel.
    """

    def __enter__(self) -> Self:
        """Take the lock, start guard and server, set the knobs."""
        if os.uname().machine != "x86_64":
            raise NotAvailable("the model is of x86-64; there is nothing to compare with here")
        if os.geteuid() != 0 or not _may_administer():
            raise NotPermitted(
                "playing scripts on the kernel needs root with CAP_SYS_ADMIN (page frames, swap, "
                "knobs)"
            )
        with ExitStack() as stack:
            self._lock = stack.enter_context(open(LOCK, "a"))
            _wait_until(self._locked, "another program to leave the machine's knobs alone", 600)
            _wait_until(_no_swap, "swap areas that are not ours to be switched off", _PATIENCE)
            name = f"pagemap_df-twin-{os.getpid()}-{next(_numbers)}"
            self._listener = stack.enter_context(
                socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            )
            self._listener.bind("\0" + name)
            self._listener.listen()
            self._listener.settimeout(WAIT)
            program = [sys.executable, "-I", "-S", str(Path(__file__).with_name("child.py")), name]
            self._guard = subprocess.Popen(
                program,
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "GLIBC_TUNABLES": _ROOMY},
                start_new_session=True,
            )
            stack.callback(self._undo)
            self.server = self.accept()
            stack.callback(self.server.close)
            self._prepare()
            self._procfs = stack.enter_context(Procfs("/proc"))
            self.source = Arena(self._procfs)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Have everything undone."""
        self._open.close()

    def _locked(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _undo(self) -> None:
        _, complaints = self._guard.communicate(timeout=4 * WAIT)
        if self._guard.returncode:
            raise NotAvailable(f"the machine was not put back as it was: {complaints.decode()}")

    def _prepare(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pagemap_df-twin-", dir=_on_disk()))
        self._remember("remove", str(self.directory))
        self.server.call("sched_setaffinity", 0, 8, struct.pack("=Q", 1 << _cpu()))
        self._own = self.server.call("mmap", 0, PAGE_SIZE, _RW, _PRIVATE_ANON, -1, 0)
        self._paths: dict[str, Path] = {}
        self._base: dict[str, str] = {}
        for name, (path, value) in _KNOBS.items():
            if path.exists():
                self._keep(name, path, value)
        self._mount_debugfs()
        self._mount_files()
        self._slots_in_turn()
        self._hold_huge_zero()
        # ksmd sleeps for as long as nothing at all is mergeable, and would never have done.
        if "ksm" in self._paths:
            self.server.call("madvise", self._own, PAGE_SIZE, abi.ADVICE["MERGEABLE"])

    def _hold_huge_zero(self) -> None:
        """Have the huge zero page be one and the same as long as the session lasts."""
        size = 2 * BLOCK * PAGE_SIZE
        start = self.server.call("mmap", 0, size, _RW, _PRIVATE_ANON, -1, 0)
        self.server.call("madvise", start, size, abi.ADVICE["HUGEPAGE"])
        self.server.ask("read", start, start + size, PAGE_SIZE)

    def _mount_debugfs(self) -> None:
        """Where fault_around_bytes is: mounted in the mount namespace of the guard alone."""
        mount = self.directory / "debug"
        mount.mkdir()
        try:
            self.server.call("mount", b"none", os.fsencode(mount), b"debugfs", 0, 0)
        except OSError:
            return
        seen = self._seen_by_guard(mount) / "fault_around_bytes"
        try:
            old = _chosen(seen)
        except (FileNotFoundError, PermissionError):
            return
        self._remember("restore", f"{mount}/fault_around_bytes", old)
        self._paths["fault_around"], self._base["fault_around"] = seen, old

    def _mount_files(self) -> None:
        """A file system of single pages, mounted in the mount namespace of the guard alone."""
        device, loop = disk.attach(self.directory / "files.ext4")
        try:
            mount = self.directory / "files"
            mount.mkdir()
            queue = Path("/sys/block", Path(device).name, "queue")
            self._keep("read_ahead", queue / "read_ahead_kb", str(readahead.WINDOW * _KB))
            self._keep("read_most", queue / "max_sectors_kb", str(readahead.MOST * _KB))
            self.server.call("mount", device.encode(), os.fsencode(mount), b"ext4", 0, 0)
            self.files = self._seen_by_guard(mount)
        finally:
            os.close(loop)

    def _slots_in_turn(self) -> None:
        """Let swap areas take turns slot by slot: on disks that do not turn they do by cluster."""
        device = self.directory.stat().st_dev
        disk = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
        for place in (disk, disk.parent):
            if (place / "queue/rotational").exists():
                self._keep("rotational", place / "queue/rotational", "1")
                return

    def _seen_by_guard(self, path: Path) -> Path:
        """A path in the mount namespace of the guard."""
        return Path(f"/proc/{self.server.pid}/root{path}")

    # ---- settings ---------------------------------------------------------------------

    def _remember(self, *line: str) -> None:
        """Tell the guard what to undo, before it is done."""
        assert self._guard.stdin is not None
        self._guard.stdin.write(json.dumps(line).encode() + b"\n")
        self._guard.stdin.flush()

    def _keep(self, name: str, path: Path, value: str) -> None:
        """Set a knob for as long as the session lasts."""
        self._remember("restore", str(path), _chosen(path))
        self._paths[name], self._base[name] = path, value
        self.set(name, value)

    def set(self, name: str, value: str) -> None:
        """Turn a knob."""
        if name not in self._paths:
            raise NotAvailable(f"this kernel has no knob {name}")
        if _chosen(self._paths[name]) != value:
            self._paths[name].write_text(value)

    def reset(self) -> None:
        """Turn all knobs back to where they stood before the script."""
        for name, value in self._base.items():
            self.set(name, value)

    def swap_file(self, number: int, pages: int) -> Path:
        """A file fit for swapon, made when first asked for."""
        path = self.directory / f"swap{number}-{pages}"
        if not path.exists():
            header = bytearray(PAGE_SIZE)
            struct.pack_into("<III", header, 1024, 1, pages - 1, 0)
            header[-10:] = b"SWAPSPACE2"
            with path.open("wb") as file:
                file.write(header)
                for _ in range(pages - 1):
                    file.write(bytes(PAGE_SIZE))
                file.flush()
                os.fsync(file.fileno())
            path.chmod(0o600)
        return path

    def cgroup(self, name: str, limit: int | None, parent: Path | None = None) -> Path:
        """A new memory cgroup, whichever version this machine has."""
        root, file = _memory_hierarchy()
        root = parent or root
        path = root / f"{self.directory.name}-{next(_numbers)}-{name}"
        self._remember("rmdir", str(path))
        path.mkdir()
        if limit is not None:
            (path / file).write_text(str(limit))
        return path

    def press(self, group: Path, size: int) -> None:
        """Take so many bytes of a cgroup's memory away, or what can be had of it."""
        if (group / "memory.reclaim").exists():
            knob, values = group / "memory.reclaim", [str(size)]
        else:
            used = int((group / "memory.usage_in_bytes").read_text())
            knob, values = group / "memory.limit_in_bytes", [str(max(used - size, 0)), "-1"]
        for value in values:
            # Less than that can be had: EBUSY, EAGAIN.
            with suppress(OSError):
                knob.write_text(value)

    # ---- what the kernel is asked to do at once ---------------------------------------

    def accept(self) -> Task:
        """The process that connects next."""
        return Task(self._listener)

    def spawn(self) -> Task:
        """A new process."""
        self.server.ask("fork", 0)
        return self.accept()

    def drain(self) -> None:
        """Empty the CPU's batches of pages on their way between lists (``lru_add_drain``)."""
        self.server.call("madvise", self._own, PAGE_SIZE, abi.ADVICE["COLD"])

    def settle(self) -> None:
        """Wait until what is on its way to swap is there, and no CPU's batches hold any of it.

        The batches are those of the CPU that hears from the disk. move_pages(2) empties all of
        them (``lru_add_drain_all``) before it moves what it is asked to, which is nothing.
        """
        _wait_until(_nothing_is_written, "pages to be written out", WAIT)
        self.server.call("syscall", abi.MOVE_PAGES, 0, 0, 0, self._own, 0, abi.MOVE)

    def merge(self) -> None:
        """Let ksmd go over everything, as often as it takes to believe what it sees."""
        scans = self._paths["ksm"].with_name("full_scans")
        target = int(scans.read_text()) + 4
        self.set("ksm", "1")
        _wait_until(lambda: int(scans.read_text()) >= target, "KSM to scan", WAIT)
        self.set("ksm", "0")


def _may_administer() -> bool:
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) >> _CAP_SYS_ADMIN & 1)


def _nothing_is_written() -> bool:
    # Makes each CPU hand in what it has counted.
    Path("/proc/sys/vm/stat_refresh").write_text("1")
    counters = Path("/proc/vmstat").read_text()
    return "\nnr_writeback 0\n" in counters


def _no_swap() -> bool:
    return len(Path("/proc/swaps").read_text().splitlines()) == 1


def _on_disk() -> str:
    """A directory for files and swap that is not in memory itself."""
    for directory in (tempfile.gettempdir(), "/var/tmp", "/"):
        kind = subprocess.run(
            ["stat", "-f", "-c", "%T", directory], capture_output=True, text=True, check=False
        ).stdout.strip()
        if kind and kind not in ("tmpfs", "ramfs", "overlayfs"):
            return directory
    raise NotAvailable("no temporary directory on a disk; set TMPDIR")


def _memory_hierarchy() -> tuple[Path, str]:
    """Where memory cgroups are made, and the name of the file for the limit."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup" and "memory" in options.split(","):
            return Path(where), "memory.limit_in_bytes"
        if kind == "cgroup2" and "memory" in Path(where, "cgroup.controllers").read_text().split():
            return Path(where), "memory.max"
    raise NotAvailable("no memory cgroups are mounted here")


def _cpu() -> int:
    return max(os.sched_getaffinity(0))


def _chosen(path: Path) -> str:
    """The value in force: the one in brackets, if there are brackets."""
    text = path.read_text()
    return text.partition("[")[2].partition("]")[0] or text.strip()


def _wait_until(true: Callable[[], bool], what: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise NotAvailable(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.001)
