r"""Text of ``maps``, ``smaps`` and ``smaps_rollup``, both ways: bytes in, records out, and back.

::

    maps  ── parse_maps ──► [Vma]   ── format_maps ──► maps
    smaps ── parse_smaps ─► [Smap]  ── format_smaps ─► smaps

Nothing here opens a file. What the kernel wrote comes back byte for byte, so a recorded tree
and a simulated machine can be read by whatever reads a live one.

Names of files are **bytes** and need not be UTF-8. The kernel escapes the newline alone, as
``\012``; blanks, tabs and trailing blanks stand as they are, and so does a backslash, so a file
really called ``\012`` cannot be told from one with a newline in its name (``show_vma_header``
and ``mangle_path`` in Linux 2.6.25 to 6.18). For tables, `path_to_text` makes text of such a
name and `text_to_path` takes it back.

What can go wrong: a line is not what the kernel writes, or the text was cut. Either raises
`FormatError` with the line. Text of length zero is not an error: tasks without memory of
their own have such ``maps``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from .errors import FormatError

_NAME_COLUMN = 73
_KIB = 1024

_VMA = re.compile(
    rb"^([0-9a-f]{8,16})-([0-9a-f]{8,16}) ([r-][w-][x-][sp]) ([0-9a-f]{8,16})"
    rb" ([0-9a-f]{2,}:[0-9a-f]{2,}) ([0-9]{1,20}) +(.*)$",
    re.MULTILINE,
)
_VMA_EXPECTED = "'start-end perms offset major:minor inode name'"
_FIGURE = re.compile(rb"([A-Z]\w*): +([0-9]{1,20}) kB")
_VMFLAGS = re.compile(rb"VmFlags:((?: [!-~]+)*) ?")
_ELIGIBLE = re.compile(rb"THPeligible: +([01])")
_OTHER = re.compile(rb"(?!VmFlags|THPeligible)([A-Z]\w*): *(?!.* kB$)([!-~](?:[ -~]*[!-~])?)")


class Vma(NamedTuple):
    r"""One line of ``maps``.

    Attributes
    ----------
    start, end : int
        Bytes, half-open. ``[vsyscall]`` lies above what int64 can hold.
    perms : str
        ``"rw-p"``: read, write, execute, then ``s`` if shared or ``p`` if private.
    offset : int
        Offset into the file, bytes.
    device : str
        ``major:minor`` in hex as printed; ``"00:00"`` for none.
    inode : int
        0 for none.
    path : bytes
        The name as printed, with ``(deleted)`` and ``\012``; empty for none.
    """

    start: int
    end: int
    perms: str
    offset: int
    device: str
    inode: int
    path: bytes


class Smap(NamedTuple):
    """One mapping of ``smaps``.

    Attributes
    ----------
    vma : Vma
        The header line.
    figures : dict of str to int
        Every field printed in kB, under the kernel's name (``"Rss"``), in **bytes**.
    flags : tuple of str
        The two-letter ``VmFlags``; empty before Linux 3.8, which has none.
    thp_eligible : bool or None
        None if the kernel does not print it (before 4.20).
    other : dict of str to str
        What else was printed, such as ``ProtectionKey``.
    """

    vma: Vma
    figures: dict[str, int]
    flags: tuple[str, ...]
    thp_eligible: bool | None
    other: dict[str, str]


def whole_lines(text: bytes, path: str, first: int = 1) -> Iterator[tuple[int, bytes]]:
    """Number, from `first`, and content of each line; `FormatError` if the last has no end."""
    *lines, last = text.split(b"\n")
    yield from enumerate(lines, first)
    if last:
        expected = "a line that ends with a newline (is the text cut?)"
        raise wrong_line(expected, path, first + len(lines), last)


def wrong_line(expected: str, path: str, number: int, found: bytes) -> FormatError:
    """The error to raise for line `number` of `path`."""
    return FormatError(expected, path=path, offset=number, unit="line", found=found)


def records(
    line: re.Pattern[bytes], text: bytes, path: str, expected: str, first: int = 1
) -> list[Any]:
    """The groups of `line`, a multi-line pattern with ``^`` and ``$``, for each line of `text`.

    One pass of the regular expression engine; only text with a wrong line is looked at again,
    to find which. Raises `FormatError` for it.
    """
    found = line.findall(text)
    if len(found) != text.count(b"\n") or (text and text[-1:] != b"\n"):
        for number, content in whole_lines(text, path, first):
            if not line.fullmatch(content):
                raise wrong_line(expected, path, number, content)
    return found


def parse_maps(text: bytes, path: str = "maps") -> list[Vma]:
    r"""The lines of ``maps``; `path` is what errors call the text.

    Examples
    --------
    >>> text = b"7f0000000000-7f0000002000 rw-s 00001000 fe:00 23   /tmp/a b (deleted)\n"
    >>> parse_maps(text)[0].path
    b'/tmp/a b (deleted)'
    >>> parse_maps(text + b"7f00")
    Traceback (most recent call last):
    pagemap_df.errors.FormatError: maps, line 2: expected a line that ends with a newline ...
    """
    vmas = [_vma(groups) for groups in records(_VMA, text, path, _VMA_EXPECTED)]
    for number, vma in enumerate(vmas, 1):
        if vma.start >= vma.end:
            raise _empty_range(vma, path, number)
    return vmas


def _vma(groups: tuple[bytes, ...]) -> Vma:
    start, end, perms, offset, device, inode, name = groups
    return Vma(
        int(start, 16),
        int(end, 16),
        perms.decode(),
        int(offset, 16),
        device.decode(),
        int(inode),
        name,
    )


def _empty_range(vma: Vma, path: str, number: int) -> FormatError:
    return wrong_line("start below end", path, number, b"%08x-%08x" % vma[:2])


def format_maps(vmas: Iterable[Vma]) -> bytes:
    r"""The text a 64-bit kernel would print: names at column 73, hex of at least eight digits.

    Raises `FormatError` for a name with a raw newline, which would forge a line.

    Examples
    --------
    >>> format_maps([Vma(0x1000, 0x3000, "rw-p", 0, "00:00", 0, b"")])
    b'00001000-00003000 rw-p 00000000 00:00 0 \n'
    """
    return b"".join(map(_header, vmas))


def _header(vma: Vma) -> bytes:
    start, end, perms, offset, device, inode, path = vma
    if b"\n" in path:
        raise FormatError("a name without a newline (the kernel writes it as \\012)", found=path)
    line = b"%08x-%08x %b %08x %b %d " % (
        start,
        end,
        perms.encode(),
        offset,
        device.encode(),
        inode,
    )
    return line.ljust(_NAME_COLUMN - 1) + b" " + path + b"\n" if path else line + b"\n"


_KIND_BY_NAME = {
    b"": "anon",
    b"[heap]": "heap",
    b"[stack]": "stack",
    b"[vdso]": "vdso",
    b"/dev/zero": "anon",
    b"/dev/zero (deleted)": "shmem",
    b"/anon_hugepage (deleted)": "hugetlb",
}
_KIND_BY_START = (
    (b"[anon:", "anon"),
    (b"[anon_shmem:", "shmem"),
    (b"[stack:", "stack"),
    (b"[threadstack:", "stack"),
    (b"[vvar", "vvar"),
    (b"[", "special"),
    (b"/[aio]", "special"),
    (b"/memfd:", "shmem"),
    (b"/SYSV", "shmem"),
    (b"/dev/shm/", "shmem"),
    (b"/dev/hugepages/", "hugetlb"),
    (b"/", "file"),
)


def kind_of(vma: Vma, smap: Smap | None = None) -> str:
    """What a mapping is, told by its name: the ``kind`` column of the ``vmas`` table.

    One of heap, stack, anon, file, shmem, hugetlb, vdso, vvar or special. Names cannot tell
    huge pages behind a memfd or a SysV segment, nor a tmpfs mounted elsewhere than
    ``/dev/shm``; the ``ht`` flag in `smap` tells the former. A private mapping of
    ``/dev/zero`` is anonymous memory (``mmap_zero``, drivers/char/mem.c).

    Examples
    --------
    >>> kind_of(Vma(0, 4096, "rw-s", 0, "00:01", 9, b"/memfd:pool (deleted)"))
    'shmem'
    """
    if smap is not None and "ht" in smap.flags:
        return "hugetlb"
    kind = _KIND_BY_NAME.get(vma.path)
    if kind is not None:
        return kind
    return next((kind for start, kind in _KIND_BY_START if vma.path.startswith(start)), "special")


def parse_smaps(text: bytes, path: str = "smaps") -> list[Smap]:
    r"""The mappings of ``smaps``; `path` is what errors call the text.

    A text cut between two fields is found out too: its last mapping has fewer than its first.

    Examples
    --------
    >>> text = b"00400000-00452000 r-xp 00000000 08:02 17 /bin/x\nRss: 8 kB\nVmFlags: rd ex \n"
    >>> parse_smaps(text)[0][1:]
    ({'Rss': 8192}, ('rd', 'ex'), None, {})
    """
    smaps: list[Smap] = []
    number = 0
    for number, line in whole_lines(text, path):
        if not line[:1].isupper():
            smaps.append(Smap(_header_vma(line, path, number), {}, (), None, {}))
            continue
        grown = _with_field(smaps[-1], line) if smaps else None
        if grown is None:
            raise wrong_line("'Field: value', below a mapping's line", path, number, line)
        smaps[-1] = grown
    if smaps and _fields(smaps[-1]) != _fields(smaps[0]):
        raise wrong_line("all fields of the last mapping (is the text cut?)", path, number, line)
    return smaps


def _header_vma(line: bytes, path: str, number: int) -> Vma:
    header = _VMA.fullmatch(line)
    if header is None:
        raise wrong_line(f"{_VMA_EXPECTED} or 'Field: value'", path, number, line)
    vma = _vma(header.groups())
    if vma.start >= vma.end:
        raise _empty_range(vma, path, number)
    return vma


def _with_field(smap: Smap, line: bytes) -> Smap | None:
    """`smap` with one field more; its dicts grow in place. None if the line is no field."""
    if figure := _FIGURE.fullmatch(line):
        smap.figures[sys.intern(figure[1].decode())] = int(figure[2]) * _KIB
        return smap
    if flags := _VMFLAGS.fullmatch(line):
        return smap._replace(flags=tuple(flags[1].decode().split()))
    if eligible := _ELIGIBLE.fullmatch(line):
        return smap._replace(thp_eligible=eligible[1] == b"1")
    if other := _OTHER.fullmatch(line):
        smap.other[other[1].decode()] = other[2].decode()
        return smap
    return None


def _fields(smap: Smap) -> tuple[object, ...]:
    return smap.figures.keys(), smap.other.keys(), smap.thp_eligible is None, bool(smap.flags)


def format_smaps(smaps: Iterable[Smap]) -> bytes:
    """The text a 64-bit kernel would print; figures are rounded down to kB as there."""
    return b"".join(map(_smap_text, smaps))


def _smap_text(smap: Smap) -> bytes:
    lines = [_field(name, str(size // _KIB)) + b" kB\n" for name, size in smap.figures.items()]
    if smap.thp_eligible is not None:
        lines.append(_field("THPeligible", str(int(smap.thp_eligible))) + b"\n")
    lines += [_field(name, value) + b"\n" for name, value in smap.other.items()]
    if smap.flags:
        lines.append(f"VmFlags: {' '.join(smap.flags)} \n".encode())
    return _header(smap.vma) + b"".join(lines)


def _field(name: str, value: str) -> bytes:
    """`value` right-aligned to column 24, with at least one blank behind the colon."""
    label = f"{name}: ".ljust(16)
    return (label + value.rjust(24 - len(label))).encode()


def parse_rollup(text: bytes, path: str = "smaps_rollup") -> dict[str, int]:
    """The figures of ``smaps_rollup`` (Linux 4.14 on), in bytes, under the kernel's names.

    They are sums taken before rounding to kB, so they may exceed the sum over ``smaps``.

    Examples
    --------
    >>> parse_rollup(format_rollup({"Rss": 8192, "Pss": 5 * 1024}, 0x1000, 0x9000))
    {'Rss': 8192, 'Pss': 5120}
    """
    smaps = parse_smaps(text, path)
    if len(smaps) != 1 or smaps[0].vma.path != b"[rollup]":
        raise wrong_line("one range named [rollup]", path, 1, text.partition(b"\n")[0])
    return smaps[0].figures


def format_rollup(figures: Mapping[str, int], start: int, end: int) -> bytes:
    """The text of ``smaps_rollup`` for a process whose mappings lie within [start, end)."""
    vma = Vma(start, end, "---p", 0, "00:00", 0, b"[rollup]")
    return format_smaps([Smap(vma, dict(figures), (), None, {})])


_ESCAPABLE = re.compile(rb"\\(?=x[0-9A-Fa-f]{2})")
_ESCAPED = re.compile(rb"\\x([0-9A-Fa-f]{2})")


@lru_cache(maxsize=1 << 12)
def path_to_text(path: bytes) -> str:
    r"""Text for a name that may hold any bytes; `text_to_path` takes it back without loss.

    UTF-8 stays as it is, an undecodable byte becomes ``\xNN``, and a backslash that stands
    before ``xNN`` becomes ``\x5c``. Other backslashes, such as the kernel's ``\012``, stay.

    Examples
    --------
    >>> print(path_to_text("/tmp/é".encode() + b"\xff" + rb" \012 \x41"))
    /tmp/é\xff \012 \x5cx41
    """
    return _ESCAPABLE.sub(rb"\\x5c", path).decode("utf-8", "backslashreplace")


def text_to_path(text: str) -> bytes:
    r"""The bytes that `path_to_text` made `text` of.

    Examples
    --------
    >>> text_to_path(r"/tmp/\xff \x5cx41")
    b'/tmp/\xff \\x41'
    """
    return _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), text.encode())
