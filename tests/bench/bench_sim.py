"""The simulator against the kernel it imitates, on the same calls."""

import statistics
import subprocess
import sys

import pagemap_df as pm
from pagemap_df import sim
from tests.bench.harness import Report, seconds

ROUNDS = 7

SCRIPT = """
proc parent
parent: heap = mmap 262144 private anon rw
parent: write heap
fork parent -> child
child: write heap[0:131072]
snap end
"""

# The loops run in NumPy, which is as fast as C for one byte a page.
SAME_CALLS = """
import mmap, os, sys, time
import numpy as np
began = time.perf_counter()
heap = mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
bytes_ = np.frombuffer(heap, np.uint8)
bytes_[::4096] = 1
ready, done = os.pipe()
child = os.fork()
if child == 0:
    bytes_[: 1 << 29 : 4096] = 2
    os.write(done, b"!")
    os.read(0, 1)
    os._exit(0)
os.read(ready, 1)
print(os.getpid(), child, time.perf_counter() - began, flush=True)
os.read(0, 1)
"""


def run(report: Report) -> None:
    """Both sides, snapshot included."""
    script = sim.Script.parse(SCRIPT)
    ratios = []
    for _ in range(ROUNDS):
        simulated = seconds(lambda: sim.Machine("4G").run(script))
        ratios.append(simulated / by_the_kernel())
    report.value("1 GiB touched, forked, half rewritten: simulated / real",
                 statistics.median(ratios), 0.5, "x")  # fmt: skip
    report.value("a process of 64 GiB, GiB of memory it takes", of_64_gib(), 4, " GiB")
    report.value("1,000 processes of 100 VMAs, seconds", seconds(many), 30, " s")


def by_the_kernel() -> float:
    """Seconds for the same calls on this kernel, and for the snapshot."""
    command = [sys.executable, "-c", SAME_CALLS]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        *pids, took = parent.stdout.readline().split()
        took = float(took) + seconds(lambda: pm.take(pids=map(int, pids)))
        parent.stdin.close()
    return took


def of_64_gib() -> float:
    """Peak memory of a fresh process that simulates one of 64 GiB, in GiB."""
    program = (
        "from pagemap_df import sim\n"
        "pages = (64 << 30) // 4096\n"
        "text = f'proc big\\nbig: heap = mmap {pages} private anon rw\\nbig: write heap\\n'\n"
        "sim.Machine('72G').run(sim.Script.parse(text))\n"
        # Not getrusage: that remembers the peak of whoever started the program, too.
        "(line,) = [x for x in open('/proc/self/status') if x.startswith('VmHWM')]\n"
        "print(line.split()[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return int(done.stdout) / (1 << 20)


def many() -> None:
    """A thousand processes with a hundred mappings each, every one touched."""
    lines = []
    for p in range(1000):
        lines.append(f"proc p{p}")
        for v in range(100):
            prot = "rw" if v % 2 else "rwx"
            lines += [f"p{p}: m{v} = mmap 4 private anon {prot}", f"p{p}: write m{v}[0:1]"]
    sim.Machine("4G").run(sim.Script.parse("\n".join(lines)))
