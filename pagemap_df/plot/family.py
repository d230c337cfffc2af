"""One picture file of a family of processes: who is how large, and what is still shared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..algebra.arrays import Tables
from .address import plot_address_space
from .sharing import plot_rss

if TYPE_CHECKING:
    import pandas as pd


def save_family(
    data: Tables | pd.DataFrame, path: str | os.PathLike[str], *, dpi: float = 120
) -> Path:
    """Write a picture of the shared pages of a family of processes.

    Above, the resident size of each, own and shared by how many; below, the address map of the
    one with most pages, coloured by how many page table entries map each page.

    Parameters
    ----------
    data : Snapshot or DataFrame
        A snapshot, or a frame of pages.
    path : path
        Where to write it; the ending says in which format (png, svg, pdf).
    dpi : float
        Dots per inch, where the format has dots.

    Returns
    -------
    Path
        `path`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 10), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(1, 2.6))
    plot_rss(data, top=8, ax=above)
    plot_address_space(data, by="sharers", ax=below)
    figure.savefig(path, dpi=dpi)
    return Path(path)
