"""Watching: what is recorded reads back as it was taken, whatever ends the recording."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemap_df import Snapshot, Source, schema, take, tree
from pagemap_df import watching as watch
from pagemap_df.errors import ProcessGone, SnapshotError, TableError
from pagemap_df.sim.machine import Machine
from pagemap_df.source.remembering import Remembering
from pagemap_df.watching import deltas, recording
from pagemap_df.watching.estimate import estimate
from tests import living
from tests.handmade import snapshot

LOCAL = pyarrow.fs.LocalFileSystem()
PAGE = 4096


# -- deltas: a law and its edges -------------------------------------------------------------

WORD = st.sampled_from(["-", "a1", "a2", "a3", "f4", "z", "s5", "s6", "g", "S7"])
PROCESSES = st.dictionaries(
    st.integers(1, 3),
    st.lists(st.lists(WORD, min_size=1, max_size=6), min_size=1, max_size=3),
    max_size=3,
)


def _snap(shape: dict[int, list[list[str]]]) -> Snapshot:
    lines = {pid: ["anon rw-p " + " ".join(row) for row in rows] for pid, rows in shape.items()}
    return snapshot(lines)


@settings(max_examples=80)
@given(st.lists(PROCESSES, min_size=2, max_size=4))
def test_deltas_lead_from_the_first_to_the_last(shapes: list[dict[int, list[list[str]]]]) -> None:
    snaps = [_snap(shape) for shape in shapes]
    tables = [snap.arrow("pages").replace_schema_metadata(None) for snap in snaps]
    changes = [deltas.between(a, b, PAGE) for a, b in itertools.pairwise(tables)]
    found = deltas.applied(tables[0], changes, snaps[-1].arrow("vmas"), PAGE)
    assert found.to_pylist() == tables[-1].to_pylist()
    for a, b, change in zip(tables, tables[1:], changes, strict=False):
        assert sum(change["n_pages"].to_pylist()) == len(_changed(a, b))


def _changed(a: pa.Table, b: pa.Table) -> set[tuple[int, int]]:
    """Pages whose rows differ, counted by Python's dictionaries."""
    old, new = (
        {(row["pid"], row["vaddr"]): {**row, "vma": None} for row in table.to_pylist()}
        for table in (a, b)
    )
    return {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def test_tables_with_other_columns_have_no_delta() -> None:
    one = _snap({1: [["a1"]]}).arrow("pages")
    with pytest.raises(TableError, match="same columns"):
        deltas.between(one, one.drop_columns(["huge"]), PAGE)


# -- watching with an injected clock ---------------------------------------------------------


def _machine() -> tuple[Machine, watch.Stepping]:
    machine = Machine("64M", rng=3)
    server = machine.spawn("server")
    heap = server.mmap(64)
    server.write(range(heap, heap + 8))
    todo = iter(range(heap + 8, heap + 64))

    def step() -> None:
        page = next(todo)
        if page % 3:
            server.write(range(page, page + 1))

    return machine, watch.Stepping(step, start=datetime(2026, 1, 1, tzinfo=UTC))


def test_a_stepping_machine_is_seen_at_every_step() -> None:
    machine, clock = _machine()
    snaps = list(watch.watch(machine, every=2, for_=10, clock=clock))
    assert [snap.facts["watch"]["elapsed"] for snap in snaps] == [0, 2, 4, 6, 8]
    assert [snap.facts["taken_at"][14:19] for snap in snaps] == [
        "00:00",
        "00:02",
        "00:04",
        "00:06",
        "00:08",
    ]
    sizes = [len(snap.pages) for snap in snaps]
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0]


def test_unchanged_is_said_exactly_when_nothing_changed() -> None:
    machine, clock = _machine()
    snaps = list(watch.watch(machine, every=1, for_=20, clock=clock))
    assert {snap.facts["watch"]["unchanged"] for snap in snaps[1:]} == {True, False}
    for before, after in itertools.pairwise(snaps):
        same = before.arrow("pages").to_pylist() == after.arrow("pages").to_pylist()
        assert after.facts["watch"]["unchanged"] == same


def test_a_step_that_says_false_ends_the_watch() -> None:
    machine, _ = _machine()
    left = iter([True, True, False])
    clock = watch.Stepping(lambda: next(left))
    assert len(list(watch.watch(machine, clock=clock))) == 3


def test_a_list_of_trees_gives_one_snapshot_each(tmp_path: Path) -> None:
    machine, clock = _machine()
    for name in "ab":
        tree.record(machine, tmp_path / name)
        clock.sleep(1)
    snaps = list(watch.watch([tmp_path / "a", tmp_path / "b"]))
    assert [len(snap.pages) for snap in snaps] == [
        len(take(tmp_path / name).pages) for name in "ab"
    ]
    assert snaps[0].facts["taken_at"] < snaps[1].facts["taken_at"]


