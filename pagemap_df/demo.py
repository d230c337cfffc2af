"""``make demo``: the main job, start to end, on processes that it starts itself.

A parent fills some memory and forks three children; each rewrites a part of it. Their page
maps are taken live, summed up, written as Parquet, read back, asked one question in SQL, and drawn.
Where the running kernel cannot be read with page frame numbers (no Linux, no root), the same
is done on a recording of such a family, and the first line says so.

``python -m pagemap_df.demo [--output DIR] [--mib N]``
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from . import printing, store
from .datasets import load_dataset
from .errors import NotAvailable, NotPermitted
from .read import read_snapshot
from .snapshot import Snapshot
from .source.probe import kernel_facts
from .take import take

SHARES = (0.10, 0.25, 0.50)
"""How much of the parent's memory each child rewrites."""

_FAMILY = """
import mmap, os, sys
size = int(sys.argv[1]) << 20
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, size, mmap.PAGESIZE):
    memory[page] = 1
pids = [os.getpid()]
for share in map(float, sys.argv[2:]):
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        for page in range(0, int(size * share), mmap.PAGESIZE):
            memory[page] = 2
        os.write(done, b"!")
        os.read(0, 1)
        os._exit(0)
    os.read(ready, 1)
    pids.append(pid)
print(*pids, flush=True)
os.read(0, 1)
for pid in pids[1:]:
    os.waitpid(pid, 0)
"""

_SIZES = ("vss", "rss", "pss", "uss", "swap")
_QUESTION = """
select pid, v.kind as mapping, count(*) filter (where mapcount = 1) as own,
       count(*) filter (where mapcount > 1) as shared
from pages p join vmas v using (pid, vma)
where p.present group by all order by own + shared desc, pid limit 4
"""


@contextmanager
def family(mib: int) -> Iterator[list[int]]:
    """A parent of `mib` MiB and three children that rewrote a part of it; their pids."""
    command = [sys.executable, "-I", "-S", "-c", _FAMILY, str(mib), *map(str, SHARES)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            yield [int(pid) for pid in parent.stdout.readline().split()]
        finally:
            # All of them wait at the same pipe; its end ends them.
            assert parent.stdin is not None
            parent.stdin.close()


def snapshot(mib: int) -> tuple[Snapshot, str]:
    """A snapshot of a family, and a sentence on where it comes from."""
    try:
        facts = kernel_facts()
        if facts["pfns"] == "hidden":
            raise NotPermitted(facts["pfns_why"])
        with family(mib) as pids:
            snap = take(pids=pids, join=["mapcount", "flags"], freeze=True)
        return snap, f"Live: four processes on this kernel, Linux {facts['release']}."
    except (NotAvailable, NotPermitted, OSError) as error:
        snap = load_dataset("preforked-family")
        return snap, (
            f"Recorded, not live: a family taken on Linux {snap.facts['release']}.\n"
            f"(The kernel here cannot be used: {error}.)"
        )


def report(snap: Snapshot) -> str:
    """Size of each process, and how much of the family is shared."""
    from . import sharing

    sizes = sharing.processes(snap)[["pid", "ppid", "name", *_SIZES]]
    union = sharing.groups(snap).iloc[0]
    mapped, held, inside = (int(union[name]) for name in ("mapped", "union", "inside"))
    return (
        f"{printing.text(sizes, _SIZES)}\n\n"
        f"Added up, the processes map {printing.size(mapped)}; that is "
        f"{printing.size(held)} of memory, each page frame counted once.\n"
        f"{printing.size(inside)} of it ({inside / held:.0%}) is held by two or more of "
        f"them, which saves {printing.size(mapped - held)}."
    )


@click.command()
@click.option("--output", "-o", default="demo-output", show_default=True, metavar="DIR")
@click.option("--mib", default=256, show_default=True, help="Memory of the parent.")
def main(output: str, mib: int) -> None:
    """Take a preforking family, sum it up, keep it, ask it."""
    from .plot.family import save_family

    snap, origin = snapshot(mib)
    click.echo(f"{origin}\n{snap!r}\n\n{report(snap)}\n")
    for old in Path(output).glob("host=*"):
        shutil.rmtree(old)
    place = store.write(snap, output)
    written = sum(file.stat().st_size for file in place.iterdir())
    rows = len(snap.arrow("pages"))
    click.echo(f"Written to {place}: {written / rows:.2f} bytes a page, all tables together.")
    again = read_snapshot(Path(output))
    click.echo(
        f"Read back, and asked in SQL which mappings are still shared:\n{_QUESTION.strip()}\n"
    )
    click.echo(printing.text(again.sql(_QUESTION)))
    picture = save_family(snap, Path(output) / "family.png")
    click.echo(f"\nA picture of what is still shared: {picture}")


if __name__ == "__main__":
    main(prog_name="pagemap_df.demo")
