"""A snapshot of this process, taken from outside of it.

A process that looks at its own page tables changes them: tables are built in its own memory.
An `Observer` is a small helper process that looks instead. It is started and warmed up once;
from then on a look costs the observed process a line written to a pipe and one read from it.
The helper is spawned, not forked: a fork would make every private page of ours shared and
copy-on-write, which is just what must not happen.

What passes between the two is a line of JSON each way: ``take`` asks for a snapshot, ``keep``
with a directory has all of them written there as Parquet. The helper ends when its input does.

What can go wrong: what goes wrong in `take` is raised here with the same type and words.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from . import errors
from .errors import PagemapError
from .read import read_snapshot
from .snapshot import Snapshot
from .source.procfs import Procfs
from .take import take


class Observer:
    """A helper process that takes snapshots; a context manager.

    Parameters
    ----------
    options : mapping
        What `take` is called with, in words that JSON has: ``pids``, ``name``, ``cgroup``, ``join``,
        ``freeze``. The helper itself is never among the processes.

    Examples
    --------
    >>> with Observer({"pids": [os.getpid()]}) as observer:
    ...     observer.take()
    ...     (snap,) = observer.snapshots()
    >>> snap.arrow("processes")["pid"].to_pylist() == [os.getpid()]
    True
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
        command.append(json.dumps(dict(options)))
        # Not our directory, in which a module could be called like one of the library.
        self._helper = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the helper."""
        self.close()

    def close(self) -> None:
        """End the helper, and wait until it is gone."""
        for pipe in (self._helper.stdin, self._helper.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # closing writes what could not be written
                    pipe.close()
        self._helper.wait()

    def take(self) -> None:
        """Have it take a snapshot, and keep that on its side."""
        self._ask(["take"])

    def forget(self) -> None:
        """Drop the snapshots taken so far."""
        self._ask(["forget"])

    def snapshots(self) -> list[Snapshot]:
        """All snapshots taken so far, brought over here."""
        with TemporaryDirectory(prefix="pagemap_df-") as directory:
            paths = self._ask(["keep", directory])
            found = [read_snapshot(path) for path in paths]
            # Parquet is read on first use; here that must be before the files go.
            return [Snapshot({name: s.arrow(name) for name in _TABLES}, s.facts) for s in found]

    def _ask(self, question: list[str]) -> Any:
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        with suppress(BrokenPipeError):  # then there is no answer either
            self._helper.stdin.write(json.dumps(question).encode() + b"\n")
            self._helper.stdin.flush()
        line = self._helper.stdout.readline()
        if not line:
            raise PagemapError(
                f"the observing process ended with status {self._helper.wait()}; what it wrote "
                "to standard error says why"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["error"], PagemapError)(answer["text"])
        return answer["done"]


_TABLES = ("pages", "vmas", "frames", "swaps", "processes")


class _Others(Procfs):
    """The running kernel, without the process that looks."""

    def pids(self) -> list[int]:
        """Processes but this one."""
        return [pid for pid in super().pids() if pid != os.getpid()]


def serve() -> None:
    """The helper's loop: a question a line on standard input, an answer a line on output."""
    options = json.loads(sys.argv[-1])
    taken: list[Snapshot] = []
    with _Others() as source:
        for line in sys.stdin:
            try:
                answer: dict[str, Any] = {"done": _answer(json.loads(line), source, options, taken)}
            except PagemapError as error:
                answer = {"error": type(error).__name__, "text": str(error)}
            print(json.dumps(answer), flush=True)


def _answer(
    question: list[str], source: Procfs, options: Mapping[str, Any], taken: list[Snapshot]
) -> list[str] | None:
    if question[0] == "take":
        taken.append(take(source, progress=False, **options))
        return None
    if question[0] == "forget":
        taken.clear()
        return None
    paths = [Path(question[1]) / str(k) for k in range(len(taken))]
    for path, snap in zip(paths, taken, strict=True):
        snap.to_parquet(path)
    return [str(path) for path in paths]
