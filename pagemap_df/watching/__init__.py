"""`watch`: snapshot after snapshot, and `record`: the same into a data set.

Before each snapshot after the first, the source is asked the same questions again
(`source.remembering`); if it gives the same answers, the tables of the last snapshot are handed
out again under a new time. That costs about as much as the kernel takes to show the words.

Time comes from a `Clock`: the real one, or `Stepping`, which makes a simulated machine go on
while we seem to sleep. What looking costs is in the facts of each snapshot, under ``watch``:

=====================  ====================================================================
``tick``               number of the snapshot, from 0
``unchanged``          the tables are those of the snapshot before
``elapsed``            seconds since the first, by a clock that does not jump
``cpu_seconds``        processor time that this snapshot took us
``locked_seconds``     time inside reads of the targets' page tables: an upper bound for how
                       long their memory map was locked
``stopped_seconds``    time the targets stood still (``freeze=True``)
``clock_jump``         seconds by which the wall clock jumped since the first, if over one
=====================  ====================================================================

`recording` writes key frames and, between them, `deltas`; `estimate` says beforehand what a
look will cost.

What can go wrong: what goes wrong in `take`. When processes were named and all have left, the
watch ends; it is an error only if that is so from the start. `record` adds `SnapshotError` for
a disc that is full.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..errors import ProcessGone
from ..snapshot import Snapshot
from ..source.remembering import Remembering
from ..take import AnySource, source_of, take
from .recording import Recorder

_JUMP = 1.0


class Clock:
    """Time as it is. Another clock overrides all four."""

    def now(self) -> datetime:
        """What the wall clock shows, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since some moment; never jumps."""
        return time.monotonic()

    def cpu(self) -> float:
        """Processor seconds that this process has used."""
        return time.process_time()

    def sleep(self, seconds: float) -> bool:
        """Let `seconds` pass; False if time has come to its end."""
        time.sleep(seconds)
        return True


class Stepping(Clock):
    """A clock that stands still until slept on; then `step` is called for every `tick` seconds.

    Parameters
    ----------
    step : callable
        Lets the machine go on; the watch ends when it returns False.
    tick : float
        Seconds that one step takes.
    start : datetime, optional
        What the wall clock shows at first.

    Examples
    --------
    >>> machine = []
    >>> clock = Stepping(lambda: machine.append("worked"), tick=0.5)
    >>> clock.sleep(1.0), clock.monotonic(), machine
    (True, 1.0, ['worked', 'worked'])
    """

    def __init__(
        self, step: Callable[[], object], tick: float = 1.0, start: datetime | None = None
    ) -> None:
        self.step, self.tick = step, tick
        self.start = start or datetime(2000, 1, 1, tzinfo=UTC)
        self._seconds = self._owed = 0.0

    def now(self) -> datetime:
        """See `Clock.now`."""
        return self.start + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        """See `Clock.monotonic`."""
        return self._seconds

    def cpu(self) -> float:
        """Nothing costs time here."""
        return 0.0

    def sleep(self, seconds: float) -> bool:
        """See `Clock.sleep`."""
        self._seconds += seconds
        self._owed += seconds
        while self._owed >= self.tick * (1 - 1e-9):
            self._owed -= self.tick
            if self.step() is False:
                return False
        return True


def watch(
    source: AnySource | Sequence[AnySource] = None,
    *,
    every: float = 1.0,
    for_: float | None = None,
    budget: float | None = None,
    clock: Clock | None = None,
    **options: Any,
) -> Iterator[Snapshot]:
    """Take a snapshot every so often.

    Parameters
    ----------
    source : Source, path, or a list of them, optional
        As for `take`. Of a list, each gives one snapshot, in turn.
    every : float
        Seconds from the beginning of one snapshot to that of the next.
    for_ : float, optional
        Stop when so many seconds have passed; without it, only when nothing is left to watch.
    budget : float, optional
        Fraction of one processor that may be used, the work done between two snapshots
        included; kept by looking less often.
    clock : Clock, optional
        Where time comes from.
    **options
        Of `take`.

    Yields
    ------
    Snapshot
        With what it cost in ``facts["watch"]``.

    Examples
    --------
    >>> from pagemap_df.sim.machine import Machine
    >>> machine = Machine("64M", rng=1)
    >>> server = machine.spawn("server")
    >>> heap = server.mmap(100)
    >>> work = iter(range(heap, heap + 100))
    >>> clock = Stepping(lambda: server.write(range(n := next(work), n + 1)))
    >>> before, *_, after = watch(machine, for_=3, clock=clock)
    >>> len(after.pages) - len(before.pages)
    2
    """
    if every < 0 or (budget is not None and budget <= 0):
        raise ValueError(f"every={every} and budget={budget}: expected positive numbers")
    pace = _Pace(clock or Clock(), every, for_, budget)
    if isinstance(source, Sequence) and not isinstance(source, str):
        return _each(source, pace, options)
    return _again(source, pace, options)


def _each(
    sources: Sequence[AnySource], pace: _Pace, options: Mapping[str, Any]
) -> Iterator[Snapshot]:
    for tick, source in enumerate(sources):
        pace.begin()
        snap = take(source, **options)
        yield pace.stamped(snap, {"tick": tick, "unchanged": False})


def _again(source: AnySource, pace: _Pace, options: Mapping[str, Any]) -> Iterator[Snapshot]:
    opened = source_of(source)
    asked = Remembering(opened)
    last: Snapshot | None = None
    tick = 0
    try:
        while True:
            pace.begin()
            unchanged = last is not None and not asked.changed()
            if not unchanged:
                asked.forget()
                try:
                    last = take(asked, **options)
                except ProcessGone:
                    if last is None:
                        raise
                    return
            assert last is not None
            figures = {"tick": tick, "unchanged": unchanged, **asked.spent()}
            yield pace.stamped(last, figures)
            tick += 1
            if not pace.wait():
                return
    finally:
        if opened is not source:
            opened.close()


class _Pace:
    """When to look next, and what time it is."""

    def __init__(
        self, clock: Clock, every: float, for_: float | None, budget: float | None
    ) -> None:
        self.clock, self.every, self.for_, self.budget = clock, every, for_, budget
        self.first = self.began = clock.monotonic()
        self.first_wall = clock.now()
        self.last_stamp: datetime | None = None
        self.cpu = clock.cpu()

    def begin(self) -> None:
        self.began, self.cpu = self.clock.monotonic(), self.clock.cpu()

    def wait(self) -> bool:
        """Sleep until the next look is due; False if there is none."""
        pause = self.every
        if self.budget is not None:
            pause = max(pause, (self.clock.cpu() - self.cpu) / self.budget)
        due = self.began + pause
        if self.for_ is not None and due - self.first >= self.for_ * (1 - 1e-9):
            return False
        return self.clock.sleep(max(0.0, due - self.clock.monotonic()))

    def stamped(self, snap: Snapshot, figures: Mapping[str, Any]) -> Snapshot:
        """`snap` under the time it was begun; two never have the same."""
        elapsed = self.began - self.first
        now = self.clock.now()
        jump = (now - self.first_wall).total_seconds() - (self.clock.monotonic() - self.first)
        if self.last_stamp is not None and now <= self.last_stamp:
            now = self.last_stamp + timedelta(microseconds=1)
        self.last_stamp = now
        about: dict[str, Any] = {**figures, "elapsed": elapsed}
        about["cpu_seconds"] = self.clock.cpu() - self.cpu
        if abs(jump) > _JUMP:
            about["clock_jump"] = jump
        facts = {**snap.facts, "taken_at": now.isoformat(timespec="microseconds"), "watch": about}
        return snap.with_facts(facts)


@dataclass(frozen=True)
class Recorded:
    """What `record` did.

    Attributes
    ----------
    snapshots, keys : int
        Directories written, and how many of them are key frames.
    bytes : int
        In all files.
    cpu_seconds, locked_seconds, stopped_seconds : float
        See the module.
    """

    snapshots: int
    keys: int
    bytes: int
    cpu_seconds: float
    locked_seconds: float
    stopped_seconds: float


def record(
    directory: str | os.PathLike[str],
    source: AnySource | Sequence[AnySource] = None,
    *,
    key_every: int = 60,
    then: Callable[[Path, Snapshot], object] | None = None,
    **options: Any,
) -> Recorded:
    """Watch, and write every snapshot below `directory`; see `recording` for how.

    Parameters
    ----------
    key_every : int
        Snapshots from one key frame to the next.
    then : callable, optional
        Called with the directory and the snapshot after each is written.
    **options
        Of `watch` and `take`; not ``holes``. With ``machine_frames`` every snapshot is whole.

    Returns
    -------
    Recorded

    Raises
    ------
    SnapshotError
        When the disc is full. What was written before reads whole.
    """
    if options.get("holes"):
        raise ValueError("a recording keeps populated pages only; leave holes=True out")
    recorder = Recorder(directory, key_every=1 if options.get("machine_frames") else key_every)
    cpu = locked = stopped = 0.0
    clock = options.get("clock") or Clock()
    began = clock.cpu()
    with closing(watch(source, **options)) as snaps:  # type: ignore[type-var]
        for snap in snaps:
            place = recorder.add(snap)
            locked += snap.facts["watch"].get("locked_seconds", 0.0)
            stopped += snap.facts["watch"].get("stopped_seconds", 0.0)
            if then is not None:
                then(place, snap)
    cpu = clock.cpu() - began
    return Recorded(recorder.snapshots, recorder.keys, recorder.bytes, cpu, locked, stopped)
