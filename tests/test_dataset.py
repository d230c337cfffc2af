"""Data sets of many hosts: the same answers as from the snapshots one by one, or a name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow.fs
import pytest

from pagemap_df import Snapshot, schema
from pagemap_df import watching as watch
from pagemap_df.dataset import Dataset, open_dataset
from pagemap_df.errors import NotAvailable, SnapshotError
from pagemap_df.sim.machine import Machine
from tests.handmade import snapshot


def _at(second: int) -> str:
    return datetime(2026, 11, 23, 14, 43, second, 500, UTC).isoformat(timespec="microseconds")


def _snap(host: str, second: int, pages: str, **facts: object) -> Snapshot:
    about = {"host": host, "taken_at": _at(second), "boot_id": f"boot of {host}", **facts}
    return snapshot({7: [f"heap rw-p {pages}"], 9: ["heap rw-p a8 a9"]}, facts=about)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hosts with three whole snapshots each, and one recorded with deltas."""
    path = tmp_path_factory.mktemp("dataset")
    for second, pages in enumerate(["a1 a2 s5", "a1 a2", "a1 a2 a3 a4"]):
        _snap("db 1", second, pages).to_parquet(path)
        _snap("db2", second, pages, page_size=65536).to_parquet(path)
    machine = Machine("64M", rng=3)
    server = machine.spawn("server")
    heap = server.mmap(64)
    work = iter(range(heap, heap + 64))
    clock = watch.Stepping(
        lambda: server.write(range(n := next(work), n + 1)),
        start=datetime(2026, 11, 23, 14, 43, 0, tzinfo=UTC),
    )
    watch.record(path, machine, for_=10, clock=clock, key_every=4)
    return path


def _by_hand(dataset: Dataset) -> pd.DataFrame:
    rows = [
        {"host": moment.host, "ts": moment.ts, "pages": len(snap.pages)}
        for moment, snap in zip(dataset.moments, dataset, strict=True)
    ]
    return pd.DataFrame(rows)


COUNT = "select host, ts, count(*) as pages from pages group by all order by all"


def test_sql_counts_what_the_snapshots_hold(root: Path) -> None:
    dataset = open_dataset(root)
    found, expected = dataset.sql(COUNT), _by_hand(dataset)
    assert found["host"].tolist() == expected["host"].tolist()
    assert found["pages"].tolist() == expected["pages"].tolist()
    assert [ts.tz_localize(UTC) for ts in found["ts"]] == expected["ts"].tolist()


def test_narrowing_is_the_same_as_a_condition(root: Path) -> None:
    dataset = open_dataset(root)
    narrow = dataset.host("db 1").between(_at(1), None)
    assert len(narrow) == 2
    condition = "where host = 'db 1' and ts >= timestamp '2026-11-23 14:43:01'"
    wide = dataset.sql(COUNT.replace("group", f"{condition} group"))
    pd.testing.assert_frame_equal(narrow.sql(COUNT), wide)


def test_conditions_on_host_and_time_leave_files_unread(root: Path) -> None:
    dataset = open_dataset(root).host("db 1", "db2")
    with dataset.connect(["pages"]) as connection:
        plan = connection.sql(
            "explain analyze select sum(pfn) from pages "
            "where host = 'db2' and ts > timestamp '2026-11-23 14:43:02'"
        ).fetchall()[0][1]
    assert "1/6" in plan


def test_one_query_may_name_a_table_twice_and_join_deltas(root: Path) -> None:
    dataset = open_dataset(root)
    found = dataset.sql(
        "with twice as (select a.* from pages a join pages b using (host, ts, pid, vaddr)) "
        "select count(*) as n from twice join vmas using (host, ts, pid, vma) "
        "join snapshots using (host, ts)"
    )
    assert found["n"].tolist() == [sum(len(snap.pages) for snap in dataset)]


