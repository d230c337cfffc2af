"""maps, smaps and rollups: byte-exact both ways, hard to fool, right by a second road."""

import ctypes
import fcntl
import mmap
import os
import struct
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pagemap_df.errors import FormatError
from pagemap_df.procstatus import parse_cgroup, parse_iomem, parse_stat, parse_status, parse_swaps
from pagemap_df.proctext import (
    Smap,
    Vma,
    format_maps,
    format_rollup,
    format_smaps,
    kind_of,
    parse_maps,
    parse_rollup,
    parse_smaps,
    path_to_text,
    text_to_path,
)

MAPS = (
    b"00400000-00452000 r-xp 00000000 08:02 173521                             /usr/bin/dbus\n"
    b"01e03000-01e24000 rw-p 00000000 00:00 0                                  [heap]\n"
    b"7f2c00000000-7f2c00021000 rw-p 00000000 00:00 0 \n"
    b"7f2c04000000-7f2c04200000 rw-s 123456789000 103:1f 18446744073709551615 \n"
    b"7f2c08000000-7f2c08001000 r--s 00000000 00:01 2048                       /memfd:a b \n"
    b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n"
)
SMAPS = b"""\
7f2c00000000-7f2c00021000 rw-p 00000000 00:00 0 
Size:                132 kB
KernelPageSize:        4 kB
Rss:                   8 kB
Pss:                   5 kB
Private_Hugetlb:       0 kB
Locked:                0 kB
THPeligible:           1
ProtectionKey:         3
VmFlags: rd wr mr mw me ac sd 
7f2c04000000-7f2c04200000 rw-s 00000000 00:10 77                         /anon_hugepage (deleted)
Size:               2048 kB
KernelPageSize:     2048 kB
Rss:                   0 kB
Pss:                   0 kB
Private_Hugetlb: 12345678 kB
Locked:                0 kB
THPeligible:           0
ProtectionKey:         0
VmFlags: rd wr sh mr mw me ms de ht sd 
"""
ROLLUP = b"""\
556c1c320000-7ffc21ac1000 ---p 00000000 00:00 0                          [rollup]
Rss:                1688 kB
Pss:                 425 kB
Pss_Anon:            108 kB
"""
ODD_NAMES = {
    "newline": b"a\nb",
    "tabs": b"\ta\tb\t",
    "blanks": b" a  b ",
    "not UTF-8": b"\xff\xfe\x80",
    "literal backslash-012": rb"a\012b",
    "backslashes": rb"\x41\\x5c\x",
    "really called deleted": b"x (deleted)",
    "looks like a line": b"7f0-8f0 rw-p 0 00:00 0 [heap]",
    "carriage return": b"a\r\x0b\x0cb",
    "every other byte": bytes(range(1, 47)),
    "upper half": bytes(range(0x80, 0x100)),
}

hexes = st.integers(0, 255).map("{:02x}".format) | st.integers(256, 4095).map("{:x}".format)
names = st.binary(max_size=24).map(lambda raw: raw.replace(b"\n", rb"\012"))
vmas = st.builds(
    lambda start, size, *rest: Vma(start, start + size, *rest),
    st.integers(0, 2**64 - 2**40),
    st.integers(1, 2**40 - 1),
    st.tuples(*map(st.sampled_from, ("r-", "w-", "x-", "sp"))).map("".join),
    st.integers(0, 2**64 - 1),
    st.builds("{}:{}".format, hexes, hexes),
    st.integers(0, 2**64 - 1),
    st.just(b"") | st.builds(bytes.__add__, st.sampled_from([b"/", b"[", b"socket:"]), names),
)
labels = st.from_regex(r"[A-Z][A-Za-z_]{0,14}", fullmatch=True)
figures = st.dictionaries(labels, st.integers(0, 2**44).map(lambda kib: kib * 1024), max_size=4)


def own(name):
    return Path("/proc/self", name).read_bytes()


# ---------------------------------------------------------------- maps


def test_a_line_of_maps_becomes_its_seven_fields():
    assert parse_maps(MAPS)[0] == Vma(
        0x400000, 0x452000, "r-xp", 0, "08:02", 173521, b"/usr/bin/dbus"
    )
    assert parse_maps(MAPS)[3] == Vma(
        0x7F2C04000000, 0x7F2C04200000, "rw-s", 0x123456789000, "103:1f", 2**64 - 1, b""
    )


def test_trailing_blank_of_a_name_survives():
    assert parse_maps(MAPS)[4].path == b"/memfd:a b "


