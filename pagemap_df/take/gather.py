"""Gather the rows of all tables, process after process.

For each process: ``stat``, ``status``, ``maps``, the pages (`reader`), ``maps`` again. A live
read is not atomic; a mapping that is not the same at the end is marked in ``vmas.changed``.
``[vsyscall]`` is left out: its address does not fit a signed integer and no pagemap file
reaches it.

What can go wrong with one process never costs the others: it is passed over, and `skipped`
says why. Words that no kernel of the era can have written are raised (`EraError`): then
every process would be read wrongly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa

from .. import columns, procstatus, proctext, schema
from ..errors import EraError, FormatError, NotAvailable, NotPermitted, ProcessGone
from ..proctext import Smap, Vma
from ..source import Source
from . import joins, swapareas
from .reader import Reader

_LAST_ADDRESS = 1 << 63

T = TypeVar("T")


@dataclass
class Gatherer:
    """Rows so far, and why some processes have none.

    Attributes
    ----------
    source : Source
        What is looked at.
    facts : Mapping
        Its facts.
    smaps, huge : bool
        Whether to gather the kernel's own figures, and the column ``huge``.
    skipped : list of dict
        ``pid`` and ``reason`` of every process passed over.
    unknown : dict of str to str
        Column -> why it is null throughout.
    refused : int
        How many were passed over although they have memory.
    """

    source: Source
    facts: Mapping[str, Any]
    smaps: bool = False
    huge: bool = False
    skipped: list[dict[str, Any]] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    _schema: pa.Schema | None = None
    _processes: list[tuple[Any, ...]] = field(default_factory=list)
    _vmas: defaultdict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    _batches: list[pa.RecordBatch] = field(default_factory=list)
    _huge: list[pa.Array] = field(default_factory=list)
    _alike: dict[bytes, list[int]] = field(default_factory=dict)

    def reader(self, *, holes: bool, raw: bool) -> Reader:
        """The reader that all processes share. Words that come from files are checked."""
        reading = columns.reading_of(self.facts, holes=holes, raw=raw)
        self._schema = reading.schema
        return Reader(self.source, reading, check=not self.source.live)

    def process(self, pid: int, reader: Reader) -> None:
        """Read one process, or note why not."""
        try:
            reason = self._process(pid, reader)
            if reason:
                self.skipped.append({"pid": pid, "reason": reason})
        except EraError:
            raise
        except (ProcessGone, NotPermitted, NotAvailable, FormatError) as error:
            self.skipped.append({"pid": pid, "reason": str(error)})
            self.refused += not isinstance(error, ProcessGone)
        finally:
            self.source.release(pid)

    def _process(self, pid: int, reader: Reader) -> str | None:
        stat = _if_there(lambda: procstatus.parse_stat(self.source.text(f"{pid}/stat")))
        if stat is not None and stat.state == "Z":
            return self._why_zombie(pid)
        if stat is not None and stat.kernel_thread:
            return "kernel thread: it has no memory of its own"
        self.source.words(f"{pid}/pagemap", 0, 0)
        text = self.source.text(f"{pid}/maps")
        vmas = [v for v in proctext.parse_maps(text, f"{pid}/maps") if v.end < _LAST_ADDRESS]
        status = _if_there(lambda: procstatus.parse_status(self.source.text(f"{pid}/status")))
        wait = reader.begin(pid, vmas, len(self._vmas["pid"]), _populated(status))
        try:
            # While others read the pages, there is text to read here.
            process = self._row(pid, stat, status)
            rows = self._vma_rows(pid, vmas)
        finally:
            # They use the files that a failure would release.
            batches = wait()
        after = self.source.text(f"{pid}/maps")
        if text and not after:
            raise ProcessGone(f"{pid}: the process left while it was read")
        still = set(vmas if after == text else proctext.parse_maps(after, f"{pid}/maps"))
        rows["changed"] = [vma not in still for vma in vmas]
        if self.facts.get("pfns") == "hidden" or self.facts.get("huge_zero_pfn", 0) is None:
            batches = joins.with_zero(self.source, pid, batches)
        if self.huge:
            self._ask_huge(pid, batches)
        for name, values in rows.items():
            self._vmas[name] += values
        self._batches += batches
        self._processes.append(process)
        self._alike.setdefault(text, []).append(pid)
        return None

    def _why_zombie(self, pid: int) -> str:
        status = _if_there(lambda: procstatus.parse_status(self.source.text(f"{pid}/status")))
        others = int(status.get("Threads", "1")) - 1 if status else 0
        if others > 0:
            # fs/proc shows the memory under /proc/<tid> of a living thread only.
            return f"zombie: its main thread has exited; {others} other still use its memory"
        return "zombie: it has exited and its memory is gone"

    def _vma_rows(self, pid: int, vmas: Sequence[Vma]) -> dict[str, list[Any]]:
        """Columns of ``vmas`` for one process, but for ``changed``."""
        found = self._smaps_of(pid) if self.smaps else {}
        smaps = [found.get((vma.start, vma.end)) for vma in vmas]
        rows: dict[str, list[Any]] = {
            "pid": [pid] * len(vmas),
            "start": [vma.start for vma in vmas],
            "end": [vma.end for vma in vmas],
            "perms": [vma.perms for vma in vmas],
            "offset": [vma.offset for vma in vmas],
            "device": [vma.device for vma in vmas],
            "inode": [vma.inode for vma in vmas],
            "path": [proctext.path_to_text(vma.path) for vma in vmas],
            "kind": list(map(proctext.kind_of, vmas, smaps)),
        }
        if self.smaps:
            figures = [{} if smap is None else _figures(smap) for smap in smaps]
            for column in schema.VMAS.columns:
                if column.on_request:
                    rows[column.name] = [f.get(column.name) for f in figures]
        return rows

    def _smaps_of(self, pid: int) -> dict[tuple[int, int], Smap]:
        found = proctext.parse_smaps(self.source.text(f"{pid}/smaps"), f"{pid}/smaps")
        return {(smap.vma.start, smap.vma.end): smap for smap in found}

    def _ask_huge(self, pid: int, batches: list[pa.RecordBatch]) -> None:
        try:
            self._huge += joins.huge(self.source, pid, batches)
        except NotAvailable as error:
            self.unknown["huge"] = str(error)
            self._huge += [columns.nothing(len(batch), pa.bool_()) for batch in batches]

    def _row(
        self, pid: int, stat: procstatus.Stat | None, status: Mapping[str, str] | None
    ) -> tuple[Any, ...]:
        """A row of ``processes``, but for the address space."""
        text = proctext.path_to_text
        command = _if_there(lambda: procstatus.parse_cmdline(self.source.text(f"{pid}/cmdline")))
        lines = _if_there(lambda: procstatus.parse_cgroup(self.source.text(f"{pid}/cgroup")))
        group = procstatus.memory_cgroup(lines) if lines else None
        return (
            pid,
            stat.ppid if stat else None,
            text(stat.name) if stat else None,
            None if command is None else " ".join(map(text, command)),
            int(status["Uid"].split()[0]) if status and "Uid" in status else None,
            stat.start_time if stat else None,
            None if group is None else text(group),
            stat.state if stat else None,
        )

    # -- the tables ---------------------------------------------------------------------

    def tables(self, wanted: Sequence[str]) -> dict[str, pa.Table]:
        """All tables but ``frames``; `wanted` are the joins by PFN."""
        pages = pa.Table.from_batches(self._batches, self._schema)
        pages, unknown = joins.join(pages, wanted, self.source, self.facts)
        self.unknown |= unknown
        if self.huge:
            column = pa.chunked_array(self._huge, pa.bool_())
            pages = pages.append_column(schema.PAGES["huge"].field, column)
        return {
            "pages": pages,
            "vmas": _table("vmas", {name: self._vmas[name] for name in self._vma_columns()}),
            "processes": self._process_table(),
            "swaps": self._swap_table(pages),
        }

    def _vma_columns(self) -> list[str]:
        return [c.name for c in schema.VMAS.columns if self.smaps or not c.on_request]

    def _process_table(self) -> pa.Table:
        names = [column.name for column in schema.PROCESSES.columns]
        columns_ = list(zip(*self._processes, strict=True)) or [()] * (len(names) - 1)
        first = self._address_spaces()
        values = {name: list(column) for name, column in zip(names, columns_, strict=False)}
        return _table("processes", {**values, "mm": [first[pid] for pid in values["pid"]]})

    def _address_spaces(self) -> dict[int, int | None]:
        """For each pid, the lowest pid with the same address space.

        Only processes whose maps read the same can share one.
        """
        first: dict[int, int | None] = {}
        for alike in self._alike.values():
            leaders: list[int] = []
            for pid in alike:
                answers = {other: self.source.same_memory(other, pid) for other in leaders}
                same = [other for other, answer in answers.items() if answer]
                first[pid] = same[0] if same else None if None in answers.values() else pid
                if not same:
                    leaders.append(pid)
        return first

    def _swap_table(self, pages: pa.Table) -> pa.Table:
        try:
            areas = procstatus.parse_swaps(self.source.text("swaps"))
        except (NotAvailable, NotPermitted) as error:
            self.unknown["swaps"] = str(error)
            return schema.empty("swaps")
        told = {
            proctext.text_to_path(path): number
            for path, number in self.facts.get("swap_types", {}).items()
        }
        page_size = self.facts["page_size"]
        seen = _highest_slots(pages) if areas else {}
        pins = swapareas.pin(areas, seen, page_size, told=told)
        if any(found.swap_type is None for found in pins):
            sample, grown = self.source.swap_sample()
            for number, slot in sample.items():
                seen[number] = max(slot, seen.get(number, 0))
            pins = swapareas.pin(areas, seen, page_size, grown=grown, told=told)
        return _table(
            "swaps",
            {
                "swap_type": [found.swap_type for found in pins],
                "path": [proctext.path_to_text(area.path) for area in areas],
                "kind": [area.kind for area in areas],
                "size": [area.size for area in areas],
                "used": [area.used for area in areas],
                "priority": [area.priority for area in areas],
                "evidence": [found.evidence for found in pins],
            },
        )


def _if_there(read: Callable[[], T]) -> T | None:
    """What `read` gives; None if a tree has no such file or it is refused."""
    try:
        return read()
    except (NotAvailable, NotPermitted):
        return None


def _populated(status: Mapping[str, str] | None) -> int | None:
    """Bytes in memory and in swap, as ``status`` counts them; None if it does not."""
    if status is None or "VmRSS" not in status:
        return None
    figures = (status.get(name, "0 kB") for name in ("VmRSS", "VmSwap", "HugetlbPages"))
    return 1024 * sum(int(figure.split()[0]) for figure in figures)


def _figures(smap: Smap) -> dict[str, Any]:
    """The smaps columns of one mapping; a field the kernel does not print is null."""
    found: dict[str, Any] = {f"smaps_{name.lower()}": value for name, value in smap.figures.items()}
    found["smaps_pagesize"] = smap.figures.get("KernelPageSize")
    found["vm_flags"] = " ".join(smap.flags) if smap.flags else None
    return found


def _highest_slots(pages: pa.Table) -> dict[int, int]:
    """Swap type -> highest slot seen in ``pages``."""
    swapped = pages.select(["swap_type", "swap_offset"]).drop_null()
    top = swapped.group_by("swap_type").aggregate([("swap_offset", "max")])
    return dict(zip(top["swap_type"].to_pylist(), top["swap_offset_max"].to_pylist(), strict=True))


def _table(name: str, values: Mapping[str, list[Any]]) -> pa.Table:
    spec = schema.TABLES[name]
    arrays = [_array(found, spec[column].type) for column, found in values.items()]
    return pa.table(arrays, schema=spec.schema(values))


def _array(values: list[Any], type_: pa.DataType) -> pa.Array:
    if not pa.types.is_dictionary(type_):
        return pa.array(values, type_)
    distinct = [value for value in dict.fromkeys(values) if value is not None]
    place = {value: at for at, value in enumerate(distinct)}
    codes = pa.array([place.get(value) for value in values], type_.index_type)
    return pa.DictionaryArray.from_arrays(codes, pa.array(distinct, type_.value_type))
