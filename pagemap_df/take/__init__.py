"""`take`: look at a machine once and hand over the five tables.

Choose the processes, keep them still if asked to, gather them one after the other (`gather`;
`reader` plans, reads and decodes), then join by PFN (`joins`), number the swap areas
(`swapareas`), and add what was learned to the facts.

What can go wrong with one process never costs the others: it is left out and listed, with
the reason, under ``skipped`` in the facts. What is wrong with the source as a whole (no such
directory, an era that cannot be told) is raised.
"""

from __future__ import annotations

import fnmatch
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime

import pyarrow as pa

from .. import procstatus, proctext, svg
from ..errors import NotAvailable, NotPermitted, ProcessGone
from ..snapshot import Snapshot
from ..source import Source, frames
from ..source.archive import Archive, is_archive
from ..source.procfs import Procfs
from . import joins
from .gather import Gatherer

_PATIENCE = 1.0

AnySource = Source | str | os.PathLike[str] | None


def take(
    source: AnySource = None,
    *,
    pids: int | Iterable[int] | None = None,
    name: str | None = None,
    cgroup: str | None = None,
    join: Iterable[str] = (),
    machine_frames: bool = False,
    freeze: bool = False,
    smaps: bool = False,
    holes: bool = False,
    raw: bool = False,
    progress: bool | None = None,
) -> Snapshot:
    """Take a snapshot.

    Parameters
    ----------
    source : Source or path, optional
        What to look at: a `Source`, or a directory or tar shaped like ``/proc``. The kernel
        this runs on, if not given.
    pids : int or iterable of int, optional
        Only these processes. One that is not there is listed as skipped; `ProcessGone` if
        that leaves none.
    name : str, optional
        Only processes whose name (comm) or whose command's file name matches this shell
        pattern.
    cgroup : str, optional
        Only processes in this cgroup or below it.
    join : iterable of {"mapcount", "flags", "cgroup", "huge"}
        Columns to add to ``pages``: the first three by PFN, which needs root; ``huge`` by
        PAGEMAP_SCAN (Linux 6.7).
    machine_frames : bool
        Make ``frames`` the table of all page frames of the machine, not only those seen.
    freeze : bool
        Keep the processes from running while they are read; see `freeze`.
    smaps : bool
        Add the kernel's own figures to ``vmas``. Slow: the kernel walks all pages again.
    holes : bool
        Also give a row, of kind ``absent``, to pages that are nowhere.
    raw : bool
        Keep the 64-bit word as the column ``word``.
    progress : bool, optional
        Show a progress bar. By default only after a second, on a terminal or in a notebook.

    Returns
    -------
    Snapshot

    Examples
    --------
    >>> import os
    >>> snap = take(pids=os.getpid())
    >>> len(snap.processes), bool(snap.pages["present"].any())
    (1, True)
    """
    wanted = joins.check(join)
    began = time.monotonic()
    with _opened(source) as opened:
        chosen = _choose(opened, pids, name, cgroup)
        gatherer = Gatherer(opened, dict(opened.facts()), smaps=smaps, huge="huge" in wanted)
        still = opened.frozen(chosen) if freeze else nullcontext(None)
        with still as frozen, gatherer.reader(holes=holes, raw=raw) as reader:
            for pid in _shown(chosen, progress):
                gatherer.process(pid, reader)
            tables = gatherer.tables([column for column in wanted if column != "huge"])
            if machine_frames:
                tables["frames"] = frames.machine(opened)
    if pids is not None:
        _require(tables["processes"], gatherer)
    everyone = pids is None and name is None and cgroup is None
    # A copied tree holds everybody only if whoever copied it says so.
    everyone &= opened.live or bool(gatherer.facts.get("complete"))
    facts = {
        **gatherer.facts,
        "skipped": gatherer.skipped,
        "unknown": gatherer.unknown,
        "complete": everyone and not gatherer.refused,
        "frozen": None if frozen is None else dict(frozen),
        "taken_at": gatherer.facts.get("collected_at")
        or datetime.now(UTC).isoformat(timespec="microseconds"),
        "seconds": time.monotonic() - began,
        "tally": svg.tally(tables["pages"]),
    }
    return Snapshot(tables, facts)


def _require(processes: pa.Table, gatherer: Gatherer) -> None:
    """Raise if none of the processes that were asked for could be read."""
    if len(processes):
        return
    reasons = [f"process {skip['pid']}: {skip['reason']}" for skip in gatherer.skipped]
    kind = NotPermitted if gatherer.refused else ProcessGone
    raise kind("; ".join(reasons) or "none of the processes asked for is there")


@contextmanager
def _opened(source: AnySource) -> Iterator[Source]:
    """The source for `source`, closed afterwards unless it came open."""
    found = source_of(source)
    try:
        yield found
    finally:
        if found is not source:
            found.close()


def source_of(source: AnySource) -> Source:
    """The `Source` for what `take` accepts as one: a source, a tree, a tar, an archive."""
    if source is None:
        if sys.platform != "linux":
            raise NotAvailable(
                "there is no /proc/<pid>/pagemap on this system; pass source= a recorded tree"
            )
        return Procfs()
    if isinstance(source, Source):
        return source
    return Archive(source) if is_archive(source) else Procfs(source)


def _choose(
    source: Source, pids: int | Iterable[int] | None, name: str | None, cgroup: str | None
) -> list[int]:
    chosen = source.pids() if pids is None else pids if isinstance(pids, Iterable) else [pids]
    return [
        pid
        for pid in sorted({int(pid) for pid in chosen})
        if (name is None or _is_called(source, pid, name))
        and (cgroup is None or _is_in(source, pid, cgroup))
    ]


def _is_called(source: Source, pid: int, pattern: str) -> bool:
    try:
        names = [procstatus.parse_stat(source.text(f"{pid}/stat")).name]
        names += procstatus.parse_cmdline(source.text(f"{pid}/cmdline"))[:1]
    except (ProcessGone, NotPermitted, NotAvailable):
        return False
    texts = [proctext.path_to_text(n.rpartition(b"/")[2]) for n in names]
    return any(fnmatch.fnmatchcase(text, pattern) for text in texts)


def _is_in(source: Source, pid: int, cgroup: str) -> bool:
    try:
        lines = procstatus.parse_cgroup(source.text(f"{pid}/cgroup"))
    except (ProcessGone, NotPermitted, NotAvailable):
        return False
    wanted = "/" + cgroup.strip("/")
    paths = [proctext.path_to_text(line.path) for line in lines]
    return any(path == wanted or path.startswith(wanted.rstrip("/") + "/") for path in paths)


def _shown(pids: Sequence[int], progress: bool | None) -> Iterator[int]:
    """`pids`, with a bar once it has taken a second and somebody may be watching."""
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    if progress is False or (progress is None and not watched):
        yield from pids
        return
    began, at = time.monotonic(), 0
    for at, pid in enumerate(pids):  # noqa: B007
        if progress or time.monotonic() - began > _PATIENCE:
            break
        yield pid
    else:
        return
    from tqdm.auto import tqdm

    bar = tqdm(pids, desc="processes", unit="", initial=0, leave=False)
    bar.update(at)
    for pid in pids[at:]:
        yield pid
        bar.update()
    bar.close()
