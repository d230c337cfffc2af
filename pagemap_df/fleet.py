"""`fleet`: one question to every host of a data set, on one machine or on many.

A page frame number means something on its own host only, so no question needs rows of two hosts
side by side: each host is asked alone, and the partial tables are put together. Any engine that
runs functions will do. An ``executor`` is what `concurrent.futures` calls one: none (one host
after the other, here), a process pool, or ``distributed.Client(address).get_executor()`` of Dask
for a cluster, whose scheduler repeats what a lost worker was doing. Workers need this package
in the same version and see the data set under the same path.

In: SQL or a function of a snapshot, and a `Dataset`. Out: a DataFrame with ``host`` in front, in
the order of the hosts whatever the executor, and ``attrs["skipped"]``: which hosts are missing
and why.

What can go wrong: a host's data is bad, or the question fails on it. With
``on_error="raise"`` that is raised with the host's name, with ``"skip"`` it is listed. A
worker with another version of the package (`NotAvailable`) and a lost pool are always raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import pyarrow as pa

from . import sharing, swapping
from .dataset import Dataset, OnError
from .errors import NotAvailable, PagemapError
from .snapshot import Snapshot

if TYPE_CHECKING:
    import pandas as pd

_FAILURES = (
    PagemapError, pa.ArrowException, LookupError, ValueError, TypeError, ArithmeticError, OSError,
    MemoryError,
)  # fmt: skip
"""What a question may raise on one host without it being the fleet's fault."""

Ask = str | Callable[[Snapshot], "pd.DataFrame"]


@dataclass(frozen=True)
class Question:
    """What to ask each host, and how to make one table of the answers."""

    ask: Ask
    merge: Callable[[pd.DataFrame], pd.DataFrame]


@dataclass(frozen=True)
class Task:
    """One host's part, as it goes to a worker."""

    host: str
    ask: Ask
    dataset: Dataset
    memory_limit: str
    version: str


@dataclass(frozen=True)
class Answer:
    """What came back from one host: a table, or why not."""

    host: str
    table: pd.DataFrame | None
    reason: str = ""
    skipped: tuple[dict[str, str], ...] = ()


def map(
    query: Ask | Question,
    dataset: Dataset,
    executor: Executor | None = None,
    *,
    on_error: OnError = "raise",
    memory_limit: str = "1GiB",
    progress: Callable[[int, int], object] | None = None,
) -> pd.DataFrame:
    """Ask every host of `dataset`.

    Parameters
    ----------
    query : str, callable or Question
        SQL, as for `Dataset.sql`; or a function from a `Snapshot` to a DataFrame, called for
        each moment; or one of `QUESTIONS`, or its name. A function has to be importable by the
        workers.
    dataset : Dataset
        Narrowed down to what is to be asked about.
    executor : concurrent.futures.Executor, optional
        Where to run; here, if not given.
    on_error : {"raise", "skip"}
        What to do about a host that cannot be asked.
    memory_limit : str
        What DuckDB may use for one host. It has one thread.
    progress : callable, optional
        Called with how many hosts have answered, and how many there are.

    Examples
    --------
    >>> import tempfile
    >>> from pagemap_df.dataset import open_dataset
    >>> root = tempfile.mkdtemp()
    >>> for host in ("db1", "db2"):
    ...     Snapshot({}, {"host": host, "page_size": 4096}).to_parquet(root)
    >>> map("select count(*) as pages from pages", open_dataset(root))
      host  pages
    0  db1      0
    1  db2      0
    """
    import pandas as pd

    question = _question(query)
    here = version("pagemap_df")
    tasks = [
        Task(host, question.ask, dataset.host(host), memory_limit, here) for host in dataset.hosts
    ]
    answers: dict[str, Answer] = {}
    for done, answer in enumerate(_answers(tasks, executor), 1):
        if answer.table is None and on_error == "raise":
            raise PagemapError(f"host {answer.host}: {answer.reason}")
        answers[answer.host] = answer
        if progress is not None:
            progress(done, len(tasks))
    ordered = [answers[task.host] for task in tasks]
    tables = [a.table for a in ordered if a.table is not None and len(a.table.columns)]
    found = question.merge(pd.concat(tables, ignore_index=True) if tables else pd.DataFrame())
    refused = [{"host": a.host, "reason": a.reason} for a in ordered if a.table is None]
    parts = [dict(skip) for a in ordered for skip in a.skipped]
    found.attrs["skipped"] = [*dataset.skipped, *parts, *refused]
    return found


