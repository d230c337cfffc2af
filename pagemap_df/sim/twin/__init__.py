"""The twin: one script on a simulated machine and on the running kernel, compared.

::

    script ──► Model (arena) ──► Machine ────────► Arena ──► take ──► side ──┐
       │          │ where things are put                                     ├──► differences
       └───────► Play ──► Host, Tasks (child.py) ─► Arena ──► take ──► side ──┘

Nobody believes a simulator that was only tested against itself. `compare` plays a script on
both sides, one operation at a time; at each ``snap`` both are read by the same `take`, and
compared up to renaming: addresses become page numbers in mappings, frames and swap slots are
compared by who shares them. Map counts, flags, all smaps figures and VmFlags must be equal,
and so must every errno and every signal. What the model cannot know is declared in `RULES`,
word by word, with the reason. `random` does it for as many random scripts as you like, and
shrinks what diverges to a few lines.

Files of scripts lie on a small file system made for the session, whose page cache has single
pages. Playing on the kernel takes root, and turns knobs of the machine for the time; a guard
process turns them back, switches swap off and removes every file and process even if this
program is killed. See `Host`.
"""

from __future__ import annotations

from .host import Host, compare
from .rules import RULES, Rule
from .runs import Divergence, Result, random, run
from .shrink import shrink

__all__ = ["RULES", "Divergence", "Host", "Result", "Rule", "compare", "random", "run", "shrink"]
