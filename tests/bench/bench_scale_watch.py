"""Recording: what it costs when nothing changes, what it stores when something does."""

import shutil
import tempfile
from pathlib import Path

import pyarrow.fs

import pagemap_df as pm
from pagemap_df import extents, schema
from pagemap_df import watching as watch
from pagemap_df.snapshot import Snapshot
from pagemap_df.watching import recording
from tests import living
from tests.bench.harness import Report, seconds

PAGES = (2 << 30) // living.PAGE
SECONDS = 30
CHANGES = 20
LOCAL = pyarrow.fs.LocalFileSystem()


def run(report: Report) -> None:
    """All of it."""
    with living.spawn() as child, tempfile.TemporaryDirectory() as root:
        heap = child.mmap_alone(PAGES)
        child.madvise(heap, living.NOHUGEPAGE)
        child.write(heap)
        unchanged(report, child, Path(root))
        folding(report, child)
        changing(report, child, heap, Path(root), "one region of 1 %", scattered=False)
        changing(report, child, heap, Path(root), "every 100th page", scattered=True)


def unchanged(report: Report, child: living.Child, root: Path) -> None:
    """A process of 2 GiB that does nothing, once a second."""
    done = watch.record(root / "still", pids=child.pid, every=1.0, for_=SECONDS)
    share = 100 * done.cpu_seconds / SECONDS
    report.value("recording 2 GiB unchanged, one core", share, 5.0, "%")
    locked = 100 * done.locked_seconds / SECONDS
    report.value("  of it inside reads of the page table", locked, 5.0, "%")


def folding(report: Report, child: living.Child) -> None:
    """Extents of 2 GiB against taking its pages."""
    pages = pm.take(pids=child.pid).arrow("pages")
    report.ratio(
        "extents of 2 GiB / take of it",
        lambda: extents.of_pages(pages, living.PAGE),
        lambda: pm.take(pids=child.pid),
        2.0,
    )
    folded = extents.of_pages(pages, living.PAGE)
    report.value("pages of 2 GiB back from extents", seconds(lambda: _unfold(folded)), 0.5, " s")


def _unfold(folded: object) -> object:
    return extents.to_pages(folded, living.PAGE)


def changing(
    report: Report,
    child: living.Child,
    heap: living.Region,
    root: Path,
    how: str,
    *,
    scattered: bool,
) -> None:
    """One page in a hundred gets another frame between two snapshots."""
    whole = 0
    taken: list[tuple[Path, Snapshot]] = []
    few = heap.pages // 100

    def change(place: Path, snap: Snapshot) -> None:
        nonlocal whole
        whole += _stored(snap, root / "whole")
        taken.append((place, snap))
        n = len(taken)
        chosen = range(n % 100, heap.pages, 100) if scattered else range(n * few, (n + 1) * few)
        if scattered:
            for page in chosen:
                child.madvise(heap[page : page + 1], living.DONTNEED)
        else:
            child.madvise(heap[chosen.start : chosen.stop], living.DONTNEED)
        child.write(heap, order=chosen)

    clock = watch.Stepping(lambda: None)
    done = watch.record(root / how, pids=child.pid, for_=CHANGES, then=change, clock=clock)
    report.value(f"key frame and deltas / full snapshots, {how}", done.bytes / whole, 0.1)
    place, snap = taken[-1]
    found = recording.read(place, LOCAL)
    wrong = sum(not found.arrow(n).equals(snap.arrow(n)) for n in schema.TABLES)
    report.value("  tables that read back otherwise", wrong, 0)


def _stored(snap: Snapshot, root: Path) -> int:
    """Bytes of `snap` stored as a snapshot of its own, at the level the recording uses."""
    snap.to_parquet(root, compression_level=1)
    size = sum(path.stat().st_size for path in root.rglob("*.parquet"))
    shutil.rmtree(root)
    return size
