"""Snapshots as Parquet: equal when read again, small, whole or not there, and hard to fool."""

import json
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pagemap_df import RawDump, Snapshot, read_snapshot, schema, store, take
from pagemap_df.errors import NotAvailable, SnapshotError
from tests import living
from tests import words as made

NAMES = tuple(schema.TABLES)


def snapshot(count=2000, era="E7", **options):
    words = made.a_capture(era, count)
    source = RawDump(words.tobytes(), start=0x7F00_0000_0000, era=era, host="db/1 ü", boot_id="b")
    return take(source, **options)


@pytest.fixture
def stored(tmp_path):
    """A snapshot on disk: its root, and the directory with the files."""
    snapshot(600).to_parquet(tmp_path)
    (place,) = store.find(tmp_path)
    return tmp_path, place


def same(left, right):
    for name in NAMES:
        assert left.arrow(name).equals(right.arrow(name), check_metadata=True), name
    assert left.facts == right.facts


# -- there and back ---------------------------------------------------------------------


@pytest.mark.parametrize("era", made.ERAS)
@pytest.mark.parametrize("options", [{}, {"raw": True, "holes": True}], ids=["plain", "all"])
def test_what_is_read_is_what_was_written(tmp_path, era, options):
    snap = snapshot(500, era, **options)
    snap.to_parquet(tmp_path)
    same(read_snapshot(tmp_path), snap)


def test_an_empty_snapshot_comes_back(tmp_path):
    snap = Snapshot({}, {"page_size": 4096, "host": "h", "taken_at": "2026-01-02T03:04:05+00:00"})
    snap.to_parquet(tmp_path)
    same(read_snapshot(tmp_path), snap)


@pytest.mark.kernel
def test_a_live_snapshot_comes_back(tmp_path):
    with living.spawn() as child:
        child.write(child.mmap(100))
        snap = take(pids=child.pid, smaps=True, join=["huge"], raw=True)
        snap.to_parquet(tmp_path, compression_level=1)
        same(read_snapshot(tmp_path), snap)


def test_places(stored):
    root, place = stored
    host, when = place.relative_to(root).parts
    assert host == "host=db%2F1%20%C3%BC"
    assert store.host_of(place) == "db/1 ü"
    assert when.startswith("ts=2")
    assert when.endswith("Z")
    assert sorted(p.name for p in place.iterdir()) == sorted(f"{n}.parquet" for n in NAMES)
    assert read_snapshot(place).facts == read_snapshot(root).facts


def test_a_snapshot_is_never_written_over_another(tmp_path):
    snap = snapshot(20)
    snap.to_parquet(tmp_path)
    with pytest.raises(SnapshotError, match="no snapshot of this host and time yet"):
        snap.to_parquet(tmp_path)
    same(read_snapshot(tmp_path), snap)


def test_two_snapshots_below_one_root_must_be_told_apart(tmp_path):
    snapshot(20).to_parquet(tmp_path)
    snapshot(20).to_parquet(tmp_path)
    with pytest.raises(SnapshotError, match="2 of them"):
        read_snapshot(tmp_path)
    for place in store.find(tmp_path):
        assert len(read_snapshot(place).pages) > 5


def test_any_parquet_reader_takes_it_from_there(stored):
    import duckdb

    root, _ = stored
    query = f"select host, count(*) from read_parquet('{root}/*/*/pages.parquet', hive_partitioning=true) group by 1"
    with duckdb.connect() as connection:
        ((host, rows),) = connection.sql(query).fetchall()
    assert (host, rows) == ("db/1 ü", len(read_snapshot(root).pages))


# -- what the files are like ------------------------------------------------------------


def test_integers_are_delta_encoded_and_the_rest_is_dictionaries(stored):
    _, place = stored
    for name in NAMES:
        file = pq.ParquetFile(place / f"{name}.parquet")
        group = file.metadata.row_group(0)
        for i in range(group.num_columns):
            column, field = group.column(i), file.schema_arrow.field(i)
            assert column.compression == "ZSTD"
            delta = pa.types.is_integer(field.type) and field.name not in ("pid", "swap_type")
            if column.total_compressed_size:
                assert ("DELTA_BINARY_PACKED" in column.encodings) == delta, field.name
            if name == "pages" and field.name in ("pid", "kind", "swap_type"):
                assert column.has_dictionary_page, field.name


