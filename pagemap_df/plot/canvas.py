"""What all pictures have in common: the axes, ticks with units, legends, and messages.

A picture asked for without ``ax`` gets a figure of pyplot's, because that is the one that a
notebook shows at the end of the cell, whatever the cell does with the axes afterwards, and
that ``plt.show()`` finds. It is made last, when all numbers are there, so that an error
leaves none behind. Without a display pyplot falls back to Agg by itself. Programs that make
pictures for files pass ``ax=blank()``: its figure is known to nobody else and goes away with
the last reference.

matplotlib is imported inside functions. Nothing sets a global style.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import printing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

SMALL = 8
"""Size of the text of ticks and legends, in points."""


def blank(width: float = 9.0, height: float = 5.0) -> Axes:
    """Axes in a figure of its own, in inches, that pyplot does not know.

    Examples
    --------
    >>> ax = blank(4, 3)
    >>> ax.figure.get_size_inches().tolist()
    [4.0, 3.0]
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def axes(ax: Axes | None, width: float, height: float) -> Axes:
    """`ax`, or the axes of a new figure of pyplot's."""
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def message(ax: Axes | None, title: str, text: str) -> Axes:
    """A picture that says why there is nothing to see."""
    ax = axes(ax, 7, 2)
    ax.set_title(title)
    ax.set_axis_off()
    middle: dict[str, Any] = {
        "ha": "center",
        "va": "center",
        "transform": ax.transAxes,
        "wrap": True,
    }
    ax.text(0.5, 0.5, text, color="#444444", **middle)
    return ax


def sizes(axis: Axis, label: str) -> None:
    """Let `axis` have bytes: ticks at round binary numbers, written with their unit."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_locator(_binary_locator()())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _size(value)))
    axis.set_label_text(label)
    axis.set_tick_params(labelsize=SMALL)


def _size(value: float) -> str:
    """A tick, with as many digits as it needs: ticks are a few bits long."""
    size, units = abs(value), ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    step = min(max(int(size).bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{value / (1 << 10 * step):.4g} {units[step]}" if value else "0"


@cache
def _binary_locator() -> Any:
    """A class; made on first use, for it needs matplotlib."""
    from matplotlib.ticker import Locator

    class BinaryLocator(Locator):
        """Ticks at multiples of a power of two, four to eight of them."""

        def __call__(self) -> Any:
            assert self.axis is not None
            return self.tick_values(*self.axis.get_view_interval())

        def tick_values(self, vmin: float, vmax: float) -> Any:
            low, high = min(vmin, vmax), max(vmin, vmax)
            step = 2.0 ** np.floor(np.log2(max(high - low, 1.0) / 4))
            return np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step

    return BinaryLocator


def legend(
    ax: Axes, entries: Iterable[tuple[str, str]], title: str, *, below: bool = False
) -> None:
    """A legend right of the axes, one ``(text, colour)`` below the other; or below them."""
    from matplotlib.patches import Patch

    patches = [
        Patch(facecolor=colour, edgecolor="#888888", linewidth=0.5, label=text)
        for text, colour in entries
    ]
    if patches:
        legend_of(ax, patches, title, below=below)


def legend_of(ax: Axes, handles: list[Any], title: str, *, below: bool = False) -> None:
    """A legend right of or below the axes, of any artists."""
    from matplotlib.transforms import ScaledTranslation

    figure: Any = ax.figure
    under = ax.transAxes + ScaledTranslation(0, -0.5, figure.dpi_scale_trans)
    ax.legend(
        handles=handles,
        title=title,
        loc="upper left",
        bbox_to_anchor=(0.0, 0.0) if below else (1.01, 1.0),
        bbox_transform=under if below else ax.transAxes,
        ncols=3 if below else 1,
        borderaxespad=0,
        fontsize=SMALL,
        title_fontsize=SMALL,
        frameon=False,
        alignment="left",
    )


def shortened(text: str, room: int = 34) -> str:
    """`text` cut in the middle to at most `room` letters.

    Examples
    --------
    >>> shortened("abcdefghij", 7)
    'abc…hij'
    """
    if len(text) <= room:
        return text
    half = (room - 1) // 2
    return f"{text[: room - 1 - half]}…{text[len(text) - half :]}"


def bars(
    ax: Axes,
    labels: list[str],
    values: NDArray[Any],
    entries: list[tuple[str, str]],
    title: str,
) -> None:
    """Horizontal stacked bars of bytes, the first on top, and the legend of what occurs.

    Parameters
    ----------
    values : ndarray of shape (bars, parts)
        Bytes.
    entries : list of tuple
        Text and colour of each part.
    """
    place = np.arange(len(labels))
    left = np.zeros(len(labels), np.int64)
    shown = []
    for part, (text, colour) in zip(values.T, entries, strict=True):
        if part.any():
            ax.barh(place, part, left=left, color=colour, height=0.78, label=text, linewidth=0)
            left = left + part
            shown.append((f"{text}  {printing.size(int(part.sum()))}", colour))
    ax.set_yticks(place, labels, fontsize=SMALL)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.set_xlim(0, max(int(left.max(initial=0)), 1) * 1.02)
    sizes(ax.xaxis, "bytes")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    legend(ax, shown, title)