def _question(query: Ask | Question) -> Question:
    if isinstance(query, Question):
        return query
    if isinstance(query, str) and query in QUESTIONS:
        return QUESTIONS[query]
    return Question(query, lambda table: table)


def _answers(tasks: list[Task], executor: Executor | None) -> Iterator[Answer]:
    """Answers as they come in; on an error, what has not begun is called off."""
    if executor is None:
        for task in tasks:
            yield answer(task)
        return
    futures: list[Future[Answer]] = [executor.submit(answer, task) for task in tasks]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def answer(task: Task) -> Answer:
    """Ask one host; this is what runs on a worker."""
    import duckdb

    here = version("pagemap_df")
    if task.version != here:
        raise NotAvailable(
            f"host {task.host}: this worker has pagemap_df {here}, the asker {task.version}; "
            "install the same version on both"
        )
    before = len(task.dataset.skipped)
    try:
        if isinstance(task.ask, str):
            table = task.dataset.sql(task.ask, memory_limit=task.memory_limit, threads=1)
        else:
            table = task.dataset.timeline(task.ask)
    except (*_FAILURES, duckdb.Error) as error:
        return Answer(task.host, None, f"{type(error).__name__}: {error}")
    if "host" not in table.columns and len(table.columns):
        table.insert(0, "host", task.host)
    return Answer(task.host, table, skipped=tuple(task.dataset.skipped[before:]))


# -- packaged questions ----------------------------------------------------------------------


def _services(snap: Snapshot) -> pd.DataFrame:
    """Memory by name of process."""
    table = sharing.processes(snap)
    names = ["rss", "pss", "uss", "shared", "anon", "anonhugepages"]
    table = table.dropna(subset=["rss"]).astype({"name": "str"})
    sums = table.groupby("name")[names].sum(min_count=1)
    sums.insert(0, "processes", table.groupby("name").size())
    return sums.reset_index()


def _summed(table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        return table
    grouped = table.groupby("name")
    sums = grouped[["processes", "rss", "pss", "uss", "shared", "anon", "anonhugepages"]]
    found = sums.sum(min_count=1)
    found.insert(0, "hosts", grouped["host"].nunique())
    return found.reset_index()


def _sharers(table: pd.DataFrame) -> pd.DataFrame:
    """Services by what they share, the most first."""
    found = _summed(table)
    if found.empty:
        return found
    columns = ["name", "hosts", "processes", "shared", "rss", "pss", "uss"]
    return found[columns].sort_values(
        ["shared", "name"], ascending=[False, True], ignore_index=True
    )


def _huge(table: pd.DataFrame) -> pd.DataFrame:
    """Part of the anonymous memory of each service that huge entries map, the least first."""
    found = _summed(table)
    if found.empty:
        return found
    found["coverage"] = found["anonhugepages"] / found["anon"].where(found["anon"] > 0)
    columns = ["name", "hosts", "processes", "anon", "anonhugepages", "coverage"]
    return found[columns].sort_values(["coverage", "name"], ignore_index=True)


def _workers(table: pd.DataFrame) -> pd.DataFrame:
    """What one process of each service has to itself on average, the most first."""
    found = _summed(table)
    if found.empty:
        return found
    found["each"] = found["uss"] / found["processes"]
    columns = ["name", "hosts", "processes", "each", "uss", "pss"]
    return found[columns].sort_values(["each", "name"], ascending=[False, True], ignore_index=True)


def _swap_areas(snap: Snapshot) -> pd.DataFrame:
    return swapping.areas(snap)


def _unaccounted(table: pd.DataFrame) -> pd.DataFrame:
    """Hosts by swap in use that no process was seen to have, the most first."""
    if table.empty:
        return table
    found = table.groupby("host")[["used", "unaccounted"]].sum(min_count=1).reset_index()
    return found.sort_values(["unaccounted", "host"], ascending=[False, True], ignore_index=True)


QUESTIONS: Mapping[str, Question] = {
    "sharers": Question(_services, _sharers),
    "swap": Question(_swap_areas, _unaccounted),
    "huge": Question(_services, _huge),
    "workers": Question(_services, _workers),
}
"""Packaged questions by name. A host with several moments counts with each; narrow down first."""
