"""Data sets that come with the package.

Each is a directory with ``about.json`` (title, provenance, licence, the command that made it)
and a snapshot as `store` writes it. In a wheel they lie inside the package, in a checkout in
``datasets/`` beside it.

What can go wrong: a name that is none of `list_datasets` (`NotAvailable` lists them).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import NotAvailable
from .read import read_snapshot
from .snapshot import Snapshot

if TYPE_CHECKING:
    import pandas as pd

_ABOUT = "about.json"


def directory() -> Path:
    """Where the data sets are."""
    here = Path(__file__).parent
    for place in (here / "_datasets", here.parent / "datasets"):
        if place.is_dir():
            return place
    raise NotAvailable("the data sets were not installed with this package; reinstall it")


def list_datasets() -> pd.DataFrame:
    """What data sets there are: ``name``, ``title``, ``made_by``.

    Examples
    --------
    >>> "preforked-family" in list_datasets()["name"].to_list()
    True
    """
    import pandas as pd

    found = []
    for path in sorted(directory().glob(f"*/{_ABOUT}")):
        about = json.loads(path.read_text())
        found.append(
            {"name": path.parent.name, "title": about["title"], "made_by": about["made_by"]}
        )
    return pd.DataFrame(found, columns=["name", "title", "made_by"])


def load_dataset(name: str) -> Snapshot:
    """The data set called `name` as a snapshot; ``facts["about"]`` says where it comes from.

    Examples
    --------
    >>> load_dataset("preforked-family").facts["about"]["licence"]
    'BSD-3-Clause'
    """
    place = directory() / name
    if not (place / _ABOUT).is_file():
        names = ", ".join(list_datasets()["name"])
        raise NotAvailable(f"no data set {name!r}; there are {names}")
    snap = read_snapshot(place)
    return Snapshot(
        {table: snap.arrow(table) for table in ("pages", "vmas", "frames", "swaps", "processes")},
        {**snap.facts, "about": json.loads((place / _ABOUT).read_text())},
    )
