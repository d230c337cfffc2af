"""Names for groups of processes: by a column, a user, a process tree, a pattern, or by hand.

In: the ``processes`` table and a wish. Out: a label for each pid, None for processes that
belong to no group. What can go wrong: the wish is no column (`TableError` lists them), or
nothing matches, which is an error too, for an empty answer would look like a small one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import TableError

if TYPE_CHECKING:
    import pandas as pd

    from .view import View

    Grouping = str | re.Pattern[str] | Mapping[int, Any] | pd.Series[Any] | None


def labels(view: View, by: Grouping = None) -> dict[int, str]:
    """The group of each process.

    Parameters
    ----------
    view : View
        A snapshot.
    by : optional
        None
            one group, ``all``.
        str
            a column of ``processes`` (``"name"``, ``"uid"``, ``"cgroup"`` …); or ``"user"``, the
            name of the uid if the snapshot is of this host; or ``"tree"``, the topmost ancestor
            below pid 1 that is in the snapshot, as ``pid name``.
        re.Pattern
            searched in the command line, or the name if there is none; the label is the first
            parenthesis of the pattern, or the whole match.
        mapping or Series
            pid to label.

    Returns
    -------
    dict of int to str
        Processes that belong nowhere are not in it.
    """
    processes = view.processes.to_pylist()
    if by is None:
        found: Mapping[int, Any] = {process["pid"]: "all" for process in processes}
    elif isinstance(by, str):
        found = _by_word(processes, by, view.facts)
    elif isinstance(by, re.Pattern):
        found = {process["pid"]: _match(by, process) for process in processes}
    else:
        found = {process["pid"]: by.get(process["pid"]) for process in processes}
    known = {process["pid"] for process in processes}
    out = {p: str(label) for p, label in found.items() if label is not None and p in known}
    if not out:
        raise TableError(f"no process belongs to any group by {by!r}; there are {len(known)}")
    return out


def _by_word(
    processes: list[dict[str, Any]], word: str, facts: Mapping[str, Any]
) -> dict[int, Any]:
    if word == "tree":
        return _by_tree(processes)
    if word == "user":
        here = facts.get("host") == os.uname().nodename
        return {p["pid"]: _user(p["uid"]) if here else p["uid"] for p in processes}
    if processes and word not in processes[0]:
        known = ", ".join([*processes[0], "user", "tree"])
        raise TableError(f"processes cannot be grouped by {word!r}; there are {known}")
    return {process["pid"]: process[word] for process in processes}


def _by_tree(processes: list[dict[str, Any]]) -> dict[int, str]:
    """Follow ``ppid`` upwards until it leaves the snapshot or reaches pid 1 or 2."""
    by_pid = {process["pid"]: process for process in processes}
    out = {}
    for pid in by_pid:
        root, seen = pid, {pid}
        while (up := by_pid[root]["ppid"]) in by_pid and up > 2 and up not in seen:
            root = up
            seen.add(up)
        out[pid] = f"{root} {by_pid[root]['name'] or '?'}"
    return out


def _user(uid: int | None) -> str | int | None:
    import pwd

    try:
        return None if uid is None else pwd.getpwuid(uid).pw_name
    except KeyError:
        return uid


def _match(pattern: re.Pattern[str], process: Mapping[str, Any]) -> str | None:
    found = pattern.search(process["cmdline"] or process["name"] or "")
    if found is None:
        return None
    return found[1] if pattern.groups and found[1] is not None else found[0]
