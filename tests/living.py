"""Real processes that do exactly the memory operations a test names, and then hold still.

    with living.spawn() as child:
        heap = child.mmap(64)               # a Region of 64 pages
        child.write(heap[:16])
        worker = child.fork()               # another Child
        worker.write(heap[:4])

A child is exec'ed, not forked, so that it shares no anonymous page with the test. Between
two operations it sleeps in ``recv``; `Child.stop` halts it altogether. Leaving the ``with``
kills the family, and nobody else: children are killed through pidfds, and they die by
themselves when the test does.

The other half are the machine's knobs: `swap_area`, `ksm`, `hugetlb`, `thp`. Each waits for
the other tests that turn knobs (a lock file), and is undone by a guard process that acts when
the ``with`` ends *or when the test dies*. Whatever is not possible here skips with the reason.
"""

import ast
import contextlib
import ctypes
import errno
import fcntl
import itertools
import mmap as _mmap
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PAGE = _mmap.PAGESIZE
SHARED, PRIVATE, FIXED, ANONYMOUS = 0x01, 0x02, 0x10, 0x20
NORESERVE, HUGETLB = 0x4000, 0x40000
NONE, R, RW, RX = 0, 1, 3, 5
DONTNEED, FREE, REMOVE, DONTFORK, WIPEONFORK = 4, 8, 9, 10, 18
MERGEABLE, UNMERGEABLE, HUGEPAGE, NOHUGEPAGE = 12, 13, 14, 15
COLD, PAGEOUT, POPULATE_READ, POPULATE_WRITE = 20, 21, 22, 23
COLLAPSE, GUARD_INSTALL, GUARD_REMOVE = 25, 102, 103

_CHILD = Path(__file__).with_name("living_child.py")
_WAIT = 20.0
_CAP_SYS_ADMIN = 21
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Region:
    """Neighbouring pages of a child; ``region[2:5]`` are three of them."""

    start: int
    pages: int

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.start + self.pages * PAGE

    def __getitem__(self, part: slice) -> "Region":
        first, stop, step = part.indices(self.pages)
        assert step == 1, "a region has no holes; pass `order` to touch every nth page"
        return Region(self.start + first * PAGE, stop - first)


class Process:
    """A process that can be stopped and killed, through a pidfd: never a stranger."""

    def __init__(self, pid: int, family: list["Process"]) -> None:
        self.pid, self._family = pid, family
        self._pidfd = os.pidfd_open(pid)
        family.append(self)

    def stop(self) -> None:
        """SIGSTOP, and wait until it has stopped."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGSTOP)
        wait_until(lambda: _state(self.pid) == "T", f"child {self.pid} stopped")

    def resume(self) -> None:
        """SIGCONT."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and wait for the end; killing twice does nothing."""
        if self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        select.select([self._pidfd], [], [], _WAIT)
        os.close(self._pidfd)
        self._pidfd = -1


