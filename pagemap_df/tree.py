"""Write a directory shaped like ``/proc``: from a source as it is, or back from tables.

`record` copies what any source shows, byte for byte, so that it can be read again later and
elsewhere, by this package and by tools that take another proc root. `write` makes such a
tree of a snapshot; taking it again gives the same tables, up to what tables do not hold (the
frame inside a migration entry, text that no column keeps).

``pagemap`` and ``kpage*`` files are sparse: words lie at their natural offset, and only
populated ranges are stored. ``pagemap_df.json`` holds the facts.

What can go wrong: the directory exists and is not empty (`FormatError`), or its file system
cannot hold sparse files of the size of an address space (an `OSError` of the system, EFBIG).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from . import columns, entries, procstatus, proctext, schema
from .entries import Ints, Words
from .errors import FormatError, NotAvailable, NotPermitted, ProcessGone
from .source import Source
from .source.frames import FILES
from .source.procfs import FACTS_FILE

if TYPE_CHECKING:
    from .snapshot import Snapshot

_OF_MACHINE = ("swaps", "meminfo", "version", "iomem", "vmstat", "uptime", "stat", "filesystems")
_OF_PROCESS = (
    "maps",
    "smaps",
    "smaps_rollup",
    "stat",
    "statm",
    "status",
    "cmdline",
    "comm",
    "cgroup",
)
_FACTS_OF_TAKE = ["skipped", "unknown", "frozen", "taken_at", "seconds", "source", "tally"]
_CHUNK = 1 << 16


def record(
    source: Source, directory: str | os.PathLike[str], pids: Iterable[int] | None = None
) -> list[dict[str, Any]]:
    """Copy what `source` shows of `pids` (all, if None) into `directory`.

    Returns
    -------
    list of dict
        ``pid`` and ``reason`` of the processes that could not be copied.
    """
    root = _new(directory)
    facts = dict(source.facts())
    for name in _OF_MACHINE:
        _copy_text(source, name, root / name)
    skipped, pfns = [], [np.empty(0, np.int64)]
    complete = pids is None
    for pid in source.pids() if pids is None else pids:
        try:
            pfns.append(_record_process(source, pid, root / str(pid), facts))
        except (ProcessGone, NotPermitted, NotAvailable) as error:
            shutil.rmtree(root / str(pid), ignore_errors=True)
            skipped.append({"pid": pid, "reason": str(error)})
            complete &= isinstance(error, ProcessGone)
        finally:
            source.release(pid)
    seen = np.unique(np.concatenate(pfns))
    for name in FILES.values():
        _copy_words(source, name, root / name, _runs(seen), facts["byte_order"])
    told = {"recorded_from": facts.get("source"), "complete": complete}
    _write_facts(root, facts | told)
    return skipped


def _record_process(source: Source, pid: int, folder: Path, facts: Mapping[str, Any]) -> Ints:
    """Copy one process; gives the page frames its words name."""
    source.words(f"{pid}/pagemap", 0, 0)
    text = source.text(f"{pid}/maps")
    vmas = proctext.parse_maps(text, f"{pid}/maps")
    folder.mkdir()
    for name in _OF_PROCESS:
        _copy_text(source, f"{pid}/{name}", folder / name)
    page = int(facts["page_size"])
    ranges = [
        (start // page, end // page)
        for vma in vmas
        if vma.end < 1 << 63
        for start, end in source.populated(pid, vma.start, vma.end)
    ]
    layout = columns.reading_of(facts).layout
    pfns = [np.empty(0, np.int64)]
    to, order = folder / "pagemap", facts["byte_order"]
    for words in _copy_words(source, f"{pid}/pagemap", to, ranges, order):
        found = entries.unpack(words, layout)
        pfns.append(np.unique(found.frame[found.present]))
    if text and not source.text(f"{pid}/maps"):
        raise ProcessGone(f"{pid}: the process left while it was copied")
    return np.concatenate(pfns)


def _copy_text(source: Source, path: str, to: Path) -> None:
    try:
        to.write_bytes(source.text(path))
    except (NotAvailable, NotPermitted):
        return


def _copy_words(
    source: Source, path: str, to: Path, ranges: Iterable[tuple[int, int]], order: str
) -> list[Words]:
    """Copy ranges of words to their natural offset; a file that is refused is left out."""
    copied: list[Words] = []
    try:
        source.words(path, 0, 0)
    except (NotAvailable, NotPermitted):
        return copied
    with to.open("wb") as file:
        for first, last in ranges:
            for at in range(first, last, _CHUNK):
                words = source.words(path, at, min(_CHUNK, last - at))
                _put(file.fileno(), at, words, order)
                copied.append(words)
    return copied


def _runs(pfns: Ints) -> list[tuple[int, int]]:
    """Ascending numbers as half-open ranges."""
    cuts = np.flatnonzero(np.diff(pfns) != 1) + 1
    first, last = np.concatenate([[0], cuts]), np.concatenate([cuts, [len(pfns)]])
    if not len(pfns):
        return []
    return list(zip(pfns[first].tolist(), (pfns[last - 1] + 1).tolist(), strict=True))


def write(snap: Snapshot, directory: str | os.PathLike[str]) -> None:
    """Write the tables of `snap` as a procfs-shaped tree into `directory`."""
    root = _new(directory)
    kept = {k: v for k, v in snap.facts.items() if k not in _FACTS_OF_TAKE}
    facts = {"byte_order": sys.byteorder, **kept}
    _write_facts(root, facts | {"swap_types": _swap_types(snap)})
    (root / "swaps").write_bytes(procstatus.format_swaps(_areas(snap)))
    vmas, pages = snap.arrow("vmas"), snap.arrow("pages")
    for row in snap.arrow("processes").to_pylist():
        folder = root / str(row["pid"])
        folder.mkdir()
        _write_process_text(folder, row, vmas)
        mine = pages.filter(_of(pages, row["pid"]))
        _write_pagemap(folder / "pagemap", mine, vmas.filter(_of(vmas, row["pid"])), facts)
    frames = snap.arrow("frames")
    for column, name in FILES.items():
        known = frames.select(["pfn", column]).drop_null()
        if len(known):
            values = known[column].to_numpy().astype(np.int64).view(np.uint64)
            with (root / name).open("wb") as file:
                _put_all(file.fileno(), known["pfn"].to_numpy(), values, facts)


def _write_process_text(folder: Path, row: Mapping[str, Any], vmas: pa.Table) -> None:
    mine = vmas.filter(_of(vmas, row["pid"])).to_pylist()
    to_bytes = proctext.text_to_path
    lines = [
        proctext.Vma(
            v["start"], v["end"], v["perms"], v["offset"], v["device"], v["inode"],
            to_bytes(v["path"]),
        )
        for v in mine
    ]  # fmt: skip
    (folder / "maps").write_bytes(proctext.format_maps(lines))
    if row["name"] is not None:
        stat = procstatus.Stat(
            row["pid"], to_bytes(row["name"]), row["state"] or "S", row["ppid"] or 0,
            row["start_time"] or 0,
        )  # fmt: skip
        (folder / "stat").write_bytes(procstatus.format_stat(stat))
    if row["uid"] is not None:
        (folder / "status").write_bytes(
            procstatus.format_status({"Uid": "\t".join([str(row["uid"])] * 4)})
        )
    if row["cmdline"] is not None:
        parts = row["cmdline"].split(" ") if row["cmdline"] else ()
        arguments = tuple(to_bytes(part) for part in parts)
        (folder / "cmdline").write_bytes(procstatus.format_cmdline(arguments))
    if row["cgroup"] is not None:
        line = procstatus.CgroupLine(0, (), to_bytes(row["cgroup"]))
        (folder / "cgroup").write_bytes(procstatus.format_cgroup([line]))


def _of(table: pa.Table, pid: int) -> pa.ChunkedArray:
    return pc.equal(table["pid"], pid)


def _write_pagemap(path: Path, pages: pa.Table, vmas: pa.Table, facts: Mapping[str, Any]) -> None:
    reading = columns.reading_of(facts)
    page, words = reading.page_size, words_of(pages, reading)
    with path.open("wb") as file:
        if reading.layout.tagged:
            # There a hole of the file would read as page frame 0.
            for start, end in zip(vmas["start"].to_pylist(), vmas["end"].to_pylist(), strict=True):
                for at in range(start // page, end // page, _CHUNK):
                    count = min(_CHUNK, end // page - at)
                    absent = np.full(count, reading.layout.absent, np.uint64)
                    _put(file.fileno(), at, absent, facts["byte_order"])
        _put_all(file.fileno(), pages["vaddr"].to_numpy() // page, words, facts)


def words_of(pages: pa.Table, reading: columns.Reading) -> Words:
    """The pagemap words that rows of ``pages`` were decoded from; shape (rows,), uint64.

    The column ``word`` if it is there. Otherwise packed from the others, with a special
    entry's lost offset as 0 (the marker bit, for a marker).
    """
    if "word" in pages.schema.names:
        return np.asarray(pages["word"].to_numpy(), np.int64).view(np.uint64)

    def numbers(name: str) -> Ints:
        return np.asarray(pages[name].cast(pa.int64()).fill_null(0).to_numpy(), np.int64)

    def bits(name: str) -> entries.Bools | None:
        found = pages[name]
        return None if found.null_count == len(found) else found.fill_null(False).to_numpy()

    place = {kind: code for code, kind in enumerate(entries.KINDS)}
    kinds = np.array([place[kind] for kind in pages["kind"].to_pylist()], np.uint8)
    present = np.asarray(pages["present"].to_numpy(), np.bool_)
    swap = entries.swap_frame(numbers("swap_type"), numbers("swap_offset"))
    frame = np.where(present, numbers("pfn"), swap)
    entry = ~present & (kinds != place["absent"])
    by_kind = {} if reading.hidden else _special_frames(reading)
    for kind, value in by_kind.items():
        frame[kinds == place[kind]] = value
    flags = {name: bits(name) for name in reading.layout.flags}
    return entries.pack(entries.Fields(present, entry, frame, **flags), reading.layout)


def _special_frames(reading: columns.Reading) -> dict[str, int]:
    """A frame field that decodes to each special kind."""
    found: dict[str, int] = {}
    for number, kind in reading.meaning.specials.items():
        if kind == "marker":
            for name, bit in entries.MARKERS.items():
                found[name] = int(entries.swap_frame(number, bit))
        else:
            found.setdefault(kind, int(entries.swap_frame(number, 0)))
    return found


def _put_all(fd: int, index: Ints, words: Words, facts: Mapping[str, Any]) -> None:
    """Store `words` at ascending positions `index` of a sparse file."""
    at = 0
    for first, last in _runs(np.asarray(index, np.int64)):
        _put(fd, first, words[at : at + last - first], facts["byte_order"])
        at += last - first


def _put(fd: int, first: int, words: Words, order: str) -> None:
    """Store `words` from position `first` on, in the byte order that the facts name."""
    if order != sys.byteorder:
        words = words.byteswap()
    os.pwrite(fd, np.ascontiguousarray(words).data.cast("B"), 8 * first)


def _areas(snap: Snapshot) -> list[procstatus.SwapArea]:
    return [
        procstatus.SwapArea(
            proctext.text_to_path(row["path"]), row["kind"], row["size"], row["used"],
            row["priority"],
        )
        for row in snap.arrow("swaps").to_pylist()
    ]  # fmt: skip


def _swap_types(snap: Snapshot) -> dict[str, int]:
    rows = snap.arrow("swaps").select(["path", "swap_type"]).drop_null().to_pylist()
    return {row["path"]: row["swap_type"] for row in rows}


def _write_facts(root: Path, facts: Mapping[str, Any]) -> None:
    text = json.dumps({"schema_version": schema.VERSION, **facts}, indent=1, sort_keys=True)
    (root / FACTS_FILE).write_text(text + "\n")


def _new(directory: str | os.PathLike[str]) -> Path:
    root = Path(directory)
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise FormatError("an empty or new directory", path=str(root))
    return root