def test_the_gate_area_above_int64_is_kept():
    assert parse_maps(MAPS)[-1].end == 0xFFFFFFFFFF601000


def test_sample_maps_come_back_byte_for_byte():
    assert format_maps(parse_maps(MAPS)) == MAPS


def test_no_text_is_no_mapping():
    assert parse_maps(b"") == parse_smaps(b"") == []
    assert format_maps([]) == format_smaps([]) == b""


def test_a_prefix_longer_than_the_name_column_leaves_two_blanks():
    vma = Vma(2**63, 2**63 + 4096, "rw-s", 2**63, "fffff:ffff", 10**15, b"/x")
    line = format_maps([vma])
    assert line.endswith(b" 1000000000000000  /x\n")
    assert parse_maps(line) == [vma]


def test_names_of_32_bit_kernels_begin_earlier():
    text = b"08048000-0804c000 r-xp 00000000 08:01 4711       /bin/cat\n"
    assert parse_maps(text)[0].path == b"/bin/cat"


@given(st.lists(vmas, max_size=5))
def test_mappings_survive_text(mappings):
    text = format_maps(mappings)
    assert parse_maps(text) == mappings
    assert format_maps(parse_maps(text)) == text


def test_a_name_with_a_raw_newline_cannot_be_written():
    with pytest.raises(FormatError, match="without a newline"):
        format_maps([Vma(0, 1, "---p", 0, "00:00", 0, b"/a\n0-1 rwxp")])


def test_ten_thousand_lines_take_less_than_60_ms():
    text = MAPS * 1700
    seconds = []
    for _ in range(5):
        began = time.process_time()
        assert len(parse_maps(text)) == 10_200
        seconds.append(time.process_time() - began)
    assert min(seconds) < 0.06


@pytest.mark.kernel
def test_own_maps_come_back_byte_for_byte():
    text = own("maps")
    assert format_maps(parse_maps(text, "self/maps")) == text


@pytest.mark.kernel
@pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)
def test_the_kernel_writes_odd_names_as_we_read_them(tmp_path, name):
    path = os.fsencode(tmp_path) + b"/" + name
    shown = path.replace(b"\n", rb"\012")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(descriptor, 4096)
        inode = os.fstat(descriptor).st_ino
        with mmap.mmap(descriptor, 4096):
            live = own("maps")
            Path(os.fsdecode(path)).unlink()
            gone = own("maps")
    finally:
        os.close(descriptor)
    for text, expected in ((live, shown), (gone, shown + b" (deleted)")):
        assert format_maps(parse_maps(text)) == text
        (vma,) = [vma for vma in parse_maps(text) if vma.path == expected]
        assert (vma.inode, vma.perms, kind_of(vma)) == (inode, "rw-s", "file")
        assert text_to_path(path_to_text(vma.path)) == vma.path


_PROCMAP_QUERY, _COVERING_OR_NEXT = 0xC0686611, 0x10
_QUERY = struct.Struct("QQQQQQQQQIIIIQQ")


def queried(maps, address):
    """The mapping at or behind `address` as the PROCMAP_QUERY ioctl gives it, or None."""
    name = ctypes.create_string_buffer(4096)
    request = bytearray(
        _QUERY.pack(
            _QUERY.size, _COVERING_OR_NEXT, address, *(0,) * 8, len(name), 0,
            ctypes.addressof(name), 0,
        )
    )  # fmt: skip
    try:
        fcntl.ioctl(maps, _PROCMAP_QUERY, request)
    except FileNotFoundError:
        return None
    except OSError as error:
        pytest.skip(f"PROCMAP_QUERY (Linux 6.11) is not here: {error}")
    _, _, _, start, end, flags, _, offset, inode, major, minor, size, _, _, _ = _QUERY.unpack(
        request
    )
    perms = "".join(c if flags >> i & 1 else "-" for i, c in enumerate("rwx"))
    return Vma(
        start,
        end,
        perms + ("s" if flags & 8 else "p"),
        offset,
        f"{major:02x}:{minor:02x}",
        inode,
        name.raw[: max(size - 1, 0)].replace(b"\n", rb"\012"),
    )


@pytest.mark.kernel
def test_maps_text_agrees_with_the_ioctl(tmp_path):
    path = tmp_path / "a\nb "
    path.write_bytes(bytes(4096))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ):
        child = subprocess.Popen(["sleep", "60"])
        try:
            for pid in (child.pid, os.getpid()):
                time.sleep(0.05)
                assert_text_is_what_the_ioctl_says(pid)
        finally:
            child.kill()
            child.wait()