class Child(Process):
    """A process that obeys; made by `spawn` and `Child.fork`."""

    def __init__(self, listener: socket.socket, family: list[Process]) -> None:
        self._listener = listener
        self._wire = listener.accept()[0]
        self._lines = self._wire.makefile("rb")
        super().__init__(int(self._lines.readline()), family)

    def ask(self, operation: str, *arguments: object) -> int:
        """Have one operation of living_child.py done; OSError as the child got it."""
        self._wire.sendall(repr((operation, *arguments)).encode() + b"\n")
        line = self._lines.readline()
        if not line:
            raise AssertionError(f"child {self.pid} died in {operation}{arguments}")
        done, *answer = ast.literal_eval(line.decode())
        if not done:
            raise OSError(*answer)
        return int(answer[0] or 0)

    def call(self, function: str, *arguments: int | bytes) -> int:
        """Call any libc function in the child."""
        return self.ask("call", function, *arguments)

    def mmap(
        self,
        pages: int,
        *,
        shared: bool = False,
        prot: int = RW,
        fd: int = -1,
        first: int = 0,
        flags: int = 0,
        at: int = 0,
    ) -> Region:
        """Map `pages` pages, of file `fd` from page `first` on or else anonymous."""
        flags |= (SHARED if shared else PRIVATE) | (ANONYMOUS if fd < 0 else 0)
        flags |= FIXED if at else 0
        start = self.call("mmap", at, pages * PAGE, prot, flags, fd, first * PAGE)
        return Region(start, pages)

    def mmap_alone(self, pages: int, *, align: int = 1, **options: int) -> Region:
        """Like `mmap`, in a VMA of its own between two fences, from a multiple of `align` pages."""
        room = self.mmap(pages + align + 1, prot=NONE, flags=NORESERVE)
        skip = -(room.start // PAGE) % align or align
        return self.mmap(pages, at=room.start + skip * PAGE, **options)

    def read(self, region: Region, order: str | range = "forward") -> int:
        """Load from each page: ``"forward"``, ``"random"`` or the range of pages given."""
        return self.ask("read", region.start, _order(region, order))

    def write(self, region: Region, order: str | range = "forward") -> None:
        """Store into each page, each page something else."""
        self.ask("write", region.start, _order(region, order))

    def fill(self, region: Region, byte: int) -> None:
        """Fill all pages with the same byte."""
        self.ask("fill", region.start, range(region.pages), byte)

    def madvise(self, region: Region, advice: int) -> None:
        """madvise(2)."""
        self.call("madvise", region.start, region.pages * PAGE, advice)

    def mprotect(self, region: Region, prot: int) -> None:
        """mprotect(2)."""
        self.call("mprotect", region.start, region.pages * PAGE, prot)

    def munmap(self, region: Region) -> None:
        """munmap(2)."""
        self.call("munmap", region.start, region.pages * PAGE)

    def mlock(self, region: Region) -> None:
        """mlock(2)."""
        self.call("mlock", region.start, region.pages * PAGE)

    def munlock(self, region: Region) -> None:
        """munlock(2)."""
        self.call("munlock", region.start, region.pages * PAGE)

    def open(self, path: str | bytes | Path, flags: int = os.O_RDWR) -> int:
        """open(2); any bytes will do as a name."""
        return self.call("open", os.fsencode(path), flags, 0o600)

    def memfd(self, name: bytes, pages: int) -> int:
        """A memory file of `pages` pages, all holes."""
        fd = self.call("memfd_create", name, 0)
        self.call("ftruncate", fd, pages * PAGE)
        return fd

    def fork(self) -> "Child":
        """fork(2); the new process obeys too."""
        pid = self.ask("fork")
        child = Child(self._listener, self._family)
        assert child.pid == pid
        return child

    def share_memory(self) -> Process:
        """Start a sleeping process in the child's own address space (CLONE_VM)."""
        return Process(self.ask("share_memory", 600), self._family)

    def kill(self) -> None:
        """SIGKILL, and wait for the end; killing twice does nothing."""
        super().kill()
        self._lines.close()
        self._wire.close()


def _order(region: Region, order: str | range) -> range | list[int]:
    if isinstance(order, range):
        return order
    pages = range(region.pages)
    if order == "random":
        return random.Random(region.pages).sample(pages, region.pages)
    return pages


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_until(true: Callable[[], bool], what: str, seconds: float = _WAIT) -> None:
    """Return as soon as `true` says so; fail the test if it never does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s in vain: {what}"
        time.sleep(0.01)


_numbers = itertools.count()


@contextmanager
def spawn() -> Iterator[Child]:
    """Start a child by exec; on leaving, it and all that it forked are gone."""
    name = f"pagemap_df-living-{os.getpid()}-{next(_numbers)}"
    family: list[Process] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind("\0" + name)
        listener.listen()
        listener.settimeout(_WAIT)
        process = subprocess.Popen([sys.executable, "-I", "-S", _CHILD, name])
        try:
            yield Child(listener, family)
        finally:
            for member in reversed(family):
                member.kill()
            process.kill()
            process.wait()


def need_root() -> None:
    """Skip unless this process may turn knobs and see page frames."""
    status = Path("/proc/self/status").read_text()
    capabilities = int(status.partition("CapEff:")[2].split()[0], 16)
    if os.geteuid() != 0 or not capabilities >> _CAP_SYS_ADMIN & 1:
        pytest.skip("needs root with CAP_SYS_ADMIN")


class _Lock:
    """One lock for all tests that change the machine, also those of other workers."""

    path = Path(tempfile.gettempdir()) / "pagemap_df-living.lock"
    depth = 0
    fd = -1

    @contextmanager
    def held(self) -> Iterator[None]:
        if self.depth == 0:
            self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            wait_until(self._take, "another test changes the machine", 240)
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
            if self.depth == 0:
                os.close(self.fd)

    def _take(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


_lock = _Lock()


@contextmanager
def left_alone() -> Iterator[None]:
    """Nobody else changes the machine's knobs, swap areas and huge pages for the time."""
    with _lock.held():
        yield


_UNDO_WRITES = """
import ast, sys
sys.stdin.read()
for path, old in ast.literal_eval(sys.argv[1]).items():
    with open(path, "w") as knob:
        knob.write(old)
"""

_UNDO_SWAP = """
import ctypes, os, sys
sys.stdin.read()
path = os.fsencode(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
if libc.swapoff(path) and ctypes.get_errno() != 22:  # EINVAL: it was never on
    sys.exit(f"swapoff {sys.argv[1]}: {os.strerror(ctypes.get_errno())}")
os.unlink(path)
"""


@contextmanager
def _undone_by(program: str, argument: str) -> Iterator[None]:
    """Run `program` in a process of its own when the ``with`` ends, or when this process does.

    The only road back, so that the one taken after a crash is the one that is always tested.
    """
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program, argument],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert guard.stdin is not None
    try:
        yield
    finally:
        guard.stdin.close()
        assert guard.wait(120) == 0, "the machine was not put back as it was"


