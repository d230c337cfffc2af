"""Figures equal to the kernel's own, VMA by VMA, for every kind of memory."""

from pathlib import Path

import pytest

import pagemap_df
from pagemap_df import changes, sharing
from pagemap_df.take import take
from tests import living, zoo

pytestmark = pytest.mark.kernel

FIELDS = {
    "rss": ["Rss"],
    "pss": ["Pss"],
    "uss": ["Private_Clean", "Private_Dirty"],
    "shared": ["Shared_Clean", "Shared_Dirty"],
    "anon": ["Anonymous"],
    "ksm": ["KSM"],
    "lazyfree": ["LazyFree"],
    "anonhugepages": ["AnonHugePages"],
    "shmempmdmapped": ["ShmemPmdMapped"],
    "filepmdmapped": ["FilePmdMapped"],
    "shared_hugetlb": ["Shared_Hugetlb"],
    "private_hugetlb": ["Private_Hugetlb"],
    "locked": ["Locked"],
    "swap": ["Swap"],
}
TRIES = 5


@pytest.fixture(autouse=True)
def _root():
    living.need_root()


def blocks(text):
    """smaps by a road of its own: (start, end) -> field -> kB."""
    out = {}
    for line in text.splitlines():
        word = line.split()[0]
        if not word.endswith(":"):
            start, end = (int(part, 16) for part in word.split("-"))
            here = {}
            if not line.endswith("[vsyscall]"):  # no part of the address space
                out[start, end] = here
        elif line.endswith(" kB"):
            here[word[:-1]] = int(line.split()[1])
    return out


def smaps(pid, name="smaps"):
    return blocks(Path(f"/proc/{pid}/{name}").read_text(errors="replace"))


def differences(pid, vmas, kernel):
    """What differs, as (start, figure) -> (ours, theirs) in kB."""
    mine = vmas[vmas.pid == pid]
    assert [(row.start, row.end) for row in mine.itertuples()] == list(kernel)
    out = {}
    for row in mine.to_dict("records"):
        theirs = kernel[row["start"], row["end"]]
        for figure, fields in FIELDS.items():
            expected = sum(theirs[field] for field in fields)
            if figure == "swap" and row["kind"] == "shmem":
                continue  # smaps adds swapped shared memory, which leaves no entry
            if row[figure] is None or row[figure] // 1024 != expected:
                out[row["start"], figure] = (row[figure], expected, row["path"])
    return out


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    with zoo.opened(tmp_path_factory.mktemp("zoo")) as family:
        yield family


def snapshot(family):
    pids = [family.parent.pid, family.child.pid]
    return take(pids=pids, join=["mapcount", "flags", "huge"], smaps=True)


@pytest.fixture(scope="module")
def snap(family):
    return snapshot(family)


def test_every_vma_of_the_family_has_the_kernels_figures(family):
    """Files that the whole machine maps change while we look: every VMA must agree once."""
    open_ends = None
    for _ in range(TRIES):
        vmas = sharing.vmas(snapshot(family))
        found = {}
        for child in (family.parent, family.child):
            for where, what in differences(child.pid, vmas, smaps(child.pid)).items():
                found[child.pid, *where] = what
        open_ends = (
            found if open_ends is None else {k: v for k, v in open_ends.items() if k in found}
        )
        private = {k: v for k, v in found.items() if not v[2].startswith(("/usr", "/lib", "/root"))}
        assert private == {}
        if not open_ends:
            return
    assert open_ends == {}