def test_hosts_may_have_other_page_sizes(root: Path) -> None:
    found = open_dataset(root).sql("select host, max(page_size) as size from snapshots group by 1")
    sizes = dict(zip(found["host"], found["size"], strict=True))
    assert (sizes["db 1"], sizes["db2"]) == (4096, 65536)


def test_columns_that_only_some_hosts_have_are_null_for_the_others(tmp_path: Path) -> None:
    _snap("with", 0, "a1").to_parquet(tmp_path)
    bare = snapshot({7: ["heap rw-p a1"]}, join=(), facts={"host": "without", "taken_at": _at(0)})
    bare.to_parquet(tmp_path)
    found = open_dataset(tmp_path).sql("select host, max(mapcount) as m from pages group by 1")
    known = dict(zip(found["host"], found["m"].notna(), strict=True))
    assert known == {"with": True, "without": False}


def test_a_snapshot_is_the_last_at_or_before(root: Path) -> None:
    dataset = open_dataset(root)
    assert len(dataset.snapshot(_at(1), host="db 1").pages) == 4
    assert len(dataset.snapshot("2026-11-23T14:43:01.9", host="db 1").pages) == 4
    assert len(dataset.snapshot(host="db 1").pages) == 6
    with pytest.raises(NotAvailable, match="at or before"):
        dataset.snapshot("2020-01-01", host="db 1")
    with pytest.raises(NotAvailable, match="which host"):
        dataset.snapshot(_at(1))
    with pytest.raises(NotAvailable, match="no host db3"):
        dataset.host("db3")


def test_a_timeline_shows_growth(root: Path) -> None:
    dataset = open_dataset(root)
    frame = dataset.timeline()
    grown = frame[(frame["host"] == "db 1") & (frame["pid"] == 7)]
    assert grown["present"].tolist() == [2 * 4096, 2 * 4096, 4 * 4096]
    assert grown["swapped"].tolist() == [4096, 0, 0]
    own = dataset.timeline(lambda snap: pd.DataFrame({"pages": [len(snap.pages)]}))
    assert own["pages"].tolist() == [len(snap.pages) for snap in dataset]


def test_the_repr_reads_no_file(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    for path in copy.rglob("*.parquet"):
        path.write_bytes(b"")
    text = repr(open_dataset(copy))
    assert text == (
        "<Dataset of 3 hosts, 16 snapshots, 2026-11-23 14:43:00 to 2026-11-23 14:43:09>"
    )


def test_another_file_system_answers_alike(root: Path) -> None:
    elsewhere = pyarrow.fs.SubTreeFileSystem(str(root), pyarrow.fs.LocalFileSystem())
    found = open_dataset("", filesystem=elsewhere).sql(COUNT)
    pd.testing.assert_frame_equal(found, open_dataset(root).sql(COUNT))
    pd.testing.assert_frame_equal(open_dataset(f"file://{root}").sql(COUNT), found)


def test_an_empty_choice_has_tables_without_rows(root: Path) -> None:
    none = open_dataset(root).between("2020-01-01", "2020-01-02")
    assert len(none) == 0
    for name in schema.TABLES:
        assert none.sql(f"select count(*) as n from {name}")["n"].tolist() == [0]
    assert none.timeline().empty


def test_parameters_are_passed_on(root: Path) -> None:
    found = open_dataset(root).sql(
        "select count(*) as n from pages where host = $host", params={"host": "db 1"}
    )
    assert found["n"].tolist() == [5 + 4 + 6]


# -- bad input -------------------------------------------------------------------------------


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="host="):
        open_dataset(tmp_path)


