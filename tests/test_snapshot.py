"""What a snapshot hands out: the same dtypes whatever the data, Arrow, SQL, and a short name."""

import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import pagemap_df
from pagemap_df import RawDump, Snapshot, read_pagemap, read_snapshot, schema, take
from pagemap_df.errors import FormatError, NotAvailable, TableError
from tests import words as made

START = 0x7F1234567000


def snapshot(count=300, era="E7", **options):
    words = made.a_capture(era, count) if count else np.empty(0, np.uint64)
    return take(RawDump(words.tobytes(), start=START, era=era, host="box"), **options)


@pytest.fixture(scope="module")
def snap():
    return snapshot()


# -- dtypes -----------------------------------------------------------------------------

DTYPES = {
    "pages": {
        "pid": "int32", "vaddr": "int64", "kind": "category", "present": "bool",
        "swapped": "bool", "pfn": "Int64", "swap_type": "UInt8", "swap_offset": "Int64",
        "file": "boolean", "exclusive": "boolean", "soft_dirty": "boolean",
        "uffd_wp": "boolean", "guard": "boolean", "vma": "Int32",
    },
    "vmas": {
        "pid": "int32", "start": "int64", "end": "int64", "perms": "category",
        "offset": "int64", "device": "category", "inode": "int64", "path": "category",
        "kind": "category", "changed": "bool",
    },
    "frames": {"pfn": "int64", "mapcount": "Int32", "flags": "Int64", "cgroup": "Int64"},
    "swaps": {
        "swap_type": "UInt8", "path": "str", "kind": "category", "size": "int64",
        "used": "int64", "priority": "int32", "evidence": "str",
    },
    "processes": {
        "pid": "int32", "ppid": "Int32", "name": "category", "cmdline": "str", "uid": "Int64",
        "start_time": "Int64", "cgroup": "category", "state": "category", "mm": "Int32",
    },
}  # fmt: skip


def dtypes(frame):
    return {name: str(dtype) for name, dtype in frame.dtypes.items()}


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("kind", ["none", "empty", "E0", "E3", "E7", "all in memory"])
def test_dtypes_do_not_depend_on_the_data(name, kind):
    match kind:
        case "none":
            snap = Snapshot({}, {"page_size": 4096})
        case "empty":
            snap = snapshot(0)
        case "all in memory":
            words = np.full(9, 1 << 63 | 7, np.uint64)
            snap = take(RawDump(words.tobytes(), era="E7"))
        case era:
            snap = snapshot(64, era)
    assert dtypes(getattr(snap, name)) == DTYPES[name]
    assert dtypes(snap.table(name)) == DTYPES[name]


def test_digits_are_kept_beside_nulls():
    words = np.array([1 << 63 | ((1 << 55) - 1), 1 << 62 | 32 | 1], np.uint64)
    pages = take(RawDump(words.tobytes(), era="E7")).pages
    assert pages.pfn[0] == (1 << 55) - 1
    assert pages.pfn[1] is pd.NA
    assert pages.swap_type[1] == 1


@pytest.mark.parametrize("name", DTYPES)
def test_arrow_dtypes_on_request(snap, name):
    frame = snap.table(name, dtype_backend="pyarrow")
    assert all(isinstance(dtype, pd.ArrowDtype) for dtype in frame.dtypes)
    types = [dtype.pyarrow_dtype for dtype in frame.dtypes]
    assert types == snap.arrow(name).schema.types


def test_another_backend_is_refused(snap):
    with pytest.raises(ValueError, match="'numpy' or 'pyarrow'"):
        snap.table("pages", dtype_backend="polars")


@pytest.mark.parametrize("name", DTYPES)
def test_tables_are_as_specified_and_carry_the_facts(snap, name):
    table = snap.arrow(name)
    assert schema.problems(table, name) == []
    assert schema.facts_of(table.schema.metadata)["host"] == "box"
    assert getattr(snap, name).attrs["pagemap_df"]["host"] == "box"


