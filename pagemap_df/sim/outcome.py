"""What a run remembers of calls that failed and processes that were killed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """Something that ended other than well.

    Attributes
    ----------
    process : str
        Name of the process it happened to.
    what : str
        ``"SIGSEGV"``, ``"SIGBUS"``, ``"OOM"``, or an errno's name.
    detail : str
    line : int or None
        Line of the script, if one was run.
    """

    process: str
    what: str
    detail: str
    line: int | None = None
