r"""Text of the other procfs files, both ways: bytes in, records out, and back.

``swaps``, ``iomem`` and, per process, ``status``, ``stat``, ``cmdline`` and ``cgroup``. The
rules are those of `pagemap_df.proctext`: nothing here opens a file, what a kernel wrote comes
back byte for byte, names are bytes.

The name of a process (``comm``) is up to 15 bytes of anything but NUL, so a line of ``stat``
may hold blanks, newlines and ``)`` before the ``)`` that counts, which is the last one.
``status`` writes the newline as ``\n`` and a backslash as ``\\``, ``stat`` does not
(``proc_task_name``, fs/proc/array.c, Linux 6.18).

What can go wrong: `FormatError` with the line, as in `pagemap_df.proctext`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .proctext import path_to_text, records, text_to_path, wrong_line

_KIB = 1024

_SWAPS_HEADER = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
_SWAP = re.compile(
    rb"^((?:[^ \t\n\\]|\\(?:040|011|012|134))+)[ \t]+([a-z]+)"
    rb"[ \t]+([0-9]{1,20})[ \t]+([0-9]{1,20})[ \t]+(-?[0-9]{1,10})$",
    re.MULTILINE,
)
_SWAP_ESCAPED = re.compile(rb"\\([0-7]{3})")
_SWAP_ESCAPABLE = re.compile(rb"[ \t\n\\]")


class SwapArea(NamedTuple):
    """One line of ``/proc/swaps``.

    Attributes
    ----------
    path : bytes
        File or device, without the octal escapes of the text.
    kind : str
        ``"file"`` or ``"partition"``.
    size, used : int
        Bytes. `size` is without the header page.
    priority : int
        Higher is filled first; negative if nobody set one.
    """

    path: bytes
    kind: str
    size: int
    used: int
    priority: int


def parse_swaps(text: bytes, path: str = "swaps") -> list[SwapArea]:
    r"""The areas of ``/proc/swaps``, in its order: ascending swap type, with gaps unseen.

    Examples
    --------
    >>> text = format_swaps([SwapArea(b"/my swap", "file", 65532 * 1024, 0, -2)])
    >>> text.splitlines()[1]
    b'/my\\040swap                             file\t\t65532\t\t0\t\t-2'
    >>> parse_swaps(text)[0].path
    b'/my swap'
    """
    header, newline, body = text.partition(b"\n")
    if header.split() != _SWAPS_HEADER.split() or not newline:
        raise wrong_line("the headings Filename, Type, Size, Used, Priority", path, 1, header)
    areas = []
    for name, kind, size, used, priority in records(
        _SWAP, body, path, "'path type size used priority'", first=2
    ):
        real = _SWAP_ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), name)
        areas.append(
            SwapArea(real, kind.decode(), int(size) * _KIB, int(used) * _KIB, int(priority))
        )
    return areas


def format_swaps(areas: Iterable[SwapArea]) -> bytes:
    """The text ``swap_show`` prints (mm/swapfile.c, Linux 6.18; older columns are narrower)."""
    return _SWAPS_HEADER + b"".join(map(_swap_line, areas))


def _swap_line(area: SwapArea) -> bytes:
    name = _SWAP_ESCAPABLE.sub(lambda found: b"\\%03o" % ord(found[0]), area.path)
    kind = area.kind if area.kind == "partition" else f"{area.kind}\t"
    size, used = (
        f"{kib}\t" if kib < 10_000_000 else str(kib)
        for kib in (area.size // _KIB, area.used // _KIB)
    )
    return name.ljust(39) + f" {kind}\t{size}\t{used}\t{area.priority}\n".encode()


_STATUS = re.compile(rb"^([A-Za-z]\w*):\t(.*)$", re.MULTILINE)


def parse_status(text: bytes, path: str = "status") -> dict[str, str]:
    r"""The lines of ``status``: what stands behind ``Key:`` and the tab, padding included.

    Undecodable bytes of ``Name`` become text as `path_to_text` does it.

    Examples
    --------
    >>> status = parse_status(b"Name:\tcat\nUid:\t0\t0\t0\t0\nVmSwap:\t      12 kB\n")
    >>> status["Uid"].split()[0], status["VmSwap"]
    ('0', '      12 kB')
    """
    return {
        key.decode(): path_to_text(value)
        for key, value in records(_STATUS, text, path, "'Key:', a tab and a value")
    }


def format_status(status: Mapping[str, str]) -> bytes:
    """The text of ``status``."""
    return b"".join(
        key.encode() + b":\t" + text_to_path(value) + b"\n" for key, value in status.items()
    )


_STAT = re.compile(
    rb"([0-9]{1,10}) \((.*)\) ([A-Za-z]) (-?[0-9]{1,20}(?: -?[0-9]{1,20}){18,})\n", re.DOTALL
)
_BETWEEN = 17
"""Fields 5 to 21 of stat, which stand between the parent and the start time."""


class Stat(NamedTuple):
    """The line of ``stat``.

    Attributes
    ----------
    pid : int
        Field 1.
    name : bytes
        Field 2, the ``comm``, without its parentheses.
    state : str
        Field 3, one letter.
    ppid : int
        Field 4.
    start_time : int
        Field 22, clock ticks after boot.
    rest : tuple of int
        Fields 5 to 21, then 23 to the last (52 of them in all from Linux 3.5 on).
    """

    pid: int
    name: bytes
    state: str
    ppid: int
    start_time: int
    rest: tuple[int, ...] = (0,) * 47

    @property
    def kernel_thread(self) -> bool:
        """Whether PF_KTHREAD is set in the flags, field 9 (include/linux/sched.h)."""
        return bool(self.rest[4] & 0x00200000)


def parse_stat(text: bytes, path: str = "stat") -> Stat:
    r"""The one line of ``stat``.

    Examples
    --------
    >>> text = format_stat(Stat(7, b"a) R (b", "S", 1, 4321))
    >>> text[:20]
    b'7 (a) R (b) S 1 0 0 '
    >>> parse_stat(text)[:5]
    (7, b'a) R (b', 'S', 1, 4321)
    """
    line = _STAT.fullmatch(text)
    if line is None:
        raise wrong_line("'pid (name) state' and 19 numbers or more", path, 1, text)
    pid, name, state, behind = line.groups()
    ppid, *numbers = map(int, behind.split(b" "))
    start_time = numbers.pop(_BETWEEN)
    return Stat(int(pid), name, state.decode(), ppid, start_time, tuple(numbers))


def format_stat(stat: Stat) -> bytes:
    """The text of ``stat``."""
    numbers = (stat.ppid, *stat.rest[:_BETWEEN], stat.start_time, *stat.rest[_BETWEEN:])
    behind = " ".join(map(str, numbers))
    return b"%d (%b) %b %b\n" % (stat.pid, stat.name, stat.state.encode(), behind.encode())


def parse_cmdline(text: bytes) -> tuple[bytes, ...]:
    r"""The arguments in ``cmdline``; none for kernel threads and zombies.

    A process may write over its arguments; without the last NUL the text is one argument more.

    Examples
    --------
    >>> parse_cmdline(b"cat\0my file\0")
    (b'cat', b'my file')
    """
    return tuple(text.removesuffix(b"\0").split(b"\0")) if text else ()


def format_cmdline(arguments: Iterable[bytes]) -> bytes:
    """The text of ``cmdline``."""
    return b"".join(argument + b"\0" for argument in arguments)


_CGROUP = re.compile(rb"^([0-9]{1,10}):([!-9;-~]*):(.*)$", re.MULTILINE)


class CgroupLine(NamedTuple):
    """One line of ``cgroup``: hierarchy 0 is the unified one, which names no controllers."""

    hierarchy: int
    controllers: tuple[str, ...]
    path: bytes


def parse_cgroup(text: bytes, path: str = "cgroup") -> list[CgroupLine]:
    r"""The lines of ``cgroup``.

    Examples
    --------
    >>> parse_cgroup(b"4:cpu,cpuacct:/\n0::/user.slice\n")[0]
    CgroupLine(hierarchy=4, controllers=('cpu', 'cpuacct'), path=b'/')
    """
    return [
        CgroupLine(int(hierarchy), tuple(names.decode().split(",")) if names else (), name)
        for hierarchy, names, name in records(_CGROUP, text, path, "'number:controllers:path'")
    ]


def format_cgroup(lines: Iterable[CgroupLine]) -> bytes:
    """The text of ``cgroup``."""
    return b"".join(
        f"{hierarchy}:{','.join(controllers)}:".encode() + path + b"\n"
        for hierarchy, controllers, path in lines
    )


def memory_cgroup(lines: Iterable[CgroupLine]) -> bytes | None:
    """Path of the cgroup that pays for a process's memory, None if `lines` do not say.

    That of the memory controller's own hierarchy (version 1) unless it is the root, else that
    of the unified hierarchy, else the root.

    Examples
    --------
    >>> memory_cgroup([CgroupLine(4, ("memory",), b"/job"), CgroupLine(0, (), b"/")])
    b'/job'
    """
    lines = list(lines)
    own = next((line.path for line in lines if "memory" in line.controllers), None)
    if own not in (None, b"/"):
        return own
    return next((line.path for line in lines if line.hierarchy == 0), own)


_IOMEM = re.compile(rb"^((?:  )*)([0-9a-f]{8,16})-([0-9a-f]{8,16}) : (.*)$", re.MULTILINE)


class IoRange(NamedTuple):
    """One line of ``/proc/iomem``.

    Attributes
    ----------
    start, end : int or None
        Bytes, half-open. None if the kernel hides addresses: without CAP_SYS_ADMIN it prints
        every range as ``00000000-00000000``.
    name : str
        ``"System RAM"`` and the like.
    depth : int
        0 at the top; a range lies within the last one above it of lower depth.
    """

    start: int | None
    end: int | None
    name: str
    depth: int


def parse_iomem(text: bytes, path: str = "iomem") -> list[IoRange]:
    r"""The ranges of ``/proc/iomem``.

    Examples
    --------
    >>> parse_iomem(b"00100000-bfffffff : System RAM\n")[0].end == 3 << 30
    True
    >>> parse_iomem(b"00000000-00000000 : System RAM\n")[0]
    IoRange(start=None, end=None, name='System RAM', depth=0)
    """
    ranges = []
    for number, (blanks, first, last, name) in enumerate(
        records(_IOMEM, text, path, "'start-end : name'"), 1
    ):
        start, end = int(first, 16), int(last, 16) + 1
        if start >= end:
            raise wrong_line("start at or below end", path, number, first + b"-" + last)
        hidden = end == 1
        ranges.append(
            IoRange(
                None if hidden else start,
                None if hidden else end,
                path_to_text(name),
                len(blanks) // 2,
            )
        )
    return ranges


def format_iomem(ranges: Iterable[IoRange]) -> bytes:
    """The text of ``/proc/iomem``; ranges without addresses are printed as the kernel hides them."""
    lines = []
    for start, end, name, depth in ranges:
        first, last = (0, 0) if start is None or end is None else (start, end - 1)
        lines.append(f"{'  ' * depth}{first:08x}-{last:08x} : ".encode() + text_to_path(name))
    return b"".join(line + b"\n" for line in lines)
