"""The collector: any old Python leaves an archive that reads as the kernel did."""

from __future__ import annotations

import ast
import gzip
import io
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pagemap_df import Procfs, take
from pagemap_df.errors import FormatError, NotPermitted
from pagemap_df.source import collector
from pagemap_df.source.archive import Archive, is_archive
from tests import living

pytestmark = pytest.mark.kernel
PROGRAM = Path(collector.__file__)
OLD = ("3.6", "3.7", "3.8", "3.9", "3.13")


def _interpreter(version: str) -> str:
    """A Python of that version, from the path or from pyenv."""
    found = shutil.which(f"python{version}")
    if (
        found
        and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0
    ):
        return found
    homes = [Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser(), Path("/root/.pyenv")]
    for home in homes:
        try:
            for path in sorted(home.glob(f"versions/{version}.*/bin/python")):
                return str(path)
        except PermissionError:
            continue
    pytest.skip(f"no Python {version} here")


def _collect(out: Path, *options: object, python: str = sys.executable) -> str:
    """Run the collector as a stranger would: one file, no package, no site."""
    done = subprocess.run(
        [python, "-I", "-S", PROGRAM, "-o", out, *map(str, options)],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    return done.stderr


def _assert_same(found: object, live: object, *tables: str) -> None:
    for name in tables:
        a, b = found.arrow(name), live.arrow(name)  # type: ignore[attr-defined]
        assert a.schema.equals(b.schema), name
        assert _settled(a.to_pylist()) == _settled(b.to_pylist()), name


def _settled(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Whether others map a file's page too changes as they come and go: not our processes' doing."""
    alone = 1 << 56
    for row in rows:
        if row.get("file"):
            row["exclusive"] = None
            row["word"] = int(str(row["word"])) & ~alone if "word" in row else None
    return rows


@pytest.fixture(scope="module")
def family() -> Iterator[tuple[living.Child, living.Child]]:
    """Two processes that stand still: zero pages, guards, a large sparse mapping, forks."""
    with living.spawn() as child:
        heap = child.mmap(600)
        child.write(heap[:300])
        child.read(heap[300:400])
        sparse = child.mmap(1 << 20)
        child.write(sparse[5000:5040])
        child.write(sparse[900_000:900_001])
        worker = child.fork()
        worker.write(heap[100:120])
        child.stop()
        worker.stop()
        yield child, worker


@pytest.mark.parametrize("version", [*OLD, "this"])
def test_an_archive_equals_a_live_take_of_the_frozen_process(
    tmp_path: Path, family: tuple[living.Child, living.Child], version: str
) -> None:
    python = sys.executable if version == "this" else _interpreter(version)
    pids = [process.pid for process in family]
    said = _collect(tmp_path / "a.tar.gz", "--pid", pids[0], "--pid", pids[1], python=python)
    assert "complete" in said
    live = take(pids=pids, raw=True)
    with Archive(tmp_path / "a.tar.gz") as source:
        found = take(source, pids=pids, raw=True)
        assert source.told["python"].startswith("" if version == "this" else version)
    _assert_same(found, live, "pages", "vmas", "processes", "frames")
    told = ("host", "boot_id", "release", "machine", "page_size", "byte_order", "clock_ticks")
    meant = ("era", "pfns", "soft_dirty", "specials", "mapcount", "pmd_size", "scan")
    for fact in (*told, *meant, "zero_pfns"):
        assert found.facts.get(fact) == live.facts.get(fact), fact
    # This one comes and goes with those who use it, and memory pressure: other tests do both.
    assert len({s.facts.get("huge_zero_pfn") for s in (found, live)} - {None}) <= 1


def test_swap_areas_come_along(tmp_path: Path, family: tuple[living.Child, living.Child]) -> None:
    pid, of = family[0].pid, ["path", "kind", "size", "priority"]
    with living.swap_area(1) as area:
        _collect(tmp_path / "a.tar.gz", "--pid", pid)
        with Archive(tmp_path / "a.tar.gz") as source:
            found = take(source, pids=[pid]).arrow("swaps").select(of).to_pylist()
        assert found == take(pids=[pid]).arrow("swaps").select(of).to_pylist()
    assert str(area) in str(found)


def test_frames_and_sums_come_along_when_asked_for(
    tmp_path: Path, family: tuple[living.Child, living.Child]
) -> None:
    pids = [process.pid for process in family]
    _collect(tmp_path / "a.tar.gz", "--pid", pids[0], "--pid", pids[1], "--frames", "--smaps")
    join = ["mapcount", "cgroup", "huge"]
    with Archive(tmp_path / "a.tar.gz") as source:
        found = take(source, pids=pids, join=join, smaps=True)
    live = take(pids=pids, join=join, smaps=True)
    if live.facts["unknown"]:
        pytest.skip(f"this kernel or user cannot tell: {live.facts['unknown']}")
    _assert_same(found, live, "processes")
    # Others come and go who map the same files.
    own = [snap.pages[~snap.pages["file"].astype(bool)] for snap in (found, live)]
    pd.testing.assert_frame_equal(*own)
    assert own[0]["mapcount"].max() > 1
    assert found.vmas["smaps_rss"].equals(live.vmas["smaps_rss"])


def test_a_stranger_sees_as_much_as_the_kernel_shows_a_stranger(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become nobody")
    sleeper = subprocess.Popen(["sleep", "60"], user=65534, group=65534, extra_groups=[], cwd="/")
    copy = tmp_path / "collector.py"
    copy.write_text(collector.source())
    try:
        _until_asleep(sleeper.pid)
        out = Path(f"/tmp/collector-test-{os.getpid()}.tar.gz")
        done = subprocess.run(
            ["/usr/bin/env", "python3", "-I", "-", "-o", out, "--pid", str(sleeper.pid)],
            input=copy.read_text(),
            text=True,
            user=65534,
            group=65534,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"nobody cannot run Python here: {done.stderr[-200:]}")
        with Archive(out) as source:
            found = take(source, pids=sleeper.pid)
        out.unlink()
    finally:
        sleeper.kill()
        sleeper.wait()
    assert found.facts["pfns"] == "hidden"
    assert found.arrow("pages")["pfn"].null_count == len(found.pages) > 0
    assert found.facts["rights"]["uid"] == 65534


def _until_asleep(pid: int) -> None:
    living.wait_until(
        lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "sleep was executed"
    )


def test_the_whole_machine_with_reasons_for_what_is_left_out(tmp_path: Path) -> None:
    _collect(tmp_path / "a.tar.gz")
    with Archive(tmp_path / "a.tar.gz") as source:
        snap = take(source)
        known = set(source.pids())
    skipped = {skip["pid"] for skip in snap.facts["skipped"]}
    taken = set(snap.arrow("processes")["pid"].to_pylist())
    assert taken | skipped == known
    assert os.getpid() in taken


@pytest.mark.parametrize("option", [["--max-seconds", 0], ["--max-bytes", collector.LEAST]])
def test_a_limit_leaves_an_archive_that_says_so(
    tmp_path: Path, family: tuple[living.Child, living.Child], option: list[object]
) -> None:
    with living.spawn() as child:
        heap = child.mmap_alone(300_000)
        child.madvise(heap, living.NOHUGEPAGE)
        child.write(heap, order="random")
        out = tmp_path / "a.tar.gz"
        said = _collect(out, "--pid", family[0].pid, "--pid", child.pid, *option)
        assert "limit was reached" in said
        if option[0] == "--max-bytes":
            assert out.stat().st_size <= collector.LEAST
        with Archive(out) as source:
            assert "limit" in source.end["stopped"]
            with pytest.raises(NotPermitted, match="limit was reached"):
                take(source, pids=child.pid)


def test_memory_stays_small_however_large_the_process(tmp_path: Path) -> None:
    with living.spawn() as child:
        heap = child.mmap_alone(300_000)
        child.madvise(heap, living.NOHUGEPAGE)
        child.write(heap)
        _collect(tmp_path / "a.tar.gz", "--pid", child.pid)
    with Archive(tmp_path / "a.tar.gz") as source:
        assert int(source.end["peak"][0].split()[0]) < 48 << 10
        assert take(source).pages["vaddr"].between(heap.start, heap.end - 1).sum() == heap.pages
    assert (tmp_path / "a.tar.gz").stat().st_size < 4 * 300_000


def test_signals_end_it_with_an_archive_or_none(tmp_path: Path) -> None:
    rng = random.Random(1)
    with living.spawn() as child:
        heap = child.mmap_alone(100_000)
        child.write(heap)
        for n, number in enumerate([signal.SIGTERM, signal.SIGKILL] * 3):
            out = tmp_path / f"{n}.tar.gz"
            command = [sys.executable, "-I", "-S", PROGRAM, "-o", out, "--pid", str(child.pid)]
            running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            time.sleep(0.02 + rng.random() * 0.2)
            running.send_signal(number)
            running.wait()
            if out.exists():
                Archive(out).close()
            partial = out.with_name(f"{out.name}.partial")
            if partial.exists():
                assert number == signal.SIGKILL or running.returncode == -signal.SIGTERM
                with pytest.raises(FormatError, match=r"collector archive|begins with"):
                    Archive(partial)


# -- attacks on the reader -------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, family: tuple[living.Child, living.Child]
) -> bytes:
    out = tmp_path_factory.mktemp("collected") / "a.tar.gz"
    _collect(out, "--pid", family[0].pid)
    return out.read_bytes()


def test_a_cut_archive_is_refused_wherever_it_is_cut(tmp_path: Path, whole: bytes) -> None:
    rng = random.Random(2)
    path = tmp_path / "a.tar.gz"
    for at in [*(rng.randrange(len(whole)) for _ in range(25)), *range(1, 40)]:
        path.write_bytes(whole[:-at])
        with pytest.raises(FormatError, match=r"a\.tar\.gz"):
            Archive(path)


def test_an_uncompressed_archive_cut_between_members_is_refused(
    tmp_path: Path, whole: bytes
) -> None:
    path = tmp_path / "a.tar"
    _rewrite(whole, path, lambda name, data: None if name == collector.LAST else data)
    with pytest.raises(FormatError, match=r"ends with end\.json; this one was cut"):
        Archive(path)


def _rewrite(whole: bytes, path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    with (
        tarfile.open(fileobj=io.BytesIO(gzip.decompress(whole))) as old,
        tarfile.open(path, "w") as new,
    ):
        for member in old:
            file = old.extractfile(member)
            assert file is not None
            data = change(member.name, file.read())
            if data is not None:
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize(
    ("part", "spoil"),
    [
        ("pagemap.0", lambda data: b"NOTPLANE" + data[8:]),
        ("pagemap.0", lambda data: data[:-8]),
        ("pagemap.0", lambda data: data[:8] + struct.pack("<Q", 1 << 40) + data[16:]),
        ("pagemap.0", lambda data: data[:16] + struct.pack("<Q", 1 << 60) + data[24:]),
        (collector.FIRST, lambda data: b"{" + data),
        (collector.FIRST, lambda data: json.dumps({**json.loads(data), "format": 99}).encode()),
        (collector.LAST, lambda data: data[:-1]),
    ],
)
def test_a_damaged_member_is_named(
    tmp_path: Path, whole: bytes, part: str, spoil: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "a.tar"
    _rewrite(whole, path, lambda name, data: spoil(data) if name.endswith(part) else data)
    with pytest.raises(FormatError, match=r"a\.tar"):
        Archive(path)


def test_a_member_may_not_leave_the_directory(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(whole))) as old:
            first = old.next()
            assert first is not None
            tar.addfile(first, old.extractfile(first))
        for name in ("../evil", "7/../../evil", "/evil"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(FormatError, match="member name"):
        Archive(path)
    assert not (tmp_path / "evil").exists()


def test_words_of_a_big_endian_host_are_the_same_words(tmp_path: Path, whole: bytes) -> None:
    def swapped(name: str, data: bytes) -> bytes:
        if name != collector.FIRST:
            return data
        return json.dumps({**json.loads(data), "byte_order": "big"}).encode()

    one, other = tmp_path / "a.tar", tmp_path / "b.tar"
    _rewrite(whole, one, lambda name, data: data)
    _rewrite(whole, other, swapped)
    with Archive(one) as little, Archive(other) as big:
        assert big.facts()["byte_order"] == "big"
        a, b = take(little, raw=True), take(big, raw=True)
        assert a.arrow("pages").to_pylist() == b.arrow("pages").to_pylist()


def test_what_is_no_archive_is_told_apart(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "a.tar.gz").write_bytes(whole)
    (tmp_path / "text").write_text("hello")
    with tarfile.open(tmp_path / "tree.tar", "w") as tar:
        tar.add(Path(__file__), "7/maps")
    assert [is_archive(tmp_path / n) for n in ("a.tar.gz", "text", "tree.tar", "none")] == [
        True,
        False,
        False,
        False,
    ]


# -- the program itself ----------------------------------------------------------------------


def test_the_program_needs_nothing_but_the_standard_library() -> None:
    tree = ast.parse(collector.source())
    names = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert names <= sys.stdlib_module_names
    assert collector.source() == PROGRAM.read_text()


def test_planes_are_read_back_in_order() -> None:
    words = np.arange(1000, dtype="<u8") * 0x0102030405060708
    raw = words.tobytes()
    planes = b"".join(raw[k::8] for k in range(8))
    assert planes[:1000] == bytes((words & 0xFF).astype(np.uint8))


def test_an_unknown_process_is_listed_as_gone(tmp_path: Path) -> None:
    _collect(tmp_path / "a.tar.gz", "--pid", 1 << 30, "--pid", os.getpid())
    with Archive(tmp_path / "a.tar.gz") as source:
        snap = take(source)
        assert isinstance(source, Procfs)
    assert [skip["pid"] for skip in snap.facts["skipped"]] == [1 << 30]
    assert "No such file" in snap.facts["skipped"][0]["reason"]
