"""``make fleet``: one question to 24 hosts on a cluster that loses a worker on the way.

The hosts are simulated: on each a server forks some workers, which write to more or less of its
memory. A Dask scheduler and two workers are started as processes of their own on loopback;
when a quarter of the hosts have answered, one worker is killed. What comes out is compared
with asking one host after the other here.

``python -m pagemap_df.demo_fleet``
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from . import fleet, printing
from .dataset import Dataset, open_dataset
from .errors import NotAvailable
from .sim import Machine
from .snapshot import Snapshot
from .take import take

if TYPE_CHECKING:
    import pandas as pd

_PATIENCE = 60.0


def hosts(root: Path, count: int = 24) -> Dataset:
    """So many simulated hosts as a data set."""
    for number in range(count):
        machine = Machine("16M", rng=number)
        server = machine.spawn("server")
        heap = server.mmap(40)
        server.write(range(heap, heap + 40))
        for _ in range(1 + number % 3):
            server.fork("worker").write(range(heap, heap + number))
        snap = take(machine)
        snap.with_facts({**snap.facts, "host": f"h{number:02}"}).to_parquet(root)
    return open_dataset(root)


class Cluster:
    """A Dask scheduler and two workers, each a process of its own on loopback.

    A context manager; its `client` is `distributed.Client`.

    Parameters
    ----------
    folder : Path
        For what they write; of their own.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "scheduler.json"
        self.processes: list[subprocess.Popen[bytes]] = []
        self._folder = folder

    def __enter__(self) -> Self:
        """Start them."""
        import distributed

        self._start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-show")
        end = time.monotonic() + _PATIENCE
        while not self.file.exists():
            if time.monotonic() > end or self.processes[0].poll() is not None:
                self.__exit__(None, None, None)
                raise NotAvailable("the Dask scheduler does not start")
            time.sleep(0.02)
        for name in ("one", "other"):
            own = ("--local-directory", str(self._folder / name))
            self._start("dask_worker", "--nthreads", "1", "--no-nanny", *own)
        dask: Any = distributed
        self.client = dask.Client(scheduler_file=str(self.file), timeout=_PATIENCE)
        self.client.wait_for_workers(2, timeout=_PATIENCE)
        return self

    def _start(self, module: str, *options: str) -> None:
        program = [sys.executable, "-W", "ignore", "-m", f"distributed.cli.{module}"]
        command = [*program, "--scheduler-file", str(self.file), "--no-dashboard", *options]
        quiet = subprocess.DEVNULL
        self.processes.append(subprocess.Popen(command, stdout=quiet, stderr=quiet))

    def lose_a_worker(self) -> None:
        """Kill one, whatever it is doing."""
        self.processes[-1].kill()
        self.processes[-1].wait()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End them all."""
        if hasattr(self, "client"):
            self.client.close()
        for process in reversed(self.processes):
            process.kill()
            process.wait()


def slow_sizes(snap: Snapshot) -> pd.DataFrame:
    """Pages of each process; takes its time, so that there is somebody to kill."""
    time.sleep(0.05)
    return snap.pages.groupby("pid").size().rename("pages").reset_index()


@click.command()
def main() -> None:
    """Ask 24 simulated hosts on a cluster, and kill one of its two workers meanwhile."""
    with tempfile.TemporaryDirectory(prefix="pagemap_df-") as name:
        dataset = hosts(Path(name) / "hosts")
        click.echo(f"{dataset!r}\n\nWhat one worker costs, asked host after host:\n")
        click.echo(printing.text(fleet.map("workers", dataset), ("each", "uss", "pss")))
        alone = fleet.map(slow_sizes, dataset)
        with Cluster(Path(name)) as cluster, cluster.client.get_executor() as executor:
            click.echo("\nA scheduler and two workers are up; the same hosts again.")

            def lose(done: int, total: int) -> None:
                if done == total // 4:
                    cluster.lose_a_worker()
                    click.echo(f"{done} of {total} hosts have answered; one worker is killed.")

            found = fleet.map(slow_sizes, dataset, executor, progress=lose)
        same = found.equals(alone)
        click.echo(
            f"{found['host'].nunique()} hosts have answered, {len(found)} rows, "
            f"{'the same' if same else 'not the same'} as host after host."
        )
        if not same:
            sys.exit(1)


if __name__ == "__main__":
    main(prog_name="pagemap_df.demo_fleet")