class _Costly(Machine):
    """Every look takes 0.3 seconds of processor time."""

    looks = 0

    def pids(self) -> list[int]:
        self.looks += 1
        return super().pids()


def test_the_budget_is_kept_by_looking_less_often() -> None:
    machine = _Costly("16M")
    machine.spawn("idle")
    clock = watch.Stepping(lambda: None, tick=0.1)
    clock.cpu = lambda: 0.3 * machine.looks  # type: ignore[method-assign]
    snaps = list(watch.watch(machine, every=1, for_=60, budget=0.05, clock=clock))
    assert clock.cpu() == pytest.approx(0.05 * 60)
    times = [snap.facts["watch"]["elapsed"] for snap in snaps]
    assert times == pytest.approx([6 * n for n in range(10)])
    assert [snap.facts["watch"]["cpu_seconds"] for snap in snaps[1:]] == pytest.approx([0.3] * 9)


class _Jumping(watch.Stepping):
    """A wall clock that is set back by an hour after the third second."""

    def now(self) -> datetime:
        back = timedelta(hours=1 if self.monotonic() >= 3 else 0)
        return super().now() - back


def test_a_clock_set_back_neither_repeats_nor_reorders_snapshots(tmp_path: Path) -> None:
    machine, _ = _machine()
    clock = _Jumping(lambda: None)
    watch.record(tmp_path, machine, every=1, for_=6, clock=clock)
    places = _places(tmp_path)
    snaps = [recording.read(place, LOCAL) for place in places]
    assert [snap.facts["watch"]["elapsed"] for snap in snaps] == [0, 1, 2, 3, 4, 5]
    assert snaps[-1].facts["watch"]["clock_jump"] == pytest.approx(-3600)


@pytest.mark.parametrize(("every", "budget"), [(-1, None), (1, 0), (1, -0.5)])
def test_impossible_paces_are_refused(every: float, budget: float | None) -> None:
    with pytest.raises(ValueError, match="positive"):
        watch.watch(Machine("16M"), every=every, budget=budget)


# -- recordings ------------------------------------------------------------------------------


def _places(root: Path) -> list[Path]:
    return sorted(
        path for path in root.glob("host=*/ts=*") if not path.name.startswith(".partial-")
    )


def _same(a: Snapshot, b: Snapshot) -> bool:
    return all(a.arrow(n).to_pylist() == b.arrow(n).to_pylist() for n in schema.TABLES)


