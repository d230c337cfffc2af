"""The map: first paint whatever the size, zoom steps, hovering."""

import numpy as np
import pyarrow as pa

from pagemap_df import schema
from pagemap_df.entries import KINDS
from pagemap_df.snapshot import Snapshot
from pagemap_df.widget.folded import Folded
from pagemap_df.widget.scene import Scene
from tests.bench.harness import Report

PAGE = 4096
COLUMNS, ROWS = 150, 64


def run(report: Report) -> None:
    """All of it."""
    small = machine(1_000_000, 1)
    large = machine(1_000_000, 100)
    pages = Snapshot({name: small.arrow(name) for name in schema.TABLES}, small.facts)
    for color in ("state", "sharers", "vma", "swap"):
        report.ratio(
            f"first paint by {color}, 100 M pages as extents / 1 M pages",
            lambda color=color: paint(large, color),
            lambda color=color: paint(pages, color),
            2.0,
        )
    zooming(report, Scene(large), Scene(pages))
    report.value("bytes sent for a screen of cells, a cell", sent(Scene(large)), 3.0)


def machine(runs: int, each: int) -> Folded:
    """One process of `runs` extents with `each` pages, some in swap, gaps between some."""
    rng = np.random.default_rng(1)
    n = np.full(runs, each, np.int64)
    gap = (rng.random(runs) < 0.05) * rng.integers(1, 1000, runs)
    start = (np.cumsum(n + gap) - n + (1 << 30)) * PAGE
    place = np.cumsum(n) - n + 1000
    swapped = rng.random(runs) < 0.1
    kind = np.where(swapped, KINDS.index("swap"), KINDS.index("present")).astype(np.int8)
    columns = {
        "pid": np.full(runs, 7, np.int32),
        "start": start,
        "n_pages": n,
        "kind": pa.DictionaryArray.from_arrays(pa.array(kind), pa.array(KINDS)),
        "pfn": pa.array(place, mask=swapped),
        "swap_type": pa.array(np.zeros(runs, np.uint8), mask=~swapped),
        "swap_offset": pa.array(place, mask=~swapped),
        "file": rng.random(runs) < 0.3,
        "exclusive": rng.random(runs) < 0.5,
        **{name: pa.nulls(runs, pa.bool_()) for name in ("soft_dirty", "uffd_wp", "guard")},
        "vma": np.zeros(runs, np.int32),
        "mapcount": rng.integers(1, 5, runs).astype(np.int32),
    }
    vma = {"pid": 7, "start": int(start[0]), "end": int(start[-1] + each * PAGE)}
    vma |= {"perms": "rw-p", "offset": 0, "device": "00:00", "inode": 0, "path": "[heap]"}
    vma |= {"kind": "heap", "changed": False}
    process = {"pid": 7, "ppid": 1, "name": "big", "cmdline": "big", "uid": 0, "start_time": 1}
    process |= {"cgroup": "/", "state": "S", "mm": 7}
    tables = {
        "vmas": schema.conform(pa.Table.from_pylist([vma]), "vmas"),
        "processes": schema.conform(pa.Table.from_pylist([process]), "processes"),
    }
    return Folded(schema.conform(pa.table(columns), "extents"), tables, {"page_size": PAGE})


def paint(snap: Folded | Snapshot, color: str) -> object:
    """From a snapshot to the first message."""
    scene = Scene(snap, color=color)
    return scene.cells(0, scene.fitting(COLUMNS * ROWS), COLUMNS, ROWS)


def zooming(report: Report, large: Scene, pages: Scene) -> None:
    """A step in is one pass over what is visible, so deep down the size does not matter."""

    def step(scene: Scene, share: int) -> object:
        per = max(scene.fitting(COLUMNS * ROWS) // share, 1)
        return scene.cells(scene.line.length // 3, per, COLUMNS, ROWS)

    def bare(scene: Scene) -> object:
        return np.bincount(scene.runs.code, scene.runs.n)

    for scene in (large, pages):
        step(scene, 1)
    report.ratio(
        "a screen of everything / one bincount of all runs",
        lambda: step(large, 1),
        lambda: bare(large),
        6.0,
    )
    report.ratio(
        "zoomed in 256 times, 100 M pages / 1 M pages",
        lambda: step(large, 256),
        lambda: step(pages, 256),
        2.0,
    )
    report.ratio(
        "zoomed in 256 times / a screen of everything",
        lambda: step(large, 256),
        lambda: step(large, 1),
        0.5,
    )


def sent(scene: Scene) -> float:
    """Bytes of the message for a cell on the screen."""
    answer = scene.cells(0, scene.fitting(COLUMNS * ROWS), COLUMNS, ROWS)
    return len(answer.data) / (COLUMNS * ROWS)
