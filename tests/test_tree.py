"""Trees shaped like /proc: recorded or written, they read as what they were made of."""

import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemap_df import Procfs, RawDump, Snapshot, Source, columns, record, take, tree
from pagemap_df.entries import Meaning, layout
from pagemap_df.errors import FormatError, NotAvailable, ProcessGone
from tests import living
from tests import words as made

START = 0x7F12_3456_7000
JOINS = ["mapcount", "flags", "cgroup"]


def same(left, right, but=()):
    """Equal tables, chunked or not, up to columns in `but`."""
    for name in ("pages", "vmas", "processes", "frames", "swaps"):
        ours, theirs = left.arrow(name), right.arrow(name)
        assert ours.schema.names == theirs.schema.names
        for column in set(ours.schema.names) - set(but):
            assert ours[column].to_pylist() == theirs[column].to_pylist(), f"{name}.{column}"


# -- a living family --------------------------------------------------------------------


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A parent and a child with memory of many kinds, stopped; where it was recorded to."""
    with living.swap_area(), living.thp(), living.spawn() as parent:
        names = ("anon", "zero", "swapped", "guard")
        zoo = {name: parent.mmap_alone(40) for name in names}
        zoo["huge"] = parent.mmap_alone(512, align=512)
        zoo["sparse"] = parent.mmap_alone(1 << 26, flags=living.NORESERVE)
        parent.madvise(zoo["sparse"], living.NOHUGEPAGE)
        parent.write(zoo["sparse"], range(0, 1 << 26, 1 << 22))
        odd = tmp_path_factory.mktemp("odd") / os.fsdecode(b"\xff a\n(deleted)")
        fd = parent.open(living.file_of(odd, 16))
        zoo["file"] = parent.mmap_alone(16, fd=fd)
        parent.write(zoo["anon"][:30])
        parent.read(zoo["zero"][:20])
        parent.write(zoo["swapped"])
        parent.read(zoo["file"])
        parent.write(zoo["file"][:3])
        parent.madvise(zoo["huge"], living.HUGEPAGE)
        parent.write(zoo["huge"][:1])
        if living.is_supported(parent, living.GUARD_INSTALL):
            parent.madvise(zoo["guard"][:9], living.GUARD_INSTALL)
        living.page_out(parent, zoo["swapped"])
        child = parent.fork()
        child.write(zoo["anon"][:5])
        parent.stop()
        child.stop()
        os.sync()
        root = tmp_path_factory.mktemp("tree") / "tree"
        pids = [parent.pid, child.pid]
        with Procfs() as source:
            assert record(source, root, pids) == []
        snap = take(pids=pids, join=JOINS)
        yield pids, root, snap, zoo


@pytest.mark.kernel
def test_a_recorded_family_reads_as_the_living_one(family):
    """But for map counts of files that all the machine maps, which never rest."""
    pids, root, snap, _ = family
    again = take(root, join=JOINS)
    assert again.processes.pid.tolist() == pids
    same(snap, again, but=("mapcount", "flags", "swap_type_", "mm", "evidence", "used", "cgroup"))
    anonymous = snap.vmas.path[snap.pages.vma].eq("").to_numpy()
    for column in JOINS:
        left, right = snap.pages[column][anonymous], again.pages[column][anonymous]
        if column == "flags":
            left, right = left & ~(1 << 2 | 1 << 6), right & ~(1 << 2 | 1 << 6)  # aging
        assert left.equals(right), column
    assert snap.pages.kind.value_counts()[["present", "zero", "swap"]].min() >= 20


@pytest.mark.kernel
def test_the_texts_of_a_recorded_family_are_the_kernels(family):
    pids, root, _, _ = family
    for pid in pids:
        for name in ("maps", "cmdline", "comm", "cgroup"):
            with open(f"/proc/{pid}/{name}", "rb") as file:
                assert (root / str(pid) / name).read_bytes() == file.read(), name


@pytest.mark.kernel
def test_the_words_of_a_recorded_family_are_the_kernels(family):
    pids, root, _, zoo = family
    for pid in pids:
        with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
            for region in (zoo["anon"], zoo["swapped"], zoo["guard"], zoo["sparse"][: 1 << 10]):
                at = region.start // living.PAGE * 8
                live = os.pread(file.fileno(), 8 * region.pages, at)
                with (root / str(pid) / "pagemap").open("rb") as copy:
                    copy.seek(at)
                    assert copy.read(len(live)).ljust(len(live), b"\0") == live


@pytest.mark.kernel
def test_a_tree_is_sparse(family):
    pids, root, _, _ = family
    for pid in pids:
        stat = (root / str(pid) / "pagemap").stat()
        assert stat.st_blocks * 512 < 4 << 20 < stat.st_size


@pytest.mark.kernel
@pytest.mark.parametrize("how", [("-cf",), ("-czf",)])
def test_a_tar_of_a_recorded_family_is_small_and_reads_alike(family, tmp_path, how):
    _, root, _, _ = family
    tar = tmp_path / "tree.tar"
    subprocess.run(["tar", "-S", *how, tar, "-C", root.parent, root.name], check=True)
    assert tar.stat().st_size < 64 << 20  # frames far apart each cost a block, of terabytes
    same(take(root, join=JOINS), take(tar, join=JOINS))


@pytest.mark.kernel
def test_a_family_written_from_its_tables_reads_as_these_tables(family, tmp_path):
    _, _, snap, _ = family
    snap.write_procfs(tmp_path / "tree")
    again = take(tmp_path / "tree", join=JOINS)
    same(snap, again, but=("mm", "evidence"))
    assert set(again.swaps.evidence) <= {"recorded by the source", *snap.swaps.evidence}


@pytest.mark.kernel
def test_a_recorded_tree_can_be_recorded_again(family, tmp_path):
    _, root, _, _ = family
    with Procfs(root) as source:
        assert record(source, tmp_path / "again") == []
    same(take(root, join=JOINS), take(tmp_path / "again", join=JOINS))


@pytest.mark.kernel
def test_hidden_frames_stay_hidden():
    living.need_root()
    script = (
        "import ctypes, os, sys\nfrom pagemap_df import Procfs, record\n"
        "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "PR_SET_DUMPABLE = 4; ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)\n"
        "with Procfs() as source: print(record(source, sys.argv[1], [os.getpid()]))\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        root = os.path.join(folder, "tree")
        subprocess.run([sys.executable, "-c", script, root], check=True)
        snap = take(root, join=["mapcount"])
    assert snap.facts["pfns"] == "hidden"
    assert snap.pages.pfn.isna().all()
    assert snap.pages.mapcount.isna().all()
    assert "hidden" in snap.facts["unknown"]["mapcount"]
    assert len(snap.pages) > 100


# -- without a kernel -------------------------------------------------------------------


def dumped(era, count=600, page_size=4096, **facts):
    words = made.a_capture(era, count, page_size.bit_length() - 1)
    return RawDump(words.tobytes(), start=START & -page_size, era=era, page_size=page_size, **facts)


@pytest.mark.parametrize("era", made.ERAS)
@pytest.mark.parametrize("page_size", [4096, 65536])
def test_tables_of_every_era_come_back(tmp_path, era, page_size):
    for i, source in enumerate((dumped(era, 600, page_size), dumped(era, 9, page_size))):
        snap = take(source)
        snap.write_procfs(tmp_path / str(i))
        same(snap, take(tmp_path / str(i)))
        record(source, tmp_path / f"recorded {i}")
        same(snap, take(tmp_path / f"recorded {i}"))


@pytest.mark.parametrize("era", made.ERAS)
def test_a_large_mapping_with_little_in_it_comes_back(tmp_path, era):
    """Larger than what is read without asking for populated ranges."""
    words = np.full(20_000, layout(era).absent, np.uint64)
    words[5000:5003] = [w for w in made.a_capture(era).tolist() if made.naive(w, era).present][:3]
    source = RawDump(words.tobytes(), start=START, era=era)
    for options in ({}, {"holes": True}):
        snap = take(source, **options)
        assert len(snap.pages) == (20_000 if options else 3)
        root = tmp_path / f"tree{len(options)}"
        snap.write_procfs(root)
        same(snap, take(root, **options))
        same(take(source), take(root))


@pytest.mark.parametrize("order", ["little", "big"])
def test_the_byte_order_of_a_tree_is_the_one_its_facts_name(tmp_path, order):
    words = made.a_capture("E7", 600)
    raw = words.astype(np.dtype(np.uint64).newbyteorder(order)).tobytes()
    source = RawDump(raw, start=START, era="E7", byte_order=order)
    snap = take(source)
    record(source, tmp_path / "recorded")
    snap.write_procfs(tmp_path / "written")
    for name in ("recorded", "written"):
        facts = json.loads((tmp_path / name / "pagemap_df.json").read_text())
        assert facts["byte_order"] == order
        path = tmp_path / name / "1" / "pagemap"
        with path.open("rb") as file:
            file.seek(START // 4096 * 8)
            first = int.from_bytes(file.read(8), order)
        assert first == int(words[0])
        same(snap, take(tmp_path / name))


SPECIALS = {25: "hwpoison", 26: "migration", 29: "device", 30: "unknown_special", 31: "marker"}


@settings(max_examples=150)
@given(st.data(), st.sampled_from(made.ERAS), st.booleans(), st.booleans())
def test_words_of_rows_are_the_words_they_were_decoded_from(data, era, holes, raw):
    """Up to what the columns do not hold: what a special entry names, unused marker bits."""
    words = data.draw(made.captures(era, max_size=30))
    reading = columns.Reading(layout(era), Meaning(SPECIALS), holes=holes, raw=raw)
    ranges = columns.Ranges.one(START, len(words))
    pages = pa.Table.from_batches([columns.block(words, ranges, 1, reading)])
    kept = [w for w in words.tolist() if holes or not is_absent(w, era)]
    back = tree.words_of(pages, reading).tolist()
    assert len(back) == len(kept)
    for word, ours in zip(kept, back, strict=True):
        slow, found = made.naive(word, era), made.naive(ours, era)
        special = slow.entry and slow.frame % 32 in SPECIALS
        marker = slow.flags["uffd_wp"] and not slow.present and not slow.entry
        if raw or not (special or marker):
            assert ours == word
        elif special:
            assert (found.entry, found.flags) == (slow.entry, slow.flags)
    ranges = columns.Ranges.one(START, len(back))
    everything = columns.Reading(layout(era), Meaning(SPECIALS), holes=True)
    again = columns.block(np.array(back, np.uint64), ranges, 1, everything)
    assert again["kind"].to_pylist() == pages["kind"].to_pylist()


def is_absent(word, era):
    slow = made.naive(word, era)
    return not (slow.present or slow.entry or slow.flags["uffd_wp"])


def test_names_of_processes_come_back(tmp_path):
    rows = {
        "pid": [3, 5, 9],
        "ppid": [1, 3, None],
        "name": ["a) b\n", "\\xff", None],
        "cmdline": ["/bin/x  two  blanks ", "", None],
        "uid": [0, 65534, None],
        "start_time": [7, 8, None],
        "cgroup": ["/a b", "/", None],
        "state": ["S", "R", None],
        "mm": [3, 5, 9],
    }
    snap = Snapshot({"processes": pa.table(rows)}, {"era": "E7", "page_size": 4096})
    snap.write_procfs(tmp_path / "tree")
    again = take(tmp_path / "tree")
    for name in set(rows) - {"mm"}:
        assert again.arrow("processes")[name].to_pylist() == rows[name], name


# -- what goes wrong --------------------------------------------------------------------


def test_nothing_is_written_into_a_directory_with_something_in_it(tmp_path):
    (tmp_path / "precious").write_text("x")
    snap = take(dumped("E7"))
    for make in (snap.write_procfs, lambda to: record(dumped("E7"), to)):
        with pytest.raises(FormatError, match="empty or new directory"):
            make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


class Leaving(Source):
    """A dump that pretends to be three processes, of which one leaves when it is read."""

    def __init__(self, gone_at):
        self._one, self.gone_at, self.asked = dumped("E7"), gone_at, 0

    def facts(self):
        return self._one.facts()

    def pids(self):
        return [1, 2, 3]

    def text(self, path):
        return self._one.text(self._checked(path))

    def words(self, path, first, count):
        return self._one.words(self._checked(path), first, count)

    def _checked(self, path):
        pid, _, rest = path.partition("/")
        if not pid.isdigit():
            raise NotAvailable(path)
        self.asked += pid == "2"
        if pid == "2" and self.asked > self.gone_at:
            raise ProcessGone("2 left")
        return f"1/{rest}"


@pytest.mark.parametrize("gone_at", range(12))
def test_a_process_that_leaves_meanwhile_is_not_in_the_tree(tmp_path, gone_at):
    skipped = record(Leaving(gone_at), tmp_path / "tree")
    with Procfs(tmp_path / "tree") as source:
        pids = source.pids()
    assert pids in ([1, 3], [1, 2, 3])
    assert [s["pid"] for s in skipped] == ([2] if pids == [1, 3] else [])
    assert len(take(tmp_path / "tree").processes) == len(pids)
