"""swaps, status, stat, cmdline, cgroup and iomem: byte-exact, and right by a second road."""

import ctypes
import os
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pagemap_df.errors import FormatError
from pagemap_df.procstatus import (
    CgroupLine,
    IoRange,
    Stat,
    SwapArea,
    format_cgroup,
    format_cmdline,
    format_iomem,
    format_stat,
    format_status,
    format_swaps,
    memory_cgroup,
    parse_cgroup,
    parse_cmdline,
    parse_iomem,
    parse_stat,
    parse_status,
    parse_swaps,
)
from pagemap_df.proctext import text_to_path
from tests import living

HEADER = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
CODECS = {
    "status": (parse_status, format_status),
    "stat": (parse_stat, format_stat),
    "cmdline": (parse_cmdline, format_cmdline),
    "cgroup": (parse_cgroup, format_cgroup),
    "swaps": (parse_swaps, format_swaps),
    "iomem": (parse_iomem, format_iomem),
}

kib = st.integers(0, 10**8).map(lambda count: count * 1024)
lines = st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b""))
texts = st.binary(max_size=20).filter(lambda raw: b"\0" not in raw)


@pytest.mark.kernel
@pytest.mark.parametrize(
    "file",
    [
        "swaps",
        "iomem",
        *(f"{pid}/{name}" for pid in ("self", "1") for name in CODECS if name[0] in "sc"),
    ],
)
def test_what_the_kernel_prints_comes_back_byte_for_byte(file):
    if file.endswith("/swaps"):
        file = "swaps"
    path = Path("/proc", file)
    try:
        text = path.read_bytes()
    except PermissionError as error:
        pytest.skip(str(error))
    parse, write = CODECS[path.name]
    assert write(parse(text)) == text


@pytest.mark.kernel
def test_kernel_threads_and_zombies_are_read_too():
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        directory = Path(f"/proc/{child.pid}")
        assert parse_stat((directory / "stat").read_bytes()).state == "Z"
        assert "VmRSS" not in parse_status((directory / "status").read_bytes())
        assert parse_cmdline((directory / "cmdline").read_bytes()) == ()
    finally:
        child.wait()


# ---------------------------------------------------------------- swaps


def test_columns_of_swaps_stand_where_the_kernel_puts_them():
    areas = [
        SwapArea(b"/dev/zram0", "partition", 10_000_000 * 1024, 9_999_999 * 1024, 100),
        SwapArea(b"/a b\t\n\\c", "file", 65532 * 1024, 0, -2),
        SwapArea(b"/" + b"x" * 38, "file", 1024, 0, -3),
        SwapArea(b"/" + b"x" * 60, "file", 1024, 0, -4),
    ]
    text = format_swaps(areas)
    assert text == (
        HEADER
        + b"/dev/zram0                              partition\t10000000\t9999999\t\t100\n"
        + rb"/a\040b\011\012\134c"
        + b"                    file\t\t65532\t\t0\t\t-2\n"
        + b"/" + b"x" * 38 + b" file\t\t1\t\t0\t\t-3\n"
        + b"/" + b"x" * 60 + b" file\t\t1\t\t0\t\t-4\n"
    )  # fmt: skip
    assert parse_swaps(text) == areas


def test_swaps_of_older_kernels_have_narrower_columns():
    old = (
        b"Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n"
        b"/dev/sda5                               partition\t4000180\t12\t-1\n"
    )
    assert parse_swaps(old) == [SwapArea(b"/dev/sda5", "partition", 4000180 * 1024, 12 * 1024, -1)]


@given(
    st.lists(
        st.builds(
            SwapArea,
            st.binary(min_size=1, max_size=50),
            st.sampled_from(["file", "partition"]),
            kib,
            kib,
            st.integers(-(2**31), 32767),
        ),
        max_size=4,
    )
)
def test_swap_areas_survive_text(areas):
    text = format_swaps(areas)
    assert parse_swaps(text) == areas
    assert text.count(b"\n") == len(areas) + 1


@pytest.mark.kernel
def test_a_swap_file_with_an_odd_name_is_read_as_what_it_is(tmp_path, monkeypatch):
    odd = os.fsencode(tmp_path) + "/ \t\n\\040é\r\x0b".encode()
    os.mkdir(odd)
    monkeypatch.setattr(tempfile, "tempdir", os.fsdecode(odd))
    with living.swap_area(mib=1) as path:
        text = Path("/proc/swaps").read_bytes()
        areas = parse_swaps(text)
        (area,) = [area for area in areas if area.path == os.fsencode(path)]
    assert format_swaps(areas) == text
    assert area.kind == "file"
    assert area.size == (1 << 20) - living.PAGE


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"", 1),
        (HEADER[:-1], 1),
        (b"/swap file 1 0 -2\n", 1),
        (HEADER + b"/swap file 1 0\n", 2),
        (HEADER + b"/swap file 1 0 -2", 2),
        (HEADER + b"/swap file 1 0 -2\n" + rb"/\777 file 1 0 -2" + b"\n", 3),
        (HEADER + b"/sw ap file 1 0 -2\n", 2),
        (HEADER + b"/swap\nfile 1 0 -2\n", 2),
    ],
)
def test_wrong_swaps_are_refused_by_line(text, line):
    with pytest.raises(FormatError) as caught:
        parse_swaps(text, "there/swaps")
    assert str(caught.value).startswith(f"there/swaps, line {line}: expected ")


