"""Pictures of tables, with matplotlib: ``plot_x(data, *, ax=None, ...)`` gives Axes.

::

    snapshot or frame ─► given ─► colouring (what each page is) ─► pixels (counted) ─► Axes

Every picture takes a snapshot from any source, or a frame of pages; some also take the table
of an analysis. It draws on ``ax`` if there is one, shows nothing by itself and changes no
setting of matplotlib. However many pages there are, they are counted into some ten thousand
cells before anything is drawn. All colours are those of `palette`.

===================  ========================================================================
address              `plot_address_space`: one process, every page a dot
physical             `plot_physical`: page frames on a Hilbert curve or in tiles
sharing              `plot_sharing_matrix`, `plot_rss`: who shares with whom, and how much
time                 `plot_sizes`, `plot_cow_loss`: USS, PSS and copy-on-write over time
swapping             `plot_swap`: the slots of swap areas and their owners
layout               `plot_contiguity`, `plot_huge`: physical runs and huge pages
changes              `plot_changes`, `plot_transitions`: two snapshots
given                what may be handed in
colouring            what a page is, as a number with a name and a colour
pixels, bands        pages to cells, cells to rows
family               `save_family`: a file with two pictures of processes that share
canvas               axes, ticks with units, legends, messages; `blank` for files
===================  ========================================================================

What can go wrong: nothing to draw is a picture that says so. What is missing is named:
`TableError` for a column, `NotAvailable` for what this snapshot cannot tell.
"""

from .address import plot_address_space
from .canvas import blank
from .changes import plot_changes, plot_transitions
from .family import save_family
from .layout import plot_contiguity, plot_huge
from .physical import plot_physical
from .sharing import plot_rss, plot_sharing_matrix
from .swapping import plot_swap
from .time import plot_cow_loss, plot_sizes

__all__ = [
    "blank",
    "plot_address_space",
    "plot_changes",
    "plot_contiguity",
    "plot_cow_loss",
    "plot_huge",
    "plot_physical",
    "plot_rss",
    "plot_sharing_matrix",
    "plot_sizes",
    "plot_swap",
    "plot_transitions",
    "save_family",
]
