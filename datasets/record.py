"""Record the data sets that come from a real kernel. Run as root: ``python datasets/record.py``.

Each recording starts processes of its own, takes them frozen, and takes out what is of this
machine alone: host, boot id, build of the kernel, folders, cgroups. Everything else is as the
kernel showed it. Needs the test helpers, so it runs from a checkout.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import pagemap_df as pm
from pagemap_df import demo, schema, store
from tests import living

JOINS = ["mapcount", "flags", "huge"]
FOLDERS = {str(HERE.parent): "/srv/app", sys.prefix: "/usr", sys.base_prefix: "/usr"}


def keep(name: str, title: str, snap: pm.Snapshot, swap_path: str | None = None) -> None:
    """Store `snap` as data set `name`, without what is of this machine alone."""
    renames = {**FOLDERS, **({swap_path: "/swapfile"} if swap_path else {})}
    tables = {table: snap.arrow(table) for table in schema.TABLES}
    for table, column in (("vmas", "path"), ("processes", "cmdline"), ("swaps", "path")):
        tables[table] = _mapped(tables[table], column, lambda text: _renamed(text, renames))
    tables["processes"] = _mapped(tables["processes"], "cgroup", lambda _: "/")
    facts = {
        **{key: value for key, value in snap.facts.items() if key not in ("skipped", "frozen")},
        "host": "example",
        "boot_id": "00000000-0000-0000-0000-000000000000",
        "release": snap.facts["release"].partition("-")[0],
        "version": "",
        "source": "recorded live",
    }
    place = HERE / name
    shutil.rmtree(place, ignore_errors=True)
    store.write(pm.Snapshot(tables, facts), place)
    about = {
        "title": title,
        "made_by": "python datasets/record.py, as root",
        "provenance": f"recorded from Linux {facts['release']}, {facts['machine']}, "
        f"{facts['page_size']} byte pages",
        "licence": "BSD-3-Clause",
    }
    (place / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    print(f"{name}: {len(snap.arrow('pages')):,} pages, {size / 1024:.0f} KiB")


def _renamed(text: str, renames: dict[str, str]) -> str:
    for old, new in renames.items():
        text = text.replace(old, new)
    return text


def _mapped(table: pa.Table, column: str, change: Callable[[str], str]) -> pa.Table:
    at = table.schema.get_field_index(column)
    values = [None if v is None else change(v) for v in table[column].to_pylist()]
    array = pa.array(values, pa.string())
    field = table.schema.field(at)
    if pa.types.is_dictionary(field.type):
        array = pc.cast(array.dictionary_encode(), field.type)
    return table.set_column(at, field, array)


WORKERS = """
import os, sys
data = [(str(i), [i]) for i in range(120_000)]
pipes, pids = [], [os.getpid()]
for _ in range(3):
    go, start = os.pipe()
    ready, done = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(start)
        os.write(done, b"!")
        os.read(go, 1)
        for text, numbers in data:
            text, numbers[0]
        os.write(done, b"!")
        os.read(go, 1)
        os._exit(0)
    os.close(go)
    os.read(ready, 1)
    pipes.append((start, ready))
    pids.append(pid)
print(*pids, flush=True)
sys.stdin.readline()
for start, ready in pipes:
    os.write(start, b"!")
    os.read(ready, 1)
print("done", flush=True)
sys.stdin.readline()
"""


def python_workers() -> None:
    """A Python parent and three workers, before and after they only read its objects."""
    command = [sys.executable, "-I", "-S", "-c", WORKERS]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        before = pm.take(pids=pids, join=JOINS, freeze=True)
        print(file=parent.stdin, flush=True)
        parent.stdout.readline()
        after = pm.take(pids=pids, join=JOINS, freeze=True)
        parent.stdin.close()
    what = "CPython with 120,000 objects and three forked workers"
    keep("python-workers-before", f"{what}, right after the fork", before)
    keep("python-workers-after", f"{what}, which have only read them since", after)


def preforked_family() -> None:
    """The family of the demo."""
    with demo.family(64) as pids:
        snap = pm.take(pids=pids, join=JOINS, freeze=True, smaps=True)
    title = "A parent of 64 MiB and three forked children that rewrote 10, 25 and 50 % of it"
    keep("preforked-family", title, snap)


def swapped_process() -> None:
    """A process and its fork, both partly in swap, with the device."""
    with living.swap_area() as area, living.spawn() as child:
        heap = child.mmap_alone(4096)
        child.write(heap)
        living.page_out(child, heap[1024:3072])
        other = child.fork()
        child.read(heap[1024:1280])
        other.write(heap[1280:1536])
        snap = pm.take(pids=[child.pid, other.pid], join=JOINS, freeze=True, smaps=True)
        title = "16 MiB of which half went to swap, then a fork; both came back for a part"
        keep("swapped-process", title, snap, swap_path=str(area))


def huge_and_guard() -> None:
    """Huge pages whole and split, guard pages, zero pages, shared memory."""
    with living.thp(), living.spawn() as child:
        heap = child.mmap_alone(8 * 512, align=512)
        child.madvise(heap, living.HUGEPAGE)
        child.write(heap[: 6 * 512])
        child.madvise(heap[512 + 64 : 512 + 128], living.DONTNEED)
        child.mprotect(heap[2 * 512 : 2 * 512 + 8], living.R)
        child.read(heap[6 * 512 :])
        stack = child.mmap_alone(256)
        child.write(stack)
        child.madvise(stack[:16], living.GUARD_INSTALL)
        child.read(child.mmap_alone(128, shared=True))
        other = child.fork()
        other.write(heap[4 * 512 : 4 * 512 + 32])
        snap = pm.take(pids=[child.pid, other.pid], join=JOINS, freeze=True, smaps=True)
        title = "Huge pages whole, holed, split and half shared; guard, zero and shared pages"
        keep("huge-and-guard", title, snap)


@contextmanager
def small_machine() -> Iterator[str]:
    """A PID namespace with a few processes; the path of its proc root."""
    inside = (
        f"{sys.executable} -I -S -c 'import time; time.sleep(60)' &"
        f"{sys.executable} -I -S -c 'import json, re, time; time.sleep(60)' &"
        "sleep 60 & (exec -a backup sleep 60) & sleep 1; echo ready; wait"
    )
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", inside]
    with subprocess.Popen(command, stdout=-1) as shell:
        try:
            shell.stdout.readline()
            children = Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text()
            yield f"/proc/{children.split()[0]}/root/proc"
        finally:
            shell.kill()


def whole_machine() -> None:
    """Every process of a small machine."""
    with small_machine() as root:
        snap = pm.take(root, join=JOINS, smaps=True)
    keep("small-machine", "All processes of a small machine (a PID namespace)", snap)


if __name__ == "__main__":
    for record in (
        preforked_family,
        python_workers,
        swapped_process,
        huge_and_guard,
        whole_machine,
    ):
        record()
