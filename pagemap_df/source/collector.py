"""Collect page maps on a host where nothing may be installed: this one file, Python 3.6 or later.

    python3 collector.py -o host.tar.gz                      # every process that may be read
    python3 collector.py -o host.tar.gz --pid 1234 --max-seconds 60 --max-bytes 100000000

It needs only the standard library, reads only, keeps at most a few megabytes in memory, runs
nice, and stops by itself at a limit of time or size, on SIGTERM or on Ctrl-C, with an archive
that reads. ``pagemap_df.take(source="host.tar.gz")`` makes tables of it elsewhere.

The archive is a tar in gzip. It is written under NAME.partial and renamed when it is whole.

==================  =========================================================================
``collector.json``  first: format, machine, rights, and what scratch pages of our own showed
``swaps`` …         text files of the machine, as they are
``PID/maps`` …      text files of a process; ``maps.after`` if it was not the same at the end
``PID/pagemap.N``   words: ``PGMPLAN1``, a number of ranges, (first page, pages) of each, all
                    64-bit little-endian; then byte 0 (the least) of all words, byte 1 of all
                    words, … byte 7. So neighbouring frame numbers compress well
``PID/scan.N``      ranges mapped by huge entries or by zero pages (PAGEMAP_SCAN, Linux 6.7):
                    start, end, categories as 64-bit little-endian numbers
``kpagecount.N`` …  words by page frame, like pagemap, if asked for with --frames
``end.json``        last: what was left out and why. Without it the archive was cut
==================  =========================================================================

What can go wrong: a process leaves or may not be read. Then it is listed with the reason.
"""

import argparse
import array
import errno
import fcntl
import gzip
import io
import json
import mmap
import os
import re
import signal
import struct
import sys
import tarfile
import time
from typing import Iterator  # noqa: UP035 - Python 3.6

try:
    import ctypes

    HAVE_CTYPES = True
except ImportError:
    HAVE_CTYPES = False  # then pages of our own have no address, and nothing is probed

FORMAT = 1
MAGIC = b"PGMPLAN1"
FIRST, LAST = "collector.json", "end.json"
OF_MACHINE = ("swaps", "meminfo", "version", "vmstat", "uptime", "iomem")
OF_PROCESS = ("maps", "status", "statm", "cmdline", "comm", "cgroup")
OF_FRAMES = ("kpagecount", "kpageflags", "kpagecgroup")
OPTIONS = ("MEMORY_FAILURE", "MIGRATION", "DEVICE_PRIVATE", "PTE_MARKER", "NO_PAGE_MAPCOUNT")

CHUNK = 1 << 17
RESERVE = 1 << 18
LEAST = 8 * CHUNK + 2 * RESERVE
SPARSE_PAGES, NEAR_PAGES = 2048, 256
SCAN, REGIONS, WALK_END = 0xC0606610, 512, 4
PRESENT, SWAPPED, PFNZERO, HUGE = 1 << 3, 1 << 4, 1 << 5, 1 << 6
NOHUGEPAGE, HUGEPAGE, PAGEOUT, GUARD_INSTALL = 15, 14, 21, 102
PF_KTHREAD = 0x00200000
KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "ppc64le": 354, "s390x": 343}


class Stop(Exception):
    """A limit was reached; the message says which."""