# ---------------------------------------------------------------- status and stat


@pytest.mark.kernel
def test_status_says_what_the_system_calls_say():
    status = parse_status(Path("/proc/self/status").read_bytes())
    assert int(status["Pid"]) == os.getpid()
    assert int(status["PPid"]) == os.getppid()
    assert [int(uid) for uid in status["Uid"].split()[:3]] == list(os.getresuid())
    assert status["VmRSS"].endswith(" kB")


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z]\w{0,9}", fullmatch=True).filter(str.isascii),
        lines.map(lambda raw: raw.decode("utf-8", "replace").replace("\\", "/")),
    )
)
@example({"Groups": " ", "Name": "", "SigQ": "0/1"})
def test_status_survives_text(status):
    assert parse_status(format_status(status)) == status


@given(st.lists(st.tuples(st.sampled_from([b"Name", b"State", b"X_y"]), lines), max_size=1))
def test_text_of_status_survives_parsing(rows):
    text = b"".join(key + b":\t" + value + b"\n" for key, value in rows)
    assert format_status(parse_status(text)) == text


@pytest.mark.parametrize("line", [b"Name cat", b"Name:cat", b": cat", b":\tcat", b"", b"N\xe9:\tx"])
def test_a_wrong_line_of_status_is_named(line):
    with pytest.raises(FormatError, match=r"status, line 2: expected 'Key:', a tab"):
        parse_status(b"Umask:\t0022\n" + line + b"\nPid:\t1\n")


@pytest.mark.kernel
def test_stat_says_what_the_system_calls_say():
    stat = parse_stat(Path("/proc/self/stat").read_bytes())
    assert (stat.pid, stat.ppid) == (os.getpid(), os.getppid())
    assert stat.state == "R"
    assert stat.rest[:2] == (os.getpgrp(), os.getsid(0))
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    assert 0 <= stat.start_time <= uptime * os.sysconf("SC_CLK_TCK")


@pytest.mark.kernel
@pytest.mark.parametrize("comm", [b"a) R 1 (b", b")", b"", b" ", b"a\nb", rb"a\nb", b"\xff\t) Z 7"])
def test_the_kernel_writes_odd_process_names_as_we_read_them(comm):
    read = {}

    def rename_and_look():
        ctypes.CDLL(None).prctl(15, comm, 0, 0, 0)
        for name in ("stat", "status", "comm"):
            read[name] = Path("/proc/thread-self", name).read_bytes()

    thread = threading.Thread(target=rename_and_look)
    thread.start()
    thread.join()
    assert read["comm"] == comm + b"\n"
    stat = parse_stat(read["stat"])
    assert (stat.state, stat.ppid) == ("R", os.getppid())
    assert stat.name in (comm, comm.replace(b"\\", rb"\\").replace(b"\n", rb"\n"))
    assert format_stat(stat) == read["stat"]
    status = parse_status(read["status"])
    shown = comm.replace(b"\\", rb"\\").replace(b"\n", rb"\n")
    assert text_to_path(status["Name"]) == shown
    assert format_status(status) == read["status"]


@given(
    st.builds(
        Stat,
        st.integers(1, 2**22),
        st.binary(max_size=15) | st.sampled_from([b") R 1 2 3 (", b"a) S 1", b"((", b"\n) S"]),
        st.sampled_from("RSDZTtXIP"),
        st.integers(0, 2**22),
        st.integers(0, 2**63),
        st.lists(st.integers(-(2**63), 2**64 - 1), min_size=17, max_size=60).map(tuple),
    )
)
def test_stat_survives_text(stat):
    assert parse_stat(format_stat(stat)) == stat


def test_stat_has_52_fields_unless_told_otherwise():
    text = format_stat(Stat(7, b"x", "S", 1, 99))
    assert len(text.split()) == 52
    assert text.split()[21] == b"99"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"7 (cat) S 1 0 0\n",
        b"7 cat S 1" + b" 0" * 48 + b"\n",
        b"7 (cat) S 1" + b" 0" * 48,
        b"7 (cat) S x" + b" 0" * 48 + b"\n",
        b"7 (cat) S 1 " + b" 0" * 48 + b"\n",
        b"7 (cat) S " + b"1" * 5000 + b" 0" * 48 + b"\n",
    ],
)
def test_wrong_stat_is_refused(text):
    with pytest.raises(FormatError, match=r"7/stat, line 1: expected 'pid \(name\) state'"):
        parse_stat(text, "7/stat")


# ---------------------------------------------------------------- cmdline


@pytest.mark.kernel
def test_arguments_are_those_given():
    arguments = ["sleep", "60", "", " a\nb ", "é"]
    child = subprocess.Popen(["-sh", "-c", "kill -STOP $$", *arguments], executable="/bin/sh")
    try:
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        text = Path(f"/proc/{child.pid}/cmdline").read_bytes()
    finally:
        child.kill()
        child.wait()
    assert parse_cmdline(text)[3:] == tuple(map(os.fsencode, arguments))
    assert format_cmdline(parse_cmdline(text)) == text


