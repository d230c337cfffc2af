"""The summary of a snapshot as HTML, with a bar drawn in SVG: no plotting library, no pages.

In: the sizes of tables and the facts. Out: a few lines of HTML. The bar is bytes by state, from
the fact ``tally``, which `tally` makes when a snapshot is taken: popcounts of bit-packed
columns, a few microseconds for a million pages. A snapshot without that fact has a bar of what
Arrow's own metadata tells: how many pages have a frame and how many a slot.

What can go wrong: nothing; what is not known is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pyarrow as pa

from . import palette, printing

_WIDTH, _HEIGHT = 480, 14

_COLOURS: Mapping[str, str] = {
    "in memory, own": palette.STATES["anonymous, own"],
    "in memory, shared": palette.STATES["anonymous, shared"],
    "in memory": palette.STATES["anonymous, own"],
    "in swap": palette.STATES["in swap"],
    "neither": palette.STATES["marker"],
    "unknown": palette.STATES["in memory"],
}
"""What a page can be in the bar, and its colour."""


def tally(pages: pa.Table) -> dict[str, int]:
    """How many pages are what, by the names of the bar; null ``exclusive`` counts as unknown.

    Examples
    --------
    >>> tally(pa.table({"present": [True, True, False], "swapped": [False, False, True],
    ...                 "exclusive": [True, False, False]}))
    {'in memory, own': 1, 'in memory, shared': 1, 'in memory': 0, 'in swap': 1, 'neither': 0}
    """
    present, swapped = _true(pages["present"]), _true(pages["swapped"])
    own = min(_true(pages["exclusive"]), present)  # old kernels say it of migration, too
    told = not pages["exclusive"].null_count
    return {
        "in memory, own": own if told else 0,
        "in memory, shared": present - own if told else 0,
        "in memory": 0 if told else present,
        "in swap": swapped,
        "neither": len(pages) - present - swapped,
    }


def _true(column: pa.ChunkedArray) -> int:
    return sum(int(chunk.true_count) for chunk in column.chunks)


def summary(sizes: Mapping[str, int], facts: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    """The HTML of a snapshot.

    Parameters
    ----------
    sizes : mapping of str to int
        Rows of each table.
    facts : mapping
        The facts of the snapshot.
    counts : mapping of str to int
        Pages by the names of the bar.
    """
    page_size = int(facts.get("page_size", 4096))
    host, when = facts.get("host", "?"), facts.get("taken_at", "?")
    head = f"<strong>Snapshot</strong> of {escape(str(host))} at {escape(str(when))}"
    release = facts.get("release")
    if release:
        head += f", Linux {escape(str(release))}"
    rows = " · ".join(f"{size:,} {name}" for name, size in sizes.items())
    parts = [(name, n * page_size, _COLOURS[name]) for name, n in counts.items() if n]
    lines = [head, rows, bar(parts), *_doubts(facts)]
    return "<div>" + "".join(f"<div>{line}</div>" for line in lines if line) + "</div>"


def _doubts(facts: Mapping[str, Any]) -> list[str]:
    out = []
    if facts.get("pfns") == "hidden":
        out.append(f"Page frames are hidden: {escape(str(facts.get('pfns_why', 'no right')))}")
    if skipped := facts.get("skipped"):
        out.append(f"{len(skipped):,} processes were skipped")
    return out


def bar(parts: Sequence[tuple[str, int, str]]) -> str:
    """A stacked bar as SVG and its legend below; each part is a name, bytes and a colour.

    Examples
    --------
    >>> print(bar([("in swap", 4096, "#D55E00")]).partition("</svg>")[0])
    <svg xmlns="http://www.w3.org/2000/svg" role="img" width="480" height="14"><rect x="0.00"
    width="480.00" height="14" fill="#D55E00"><title>in swap 4.0 KiB</title></rect>
    >>> bar([])
    ''
    """
    total = sum(size for _, size, _ in parts)
    if not total:
        return ""
    boxes, labels, at = [], [], 0.0
    for name, size, colour in parts:
        width = _WIDTH * size / total
        text = escape(f"{name} {printing.size(size)}")
        boxes.append(
            f'<rect x="{at:.2f}" width="{width:.2f}" height="{_HEIGHT}" fill="{colour}">'
            f"<title>{text}</title></rect>"
        )
        labels.append(
            f'<span style="margin-right: 1.2em"><span style="color: {colour}">■</span> {text}</span>'
        )
        at += width
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{_WIDTH}" height="{_HEIGHT}">'
        f"{''.join(boxes)}</svg>"
    )
    return f'{drawing}<div style="font-size: smaller">{"".join(labels)}</div>'


def counts_of(pages: pa.Table, facts: Mapping[str, Any]) -> dict[str, int]:
    """Pages by the names of the bar, from facts or from null counts, which Arrow keeps."""
    if known := facts.get("tally"):
        return {name: int(known[name]) for name in _COLOURS if name in known}
    framed = len(pages) - int(pages["pfn"].null_count)
    slotted = len(pages) - int(pages["swap_offset"].null_count)
    rest = len(pages) - framed - slotted
    other = "unknown" if facts.get("pfns") == "hidden" else "neither"
    return {"in memory": framed, "in swap": slotted, other: rest}