class Archive:
    """Members go in; what is over the limits does not."""

    def __init__(self, path: "str", seconds: "float | None", size: "int | None") -> None:
        self.path, self.size, self.began = path, size, time.monotonic()
        self.deadline = None if seconds is None else self.began + seconds
        self.interrupted = ""
        self.raw = open(path + ".partial", "wb")  # noqa: SIM115
        self.packed = gzip.GzipFile("", "wb", 6, self.raw, mtime=0)
        self.tar = tarfile.TarFile(fileobj=self.packed, mode="w", format=tarfile.GNU_FORMAT)

    def check(self, more: "int" = 0) -> None:
        """Raise `Stop` if a limit is reached, or would be by `more` bytes."""
        if self.interrupted:
            raise Stop("interrupted by " + self.interrupted)
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise Stop("the time limit was reached")
        if self.size is not None and self.raw.tell() + more + RESERVE > self.size:
            raise Stop("the size limit was reached")

    def add(self, name: "str", data: "bytes") -> None:
        """Put a member in."""
        info = tarfile.TarInfo(name)
        info.size, info.mtime = len(data), int(time.time())
        self.tar.addfile(info, io.BytesIO(data))
        self.tar.members = []  # type: ignore[attr-defined]

    def put(self, name: "str", data: "bytes") -> None:
        """Put a member in, within the limits."""
        self.check(len(data))
        self.add(name, data)

    def finish(self) -> "int":
        """Close, and give the archive its name; how many bytes it has."""
        self.tar.close()
        self.packed.close()
        self.raw.flush()
        os.fsync(self.raw.fileno())
        size = self.raw.tell()
        self.raw.close()
        os.rename(self.path + ".partial", self.path)
        return size

    def abandon(self) -> None:
        """Leave nothing behind."""
        self.raw.close()
        os.unlink(self.path + ".partial")