def assert_text_is_what_the_ioctl_says(pid):
    with Path(f"/proc/{pid}/maps").open("rb") as maps:
        # One mapping at a time: our own text changes while we read it.
        for vma in parse_maps(Path(f"/proc/{pid}/maps").read_bytes()):
            answer = queried(maps, vma.start) if vma.path != b"[vsyscall]" else vma
            still = vma in parse_maps(Path(f"/proc/{pid}/maps").read_bytes())
            assert answer == vma or not still


# ---------------------------------------------------------------- kinds


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (b"", "anon"),
        (b"[heap]", "heap"),
        (b"[stack]", "stack"),
        (b"[stack:1234]", "stack"),
        (b"[threadstack:0007fff0]", "stack"),
        (b"[vdso]", "vdso"),
        (b"[vvar]", "vvar"),
        (b"[vvar_vclock]", "vvar"),
        (b"[vsyscall]", "special"),
        (b"[uprobes]", "special"),
        (b"[anon:dalvik-heap]", "anon"),
        (b"[anon_shmem:ring]", "shmem"),
        (b"/dev/zero (deleted)", "shmem"),
        (b"/dev/zero", "anon"),
        (b"/memfd:pool (deleted)", "shmem"),
        (b"/SYSV0000002a (deleted)", "shmem"),
        (b"/dev/shm/psm_1", "shmem"),
        (b"/anon_hugepage (deleted)", "hugetlb"),
        (b"/dev/hugepages/db", "hugetlb"),
        (b"/usr/lib/libc.so.6", "file"),
        (b"/usr/lib/libc.so.6 (deleted)", "file"),
        (b"/[aio] (deleted)", "special"),
        (b"anon_inode:[perf_event]", "special"),
        (b"socket:[12]", "special"),
    ],
)
def test_names_tell_kinds(path, kind):
    assert kind_of(Vma(0, 4096, "rw-p", 0, "00:00", 0, path)) == kind


def test_smaps_tell_huge_pages_behind_a_memfd():
    vma = Vma(0, 2 << 20, "rw-s", 0, "00:10", 5, b"/memfd:pool (deleted)")
    assert kind_of(vma, Smap(vma, {}, ("rd", "wr", "sh"), None, {})) == "shmem"
    assert kind_of(vma, Smap(vma, {}, ("rd", "wr", "ht"), None, {})) == "hugetlb"


@pytest.mark.kernel
def test_memory_of_known_kind_is_called_so_by_the_kernel():
    def kind_of_new(*arguments, **options):
        with mmap.mmap(*arguments, **options) as area:
            address = ctypes.addressof(ctypes.c_char.from_buffer(area))
            vmas = parse_maps(own("maps"))
            return next(kind_of(vma) for vma in vmas if vma.start <= address < vma.end)

    memfd = os.memfd_create("pool")
    os.ftruncate(memfd, 4096)
    try:
        assert kind_of_new(-1, 4096, flags=mmap.MAP_PRIVATE) == "anon"
        assert kind_of_new(-1, 4096, flags=mmap.MAP_SHARED) == "shmem"
        assert kind_of_new(memfd, 4096) == "shmem"
    finally:
        os.close(memfd)
    with Path("/dev/zero").open("r+b", buffering=0) as zero:
        assert kind_of_new(zero.fileno(), 4096, flags=mmap.MAP_PRIVATE) == "anon"
        assert kind_of_new(zero.fileno(), 4096, flags=mmap.MAP_SHARED) == "shmem"


# ---------------------------------------------------------------- smaps


def test_figures_are_bytes_and_flags_are_words():
    first, second = parse_smaps(SMAPS)
    assert first.figures["Size"] == 132 * 1024
    assert list(first.figures)[-1] == "Locked"
    assert first.flags == ("rd", "wr", "mr", "mw", "me", "ac", "sd")
    assert (first.thp_eligible, second.thp_eligible) == (True, False)
    assert first.other == {"ProtectionKey": "3"}
    assert kind_of(second.vma, second) == "hugetlb"


def test_sample_smaps_come_back_byte_for_byte():
    assert format_smaps(parse_smaps(SMAPS)) == SMAPS


def test_smaps_of_an_old_kernel_have_no_flags():
    old = b"".join(
        line + b"\n"
        for line in SMAPS.split(b"\n")[:-1]
        if not line.startswith((b"VmFlags", b"THPeligible", b"ProtectionKey"))
    )
    assert [(smap.flags, smap.thp_eligible) for smap in parse_smaps(old)] == [((), None)] * 2
    assert format_smaps(parse_smaps(old)) == old


