"""Many random scripts: how often the two sides agree, and on what.

Each script follows from the seed and its number. One that diverges is shrunk at once, and
kept with its table of differences.
"""

from __future__ import annotations

import gc
import os
import random as randomness
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..script import Script
from .compare import COLUMNS, play
from .generate import script as random_script
from .host import Host
from .rules import RULES
from .shrink import shrink
from .sides import Difference
from .tally import Tally

if TYPE_CHECKING:
    import pandas as pd

_AGAIN = 3
_SESSION = 100
"""Scripts after which others may have the machine."""


@dataclass(frozen=True)
class Divergence:
    """A script on which the two sides do not agree.

    Attributes
    ----------
    number : int
        Of the script in its run.
    script : Script
        What is left of it after shrinking.
    differences : DataFrame
        As `compare` gives them for that.
    stable : bool
        Whether it diverged when it was played again. If not, it is as it was drawn.
    """

    number: int
    script: Script
    differences: pd.DataFrame
    stable: bool = True


@dataclass
class Result:
    """What a run of random scripts came to. Its text is the summary.

    Attributes
    ----------
    seed, scripts : int
    operations : int
        Carried out on both sides.
    pages : int
        Compared, over all snapshots.
    divergences : list of Divergence
    tally : Tally
    kernel : str
        Version, as major.minor.patch.
    seconds : float
    """

    seed: int
    scripts: int = 0
    divergences: list[Divergence] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    kernel: str = field(default_factory=lambda: os.uname().release.partition("-")[0])

    @property
    def operations(self) -> int:
        """How many operations were carried out on both sides."""
        return self.tally.operations.total()

    @property
    def pages(self) -> int:
        """How many pages were compared, over all snapshots."""
        return self.tally.pages

    def summary(self) -> str:
        """What was compared, how much of it, and how often the two sides did not agree."""
        tally = self.tally
        lines = [
            f"Linux {self.kernel}, seed {self.seed}, {self.seconds:.0f} s",
            f"scripts      {self.scripts:>12,}",
            f"operations   {self.operations:>12,}   of {len(tally.operations)} kinds",
            f"pairs        {len(tally.pairs):>12,}   of successive operations",
            f"snapshots    {tally.snapshots:>12,}   with {len(tally.kinds)} kinds of VMA",
            f"pages        {self.pages:>12,}",
            f"divergences  {len(self.divergences):>12,}",
        ]
        lines += [
            f"cut short    {count:>12,}   by rule {name!r}" for name, count in tally.ended.items()
        ]
        return "\n".join(lines)

    def __str__(self) -> str:
        """The summary, and every divergence as its script and its first differences."""
        lines = [self.summary()]
        for one in self.divergences:
            again = "" if one.stable else " (not when played again)"
            lines += ["", f"script {one.number}{again}:", one.script.dump().rstrip()]
            lines += [one.differences.head(10).to_string(index=False)]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The summary as JSON: counts, coverage, the rules that were in force."""
        return {
            "kernel": self.kernel,
            "seed": self.seed,
            "scripts": self.scripts,
            "operations": self.operations,
            "snapshots": self.tally.snapshots,
            "pages": self.pages,
            "divergences": [one.script.dump() for one in self.divergences],
            "cut_short": dict(self.tally.ended),
            "rules": {rule.name: rule.reason for rule in RULES},
            "coverage": {
                "operations": dict(self.tally.operations.most_common()),
                "vma_kinds": dict(self.tally.kinds.most_common()),
                "pages": dict(self.tally.states.most_common()),
                "pairs": dict(self.tally.pairs.most_common()),
            },
        }


def numbered(seed: int, number: int) -> Script:
    """The script of a run that has a number."""
    return random_script(randomness.Random(f"{seed}/{number}"))


def random(n: int, seed: int = 0, progress: bool | None = None) -> Result:
    """Compare the simulator with the kernel on `n` random scripts.

    Parameters
    ----------
    n : int
        Scripts; each costs about a twentieth of a second.
    seed : int
        The same seed gives the same scripts.
    progress : bool, optional
        Show a progress bar; by default on a terminal.

    Returns
    -------
    Result

    Raises
    ------
    NotPermitted, NotAvailable
        Where scripts cannot be played on the kernel.

    Examples
    --------
    ::

        print(twin.random(2000, seed=7))      # as root on Linux
    """
    return _all(((number, numbered(seed, number)) for number in range(n)), n, seed, progress)


def run(script: Script, seed: int = 0) -> Result:
    """Compare the two on one script, and shrink it if they do not agree; as `random` does it."""
    return _all([(seed, script)], 1, seed, progress=False)


def _all(scripts: Iterable[tuple[int, Script]], n: int, seed: int, progress: bool | None) -> Result:
    result, began = Result(seed), time.monotonic()
    todo = iter(_shown(scripts, n, progress))
    while result.scripts < n:
        with Host() as host:
            for number, script in islice(todo, _SESSION):
                _one(result, number, script, host)
        # A machine and its processes know each other, and are large.
        gc.collect()
    result.seconds = time.monotonic() - began
    return result


def _one(result: Result, number: int, script: Script, host: Host) -> None:
    found = list(play(script, host, number, result.tally))
    result.tally.script(script)
    result.scripts += 1
    if found:
        result.divergences.append(_shrunk(script, found, number, host))


def _shrunk(script: Script, found: list[Difference], number: int, host: Host) -> Divergence:
    """The smallest script that still diverges in one of the same words."""
    import pandas as pd

    words = {difference.what for difference in found}
    last = {script.dump(): found}

    def fails(candidate: Script) -> bool:
        again = list(play(candidate, host, number))
        last[candidate.dump()] = again
        return any(difference.what in words for difference in again)

    stable = any(fails(script) for _ in range(_AGAIN))
    small = shrink(script, fails) if stable else script
    shown = last[small.dump()] if stable else found
    return Divergence(number, small, pd.DataFrame(shown, columns=list(COLUMNS)), stable)


def _shown(
    scripts: Iterable[tuple[int, Script]], n: int, progress: bool | None
) -> Iterable[tuple[int, Script]]:
    if progress or (progress is None and sys.stderr.isatty()):
        from tqdm.auto import tqdm

        shown: Iterable[tuple[int, Script]] = tqdm(scripts, desc="scripts", unit="", total=n)
        return shown
    return scripts