def test_the_footer_says_by_what_rows_are_sorted(stored):
    _, place = stored
    for name, spec in schema.TABLES.items():
        file = pq.ParquetFile(place / f"{name}.parquet")
        names = file.schema_arrow.names
        for i in range(file.num_row_groups):
            order = file.metadata.row_group(i).sorting_columns
            assert [names[c.column_index] for c in order] == list(spec.sorted_by)


def test_rows_are_sorted_as_the_footer_says(stored):
    _, place = stored
    for name, spec in schema.TABLES.items():
        table = pq.read_table(place / f"{name}.parquet", partitioning=None)
        keys = [(column, "ascending") for column in spec.sorted_by]
        assert table.equals(table.sort_by(keys)), name


def test_a_row_group_holds_about_a_million_rows(tmp_path, monkeypatch):
    assert 1 << 19 <= store.ROW_GROUP <= 1 << 21
    monkeypatch.setattr(store, "ROW_GROUP", 300)
    snap = snapshot(1000, holes=True)
    snap.to_parquet(tmp_path)
    (place,) = store.find(tmp_path)
    file = pq.ParquetFile(place / "pages.parquet")
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert sizes == [300, 300, 300, 100]
    same(read_snapshot(tmp_path), snap)


def test_facts_and_sentences_are_in_every_file(stored):
    root, place = stored
    snap = read_snapshot(root)
    for name in NAMES:
        footer = pq.read_schema(place / f"{name}.parquet")
        facts = json.loads(footer.metadata[schema.METADATA_KEY])
        assert facts == {"schema_version": schema.VERSION, **snap.facts}
        assert all(field.metadata[b"doc"] for field in footer)


@pytest.mark.kernel
@pytest.mark.parametrize(("huge", "bound"), [(False, 1.0), (True, 0.1)])
def test_bytes_per_page(tmp_path, huge, bound):
    """A heap of half a gibibyte that was touched in order, in pages of 4 KiB and in huge ones."""
    with living.thp() if huge else nullcontext(), living.spawn() as child:
        heap = child.mmap_alone(1 << 17, align=512)
        child.madvise(heap, living.HUGEPAGE if huge else living.NOHUGEPAGE)
        child.write(heap)
        snap = take(pids=child.pid)
    if len(snap.pages) < heap.pages or (huge and snap.facts["pfns"] == "hidden"):
        pytest.skip("the heap was not populated, or frames are hidden")
    rows = snap.arrow("pages")
    vaddr = rows["vaddr"].to_numpy()
    inside = rows.filter(pa.array((heap.start <= vaddr) & (vaddr < heap.end)))
    breaks = np.mean(np.abs(np.diff(inside["pfn"].to_numpy())) != 1)
    if breaks > (1 / 512 if huge else 0.2):
        pytest.skip(f"memory is fragmented: {breaks:.0%} of neighbours have frames far apart")
    Snapshot({"pages": inside}, snap.facts).to_parquet(tmp_path)
    assert bytes_per_page(tmp_path) <= bound


def bytes_per_page(root):
    """Of the pages themselves: the footer is the same for one page and for a million."""
    (place,) = store.find(root)
    raw = (place / "pages.parquet").read_bytes()
    footer = 8 + int.from_bytes(raw[-8:-4], "little")
    return (len(raw) - footer) / pq.read_metadata(place / "pages.parquet").num_rows