@given(st.lists(texts).map(tuple))
@example((b"",))
@example((b"a", b"", b""))
def test_arguments_survive_text(arguments):
    assert parse_cmdline(format_cmdline(arguments)) == arguments


@given(st.binary())
def test_only_a_missing_last_nul_is_added(text):
    again = format_cmdline(parse_cmdline(text))
    assert again == text or (again == text + b"\0" and not text.endswith(b"\0"))


# ---------------------------------------------------------------- cgroup


@given(
    st.lists(
        st.builds(
            CgroupLine,
            st.integers(0, 10**6),
            st.lists(st.from_regex(r"[a-z][a-z_=.]{0,9}", fullmatch=True), max_size=3).map(tuple),
            lines.map(b"/".__add__),
        ),
        max_size=5,
    )
)
def test_cgroups_survive_text(groups):
    text = format_cgroup(groups)
    assert parse_cgroup(text) == groups
    assert format_cgroup(parse_cgroup(text)) == text


def test_a_colon_in_a_cgroup_path_is_part_of_it():
    (line,) = parse_cgroup(b"0::/user.slice/dbus-:1.2@0.service\n")
    assert line.path == b"/user.slice/dbus-:1.2@0.service"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b"", None),
        (b"0::/a\n", b"/a"),
        (b"4:memory:/job\n0::/a\n", b"/job"),
        (b"0::/a\n4:memory:/\n", b"/a"),
        (b"4:cpu,memory:/job\n", b"/job"),
        (b"4:memory:/\n", b"/"),
        (b"4:memory:/\n0::/\n", b"/"),
        (b"3:name=memory:/x\n", None),
    ],
)
def test_memory_is_charged_to_its_own_hierarchy_first(text, path):
    assert memory_cgroup(parse_cgroup(text)) == path


@pytest.mark.parametrize("line", [b"", b"x::/", b"0:/", b"0:", b"-1::/"])
def test_a_wrong_line_of_cgroup_is_named(line):
    with pytest.raises(FormatError, match=r"cgroup, line 2: expected 'number:controllers:path'"):
        parse_cgroup(b"4:memory:/job\n" + line + b"\n0::/\n")


# ---------------------------------------------------------------- iomem


def test_ranges_are_half_open_and_nested():
    text = b"00001000-0009fbff : System RAM\n  00002000-00002fff : Kernel code\n"
    assert parse_iomem(text) == [
        IoRange(0x1000, 0x9FC00, "System RAM", 0),
        IoRange(0x2000, 0x3000, "Kernel code", 1),
    ]
    assert format_iomem(parse_iomem(text)) == text


def test_hidden_addresses_are_unknown_not_zero():
    text = b"00000000-00000000 : System RAM\n  00000000-00000000 : Kernel code\n"
    assert [(r.start, r.end, r.name) for r in parse_iomem(text)] == [
        (None, None, "System RAM"),
        (None, None, "Kernel code"),
    ]
    assert format_iomem(parse_iomem(text)) == text


@pytest.mark.kernel
def test_the_kernel_hides_iomem_from_the_unprivileged_and_we_say_so():
    full = Path("/proc/iomem").read_bytes()
    if {r.start for r in parse_iomem(full)} == {None} or os.geteuid() != 0:
        pytest.skip("needs root with CAP_SYS_ADMIN, to whom the kernel shows addresses")
    seen = subprocess.run(
        ["cat", "/proc/iomem"], user=65534, group=65534, extra_groups=[], capture_output=True,
        check=True,
    ).stdout  # fmt: skip
    assert {r.start for r in parse_iomem(seen)} == {None}
    assert format_iomem(parse_iomem(seen)) == seen
    assert [(r.name, r.depth) for r in parse_iomem(full)] == [
        (r.name, r.depth) for r in parse_iomem(seen)
    ]


@given(
    st.lists(
        st.builds(
            lambda start, size, name, depth: IoRange(start, start + size, name, depth),
            st.integers(0, 2**63),
            st.integers(2, 2**62),
            st.text(max_size=9).filter(lambda text: "\n" not in text and "\\" not in text),
            st.integers(0, 7),
        )
        | st.builds(IoRange, st.none(), st.none(), st.just("Reserved"), st.integers(0, 7)),
        max_size=4,
    )
)
def test_ranges_survive_text(ranges):
    text = format_iomem(ranges)
    assert parse_iomem(text) == ranges
    assert format_iomem(parse_iomem(text)) == text


@pytest.mark.parametrize(
    "line",
    [b"", b"00001000 : x", b"00002000-00001000 : x", b" 00001000-00001fff : x", b"1000-1fff : x"],
)
def test_a_wrong_line_of_iomem_is_named(line):
    with pytest.raises(FormatError, match=r"iomem, line 2: expected '?start"):
        parse_iomem(b"00000000-00000fff : Reserved\n" + line + b"\n")