@pytest.mark.parametrize("key_every", [1, 3, 100])
def test_a_recording_gives_back_every_snapshot(tmp_path: Path, key_every: int) -> None:
    machine, clock = _machine()
    taken: list[tuple[Path, Snapshot]] = []
    done = watch.record(
        tmp_path,
        machine,
        for_=12,
        clock=clock,
        key_every=key_every,
        then=lambda place, snap: taken.append((place, snap)),
    )
    assert (done.snapshots, done.keys) == (12, -(-12 // key_every))
    assert [place for place, _ in taken] == _places(tmp_path)
    last = None
    for place, snap in taken:
        alone = recording.read(place, LOCAL)
        onward = recording.read(place, LOCAL, after=last)
        assert _same(alone, snap)
        assert _same(onward, snap)
        assert alone.facts == onward.facts == json.loads(json.dumps(snap.facts))
        last = (place, onward)


def test_a_delta_whose_base_is_gone_is_refused_by_name(tmp_path: Path) -> None:
    machine, clock = _machine()
    watch.record(tmp_path, machine, for_=3, clock=clock)
    first, _, third = _places(tmp_path)
    shutil.rmtree(first)
    with pytest.raises(SnapshotError, match=first.name):
        recording.read(third, LOCAL)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1, "base": "../x"}'])
def test_a_damaged_delta_is_refused_by_name(tmp_path: Path, text: str) -> None:
    machine, clock = _machine()
    watch.record(tmp_path, machine, for_=2, clock=clock)
    second = _places(tmp_path)[1]
    (second / "delta.json").write_text(text)
    with pytest.raises(SnapshotError, match=second.name):
        recording.read(second, LOCAL)


def test_a_cut_file_of_extents_is_refused_by_name(tmp_path: Path) -> None:
    machine, clock = _machine()
    watch.record(tmp_path, machine, for_=6, clock=clock)
    path = next(tmp_path.glob("**/extents.parquet"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SnapshotError, match="extents"):
        recording.read(path.parent, LOCAL)


def test_holes_cannot_be_recorded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holes"):
        watch.record(tmp_path, Machine("16M"), holes=True)


# -- the real kernel -------------------------------------------------------------------------


@pytest.mark.kernel
def test_every_change_of_a_process_is_noticed() -> None:
    with (
        living.left_alone(),
        living.spawn() as child,
        Remembering(watch.source_of(None)) as asked,
    ):
        heap = child.mmap(64)
        child.write(heap[:16])
        take(asked, pids=child.pid)
        assert not asked.changed()
        for change in (
            lambda: child.write(heap[20:21]),
            lambda: child.madvise(heap[3:4], living.DONTNEED),
            lambda: child.mmap(4),
        ):
            take(asked, pids=child.pid)
            change()
            assert asked.changed()


def test_every_question_of_a_source_is_passed_on() -> None:
    asked = {name for name, value in vars(Source).items() if callable(value) and name[0] != "_"}
    assert asked <= set(vars(Remembering))


@pytest.mark.kernel
def test_watching_ends_when_the_process_does(tmp_path: Path) -> None:
    with living.spawn() as child:
        gone = child.pid
        snaps = []
        for snap in watch.watch(pids=child.pid, every=0.01):
            snaps.append(snap)
            if len(snaps) == 3:
                child.kill()
        assert len(snaps) == 3
    with pytest.raises(ProcessGone):
        next(watch.watch(pids=gone))


@pytest.mark.kernel
def test_the_estimate_is_of_the_right_order() -> None:
    with living.spawn() as child:
        heap = child.mmap_alone(50_000)
        child.write(heap)
        guess = estimate(pids=child.pid)
        took = min(_timed(child.pid) for _ in range(3))
    assert guess.processes == 1
    assert guess.pages == pytest.approx(50_000, rel=0.2)
    assert took / 20 < guess.seconds < took * 20


def _timed(pid: int) -> float:
    began = time.perf_counter()
    take(pids=pid)
    return time.perf_counter() - began


@pytest.mark.kernel
def test_the_cost_to_the_target_is_told() -> None:
    with living.left_alone(), living.spawn() as child:
        child.write(child.mmap(64))
        snaps = watch.watch(pids=child.pid, every=0.0, freeze=True)
        first = next(snaps).facts["watch"]
        same = next(snaps).facts["watch"]
        snaps.close()
    assert first["stopped_seconds"] > first["locked_seconds"] > 0
    assert same["unchanged"]
    assert (same["stopped_seconds"], same["locked_seconds"] > 0) == (0, True)


_RECORD = """
import sys
from pagemap_df import watching as watch
watch.record(sys.argv[1], pids=int(sys.argv[2]), every=0.0, key_every=3,
             then=lambda *_: print("one", flush=True))
"""


@pytest.mark.kernel
def test_kill_at_any_moment_leaves_a_readable_set(tmp_path: Path) -> None:
    rng = random.Random(5)
    with living.spawn() as child:
        heap = child.mmap(512)
        for n in range(4):
            root = tmp_path / str(n)
            recorder = subprocess.Popen(
                [sys.executable, "-c", _RECORD, str(root), str(child.pid)],
                stdout=subprocess.PIPE,
                cwd=Path(__file__).parents[1],
            )
            assert recorder.stdout is not None
            finished = 0
            for _ in range(rng.randrange(3, 8)):
                child.write(heap[rng.randrange(512) :][:1])
                finished += recorder.stdout.readline() == b"one\n"
            time.sleep(rng.random() * 0.02)
            recorder.send_signal(signal.SIGKILL)
            finished += len(recorder.stdout.read().splitlines())
            recorder.stdout.close()
            recorder.wait()
            places = _places(root)
            assert finished <= len(places) <= finished + 1
            snaps = [recording.read(place, LOCAL) for place in places]
            assert all(snap.arrow("processes")["pid"].to_pylist() == [child.pid] for snap in snaps)


@contextmanager
def _small_disc(path: Path, size: str) -> Iterator[Path]:
    """A tmpfs of `size`, unmounted whatever happens."""
    path.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"mount is refused here: {done.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disc_ends_the_recording_and_leaves_it_readable(tmp_path: Path) -> None:
    machine, clock = _machine()
    with _small_disc(tmp_path / "disc", "160k") as disc:
        with pytest.raises(SnapshotError, match=r"room for a snapshot.* before it are whole"):
            watch.record(disc, machine, clock=clock, key_every=2)
        places = _places(disc)
        snaps = [recording.read(place, LOCAL) for place in places]
        assert [snap.facts["watch"]["tick"] for snap in snaps] == list(range(len(places)))
        assert len(places) >= 1
        assert not list(disc.glob("**/.partial-*"))