@given(st.lists(vmas, min_size=1, max_size=3), figures, st.none() | st.booleans(), st.booleans())
def test_smaps_survive_text(mappings, sizes, eligible, flagged):
    flags = ("rd", "??") if flagged else ()
    smaps = [Smap(vma, sizes, flags, eligible, {"ProtectionKey": "7"}) for vma in mappings]
    text = format_smaps(smaps)
    assert parse_smaps(text) == smaps
    assert format_smaps(parse_smaps(text)) == text


@pytest.mark.kernel
def test_own_smaps_come_back_byte_for_byte():
    text = own("smaps")
    assert format_smaps(parse_smaps(text, "self/smaps")) == text


@pytest.mark.kernel
def test_smaps_agree_with_maps_and_psutil():
    child = subprocess.Popen(["sleep", "60"])
    try:
        time.sleep(0.05)
        child.send_signal(19)
        smaps = parse_smaps(Path(f"/proc/{child.pid}/smaps").read_bytes())
        maps = parse_maps(Path(f"/proc/{child.pid}/maps").read_bytes())
        other = psutil.Process(child.pid).memory_maps(grouped=False)
    finally:
        child.kill()
        child.wait()
    assert [smap.vma for smap in smaps] == maps
    assert [(smap.figures["Size"], smap.figures["Rss"]) for smap in smaps] == [
        (theirs.size, theirs.rss) for theirs in other
    ]
    for smap in smaps:
        assert smap.vma.end - smap.vma.start == smap.figures["Size"]
        perms = smap.vma.perms
        assert {"rd", "wr", "ex"} & set(smap.flags) == {
            flag for flag, sign in zip(("rd", "wr", "ex"), perms, strict=False) if sign != "-"
        }


@pytest.mark.kernel
def test_own_rollup_comes_back_byte_for_byte():
    text = own("smaps_rollup")
    (whole,) = parse_maps(text.partition(b"\n")[0] + b"\n")
    sums = parse_rollup(text, "self/smaps_rollup")
    assert sums["Rss"] > sums["Pss"] > 0
    assert format_rollup(sums, whole.start, whole.end) == text


@pytest.mark.parametrize("text", [b"", SMAPS, ROLLUP + ROLLUP, MAPS])
def test_a_rollup_is_one_range_so_named(text):
    with pytest.raises(FormatError, match=r"smaps_rollup, line 1: expected one range named"):
        parse_rollup(text)


# ---------------------------------------------------------------- names as text


@given(st.binary(max_size=40))
@example(rb"\x5c")
@example(rb"\x5cx41")
@example(b"\\\xff")
@example(b"\\x\xff\\x4\xff1")
@example("é\\xé".encode())
def test_any_name_survives_being_text(name):
    text = path_to_text(name)
    text.encode()
    assert text_to_path(text) == name


@given(st.lists(st.sampled_from(["\\", "x", "4", "1", "f", "F", "é", "\ud7ff"])).map("".join))
def test_backslashes_survive_being_text(text):
    assert text_to_path(path_to_text(text.encode())) == text.encode()


@given(st.text().filter(lambda text: "\\" not in text))
def test_ordinary_names_stay_as_they_are(text):
    assert path_to_text(text.encode()) == text


def test_the_kernels_own_escape_stays_readable():
    assert path_to_text(rb"/tmp/a\012b") == r"/tmp/a\012b"


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_two_names_are_never_one_text(one, other):
    assert (path_to_text(one) == path_to_text(other)) == (one == other)


# ---------------------------------------------------------------- attacks


def test_every_truncation_of_maps_is_found_out():
    for cut in range(len(MAPS)):
        text = MAPS[:cut]
        whole = text.count(b"\n")
        if text[-1:] in (b"", b"\n"):
            assert parse_maps(text) == parse_maps(MAPS)[:whole]
            continue
        with pytest.raises(FormatError) as caught:
            parse_maps(text, "7/maps")
        assert (caught.value.path, caught.value.offset) == ("7/maps", whole + 1)
        assert str(caught.value).startswith(f"7/maps, line {whole + 1}: expected ")


