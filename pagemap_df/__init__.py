"""Linux page maps as pandas and Arrow tables.

The path of the data, in one line::

    Source ─► take() ─► Snapshot ─► sharing swapping changes layout ─► pictures, files, you

A `Source` hands over bytes and text of a running kernel, a copied ``/proc``, a bare dump or a
simulated machine; `take` makes five tables of them; everything behind that is a function
from tables to tables.

=============  ===========================================================================
errors         every error there is, as a tree
entries        64-bit pagemap words of all eras, taken apart and put together
eras           which era wrote these words; which swap types are special
pageflags      names of the bits of kpageflags, by kernel
proctext       maps and smaps, both ways
procstatus     stat, status, swaps, cgroup, cmdline, iomem, both ways
schema         what a table is: columns, types, units, what null means
columns, bits  words to Arrow columns, at the memory's speed; single bits of many words
runs           neighbours that are alike, and sets by sorting
source/        the seam: what a source must answer, and who answers it: the running kernel,
               trees, dumps, archives; the program that makes archives
take/          take(): one look at a machine, from planning reads to the rows of all tables
snapshot       the five tables and the facts
store, tree    snapshots as Parquet; as a directory shaped like ``/proc``
read           read_pagemap(), read_snapshot()
extents        pages folded into runs, and back without loss
watching/      watch(): snapshot after snapshot; recordings of what changed
dataset/       many snapshots of many hosts, read when asked
datasets       snapshots that come with the package
algebra/       what answers are made with: views, sets of holders, sizes, groups
sharing        how much is whose, who shares it with whom, and where that was lost
swapping       what sits where in swap
changes        what happened to pages between two snapshots
layout         huge pages, runs, use of frames, fragmentation
story          one page, in words
sim/           a simulated machine, which is a source too; sim.twin holds it against a kernel
plot/          pictures; ``palette`` has the colours, ``svg`` the bar in a repr
widget/        the zoomable map in a notebook
accessor       ``df.pagemap``
fleet          one question to many hosts, on any executor
magics         ``%pagemap`` and ``%%pagemap``; ``observer`` looks on from outside
printing       tables as text
cli/           the command pagemap-df
demo           what make demo does; ``demo_fleet`` what make fleet does
=============  ===========================================================================
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .accessor import register as _register
from .datasets import list_datasets, load_dataset
from .errors import (
    EraError,
    FormatError,
    NotAvailable,
    NotPermitted,
    PagemapError,
    PagemapWarning,
    ProcessGone,
    ScriptError,
    SnapshotError,
    TableError,
)
from .read import read_pagemap, read_snapshot
from .snapshot import Snapshot
from .source import Source
from .source.procfs import Procfs
from .source.rawdump import RawDump
from .take import take
from .tree import record

if TYPE_CHECKING:
    from . import changes, fleet, layout, plot, schema, sharing, sim, story, swapping
    from .dataset import open_dataset
    from .watching import watch
    from .widget.memorymap import MemoryMap

__version__ = "0.1.0"

_MODULES = (
    *("changes", "fleet", "layout", "plot", "schema", "sharing", "sim", "story", "swapping"),
)
_NAMES = {"MemoryMap": ".widget.memorymap", "open_dataset": ".dataset", "watch": ".watching"}
"""Public modules, and public names of others, that are imported when they are first named."""

_register()

__all__ = [
    "EraError",
    "FormatError",
    "MemoryMap",
    "NotAvailable",
    "NotPermitted",
    "PagemapError",
    "PagemapWarning",
    "ProcessGone",
    "Procfs",
    "RawDump",
    "ScriptError",
    "Snapshot",
    "SnapshotError",
    "Source",
    "TableError",
    "changes",
    "fleet",
    "layout",
    "list_datasets",
    "load_dataset",
    "open_dataset",
    "plot",
    "read_pagemap",
    "read_snapshot",
    "record",
    "schema",
    "sharing",
    "sim",
    "story",
    "swapping",
    "take",
    "watch",
]


def __getattr__(name: str) -> Any:
    """Import what is not always needed when it is first named."""
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name in _NAMES:
        return getattr(import_module(_NAMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext pagemap_df``: the magics ``%pagemap`` and ``%%pagemap``."""
    from .magics import load_ipython_extension as load

    load(shell)


def __dir__() -> list[str]:
    """All public names, imported or not."""
    return sorted({*globals(), *__all__})