@pytest.mark.parametrize("lost", ["vmas.parquet", "pages.parquet", None])
def test_missing_files_are_refused_or_skipped_by_name(
    root: Path, tmp_path: Path, lost: str | None
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    place = sorted((copy / "host=db2").iterdir())[1]
    for path in place.iterdir():
        if lost in (None, path.name):
            path.unlink()
    with pytest.raises(SnapshotError, match=r"host=db2.*missing"):
        open_dataset(copy)
    dataset = open_dataset(copy, on_error="skip")
    assert len(dataset) == 15
    assert [skip["host"] for skip in dataset.skipped] == ["db2"]
    assert "missing" in dataset.problems()[0]
    assert len(dataset.sql(COUNT)) == 15


def test_a_cut_file_is_refused_or_skipped_by_name(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    path = sorted((copy / "host=db2").iterdir())[1] / "pages.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(SnapshotError, match="host=db2"):
        open_dataset(copy).sql(COUNT)
    dataset = open_dataset(copy, on_error="skip")
    assert len(dataset.sql(COUNT)) == 15
    assert [skip["host"] for skip in dataset.skipped] == ["db2"]
    assert len(list(open_dataset(copy, on_error="skip"))) == 15


def test_a_lost_key_frame_takes_its_deltas_with_it(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    host = next(path for path in copy.iterdir() if "db" not in path.name)
    places = sorted(host.iterdir())
    shutil.rmtree(places[4])
    with pytest.raises(SnapshotError, match=host.name):
        open_dataset(copy).sql(COUNT)
    dataset = open_dataset(copy, on_error="skip")
    assert len(dataset.sql(COUNT)) == 16 - 4
    assert len(dataset.skipped) == 3


def test_half_written_directories_are_not_seen(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    shutil.copytree(min((copy / "host=db2").iterdir()), copy / "host=db2" / ".partial-x1")
    assert len(open_dataset(copy)) == 16


def test_two_machines_of_one_name_are_noticed(tmp_path: Path) -> None:
    for second, boot in enumerate(["b1", "b2", "b1"]):
        _snap("twin", second, "a1", boot_id=boot).to_parquet(tmp_path)
    for second, boot in enumerate(["b1", "b1", "b2"]):
        _snap("rebooted", second, "a1", boot_id=boot).to_parquet(tmp_path)
    assert open_dataset(tmp_path).problems() == [
        "twin: its boots take turns: two machines have this name"
    ]


def test_a_file_of_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    snap = _snap("new", 0, "a1")
    snap.to_parquet(tmp_path)
    delta = next(tmp_path.glob("host=new/*"))
    later = delta.with_name("ts=20270101T000000.000000Z")
    later.mkdir()
    text = {"schema_version": 99, "base": delta.name, "facts": {}, "without": []}
    (later / "delta.json").write_text(json.dumps(text))
    with pytest.raises(SnapshotError, match="newer pagemap_df"):
        open_dataset(tmp_path).snapshot()


_LIMITED = """
import sys
from pagemap_df.dataset import open_dataset
answer = open_dataset(sys.argv[1]).sql(
    "select count(*) as n from (select distinct host, ts, vaddr, pfn from pages)",
    memory_limit="100MB", threads=1)
# Not getrusage: that remembers the peak of whoever started the program, too.
(line,) = [x for x in open("/proc/self/status") if x.startswith("VmHWM")]
print(answer["n"][0], line.split()[1])
"""


def test_more_rows_than_the_memory_limit_are_answered_by_spilling(tmp_path: Path) -> None:
    rows = 400_000
    base = _snap("big", 0, "a1")
    for second in range(8):
        _many(base, rows, second).to_parquet(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, tmp_path],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    count, peak = map(int, done.stdout.split())
    assert count == 8 * rows
    assert peak < 700 << 10


def _many(base: Snapshot, rows: int, second: int) -> Snapshot:
    """`rows` pages in places without order."""
    import numpy as np
    import pyarrow as pa

    rng = np.random.default_rng(second)
    one = base.arrow("pages").slice(0, 1)
    table = one.take(pa.array(np.zeros(rows, np.int64)))
    values = {"vaddr": np.arange(rows) * 4096, "pfn": rng.integers(1, 1 << 40, rows)}
    for name, numbers in values.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(at), pa.array(numbers))
    tables = {name: base.arrow(name) for name in ("vmas", "processes", "swaps")}
    return Snapshot({**tables, "pages": table}, {**base.facts, "taken_at": _at(second)})
