"""Pictures of ten million pages, against reading those pages' Parquet."""

import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pagemap_df import plot, read_snapshot
from pagemap_df.plot.given import tables_of
from pagemap_df.schema import TABLES
from pagemap_df.snapshot import Snapshot
from tests.bench.harness import Report

PAGE = 4096
ROWS = int(os.environ.get("ROWS", "10000000"))
PROCESSES = 10
AT_MOST = 3.0


def run(report: Report) -> None:
    """Every picture, from a snapshot nobody has looked at yet to the bytes of a PNG."""
    plot.plot_rss(frame(100), ax=plot.blank()).figure.savefig(io.BytesIO())  # loads matplotlib
    with tempfile.TemporaryDirectory() as folder:
        tables_of(frame(ROWS)).to_parquet(Path(folder))  # type: ignore[attr-defined]
        snap = read_snapshot(folder)
        tables = {name: snap.arrow(name) for name in TABLES}
        for name, picture in PICTURES.items():
            report.ratio(
                f"{name} of {ROWS // 10**6} M pages / reading their Parquet",
                lambda picture=picture: drawn(picture, Snapshot(tables, snap.facts)),
                lambda: read_snapshot(folder),
                AT_MOST,
                rounds=3,
                warm=True,
            )
        report.ratio(
            "transitions between two such / reading both",
            lambda: drawn(lambda s, ax: plot.plot_transitions(s, s, ax=ax), snap),
            lambda: (read_snapshot(folder), read_snapshot(folder)),
            AT_MOST,
            rounds=3,
            warm=True,
        )


PICTURES: dict[str, Callable[..., Any]] = {
    "address space": plot.plot_address_space,
    "physical memory by owner": plot.plot_physical,
    "physical memory by use": lambda s, ax: plot.plot_physical(s, by="use", ax=ax),
    "sharing matrix": plot.plot_sharing_matrix,
    "resident sizes": plot.plot_rss,
    "swap slots": plot.plot_swap,
    "contiguity": plot.plot_contiguity,
    "huge pages": plot.plot_huge,
}


def drawn(picture: Callable[..., Any], snap: Any) -> None:
    """Draw on axes of nobody else, and rasterise."""
    ax = plot.blank()
    picture(snap, ax=ax)
    ax.figure.savefig(io.BytesIO())


def frame(rows: int) -> pd.DataFrame:
    """Processes that share half of their frames, with a tenth of their pages in swap."""
    random = np.random.default_rng(1)
    each = rows // PROCESSES
    rows = each * PROCESSES
    swapped = random.random(rows) < 0.1
    shared = random.random(rows) < 0.5
    own, common = np.arange(rows), np.tile(np.arange(each), PROCESSES) + rows
    pfn = pd.array(np.where(shared, common, own), "Int64")
    pfn[swapped] = pd.NA
    slot = pd.array(np.arange(rows), "Int64")
    slot[~swapped] = pd.NA
    area = pd.array(np.zeros(rows, np.uint8), "UInt8")
    area[~swapped] = pd.NA
    count = pd.array(np.where(shared, PROCESSES // 2, 1).astype(np.int32), "Int32")
    count[swapped] = pd.NA
    flags = pd.array(np.full(rows, 1 << 12 | 1 << 14), "Int64")  # ANON, SWAPBACKED
    flags[swapped] = pd.NA
    kind = pd.Categorical.from_codes(swapped.astype(np.int8), ["present", "swap"])
    return pd.DataFrame(
        {
            "pid": np.repeat(np.arange(100, 100 + PROCESSES, dtype=np.int32), each),
            "vaddr": np.tile((1 << 40) + PAGE * np.arange(each), PROCESSES),
            "kind": kind,
            "pfn": pfn,
            "swap_type": area,
            "swap_offset": slot,
            "exclusive": ~shared & ~swapped,
            "file": False,
            "mapcount": count,
            "flags": flags,
        }
    )