class Words:
    """Gathers ranges of words and puts them into members: NAME.0, NAME.1 and so on."""

    def __init__(self, archive: "Archive", name: "str") -> None:
        self.archive, self.name, self.members = archive, name, 0
        self.ranges: list[tuple[int, int]] = []
        self.parts: list[bytes] = []
        self.held = 0

    def copy(self, fd: "int", first: "int", last: "int") -> None:
        """Copy words `first` to `last` of a file; those that are all zero are left out."""
        while first < last:
            self.archive.check()
            data = os.pread(fd, 8 * min(CHUNK, last - first), 8 * first)
            data = data[: len(data) // 8 * 8]
            if not data:
                return
            if data.count(0) != len(data):
                self.ranges.append((first, len(data) // 8))
                self.parts.append(data)
                self.held += len(data) // 8
            first += len(data) // 8
            if self.held >= CHUNK:
                self.flush()

    def flush(self) -> None:
        """Put what is held into a member."""
        if not self.parts:
            return
        raw = b"".join(self.parts)
        order = range(8) if sys.byteorder == "little" else range(7, -1, -1)
        head = [struct.pack("<Q", len(self.ranges))]
        head += [struct.pack("<QQ", *pair) for pair in self.ranges]
        data = b"".join([MAGIC] + head + [raw[k::8] for k in order])
        self.archive.put(f"{self.name}.{self.members}", data)
        self.members += 1
        self.ranges, self.parts, self.held = [], [], 0


# -- processes -------------------------------------------------------------------------------


def collect_process(archive: "Archive", pid: "int", options: "argparse.Namespace") -> "str | None":
    """Put one process in; gives why there is nothing of it, if so."""
    folder = f"/proc/{pid}/"
    stat = read(folder + "stat")
    archive.put(f"{pid}/stat", stat)
    fields = stat.rpartition(b")")[2].split()
    if fields[0] == b"Z" or int(fields[6]) & PF_KTHREAD:
        return None
    texts = {}
    for name in OF_PROCESS + (("smaps",) if options.smaps else ()):
        if name == "cmdline" and options.no_cmdline:
            continue
        try:
            texts[name] = read(folder + name)
        except PermissionError:
            if name == "maps":
                raise
    for name, text in texts.items():
        archive.put(f"{pid}/{name}", text)
    fd = os.open(folder + "pagemap", os.O_RDONLY)
    try:
        collect_words(archive, pid, fd, texts["maps"], options.scan)
    finally:
        os.close(fd)
    after = read(folder + "maps")
    if texts["maps"] and not after:
        return "the process left while it was read"
    if after != texts["maps"]:
        archive.put(f"{pid}/maps.after", after)
    return None


def collect_words(
    archive: "Archive", pid: "int", fd: "int", maps: "bytes", scan_works: "bool"
) -> None:
    """Copy the populated words of one process, and its huge and zero ranges."""
    page = mmap.PAGESIZE
    words = Words(archive, f"{pid}/pagemap")
    os.pread(fd, 8, 0)
    marks, members = array.array("Q"), 0
    for line in maps.splitlines():
        start, end = (int(part, 16) for part in line.split(b" ", 1)[0].split(b"-"))
        if end >= 1 << 63:
            continue
        ranges = iter([(start, end)])
        if scan_works and end - start > SPARSE_PAGES * page:
            ranges = joined(scan(fd, start, end, PRESENT | SWAPPED, 0), NEAR_PAGES * page)
        for low, high in ranges:
            words.copy(fd, low // page, high // page)
        for found in scan(fd, start, end, HUGE | PFNZERO, HUGE | PFNZERO) if scan_works else ():
            marks.extend(found)
            if len(marks) >= CHUNK:
                archive.put(f"{pid}/scan.{members}", little(marks))
                marks, members = array.array("Q"), members + 1
    words.flush()
    if marks:
        archive.put(f"{pid}/scan.{members}", little(marks))


def little(numbers: "array.array[int]") -> "bytes":
    """64-bit numbers, least byte first."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def scan(
    fd: "int", start: "int", end: "int", any_of: "int", report: "int"
) -> "Iterator[tuple[int, int, int]]":
    """PAGEMAP_SCAN: regions (start, end, categories) of [start, end)."""
    found = array.array("Q", bytes(24 * REGIONS))
    form = struct.Struct("=12Q")
    while start < end:
        address = found.buffer_info()[0]
        arg = bytearray(
            form.pack(96, 0, start, end, 0, address, REGIONS, 0, 0, 0, any_of, report or any_of)
        )
        count = fcntl.ioctl(fd, SCAN, arg, True)
        for at in range(0, 3 * count, 3):
            yield found[at], found[at + 1], found[at + 2]
        if count < REGIONS:
            return
        # The kernel leaves walk_end at a stale value when it gathers more than one bounce
        # buffer of 512 regions, so never resume before what was reported (fs/proc/task_mmu.c,
        # pagemap_scan_flush_buffer in 6.18).
        start = max(form.unpack(arg)[WALK_END], found[3 * count - 2])


def joined(ranges: "Iterator[tuple[int, int, int]]", near: "int") -> "Iterator[tuple[int, int]]":
    """Join ranges that lie at most `near` bytes apart: holes are cheap to read."""
    low = high = 0
    for start, end, _ in ranges:
        if high and start - high <= near:
            high = end
            continue
        if high:
            yield low, high
        low, high = start, end
    if high:
        yield low, high


def same_memory(pids: "list[int]") -> "list[list[int]]":
    """Pairs (pid, other) of processes with one address space, by kcmp(2), of those alike."""
    number = KCMP.get(os.uname().machine)
    if not HAVE_CTYPES or number is None:
        return []
    alike: dict[bytes, list[int]] = {}
    for pid in pids:
        try:
            alike.setdefault(read(f"/proc/{pid}/maps"), []).append(pid)
        except OSError:
            continue
    libc = ctypes.CDLL(None)
    answers = []
    for group in alike.values():
        leaders: list[int] = []
        for pid in group:
            same = [other for other in leaders if not libc.syscall(number, other, pid, 1, 0, 0)]
            answers += [[other, pid] for other in same]
            if not same:
                leaders.append(pid)
    return answers


# -- the machine -----------------------------------------------------------------------------


def read(path: "str") -> "bytes":
    """All of a file."""
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def machine(options: "argparse.Namespace") -> "dict[str, object]":
    """What ``collector.json`` says."""
    uname = os.uname()
    rights = re.findall(r"^CapEff:\s*(\w+)", own_status(), re.MULTILINE)
    fd = os.open("/proc/self/pagemap", os.O_RDONLY)
    try:
        shown = probe(fd)
    finally:
        os.close(fd)
    options.scan = shown["scan"]
    return {
        "format": FORMAT,
        "host": uname.nodename,
        "release": uname.release,
        "version": uname.version,
        "machine": uname.machine,
        "byte_order": sys.byteorder,
        "page_size": mmap.PAGESIZE,
        "clock_ticks": os.sysconf("SC_CLK_TCK"),
        "boot_id": text_of("/proc/sys/kernel/random/boot_id"),
        "pmd_size": text_of("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size"),
        "options": configured(uname.release),
        "rights": {"uid": os.geteuid(), "capabilities": rights},
        "probe": shown,
        "python": sys.version.split()[0],
        "began": time.time(),
        "began_monotonic": time.monotonic(),
    }


def own_status() -> "str":
    """What the kernel says of this process."""
    return read("/proc/self/status").decode("utf-8", "replace")


def text_of(path: "str") -> "str | None":
    """A line of a small file; None if it cannot be read."""
    try:
        return read(path).decode().strip()
    except (OSError, ValueError):
        return None


def configured(release: "str") -> "list[str] | None":
    """Which of `OPTIONS` this kernel was built with; None if nobody tells."""
    for path in ("/proc/config.gz", "/boot/config-" + release):
        try:
            raw = read(path)
            text = gzip.decompress(raw) if path.endswith("gz") else raw
        except (OSError, EOFError):
            continue
        return [name for name in OPTIONS if b"\nCONFIG_" + name.encode() + b"=y" in text]
    return None


class Scratch:
    """Pages of our own, with their address."""

    def __init__(self, size: "int") -> None:
        self.map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))

    def advise(self, advice: "int", start: "int", size: "int") -> "bool":
        """madvise(2); whether it worked."""
        libc = ctypes.CDLL(None)
        arguments = (ctypes.c_void_p(self.address + start), ctypes.c_size_t(size), advice)
        return bool(libc.madvise(*arguments) == 0)

    def words(self, fd: "int", start: "int", pages: "int") -> "list[int]":
        """Words of some of the pages."""
        raw = os.pread(fd, 8 * pages, (self.address + start) // mmap.PAGESIZE * 8)
        return list(struct.unpack(f"={pages}Q", raw))


def probe(fd: "int") -> "dict[str, object]":
    """Words of pages that we wrote, read, left alone and guarded; and what else can be tried."""
    try:
        fcntl.ioctl(fd, SCAN, bytearray(struct.pack("=12Q", 96, *[0] * 11)), True)
        works = True
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
        works = False
    if not HAVE_CTYPES:
        return {"scan": works}
    page = mmap.PAGESIZE
    scratch = Scratch(4 * page)
    scratch.advise(NOHUGEPAGE, 0, 4 * page)
    scratch.map[0] = 1
    scratch.map[page]
    guard = scratch.advise(GUARD_INSTALL, 3 * page, page)
    written, seen, untouched, guarded = scratch.words(fd, 0, 4)
    return {
        "scan": works,
        "written": written,
        "read": seen,
        "untouched": untouched,
        "guarded": guarded if guard else 0,
        "huge_zero": huge_zero(fd),
        "swap": swap_sample(fd),
    }


def huge_zero(fd: "int") -> "list[int] | None":
    """Words of a huge page that was only read, if such were made before."""
    size = int(text_of("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size") or 0)
    made = re.search(r"^thp_zero_page_alloc [1-9]", text_of("/proc/vmstat") or "", re.MULTILINE)
    if not size or not made:
        return None
    scratch = Scratch(2 * size)
    if not scratch.advise(HUGEPAGE, 0, 2 * size):
        return None
    aligned = -scratch.address % size
    scratch.map[aligned]
    return scratch.words(fd, aligned, size // mmap.PAGESIZE)


def swap_sample(fd: "int", pages: "int" = 16) -> "dict[str, object] | None":
    """Push scratch pages out: their words, and /proc/swaps before and after."""
    size = pages * mmap.PAGESIZE
    scratch = Scratch(size)
    scratch.map.write(bytes(range(1, 129)) * (size // 128))
    before = read("/proc/swaps")
    if before.count(b"\n") < 2 or not scratch.advise(PAGEOUT, 0, size):
        return None
    after = read("/proc/swaps")
    words = scratch.words(fd, 0, pages)
    return {"words": words, "before": before.decode("latin-1"), "after": after.decode("latin-1")}


def collect_frames(archive: "Archive") -> None:
    """Copy the words of all page frames."""
    for name in OF_FRAMES:
        try:
            fd = os.open("/proc/" + name, os.O_RDONLY)
        except OSError:
            continue
        words = Words(archive, name)
        try:
            words.copy(fd, 0, 1 << 40)
        finally:
            os.close(fd)
        words.flush()


# -- all of it -------------------------------------------------------------------------------


def collect(options: "argparse.Namespace") -> "dict[str, object]":
    """Write the archive; gives what ``end.json`` says."""
    wanted = options.pid or sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    archive = Archive(options.output, options.max_seconds, options.max_bytes)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: setattr(archive, "interrupted", f"signal {n}"))
    try:
        archive.add(FIRST, json.dumps(machine(options)).encode())
        done, skipped, stopped = collect_all(archive, wanted, options)
        end: dict[str, object] = {
            "stopped": stopped,
            "skipped": skipped,
            "all": not options.pid,
            "same_memory": same_memory(done),
            "seconds": time.monotonic() - archive.began,
            "peak": re.findall(r"^VmHWM:\s*(\d+ kB)", own_status(), re.MULTILINE),
        }
        archive.add(LAST, json.dumps(end).encode())
        end["bytes"] = archive.finish()
    except BaseException:
        archive.abandon()
        raise
    return end


def collect_all(
    archive: "Archive", wanted: "list[int]", options: "argparse.Namespace"
) -> "tuple[list[int], list[dict[str, object]], str | None]":
    """Put everything in: the pids done, those skipped and why, and what stopped us."""
    done: list[int] = []
    skipped: list[dict[str, object]] = []
    stopped = None
    try:
        for name in OF_MACHINE:
            try:
                archive.put(name, read("/proc/" + name))
            except OSError:
                continue
        for pid in wanted:
            gone = True
            try:
                reason = collect_process(archive, pid, options)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise
                reason = os.strerror(error.errno or 0)
                gone = error.errno in (errno.ENOENT, errno.ESRCH)
            if reason is None:
                done.append(pid)
            else:
                skipped.append({"pid": pid, "reason": reason, "gone": gone})
        if options.frames:
            collect_frames(archive)
    except Stop as stop:
        stopped = str(stop)
        left = wanted[len(done) + len(skipped) :]
        skipped += [{"pid": pid, "reason": stopped, "gone": False} for pid in left]
    return done, skipped, stopped


def source() -> "str":
    """The text of this file, which is the whole program."""
    with open(__file__, encoding="utf-8") as file:
        return file.read()


def main(arguments: "list[str] | None" = None) -> "int":
    """The command line."""
    parser = argparse.ArgumentParser(description="Collect page maps into one archive.")
    parser.add_argument("-o", "--output", required=True, help="the archive, NAME.tar.gz")
    parser.add_argument("--pid", type=int, action="append", help="only this process; repeatable")
    parser.add_argument("--max-seconds", type=float, help="stop after so long")
    parser.add_argument("--max-bytes", type=int, help="stop before the archive is larger")
    parser.add_argument("--nice", type=int, default=10, help="how nice to be (default 10)")
    parser.add_argument("--smaps", action="store_true", help="also the kernel's own sums; slow")
    parser.add_argument("--frames", action="store_true", help="also map counts and flags; root")
    parser.add_argument("--no-cmdline", action="store_true", help="leave command lines out")
    options = parser.parse_args(arguments)
    if options.max_bytes is not None and options.max_bytes < LEAST:
        parser.error(f"--max-bytes has to be at least {LEAST}")
    os.nice(options.nice)
    try:
        end = collect(options)
    except OSError as error:
        sys.stderr.write(f"collector: {error}\n")
        return 1
    stopped = end["stopped"] or "complete"
    sys.stderr.write(f"{options.output}: {end['bytes']} bytes, {stopped}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
