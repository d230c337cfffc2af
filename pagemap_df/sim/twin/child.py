"""What a real process of a script runs: it does what it is told, and nothing else.

Started as ``python -I -S child.py ADDRESS``, it splits in two. The *guard* waits on its
standard input, remembers what is to be put back, and puts it back when the input ends, which
it does whatever becomes of the program at the other end. The *server* connects to the Unix
socket ADDRESS (abstract namespace) and forks a *task* for each process of a script. Tasks
connect, too, and answer one message with one: a tuple ``(operation, arguments...)``, to which
the answer is ``(True, result)`` or ``(False, errno)``. At the end of the socket they exit.

All that tasks allocate for themselves lies where the kernel puts it, high above the addresses
that scripts are told to use, and the heap is moved there as well. Standard library only, and
little of it: this is started more often than anything else.
"""

from __future__ import annotations

import _socket
import array
import ctypes
import json
import marshal
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

PAGE = 4096
SIGKILL, SIGCHLD = 9, 17
CLONE_PARENT, CLONE_NEWNS = 0x8000, 0x20000
MS_PRIVATE_RECURSIVE = 0x44000
MLOCK_ONFAULT = 1
EINVAL = 22
PR_SET_MM, PR_SET_MM_MAP = 35, 14
PR_SET_CHILD_SUBREAPER, RLIMIT_CORE = 36, 4
SYS_CLONE = 56

