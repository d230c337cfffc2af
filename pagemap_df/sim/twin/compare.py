"""One script on both sides, step by step; what they disagree on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from ...take import take
from ..machine import Machine
from ..script import Operation, Script
from .arena import Arena, Model
from .play import Play
from .rules import blanked, ended
from .session import Session
from .sides import EMPTY, Difference, Names, Side, differences, side
from .victims import tell

TAKING: dict[str, Any] = {"join": ["mapcount", "huge"], "smaps": True, "progress": False}
"""What `take` is asked for, on both sides."""

COLUMNS = ("where", "process", "mapping", "page", "what", "model", "kernel")
MEMORY = "1G"


@dataclass
class Tally:
    """What has been compared so far.

    Attributes
    ----------
    pages, snapshots : int
        Rows of ``pages`` that the kernel showed, in so many snapshots.
    operations, pairs, kinds, states : Counter
        How often each operation occurred, each pair of successive ones, each kind of VMA in a
        snapshot, and each kind of page, alone or shared.
    ended : Counter
        How many scripts were not compared to their end, by the `Rule` that says why.
    """

    pages: int = 0
    snapshots: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    pairs: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)

    def script(self, script: Script) -> None:
        """Count the operations of a script."""
        verbs = [verb(operation) for operation in script]
        self.operations.update(verbs)
        self.pairs.update(f"{one}, {other}" for one, other in pairwise(verbs))

    def snapshot(self, kernel: Side) -> None:
        """Count what a snapshot showed."""
        self.snapshots += 1
        self.pages += len(kernel.places["pages"])
        words = kernel.words["vmas"]
        self.kinds.update(
            f"{kind} {'shared' if perms[3] == 's' else 'private'}"
            for kind, perms in zip(words.get("kind", ()), words.get("perms", ()), strict=True)
        )
        self.states.update(_states(kernel.words["pages"]))


def _states(words: dict[str, np.ndarray]) -> Counter[str]:
    """How many pages of each kind, alone or shared, and mapped by PMD."""
    found: Counter[str] = Counter()
    if not words:
        return found
    holders = np.where(words["frame"] >= 0, words["frame"], words["slot"])
    _, back, counts = np.unique(holders, return_inverse=True, return_counts=True)
    shared = (holders >= 0) & ((counts[back] > 1) | (words["mapcount"] > 1))
    for kind, several, huge in zip(words["kind"], shared, words["huge"] > 0, strict=True):
        found[f"{'huge ' if huge else ''}{kind}{', shared' if several else ''}"] += 1
    return found


def verb(operation: Operation) -> str:
    """What an operation does, in a word or two."""
    return f"madvise {operation.words['advice']}" if operation.op == "madvise" else operation.op


def play(
    script: Script, host: Session, seed: int = 0, tally: Tally | None = None
) -> Iterator[Difference]:
    """Run a script on both sides; the differences as they are found."""
    machine = Machine(script.memory or MEMORY, rng=seed)
    model, names, done = Model(machine, seed), Names(), set[str]()
    with Play(host, model, press=any(item.op == "reclaim" for item in script)) as real:
        for operation in script:
            done.add(operation.op)
            if operation.op == "snap":
                names.learn(model)
                yield from _snap(operation, (machine, model), (host, real), names, done, tally)
                continue
            known = len(machine.outcomes), len(real.outcomes)
            if operation.op != "reclaim":
                model.step(operation)
            real.step(operation)
            if operation.op == "reclaim":
                tell(model, real, host)
            names.learn(model)
            yield from _outcomes(operation, machine, real, known)
            reason = ended(machine.kernel)
            if reason is not None:
                if tally is not None:
                    tally.ended[reason] += 1
                return


def _snap(
    operation: Operation,
    simulated: tuple[Machine, Model],
    living: tuple[Session, Play],
    names: Names,
    done: set[str],
    tally: Tally | None,
) -> Iterator[Difference]:
    sources = Arena(simulated[0]), living[0].source
    sides = [
        side(take(source, pids=list(pids), **TAKING), pids) if pids else EMPTY
        for source, pids in zip(sources, _pids(simulated[1], living[1], names), strict=True)
    ]
    if tally is not None:
        tally.snapshot(sides[1])
    yield from differences(str(operation.words["name"]), *sides, names, blanked(done))


def _pids(model: Model, real: Play, names: Names) -> tuple[dict[int, int], dict[int, int]]:
    """Numbers of the live processes of both sides by their pids."""
    numbers = {name: number for number, name in enumerate(names.processes)}
    living = {
        name: process for name, process in model.run.processes.items() if process.space is not None
    }
    return (
        {process.pid: numbers[name] for name, process in living.items()},
        {task.pid: numbers[name] for name, task in real.tasks.items()},
    )


def _outcomes(
    operation: Operation, machine: Machine, real: Play, known: tuple[int, int]
) -> Iterator[Difference]:
    ours = sorted(outcome.what for outcome in machine.outcomes[known[0] :])
    theirs = sorted(outcome.what for outcome in real.outcomes[known[1] :])
    if ours != theirs:
        yield Difference(
            f"line {operation.line}",
            operation.process or "",
            "",
            None,
            "outcome",
            " ".join(ours) or "done",
            " ".join(theirs) or "done",
        )
