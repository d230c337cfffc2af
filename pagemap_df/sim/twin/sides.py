"""Snapshots without names of their own: two sides that can be laid next to each other.

Processes become numbers, addresses places (process and page), frames and swap slots the first
place that shows them: *who shares with whom* is left, and the numbers are gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ...schema import SMAPS_FIGURES
from ...snapshot import Snapshot
from ..mm.hardware import PAGE_SIZE
from .arena import FIRST, Model

_PAGE = [
    "kind",
    "present",
    "swapped",
    "file",
    "exclusive",
    "guard",
    "uffd_wp",
    "swap_type",
    "mapcount",
    "huge",
    "frame",
    "slot",
]
_VMA = ["end", "perms", "offset", "kind", "file", "vm_flags", "smaps_pagesize"] + [
    f"smaps_{name}" for name in SMAPS_FIGURES
]
_UNKNOWN = -1
"""What null becomes, so that null equals null."""
_SPAN = 1 << 36
"""Keys are places: number of the process times this, plus the virtual page."""


@dataclass(frozen=True)
class Difference:
    """One thing that the two sides do not agree on.

    Attributes
    ----------
    where : str
        A snapshot's name, or ``line N`` of the script.
    process, mapping : str
        Empty where there is none.
    page : int or None
        Number of the page in the mapping.
    what : str
        Which word: a column, ``"outcome"``, or ``"page"`` and ``"vma"`` for a whole row.
    model, kernel : object
    """

    where: str
    process: str
    mapping: str
    page: int | None
    what: str
    model: object
    kernel: object


@dataclass
class Side:
    """A snapshot as arrays: sorted places, and for each word its values there."""

    places: dict[str, np.ndarray]
    words: dict[str, dict[str, np.ndarray]]


_NOTHING = np.empty(0, np.int64)
EMPTY = Side({"pages": _NOTHING, "vmas": _NOTHING}, {"pages": {}, "vmas": {}})


def side(snapshot: Snapshot, pids: Mapping[int, int]) -> Side:
    """Take a snapshot's names away: pids become numbers of processes, the rest places."""
    places, words = {}, {}
    for name, start, wanted in (("pages", "vaddr", _PAGE), ("vmas", "start", _VMA)):
        table = snapshot.arrow(name)
        number = np.array([pids[pid] for pid in table["pid"].to_pylist()], np.int64)
        place = number * _SPAN + table[start].to_numpy() // PAGE_SIZE
        order = np.argsort(place)
        places[name] = place[order]
        columns = {word: _values(table, word, place) for word in wanted}
        words[name] = {word: values[order] for word, values in columns.items()}
    return Side(places, words)


def _values(table: pa.Table, word: str, place: np.ndarray) -> np.ndarray:
    if word == "frame":
        return _first_places(_integers(table["pfn"]), place)
    if word == "slot":
        slots = _integers(table["swap_offset"])
        types = _integers(table["swap_type"])
        return _first_places(np.where(slots < 0, _UNKNOWN, slots << 5 | types), place)
    if word == "file" and "path" in table.schema.names:
        return np.array([_file_name(path) for path in table["path"].to_pylist()], object)
    column = table[word]
    if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type):
        return np.array(column.to_pylist(), object)
    return _integers(column)


def _integers(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.cast(pa.int64()).fill_null(_UNKNOWN).to_numpy())


def _first_places(numbers: np.ndarray, place: np.ndarray) -> np.ndarray:
    """For each page, the first place with the same number: equal where the sharing is equal."""
    order = np.argsort(place, kind="stable")
    _, first, back = np.unique(numbers[order], return_index=True, return_inverse=True)
    found = np.empty(len(place), np.int64)
    found[order] = place[order][first][back]
    found[numbers == _UNKNOWN] = _UNKNOWN
    return found


def _file_name(path: str) -> str:
    """What remains of a path when directories are left out."""
    return path.rpartition("/")[2].removeprefix("memfd:").removeprefix("file-")


class Names:
    """What places are called: process, mapping and page in it."""

    def __init__(self) -> None:
        self.processes: list[str] = []
        self._ranges: dict[str, list[tuple[str, int, int]]] = {}

    def learn(self, model: Model) -> None:
        """Remember the mappings there are."""
        for process, known in model.run.mappings.items():
            if process not in self._ranges:
                self.processes.append(process)
            ranges = self._ranges.setdefault(process, [])
            for name, (first, pages) in known.items():
                if (name, first, pages) not in ranges:
                    ranges.append((name, first, pages))

    def of(self, place: int) -> tuple[str, str, int]:
        """Process, mapping and page of a place; the latest name it had."""
        process = self.processes[place // _SPAN]
        page = place % _SPAN
        for name, first, pages in reversed(self._ranges[process]):
            if first <= page < first + pages:
                return process, name, page - first
        nearest = min(
            self._ranges[process], key=lambda item: abs(item[1] - page), default=("arena", FIRST, 0)
        )
        return process, nearest[0], page - nearest[1]

    def text(self, place: int) -> str:
        """A place in short."""
        return "{}: {}[{}]".format(*self.of(place))


def differences(
    where: str, model: Side, kernel: Side, names: Names, blanked: Collection[str]
) -> Iterator[Difference]:
    """All differences between two sides of a snapshot, but for words that are `blanked`."""
    for table, row in (("pages", "page"), ("vmas", "vma")):
        ours, theirs = model.places[table], kernel.places[table]
        for place in np.setdiff1d(ours, theirs).tolist():
            yield Difference(where, *names.of(place), row, _shown(model, table, place), None)
        for place in np.setdiff1d(theirs, ours).tolist():
            yield Difference(where, *names.of(place), row, None, _shown(kernel, table, place))
        if not len(ours) or not len(theirs):
            continue
        both, at, there = np.intersect1d(ours, theirs, return_indices=True)
        for word, values in model.words[table].items():
            if word in blanked:
                continue
            mine, its = values[at], kernel.words[table][word][there]
            for n in np.flatnonzero(mine != its).tolist():
                pair = (_plain(word, mine[n], names), _plain(word, its[n], names))
                yield Difference(where, *names.of(int(both[n])), word, *pair)


def _shown(side_: Side, table: str, place: int) -> str:
    """The first words of a row that the other side lacks."""
    at = int(np.searchsorted(side_.places[table], place))
    words = ("kind",) if table == "pages" else ("end", "perms", "vm_flags")
    shown = [side_.words[table][word][at] for word in words]
    if table == "vmas":
        shown[0] = f"{int(shown[0]) // PAGE_SIZE - place % _SPAN} pages"
    return " ".join(map(str, shown))


def _plain(word: str, value: Any, names: Names) -> object:
    if isinstance(value, str):
        return value
    if value == _UNKNOWN:
        return None
    return names.text(int(value)) if word in ("frame", "slot") else int(value)