def test_there_is_no_sixth_table(snap):
    with pytest.raises(KeyError, match="not 'extents'"):
        snap.arrow("extents")


def test_tables_that_are_none_are_refused():
    with pytest.raises(TableError, match=r"frames\.mapcount is missing"):
        Snapshot({"frames": pa.table({"pfn": [1]})}, {})


def test_a_frame_handed_out_can_be_changed_without_harm():
    snap = snapshot()
    before = snap.arrow("pages")["pfn"].to_pylist()
    for frame in (snap.table("pages"), snap.pages):
        frame.loc[:, "pfn"] = 0
        frame.loc[0, "vaddr"] = 0
        frame["present"] = False
    assert snap.arrow("pages")["pfn"].to_pylist() == before
    assert snap.table("pages").vaddr[0] == START


# -- frames -----------------------------------------------------------------------------


def test_frames_are_the_frames_of_the_pages_once_each():
    words = np.array([1 << 63 | pfn for pfn in (9, 5, 9, 7)] + [1 << 62 | 32], np.uint64)
    snap = take(RawDump(words.tobytes(), era="E7"))
    assert snap.frames.pfn.tolist() == [5, 7, 9]
    assert snap.frames.mapcount.isna().all()


def test_frames_keep_what_was_joined():
    pages = snapshot(40).arrow("pages")
    pfn = pages["pfn"].to_numpy(zero_copy_only=False)
    flags = pa.array(np.where(np.isnan(pfn), 0, pfn * 2).astype(np.int64), mask=np.isnan(pfn))
    pages = pages.append_column(schema.PAGES["flags"].field, flags)
    frames = Snapshot({"pages": pages}, {"page_size": 4096}).frames
    assert len(frames) > 10
    assert (frames["flags"] == frames["pfn"] * 2).all()


# -- ways out ---------------------------------------------------------------------------


def test_sql_over_the_tables_by_name(snap):
    answer = snap.sql(
        "select kind, count(*) as n, max(pfn) as top from pages group by 1 order by 1"
    )
    counts = snap.pages.kind.value_counts()
    assert dict(zip(answer.kind, answer.n, strict=True)) == counts[counts > 0].to_dict()
    assert answer.top.max() == snap.pages.pfn.max()
    joined = snap.sql(
        "select count(*) as n from pages join vmas on pages.pid = vmas.pid"
        ' and vaddr >= start and vaddr < "end"'
    )
    assert joined.n[0] == len(snap.pages)
    for name in DTYPES:
        assert snap.sql(f"select count(*) as n from {name}").n[0] == len(snap.table(name))


def test_dtypes_of_an_answer_do_not_depend_on_its_nulls(snap):
    some = snap.sql("select pfn, swap_type, present, file from pages")
    none = snap.sql("select pfn, swap_type, present, file from pages where false")
    assert dtypes(some) == dtypes(none)
    assert dtypes(some)["pfn"] == "Int64"


def test_arrow_consumers_take_the_pages(snap):
    table = pa.table(snap)
    assert table.equals(snap.arrow("pages"))
    reader = pa.RecordBatchReader.from_stream(snap)
    assert reader.schema.names == table.schema.names
    assert pd.DataFrame.from_arrow(snap).shape == snap.pages.shape


def test_the_name_of_a_snapshot(snap):
    assert repr(snap).startswith("<Snapshot of box at 2")
    assert "1 processes, 1 vmas" in repr(snap)
    assert repr(Snapshot({}, {})) == "<Snapshot of ? at ?: 0 processes, 0 vmas, 0 pages>"


def test_the_name_costs_the_same_however_many_pages_there_are():
    large = Snapshot({"pages": pa.concat_tables([snapshot().arrow("pages")] * 3000)}, {})
    began = time.perf_counter()
    assert len(repr(large)) < 200
    assert time.perf_counter() - began < 0.01


# -- read_pagemap -----------------------------------------------------------------------


