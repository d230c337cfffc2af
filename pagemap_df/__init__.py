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
columns        words to Arrow columns, at the memory's speed
source         the seam: what a source must answer
scan           the PAGEMAP_SCAN ioctl
probe          what this kernel shows this reader
procfs         the running kernel, or a tree or tar shaped like ``/proc``
rawdump        bare words and what you know of them
freeze         keep processes still while they are looked at
reader         plan, read and decode one process
frames         look page frames up
joins          map count, flags, cgroup and huge as columns
swapareas      which swap type is which device
gather         the rows of all tables, process after process
take           take(): one look at a machine
store, tree    snapshots as Parquet; as a directory shaped like ``/proc``
snapshot       the five tables and the facts
read           read_pagemap(), read_snapshot()
datasets       snapshots that come with the package
sharing        how much is whose; ``grouping holders cow figures view`` are behind it
swapping       what sits where in swap
changes        what happened to pages between two snapshots
layout         huge pages, runs, use of frames, fragmentation
story          one page, in words
extents        pages folded into runs, and back without loss
plot           pictures; ``palette`` has the colours, ``svg`` the bar in a repr
accessor       ``df.pagemap``
widget         the zoomable map in a notebook
magics         ``%pagemap`` and ``%%pagemap``
sim            a simulated machine, which is a source too; sim.twin holds it against a kernel
watching       watch(): snapshot after snapshot; ``recording`` keeps them as deltas
dataset        many snapshots of many hosts, read when asked
fleet          one question to many hosts, on any executor
collector      capture where nothing can be installed; ``archive`` reads it here
printing, cli  tables as text; the command pagemap-df
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
from .procfs import Procfs
from .rawdump import RawDump
from .read import read_pagemap, read_snapshot
from .snapshot import Snapshot
from .source import Source
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