FILES: dict[str, int] = {}
libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: int | bytes) -> int:
    """Any libc function: int and bytes in, int out; -1 raises OSError."""
    function = getattr(libc, name)
    function.restype = ctypes.c_long
    result: int = function(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result & 0xFFFFFFFF == 0xFFFFFFFF:  # addresses end in zeroes
        raise OSError(ctypes.get_errno(), name)
    return result


def read(start: int, stop: int, step: int) -> None:
    """Load a byte of each page."""
    for address in range(start, stop, step):
        ctypes.c_ubyte.from_address(address).value  # noqa: B018


def write(start: int, stop: int, step: int, label: int) -> None:
    """Store eight bytes at the head of each page, different for each page."""
    for address in range(start, stop, step):
        # Not c_long.value: that loads before it stores, and a load is a fault of its own.
        ctypes.memmove(address, label.to_bytes(8, "little"), 8)
        label += 1


def fill(start: int, stop: int, step: int, value: int) -> None:
    """Fill whole pages with one value, so that they are equal."""
    page = value.to_bytes(8, "little", signed=True) * (PAGE // 8)
    for address in range(start, stop, step):
        ctypes.memmove(address, page, PAGE)


def pwrite(path: str, first: int, stop: int, step: int, label: int) -> None:
    """write(2) to each page of a file, one at a time, so that no large folio comes of it."""
    fd = os.open(path, os.O_RDWR)
    for page in range(first, stop, step):
        os.pwrite(fd, label.to_bytes(8, "little") * (PAGE // 8), page * PAGE)
        label += 1
    os.close(fd)


def mmap_file(address: int, size: int, prot: int, flags: int, path: str, offset: int) -> int:
    """Map a file by its path; opened once, as only mappings of one open file may merge."""
    if path not in FILES:
        FILES[path] = os.open(path, os.O_RDWR)
    return call("mmap", address, size, prot, flags, FILES[path], offset)


def move_heap(address: int) -> None:
    """Let the heap begin, empty, at another address (PR_SET_MM_MAP).

    The rest of the ``prctl_mm_map`` is as stat shows it. malloc keeps what it had; more it
    would take from the new one, so it was given enough when this was started.
    """
    with open("/proc/self/stat") as file:
        stat = file.read().rpartition(")")[2].split()
    code, data, stack, strings = stat[23:25], stat[42:44], stat[25:26], stat[45:49]
    numbers = [int(n) for n in code + data] + [address, address]
    numbers += [int(n) for n in stack + strings] + [0, 0xFFFFFFFF << 32]
    call("prctl", PR_SET_MM, PR_SET_MM_MAP, array.array("Q", numbers).tobytes(), 104, 0)


def stay(low: int, high: int) -> None:
    """Keep what is mapped outside of a range in memory, whoever wants it (mlock2, on fault)."""
    known: list[list[int]] | None = None
    ranges: list[list[int]] = []
    while ranges != known:
        known = ranges
        with open("/proc/self/maps") as maps:
            ranges = [[int(n, 16) for n in line.split()[0].split("-")] for line in maps]
        for start, stop in ranges:
            if stop <= low or high <= start < 1 << 63:
                call("mlock2", start, stop - start, MLOCK_ONFAULT)


def become(uid: int) -> None:
    """Belong to another user, with the rights of root."""
    os.setresuid(uid, 0, 0)


def poke(path: str, text: str) -> None:
    """Write a setting."""
    with open(path, "w") as knob:
        knob.write(text)


def wait(pid: int) -> int:
    """Wait for the end of a process; the signal that ended it, or 0."""
    return os.waitpid(pid, 0)[1] & 0x7F


OPERATIONS: dict[str, Callable[..., int | None]] = {
    f.__name__: f
    for f in (
        *(call, read, write, fill, pwrite, mmap_file, move_heap),
        *(stay, become, poke, wait),
    )
}


def connect(address: str) -> _socket.socket:
    """Connect and say who is there."""
    wire = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    wire.connect("\0" + address)
    wire.send(b"%d" % os.getpid())
    return wire


def fork(flags: int) -> int:
    """fork(2); with CLONE_PARENT the child is a brother, so that the server may wait for it."""
    return call("syscall", SYS_CLONE, flags | SIGCHLD, 0, 0, 0, 0)


def serve(address: str) -> NoReturn:
    """Answer messages until the socket ends."""
    wire = connect(address)
    while True:
        message = wire.recv(1 << 16)
        if not message:
            os._exit(0)
        operation, *arguments = marshal.loads(message)
        result: int | None
        try:
            if operation == "exec":
                program = [sys.executable, "-I", "-S", __file__, address, "task"]
                os.execv(sys.executable, program)
            if operation == "exit":
                os._exit(0)
            if operation == "fork":
                result = fork(*arguments)
                if result == 0:
                    wire = connect(address)
                    continue
            else:
                result = OPERATIONS[operation](*arguments)
            answer = (True, result)
        except OSError as error:
            answer = (False, error.errno)
        wire.send(marshal.dumps(answer))


def guard(server: int) -> NoReturn:
    """Wait for the end of the input, then kill the tasks and put everything back.

    Lines of the input are JSON: ``["restore", path, text]``, ``["remove", directory]`` (whose
    files may be swap areas), ``["rmdir", directory]``. They are undone backwards.
    """
    undo = [json.loads(line) for line in sys.stdin]
    os.killpg(server, SIGKILL)
    while _wait_any():
        pass
    failed = []
    for action, path, *text in reversed(undo):
        try:
            if action == "restore":
                poke(path, *text)
            elif action == "remove":
                remove(path)
            else:
                os.rmdir(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            failed.append(f"{action} {path}: {error}")
    sys.exit("\n".join(failed) or 0)


def _wait_any() -> int:
    try:
        return os.waitpid(-1, 0)[0]
    except ChildProcessError:
        return 0


def remove(directory: str) -> None:
    """Remove a directory of plain files; those that are swap areas are switched off first."""
    for name in os.listdir(directory):
        path = os.fsencode(os.path.join(directory, name))
        if os.path.isdir(path):
            libc.umount2(path, 2)
            os.rmdir(path)
            continue
        if name.startswith("swap") and libc.swapoff(path) and ctypes.get_errno() != EINVAL:
            raise OSError(ctypes.get_errno(), f"swapoff {name}")
        os.unlink(path)
    os.rmdir(directory)


def main(address: str, role: str = "guard") -> NoReturn:
    """Run as what the command line says."""
    if role == "task":
        serve(address)
    libc.unshare(CLONE_NEWNS)
    libc.mount(b"none", b"/", None, MS_PRIVATE_RECURSIVE, None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.setrlimit(RLIMIT_CORE, bytes(16))
    server = os.fork()
    if server:
        os.setpgid(server, server)
        guard(server)
    os.setpgid(0, 0)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    serve(address)


if __name__ == "__main__":
    main(*sys.argv[1:])