@pytest.fixture
def inputs(tmp_path, snap):
    """The same page map as every kind of thing that `read_pagemap` takes."""
    words = made.a_capture("E7", 300)
    (tmp_path / "dump").write_bytes(words.tobytes())
    snap.to_parquet(tmp_path / "parquet")
    snap.write_procfs(tmp_path / "tree")
    subprocess.run(["tar", "-S", "-cf", tmp_path / "t.tar", "-C", tmp_path, "tree"], check=True)
    subprocess.run(["tar", "-Sz", "-cf", tmp_path / "t.tgz", "-C", tmp_path, "tree"], check=True)
    return {
        "dump": (tmp_path / "dump", {"start": START, "era": "E7"}),
        "source": (RawDump(words.tobytes(), start=START, era="E7"), {}),
        "snapshot": (tmp_path / "parquet", {}),
        "tree": (tmp_path / "tree", {}),
        "tar": (tmp_path / "t.tar", {}),
        "tgz": (tmp_path / "t.tgz", {}),
    }


@pytest.mark.parametrize("kind", ["dump", "source", "snapshot", "tree", "tar", "tgz"])
def test_read_pagemap_of_every_kind_of_input(inputs, snap, kind):
    what, options = inputs[kind]
    expected = snap.pages.drop(columns="pid").set_index("vaddr")
    for given in (what, str(what)) if kind != "source" else (what,):
        df = read_pagemap(given, **options)
        pd.testing.assert_frame_equal(df, expected)
    df = read_pagemap(what, pid=1, dtype_backend="pyarrow", **options)
    assert isinstance(df.pfn.dtype, pd.ArrowDtype)


@pytest.mark.kernel
def test_read_pagemap_of_a_living_process():
    df = read_pagemap(os.getpid())
    assert df.index.name == "vaddr"
    assert df.index.is_unique
    assert df.index.is_monotonic_increasing
    assert "pid" not in df


def test_a_process_must_be_named_where_there_are_several(tmp_path):
    parts = {pid: snapshot(20) for pid in (3, 5)}
    tables = {}
    for name in ("pages", "vmas", "processes"):
        both = []
        for pid, snap in parts.items():
            table = snap.arrow(name)
            column = pa.array([pid] * len(table), pa.int32())
            both.append(table.set_column(0, schema.TABLES[name]["pid"].field, column))
        tables[name] = pa.concat_tables(both)
    Snapshot(tables, parts[3].facts).to_parquet(tmp_path)
    with pytest.raises(NotAvailable, match=r"pid= is needed: there are 2 processes"):
        read_pagemap(tmp_path)
    with pytest.raises(NotAvailable, match="no process 4 in there"):
        read_pagemap(tmp_path, pid=4)
    assert len(read_pagemap(tmp_path, pid=5)) == len(parts[5].pages)


def test_a_directory_that_is_nothing_of_ours(tmp_path):
    with pytest.raises(FormatError, match=str(tmp_path)):
        read_pagemap(tmp_path)
    with pytest.raises(NotAvailable, match="nowhere"):
        read_snapshot(tmp_path / "nowhere")


# -- the package ------------------------------------------------------------------------

HEAVY = ("duckdb", "matplotlib", "tqdm", "click", "jupyterlab", "anywidget", "IPython")


def test_importing_the_package_imports_nothing_heavy():
    script = f"import sys, pagemap_df; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_importing_the_package_reads_nothing_of_proc():
    script = (
        "import sys\n"
        "seen = []\n"
        "sys.addaudithook(lambda e, a: e == 'open' and str(a[0]).startswith('/proc')"
        " and seen.append(a[0]))\n"
        "import pandas, pyarrow\n"
        "seen.clear()\n"
        "import pagemap_df\n"
        "print(seen)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_every_public_name_is_there_and_documented():
    assert len(set(pagemap_df.__all__)) == len(pagemap_df.__all__)
    for name in pagemap_df.__all__:
        assert getattr(pagemap_df, name).__doc__, name
    assert set(pagemap_df.__all__) <= set(dir(pagemap_df))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pagemap_df.nothing
