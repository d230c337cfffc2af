"""`Host` and `compare`: what users of the twin have in their hands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...snapshot import Snapshot
from ...take import take
from ..machine import Machine
from ..script import Script
from .arena import Model
from .compare import COLUMNS, MEMORY, TAKING, play
from .play import Play
from .session import Session

if TYPE_CHECKING:
    import pandas as pd


class Host(Session):
    """The running kernel as something that scripts run on; a context manager.

    Examples
    --------
    ::

        with Host() as host:
            snapshots = host.run(script)
            differences = compare(script, host=host)
    """

    def run(self, script: Script, seed: int = 0) -> dict[str, Snapshot]:
        """Run a script with real processes: its snapshots by name.

        They show the mappings of the script and nothing else of its processes, with map
        counts, huge pages and smaps figures. The counterpart of `Machine.run`.
        """
        model = Model(Machine(script.memory or MEMORY, rng=seed), seed)
        snapshots: dict[str, Snapshot] = {}
        with Play(self, model, press=any(item.op == "reclaim" for item in script)) as real:
            for operation in script:
                if operation.op != "snap":
                    model.step(operation)
                    real.step(operation)
                elif real.tasks:
                    pids = [task.pid for task in real.tasks.values()]
                    name = str(operation.words["name"])
                    snapshots[name] = take(self.source, pids=pids, **TAKING)
        return snapshots


def compare(script: Script, *, host: Host | None = None, seed: int = 0) -> pd.DataFrame:
    """Run a script on a simulated machine and on the kernel: what they disagree on.

    Parameters
    ----------
    script : Script
    host : Host, optional
        An open one; without it, one is opened for this script alone.
    seed : int
        Of the machine, and of the places that mappings are put at.

    Returns
    -------
    DataFrame
        One row per difference, in the order in which they came up: ``where`` (a snapshot, or
        ``line N`` for an errno or signal), ``process``, ``mapping``, ``page`` in it, ``what``
        (a column of ``pages`` or ``vmas``; ``page`` and ``vma`` for a row that only one side
        has; ``outcome``), and what ``model`` and ``kernel`` say. Empty if both agree.

    Raises
    ------
    NotPermitted, NotAvailable
        Where the kernel cannot be played on, or lacks a knob that the script turns.
    ScriptError
        For a script that makes no sense.
    """
    import pandas as pd

    if host is None:
        with Host() as own:
            return compare(script, host=own, seed=seed)
    return pd.DataFrame(list(play(script, host, seed)), columns=list(COLUMNS))
