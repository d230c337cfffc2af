"""What a living child runs: it does what it is told over a socket, and nothing else.

Started as ``python -I -S living_child.py ADDRESS``. It connects to the Unix socket ADDRESS
(abstract namespace), says its pid, and then answers one line with one line: a Python tuple
``(operation, arguments...)`` in, ``(True, result)`` or ``(False, errno, message)`` out. At
the end of the socket it exits. It imports no more than it must, so that its own memory stays
small and still between two lines.
"""

import _socket
import ctypes
import os
import sys

PAGE = os.sysconf("SC_PAGE_SIZE")
SIGKILL, SIGCHLD = 9, 17
PR_SET_PDEATHSIG = 1
SIG_IGN = 1
CLONE_VM = 0x100
STACK = 64 * 1024

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    """Any libc function: int and bytes in, int out, -1 raises OSError."""
    function = getattr(libc, name)
    wide = name in ("mmap", "mremap", "syscall", "shmat")
    function.restype = ctypes.c_long if wide else ctypes.c_int
    result = function(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}{arguments}: {os.strerror(number)}")
    return result


def read(start, pages):
    """Load one byte of each page, in the order given; their sum."""
    return sum(ctypes.c_ubyte.from_address(start + page * PAGE).value for page in pages)


def write(start, pages):
    """Store the page's own number, plus one, at the head of each page, in the order given."""
    for page in pages:
        ctypes.c_long.from_address(start + page * PAGE).value = page + 1


def fill(start, pages, byte):
    """Fill whole pages with one byte, so that they are equal."""
    for page in pages:
        ctypes.memset(start + page * PAGE, byte, PAGE)


def share_memory(seconds):
    """Start a process in this very address space (CLONE_VM) that only sleeps; its pid."""
    stack = call("mmap", 0, STACK, 3, 0x22, -1, 0)
    sleep = ctypes.cast(libc.sleep, ctypes.c_void_p)
    pid = libc.clone(
        sleep, ctypes.c_void_p(stack + STACK), CLONE_VM | SIGCHLD, ctypes.c_long(seconds)
    )
    if pid == -1:
        raise OSError(ctypes.get_errno(), "clone")
    return pid


def connect(address):
    """Connect to the test and say who is there; dies with its own parent from now on."""
    call("prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    wire = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    wire.connect(address)
    wire.sendall(b"%d\n" % os.getpid())
    return wire


def serve(address):
    """Answer lines until the socket ends."""
    operations = {f.__name__: f for f in (call, read, write, fill, share_memory)}
    libc.signal(SIGCHLD, ctypes.c_void_p(SIG_IGN))  # no zombies
    wire, rest = connect(address), b""
    while True:
        while b"\n" not in rest:
            piece = wire.recv(1 << 16)
            if not piece:
                os._exit(0)
            rest += piece
        line, rest = rest.split(b"\n", 1)
        operation, *arguments = eval(line)
        if operation == "fork":
            pid = os.fork()
            if pid == 0:
                wire, rest = connect(address), b""
                continue
            answer = (True, pid)
        else:
            try:
                answer = (True, operations[operation](*arguments))
            except OSError as error:
                answer = (False, error.errno, error.strerror)
        wire.sendall(repr(answer).encode() + b"\n")


if __name__ == "__main__":
    serve("\0" + sys.argv[1])
