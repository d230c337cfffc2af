"""What a run has compared: how much of it, and how often each thing occurred."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ..script import Operation, Script
from .sides import Side


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
