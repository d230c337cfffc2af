"""Side by side: run several ways in turn, and print medians of their ratios.

The machine is small and shared, so a bare time says nothing. Ways are run one after the
other in every round, and each round gives one ratio; the median over the rounds is printed
with the lowest and the highest.
"""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Report:
    """Lines printed so far, and how many of them missed their mark."""

    missed: list[str] = field(default_factory=list)

    def ratio(
        self,
        name: str,
        way: Callable[[], object],
        against: Callable[[], object],
        at_most: float,
        *,
        rounds: int = 15,
        warm: bool = False,
    ) -> None:
        """Time `way` against `against`, and say whether the ratio keeps below `at_most`.

        With `warm`, each is run once before it is timed: memory of gigabytes that the other
        has just given back is what a virtual machine must fetch from its host first.
        """
        ratios = []
        for _ in range(rounds):
            base, took = (self._timed(each, warm) for each in (against, way))
            ratios.append(took / base)
        low, high = min(ratios), max(ratios)
        self.value(name, statistics.median(ratios), at_most, f"x  ({low:.2f} to {high:.2f})")

    @staticmethod
    def _timed(way: Callable[[], object], warm: bool) -> float:
        if warm:
            way()
        return seconds(way)

    def value(self, name: str, found: float, at_most: float, unit: str = "") -> None:
        """Print one figure beside its mark."""
        verdict = "ok" if found <= at_most else "MISSED"
        print(f"{name:<58} {found:8.2f}{unit:<22} at most {at_most:g}  {verdict}", flush=True)
        if found > at_most:
            self.missed.append(name)


def seconds(way: Callable[[], object]) -> float:
    """How long `way` takes once; what it gave is dropped outside of the clock."""
    gc.collect()
    gc.disable()
    try:
        began = time.perf_counter()
        kept = way()
        took = time.perf_counter() - began
    finally:
        gc.enable()
    del kept
    return took