def test_every_process_of_the_family_has_the_rollups_figures(family):
    for child in (family.parent, family.child):
        for _ in range(TRIES):
            before = smaps(child.pid, "smaps_rollup")
            row = sharing.processes(snapshot(family)).set_index("pid").loc[child.pid]
            ((_, kernel),) = smaps(child.pid, "smaps_rollup").items()
            if before == smaps(child.pid, "smaps_rollup"):
                break
        ours = {figure: int(row[figure]) // 1024 for figure in FIELDS if figure != "swap"}
        theirs = {f: sum(kernel[x] for x in FIELDS[f]) for f in ours}
        assert ours == theirs
        split = {
            name: int(row[f"pss_{name.lower()}"]) // 1024 for name in ("Anon", "File", "Shmem")
        }
        assert split == {name: kernel[f"Pss_{name}"] for name in split}


def test_the_quick_road_to_pss_ends_at_the_rollup_too(family):
    for child in (family.parent, family.child):
        for _ in range(TRIES):
            before = smaps(child.pid, "smaps_rollup")
            ours = sharing.pss(child.pid) // 1024
            ((_, kernel),) = smaps(child.pid, "smaps_rollup").items()
            if [kernel] == list(before.values()):
                break
        assert ours == kernel["Pss"]


def test_the_family_has_every_kind_of_memory(family):
    """Or else the tests above compare zeros."""
    if family.missing:
        pytest.skip(f"this machine has no {', '.join(sorted(family.missing))}")
    vmas = sharing.vmas(snapshot(family)).set_index("start")
    mine = vmas[vmas.pid == family.parent.pid]
    for figure in set(FIELDS) - {"shmempmdmapped", "filepmdmapped"} | {"zero", "guard", "file"}:
        assert mine[figure].sum() > 0, figure
    at = {name: region.start for name, region in family.regions.items()}
    assert mine.loc[at["lazy"], "lazyfree"] == 20 * 4096
    assert mine.loc[at["guard"], "guard"] == 4 * 4096
    assert mine.loc[at["cow"], "anon"] == 10 * 4096
    assert mine.loc[at["huge_hole"], "rss"] == (512 - 128) * 4096
    assert mine.loc[at["huge_hole"], "anonhugepages"] == 0
    assert mine.loc[at["untouched"], "rss"] == 0


def test_the_snapshots_own_smaps_columns_agree(snap):
    vmas, kernel = sharing.vmas(snap), snap.vmas
    for figure in ("rss", "ksm", "anonhugepages", "private_hugetlb", "locked"):
        theirs = kernel[f"smaps_{figure}"]
        anonymous = vmas.path == ""
        ours = vmas[figure] // 1024 * 1024
        assert (ours == theirs)[anonymous].all(), figure


def test_swap_pss_is_the_kernels_when_all_holders_are_there(family):
    snap = snapshot(family)
    assert sharing.vmas(snap).swappss.isna().any()
    vmas = sharing.vmas(snap, complete=True)
    for child in (family.parent, family.child):
        kernel = smaps(child.pid)
        mine = vmas[vmas.pid == child.pid]
        ours = {(row.start, row.end): row.swappss // 1024 for row in mine.itertuples()}
        assert ours == {where: fields["SwapPss"] for where, fields in kernel.items()}


def test_entries_counted_over_all_holders_are_the_kernels_map_counts(family):
    """The other road to PSS: no kpagecount, but every process that could map the page."""
    pids = [family.parent.pid, family.child.pid]
    without = sharing.vmas(take(pids=pids, join=["flags"]), complete=True)
    counted = sharing.vmas(take(pids=pids, join=["flags", "mapcount"]))
    anonymous = without.path == ""
    assert anonymous.sum() > 20
    assert (without.pss == counted.pss)[anonymous].all()
    assert "counted in the snapshot" in without.attrs["accuracy"]["pss"]


def test_without_map_counts_pss_is_unknown_where_a_page_is_not_exclusive(family):
    vmas = sharing.vmas(take(pids=[family.child.pid], join=["flags"])).set_index("start")
    assert vmas.pss.isna()[family.regions["cow"].start]
    assert vmas.rss[family.regions["cow"].start] > 0
    only_mine = family.regions["anon"]
    assert vmas.uss[only_mine.start] == 5 * 4096


def test_fork_and_exit_cost_what_was_foretold(tmp_path):
    with living.spawn() as parent:
        heap = parent.mmap(512)
        parent.write(heap)
        worker = parent.fork()
        worker.write(heap[:100])
        snap = take(pids=[worker.pid, parent.pid], join=["mapcount", "flags"])
        cost = sharing.cost(snap, worker.pid).iloc[0]
        private = int(sharing.processes(snap).set_index("pid").loc[worker.pid, "uss"])
        assert cost.frees + cost.leaves == private
        assert cost.frees >= 100 * 4096
        worker.kill()
        later = take(pids=[parent.pid], join=["mapcount", "flags"])
        gone = set(snap.pages[snap.pages.pid == worker.pid].pfn.dropna())
        assert gone - set(later.pages.pfn.dropna())


def test_lost_sharing_is_what_parent_and_child_wrote():
    living.need_root()
    with living.spawn() as parent:
        heap, quiet = parent.mmap_alone(256), parent.mmap_alone(64)
        parent.write(heap)
        parent.write(quiet)
        alone = take(pids=[parent.pid])
        child = parent.fork()
        both = take(pids=[parent.pid, child.pid])
        child.write(heap[:100])
        parent.write(heap[200:])
        child.madvise(heap[150:160], living.DONTNEED)
        later = take(pids=[parent.pid, child.pid])
        for before in (alone, both):
            table = sharing.lost(before, later, parent=parent.pid, child=child.pid)
            row = table.set_index("start").loc[heap.start]
            assert row[["by_child", "by_parent", "freed_by_child", "shared"]].tolist() == [
                100 * 4096,
                56 * 4096,
                10 * 4096,
                90 * 4096,
            ]
            assert row.lost == 156 * 4096
            assert table.set_index("start").loc[quiet.start, "shared"] == 64 * 4096
        now = sharing.lost(later, parent=parent.pid, child=child.pid).set_index("start")
        assert now.loc[heap.start, ["unshared", "shared"]].tolist() == [156 * 4096, 90 * 4096]


@pytest.mark.parametrize("pages", [0, 20_000])
def test_a_fork_adds_the_page_tables_it_was_said_to(pages):
    """VmPTE counts all tables but the topmost; the child soon makes a few of its own."""
    with living.spawn() as parent:
        if pages:
            parent.write(parent.mmap_alone(pages))
        foretold = sharing.cost(take(pids=parent.pid, join=["mapcount", "flags"]), parent.pid)
        child = parent.fork()
        status = Path(f"/proc/{child.pid}/status").read_text().splitlines()
        (line,) = [line for line in status if line.startswith("VmPTE:")]
        made = int(line.split()[1]) * 1024 + 4096
        assert 0 <= made - foretold.fork_adds[0] <= 8 * 4096


def test_two_processes_in_one_address_space_are_counted_once():
    with living.spawn() as child:
        child.write(child.mmap(64))
        twin = child.share_memory()
        snap = take(pids=[child.pid, twin.pid], join=["mapcount", "flags"])
        processes = sharing.processes(snap)
        assert processes.mm.tolist() == [min(child.pid, twin.pid)] * 2
        assert processes.rss.nunique() == 1
        group = sharing.groups(snap).iloc[0]
        assert group.processes == 2
        assert group.inside == 0
        assert group.mapped == group.union == processes.rss[0]
        assert sharing.sets(snap).n_pids.max() == 1
        assert sharing.cost(snap, twin.pid).frees[0] == 0


def test_a_recorded_snapshot_and_a_tree_give_the_same_answers(family, tmp_path):
    live = snapshot(family)
    live.to_parquet(tmp_path / "parquet")
    live.write_procfs(tmp_path / "tree")
    recorded = pagemap_df.read_snapshot(tmp_path / "parquet")
    tree = take(source=tmp_path / "tree", join=["mapcount", "flags"])
    whole = sharing.processes(live)
    assert sharing.processes(recorded).equals(whole)
    figures = ["pid", "vss", "rss", "pss", "uss", "anon", "ksm", "swap", "zero", "guard"]
    assert sharing.processes(tree)[figures].equals(whole[figures])
    for other in (recorded, tree):
        assert sharing.sets(other).equals(sharing.sets(live))
        assert len(changes.pages(live, other)) == 0
    pss = sharing.pss(family.child.pid, tmp_path / "tree")
    assert pss == whole.set_index("pid").pss[family.child.pid]