def test_every_truncation_of_smaps_is_found_out():
    first = SMAPS.index(b"\n7f2c04") + 1
    for cut in range(first + 1, len(SMAPS)):
        with pytest.raises(FormatError) as caught:
            parse_smaps(SMAPS[:cut])
        assert (
            caught.value.offset
            in (
                SMAPS[:cut].count(b"\n") + 1,  # cut within a line: that line
                SMAPS[:cut].count(b"\n") if SMAPS[cut - 1 : cut] == b"\n" else None,  # the last one
            )
        )
    assert parse_smaps(SMAPS[:first]) == parse_smaps(SMAPS)[:1]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b" ",
        b"garbage",
        b"7f0000000000-7f0000002000",
        b"7f0000000000-7f0000002000 rw-p 00000000 00:00 0",
        b"7F0000000000-7F0000002000 rw-p 00000000 00:00 0 ",
        b"7f0000000000 7f0000002000 rw-p 00000000 00:00 0 ",
        b"+f0000000000-7f0000002000 rw-p 00000000 00:00 0 ",
        b"0x000001-0x000002 rw-p 00000000 00:00 0 ",
        b"7f0000000000-7f0000002000 wr-p 00000000 00:00 0 ",
        b"7f0000000000-7f0000002000 rw-p 00000000 0000 0 ",
        b"7f0000000000-7f0000002000 rw-p 00000000 00:00 1_0 ",
        b"7f0000000000-7f0000002000 rw-p 00000000 00:00 " + b"9" * 5000 + b" ",
        b"7f0000002000-7f0000002000 rw-p 00000000 00:00 0 ",
        b"7f0000003000-7f0000002000 rw-p 00000000 00:00 0 ",
        b"Rss:   4 kB",
    ],
)
@pytest.mark.parametrize("at", [1, 3, 7])
def test_a_wrong_line_is_named(line, at):
    lines = MAPS.split(b"\n")
    lines.insert(at - 1, line)
    with pytest.raises(FormatError) as caught:
        parse_maps(b"\n".join(lines))
    assert caught.value.offset == at
    assert repr(caught.value.found) in str(caught.value)


@pytest.mark.parametrize("at", range(1, 21))
@pytest.mark.parametrize(
    "line", [b"", b"rss: 4 kB", b"Rss:", b"Rss 4 kB", b"Rss: " + b"9" * 5000 + b" kB", b"\xff"]
)
def test_a_wrong_line_of_smaps_is_named(line, at):
    lines = SMAPS.split(b"\n")
    lines[at - 1] = line
    with pytest.raises(FormatError):
        parse_smaps(b"\n".join(lines))
    lines[at - 1 : at] = [SMAPS.split(b"\n")[at - 1], line]
    with pytest.raises(FormatError) as caught:
        parse_smaps(b"\n".join(lines))
    assert caught.value.offset == at + 1


READERS = {
    "maps": (parse_maps, MAPS),
    "smaps": (parse_smaps, SMAPS),
    "rollup": (parse_rollup, ROLLUP),
    "swaps": (
        parse_swaps,
        b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        rb"/a\040b" + b"                                 file\t\t65532\t\t0\t\t-2\n",
    ),
    "status": (parse_status, b"Name:\tcat\nUid:\t0\t0\t0\t0\nVmSwap:\t       0 kB\n"),
    "stat": (parse_stat, b"7 (a) b) S 1" + b" 0" * 48 + b"\n"),
    "cgroup": (parse_cgroup, b"4:memory:/job\n1:name=systemd:/\n0::/\n"),
    "iomem": (parse_iomem, b"00001000-0009fbff : System RAM\n  00002000-00002fff : code\n"),
}


def refusal(parse, text):
    """What `parse` has against `text`; any error but a FormatError fails the test."""
    try:
        parse(text)
    except FormatError as error:
        return error
    return None


@pytest.mark.parametrize("reader", READERS)
def test_a_flipped_byte_raises_nothing_but_format_errors(reader):
    parse, text = READERS[reader]
    assert refusal(parse, text) is None
    refusals = [
        refusal(parse, text[:at] + bytes([byte]) + text[at + 1 :])
        for at in range(len(text))
        for byte in (0, 9, 10, 32, 40, 41, 45, 48, 58, 92, 102, 128, 255, text[at] ^ 0x20)
    ]
    lines = {error.offset for error in refusals if error is not None}
    assert lines >= set(range(1, text.count(b"\n") + 1))
    assert max(lines) <= text.count(b"\n") + 1


@pytest.mark.parametrize("reader", READERS)
@given(data=st.data())
def test_garbage_raises_nothing_but_format_errors(reader, data):
    parse, text = READERS[reader]
    pieces = st.sampled_from([text, *text.split(b"\n"), *text.split(b" "), b"\n"]) | st.binary()
    error = refusal(parse, b"".join(data.draw(st.lists(pieces, max_size=6))))
    assert error is None or error.path