@contextmanager
def knobs(**values: str) -> Iterator[None]:
    """Set files under /sys/kernel/mm (``__`` for ``/``) for the time of the ``with``."""
    need_root()
    paths = {Path("/sys/kernel/mm") / name.replace("__", "/"): new for name, new in values.items()}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_lock.held())
        try:
            old = {str(path): _chosen(path.read_text()) for path in paths}
        except OSError as error:
            pytest.skip(f"this kernel has no such knob: {error}")
        stack.enter_context(_undone_by(_UNDO_WRITES, repr(old)))
        try:
            for path, new in paths.items():
                path.write_text(new)
        except OSError as error:
            pytest.skip(f"the kernel refuses: {error}")
        yield


def _chosen(text: str) -> str:
    """The value in force: the one in brackets, if there are brackets."""
    return text.partition("[")[2].partition("]")[0] or text.strip()


@contextmanager
def thp(mode: str = "madvise") -> Iterator[None]:
    """Transparent huge pages for memory that asks (or ``always``, ``never``), made at once."""
    with knobs(transparent_hugepage__enabled=mode, transparent_hugepage__defrag="madvise"):
        yield


@contextmanager
def ksm(**values: str) -> Iterator[Callable[[], None]]:
    """Run KSM; gives a function that waits until it has looked at everything again."""
    full_scans = Path("/sys/kernel/mm/ksm/full_scans")

    def settle() -> None:
        target = int(full_scans.read_text()) + 4
        wait_until(lambda: int(full_scans.read_text()) >= target, "KSM scans")

    fast = {"ksm__sleep_millisecs": "1", "ksm__pages_to_scan": "20000", "ksm__run": "1"}
    with knobs(**{**values, **fast}):
        yield settle


@contextmanager
def hugetlb(count: int) -> Iterator[None]:
    """At least `count` free 2 MiB pages in the hugetlb pool."""
    name = "hugepages__hugepages-2048kB__"
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB")
    if not pool.exists():
        pytest.skip("this kernel has no 2 MiB hugetlb pool")
    with _lock.held():
        total = int((pool / "nr_hugepages").read_text())
        with knobs(**{name + "nr_hugepages": str(total + count)}):
            if int((pool / "free_hugepages").read_text()) < count:
                pytest.skip(f"no room for {count} huge pages")
            yield


def swap_header(pages: int) -> bytes:
    """First page of a swap area of `pages` pages, as mkswap writes it (version 1)."""
    header = bytearray(PAGE)
    struct.pack_into("<III", header, 1024, 1, pages - 1, 0)
    header[-10:] = b"SWAPSPACE2"
    return bytes(header)


@contextmanager
def swap_area(mib: int = 64, priority: int | None = None) -> Iterator[Path]:
    """A swap file of our own, in use for the time of the ``with``; its path."""
    need_root()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_lock.held())
        handle, name = tempfile.mkstemp(prefix="pagemap_df-", suffix=".swap")
        stack.enter_context(_undone_by(_UNDO_SWAP, name))
        with os.fdopen(handle, "wb") as file:
            file.write(swap_header((mib << 20) // PAGE))
            file.write(bytes((mib << 20) - PAGE))
            os.fsync(file.fileno())
        if _libc.swapon(name.encode(), 0 if priority is None else 0x8000 | priority):
            pytest.skip(f"swapon: {os.strerror(ctypes.get_errno())}")
        yield Path(name)


def page_out(child: Child, region: Region) -> None:
    """Push pages that only `child` maps into swap, and make sure that all of them went."""

    def gone() -> bool:
        child.madvise(region, PAGEOUT)
        with Path(f"/proc/{child.pid}/pagemap").open("rb", buffering=0) as pagemap:
            words = os.pread(pagemap.fileno(), region.pages * 8, region.start // PAGE * 8)
        return not any(word >> 63 for (word,) in struct.iter_unpack("=Q", words))

    wait_until(gone, "all pages of the region paged out")


def file_of(path: Path, pages: int) -> Path:
    """Write a file whose pages all differ, and leave it in the page cache."""
    path.write_bytes(b"".join((n + 1).to_bytes(8, "little") * (PAGE // 8) for n in range(pages)))
    return path


def is_supported(child: Child, advice: int) -> bool:
    """Whether this kernel knows an madvise number."""
    probe = child.mmap(1)
    try:
        child.madvise(probe, advice)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    finally:
        child.munmap(probe)
    return True
