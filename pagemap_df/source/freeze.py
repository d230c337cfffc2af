"""Keep processes from running while they are looked at, and let them go whatever happens.

Two ways. The cgroup v2 freezer is invisible to the target and its parent, but stops a whole
cgroup, so it is used where a cgroup holds nobody but the processes asked for. Otherwise
SIGSTOP, which a parent can notice (SIGCHLD, job control). Neither stops the kernel: reclaim,
KSM and compaction still move the pages of a process that stands still.

The processes are let go when the ``with`` ends, also by an exception or Ctrl-C. Should this
very process be killed inside it, a guard (a small ``sh`` waiting at a pipe) lets them go. A
process that stood still before we came, stopped or in a frozen cgroup, stays as it was.

What can go wrong: no right to send signals (`NotPermitted`); a process that leaves meanwhile
is passed over; one that does not stop within two seconds (it sleeps uninterruptibly in the
kernel) is named in the facts as ``still_running``.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .. import procstatus
from ..errors import NotPermitted

_PATIENCE = 2.0


@contextmanager
def frozen(pids: Iterable[int], proc: Path = Path("/proc")) -> Iterator[Mapping[str, Any]]:
    """Freeze `pids` (this process is passed over) and thaw them on leaving.

    Yields
    ------
    dict
        ``cgroup`` and ``signal``: the pids stopped either way; ``before``: those that stood
        still already; ``still_running``: those that would not stop.
    """
    wanted = sorted(set(pids) - {os.getpid()})
    home = _cgroups(proc, wanted)
    before = [
        pid
        for pid in wanted
        if _state(proc, pid) in ("T", "t") or (pid in home and _is_frozen(home[pid]))
    ]
    groups = _whole_cgroups({pid: home[pid] for pid in home if pid not in before})
    in_groups = sorted(pid for members in groups.values() for pid in members)
    by_signal = [pid for pid in wanted if pid not in before and pid not in in_groups]
    with _guard(by_signal, list(groups)):
        try:
            for group in groups:
                (group / "cgroup.freeze").write_text("1")
            for pid in by_signal:
                _signal(pid, signal.SIGSTOP)
            late = _wait(proc, by_signal, list(groups))
            yield {
                "cgroup": in_groups,
                "signal": by_signal,
                "before": before,
                "still_running": late,
            }
        finally:
            _thaw(by_signal, list(groups))


def _thaw(pids: list[int], groups: list[Path]) -> None:
    for group in groups:
        with suppress(OSError):
            (group / "cgroup.freeze").write_text("0")
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _guard(pids: list[int], groups: list[Path]) -> Iterator[None]:
    """A shell that thaws when our end of its pipe closes without a word."""
    if not pids and not groups:
        yield
        return
    undo = [f"echo 0 > {shlex.quote(str(group / 'cgroup.freeze'))}" for group in groups]
    undo += [f"kill -CONT {pid}" for pid in pids]
    script = "trap '' INT TERM HUP; read word || { " + "; ".join(undo) + "; }"
    with subprocess.Popen(
        ["/bin/sh", "-c", script],
        bufsize=0,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as shell:
        try:
            yield
        finally:
            assert shell.stdin is not None
            with suppress(BrokenPipeError):
                shell.stdin.write(b"done\n")


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError as error:
        raise NotPermitted(
            f"process {pid}: expected to be allowed to stop it; freeze=True needs the same "
            "user or CAP_KILL"
        ) from error


def _state(proc: Path, pid: int, task: str = "") -> str | None:
    """One letter of stat; None if the task is gone."""
    path = f"{pid}/task/{task}/stat" if task else f"{pid}/stat"
    try:
        return procstatus.parse_stat((proc / path).read_bytes(), path=path).state
    except (FileNotFoundError, ProcessLookupError):
        return None


def _wait(proc: Path, pids: list[int], groups: list[Path]) -> list[int]:
    """Wait until all stand still; give those that do not.

    The signal is sent to the process, but each thread stops by itself on its way back to
    user space (kernel/signal.c, do_signal_stop), so every thread is asked.
    """
    deadline = time.monotonic() + _PATIENCE
    running = pids
    while True:
        running = [pid for pid in running if not _stands(proc, pid)]
        moving = [group for group in groups if not _is_frozen(group)]
        if not (running or moving) or time.monotonic() > deadline:
            return running
        time.sleep(0.0005)


def _stands(proc: Path, pid: int) -> bool:
    try:
        tasks = os.listdir(proc / f"{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return all(_state(proc, pid, task) in ("T", "t", "Z", "X", None) for task in tasks)


def _is_frozen(group: Path) -> bool:
    try:
        return "frozen 1" in (group / "cgroup.events").read_text()
    except FileNotFoundError:
        return True


def _cgroups(proc: Path, pids: list[int]) -> dict[int, Path]:
    """The v2 cgroup of each of `pids` that is in one below the root."""
    mount = _unified_mount(proc)
    found: dict[int, Path] = {}
    if mount is None:
        return found
    for pid in pids:
        try:
            lines = procstatus.parse_cgroup((proc / f"{pid}/cgroup").read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in lines:
            if line.hierarchy == 0 and line.path != b"/":
                found[pid] = mount / os.fsdecode(line.path).lstrip("/")
    return found


def _whole_cgroups(home: Mapping[int, Path]) -> dict[Path, set[int]]:
    """The freezable ones of these cgroups that hold nobody but the processes named."""
    members: dict[Path, set[int]] = {}
    for pid, group in home.items():
        members.setdefault(group, set()).add(pid)
    return {
        group: inside
        for group, inside in members.items()
        if os.access(group / "cgroup.freeze", os.W_OK) and _population(group) == inside
    }


def _population(group: Path) -> set[int]:
    """All processes in `group` and below it."""
    try:
        files = [group / "cgroup.procs", *group.glob("**/cgroup.procs")]
        return {int(pid) for file in files for pid in file.read_text().split()}
    except OSError:
        return set()


def _unified_mount(proc: Path) -> Path | None:
    for line in (proc / "self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        if right.startswith("cgroup2 "):
            return Path(left.split()[4])
    return None