@pytest.mark.parametrize(("run", "bound"), [(8, 1.0), (64, 0.5), (512, 0.1)])
def test_bytes_per_page_where_frames_come_in_runs(tmp_path, run, bound):
    """As the page allocator hands them out: runs up or down, from anywhere."""
    dice = np.random.default_rng(run)
    runs = (1 << 17) // run
    first = dice.integers(1, 6 << 20, runs)
    step = dice.choice([1] if run == 512 else [1, -1], runs)
    frames = (first[:, None] + step[:, None] * np.arange(run)).ravel() % (6 << 20) + 1
    words = frames.astype(np.uint64) | np.uint64(1 << 63 | 1 << 56)
    take(RawDump(words.tobytes(), start=0x7F00_0000_0000, era="E7")).to_parquet(tmp_path)
    assert bytes_per_page(tmp_path) <= bound


# -- interrupted ------------------------------------------------------------------------


@pytest.mark.parametrize("failing", range(len(NAMES)))
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, failing, error):
    written = []
    real = pq.write_table

    def write_table(table, path, **options):
        if len(written) == failing:
            Path(path).write_bytes(b"PAR1")
            raise error
        written.append(path)
        real(table, path, **options)

    monkeypatch.setattr(pq, "write_table", write_table)
    with pytest.raises(type(error)):
        snapshot(20).to_parquet(tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert store.find(tmp_path) == []


def test_a_writer_that_is_killed_leaves_nothing_that_reads_as_whole(tmp_path):
    """SIGKILL between the tables: no time to tidy up."""
    script = (
        "import sys, pyarrow.parquet as pq, numpy as np\n"
        "from pagemap_df import RawDump, take\n"
        "real, n = pq.write_table, [0]\n"
        "def write(table, path, **options):\n"
        "    real(table, path, **options)\n"
        "    n[0] += 1\n"
        "    if n[0] == int(sys.argv[2]):\n"
        "        print('now', flush=True); sys.stdin.read()\n"
        "pq.write_table = write\n"
        "words = np.full(100, 1 << 63 | 9, np.uint64).tobytes()\n"
        "take(RawDump(words, era='E7')).to_parquet(sys.argv[1])\n"
    )
    for tables in (1, len(NAMES)):
        writer = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), str(tables)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with writer:
            assert writer.stdout.readline() == b"now\n"
            writer.send_signal(signal.SIGKILL)
        assert list(tmp_path.rglob("*.parquet"))
        assert store.find(tmp_path) == []
        with pytest.raises(SnapshotError, match=str(tmp_path)):
            read_snapshot(tmp_path)
    snapshot(20).to_parquet(tmp_path)
    assert len(store.find(tmp_path)) == 1


# -- attacks ----------------------------------------------------------------------------


def refused(place, name):
    """Reading must fail with our error, and it must name the file."""
    with pytest.raises(SnapshotError) as caught:
        read_snapshot(place)
    assert f"{name}.parquet" in str(caught.value) or str(place) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["pages", "swaps"])
