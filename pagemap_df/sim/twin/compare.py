"""One script on both sides, step by step; what they disagree on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

from ...take import take
from ..machine import Machine
from ..script import Operation, Script
from .arena import Arena, Model
from .play import Play
from .rules import blanked, ended
from .session import Session
from .sides import EMPTY, Difference, Names, differences, side
from .tally import Tally
from .victims import tell

TAKING: dict[str, Any] = {"join": ["mapcount", "huge"], "smaps": True, "progress": False}
"""What `take` is asked for, on both sides."""

COLUMNS = ("where", "process", "mapping", "page", "what", "model", "kernel")
MEMORY = "1G"


def play(
    script: Script, host: Session, seed: int = 0, tally: Tally | None = None
) -> Iterator[Difference]:
    """Run a script on both sides; the differences as they are found.

    An operation with two outcomes is the end: nothing behind it is about the same processes.
    """
    press = any(item.op == "reclaim" for item in script)
    with Both(host, script.memory or MEMORY, seed, press=press) as both:
        for operation in script:
            found = both.step(operation, tally)
            yield from found
            if any(difference.what == "outcome" for difference in found):
                return
            if both.over is not None:
                if tally is not None:
                    tally.ended[both.over] += 1
                return


class Both:
    """A machine and the kernel on their way through the same operations. A context manager.

    Parameters
    ----------
    host : Session
    memory : str
        Of the machine.
    seed : int
        Of the machine, and of the places where mappings go.
    press : bool
        Whether there may be memory pressure.

    Attributes
    ----------
    model : Model
    real : Play
    over : str or None
        The rule by which nothing that follows is compared.
    """

    def __init__(
        self, host: Session, memory: str = MEMORY, seed: int = 0, *, press: bool = True
    ) -> None:
        self.host = host
        self.over: str | None = None
        self.model = Model(Machine(memory, rng=seed), seed)
        self.real = Play(host, self.model, press=press)
        self._names, self._done = Names(), set[str]()

    def __enter__(self) -> Self:
        """Nothing has happened yet."""
        self.real.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """End the real processes."""
        self.real.__exit__(*error)

    def step(self, operation: Operation, tally: Tally | None = None) -> list[Difference]:
        """Carry out one operation on both sides: what they disagree on then."""
        self._done.add(operation.op)
        if operation.op == "snap":
            return list(self._snap(operation, tally))
        machine, real = self.model.machine, self.real
        known = len(machine.outcomes), len(real.outcomes)
        if operation.op != "reclaim":
            self.model.step(operation)
        real.step(operation)
        if operation.op == "reclaim":
            tell(self.model, real, self.host)
        self._names.learn(self.model)
        self.over = ended(self.model)
        if self.over is not None:
            return []
        ours = sorted(outcome.what for outcome in machine.outcomes[known[0] :])
        theirs = sorted(outcome.what for outcome in real.outcomes[known[1] :])
        if ours == theirs:
            return []
        said = " ".join(ours) or "done", " ".join(theirs) or "done"
        process = operation.process or ""
        return [Difference(f"line {operation.line}", process, "", None, "outcome", *said)]

    def _snap(self, operation: Operation, tally: Tally | None) -> Iterator[Difference]:
        self._names.learn(self.model)
        sources = Arena(self.model.machine), self.host.source
        ours, theirs = (
            side(take(source, pids=list(pids), **TAKING), pids) if pids else EMPTY
            for source, pids in zip(sources, self._pids(), strict=True)
        )
        if tally is not None:
            tally.snapshot(theirs)
        where, unknown = str(operation.words["name"]), blanked(self._done)
        yield from differences(where, ours, theirs, self._names, unknown)

    def _pids(self) -> tuple[dict[int, int], dict[int, int]]:
        """Numbers of the live processes of both sides by their pids."""
        numbers = {name: number for number, name in enumerate(self._names.processes)}
        ours = {
            process.pid: numbers[name]
            for name, process in self.model.run.processes.items()
            if process.space is not None
        }
        return ours, {task.pid: numbers[name] for name, task in self.real.tasks.items()}