def test_a_file_cut_anywhere(stored, name):
    _, place = stored
    path = place / f"{name}.parquet"
    whole = path.read_bytes()
    for at in {0, 1, 3, 4, 8, *range(12, len(whole), max(len(whole) // 60, 1)), len(whole) - 1}:
        path.write_bytes(whole[:at])
        assert f"{name}.parquet" in refused(place, name)


@pytest.mark.parametrize("name", ["pages", "vmas"])
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_footer_with_a_flipped_byte_is_refused_or_says_the_same(stored, name, flip):
    _, place = stored
    path = place / f"{name}.parquet"
    whole, truth = path.read_bytes(), read_snapshot(place)
    length = int.from_bytes(whole[-8:-4], "little")
    broken = 0
    dice = np.random.default_rng(flip)
    for at in sorted({len(whole) - 1 - int(i) for i in dice.integers(0, length + 8, 100)}):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
        try:
            found = read_snapshot(place)
        except SnapshotError as error:
            assert f"{name}.parquet" in str(error) or str(place) in str(error)  # noqa: PT017
            broken += 1
        else:
            for table in NAMES:
                ours, theirs = found.arrow(table), truth.arrow(table)
                assert ours.to_pylist() == theirs.to_pylist(), f"byte {at}"
            assert found.facts == truth.facts
    assert broken > 10


def test_a_page_with_a_flipped_byte_is_refused_or_says_the_same(stored):
    """Checksums: a number is never silently another."""
    _, place = stored
    path = place / "pages.parquet"
    whole, truth = path.read_bytes(), read_snapshot(place).arrow("pages")
    body = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    refused_ = 0
    for at in range(4, body, max(body // 300, 1)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            found = read_snapshot(place).arrow("pages")
        except SnapshotError:
            refused_ += 1
        else:
            assert found.equals(truth), f"byte {at} of {body} changed the data"
    assert refused_ > 100


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file(stored, name):
    root, place = stored
    (place / f"{name}.parquet").unlink()
    refused(root if name == "pages" else place, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_no_parquet(stored, name):
    _, place = stored
    for content in (b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"pid,vaddr\n1,2\n"):
        (place / f"{name}.parquet").write_bytes(content)
        assert f"{name}.parquet" in refused(place, name)


def rewrite(path, metadata=None, table=None):
    table = pq.read_table(path, partitioning=None) if table is None else table
    pq.write_table(table.replace_schema_metadata(metadata), path)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_without_our_key(stored, name):
    _, place = stored
    rewrite(place / f"{name}.parquet")
    assert "the key 'pagemap_df'" in refused(place, name)


@pytest.mark.parametrize(
    "facts",
    [b"", b"{", b"[]", b"7", b"{}", b"\xff", b'{"schema_version": "new"}', b'{"schema_version": []}',
     b'{"schema_version": Infinity}', b'{"schema_version": NaN}', b'{"schema_version": null}'],
)  # fmt: skip
def test_a_file_whose_key_holds_nonsense(stored, facts):
    _, place = stored
    rewrite(place / "vmas.parquet", {schema.METADATA_KEY: facts})
    assert "schema_version" in refused(place, "vmas")


def test_a_file_of_the_future(stored):
    _, place = stored
    table = pq.read_table(place / "swaps.parquet", partitioning=None)
    facts = json.loads(table.schema.metadata[schema.METADATA_KEY])
    facts["schema_version"] = schema.VERSION + 1
    rewrite(place / "swaps.parquet", {schema.METADATA_KEY: json.dumps(facts).encode()})
    message = refused(place, "swaps")
    assert "upgrade" in message
    assert "swaps.parquet" in message


def test_files_of_two_snapshots(tmp_path):
    for name in ("one", "two"):
        snapshot(20).to_parquet(tmp_path / name)
    (one,), (two,) = store.find(tmp_path / "one"), store.find(tmp_path / "two")
    shutil.copy(two / "vmas.parquet", one / "vmas.parquet")
    assert "two put together" in refused(one, "vmas")


def test_a_table_that_lacks_a_column_or_has_another_type(stored):
    _, place = stored
    path = place / "pages.parquet"
    table = pq.read_table(path, partitioning=None)
    keep = table.schema.metadata
    rewrite(path, keep, table.drop_columns("kind"))
    assert "pages.kind is missing" in refused(place, "pages")
    text = pa.array(["x"] * len(table))
    at = table.schema.get_field_index("pfn")
    rewrite(path, keep, table.set_column(at, "pfn", text))
    assert "pages.pfn" in refused(place, "pages")
    nulls = pa.nulls(len(table), pa.int64())
    rewrite(path, keep, table.set_column(1, "vaddr", nulls))
    assert "vaddr holds null" in refused(place, "pages")


def test_a_directory_in_place_of_a_file(stored):
    _, place = stored
    (place / "vmas.parquet").unlink()
    (place / "vmas.parquet").mkdir()
    refused(place, "vmas")


def test_a_file_that_may_not_be_read(stored):
    _, place = stored
    (place / "vmas.parquet").unlink()
    (place / "vmas.parquet").symlink_to("/proc/self/mem")
    refused(place, "vmas")


def test_nothing_there(tmp_path):
    with pytest.raises(NotAvailable, match="no such directory"):
        read_snapshot(tmp_path / "none")
    with pytest.raises(SnapshotError, match="found 'none'"):
        read_snapshot(tmp_path)
