"""What a reader without CAP_SYS_ADMIN gets: no frame numbers, the reason, and true sizes."""

import json
import subprocess
import sys

import pytest

import pagemap_df as pm
from tests import living

# The interpreter may lie where nobody can read it: everything is imported before rights go.
PROGRAM = """
import ctypes, json, mmap, os, re, time
import pagemap_df as pm
from pagemap_df import sharing
memory = mmap.mmap(-1, 64 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(15)
for page in range(24):
    memory[page * 4096]                   # the zero page
for page in range(24, 40):
    memory[page * 4096] = 1
huge = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
huge.madvise(14)
[huge[at] for at in range(0, 4 << 20, 4096)]
sharing.processes(pm.take(pids=os.getpid()))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1)             # PR_SET_DUMPABLE, which setuid took away
ready, done = os.pipe()
child = os.fork()
if child == 0:
    ctypes.CDLL(None).prctl(1, 9)         # PR_SET_PDEATHSIG
    os.write(done, b"!")
    time.sleep(60)
    os._exit(0)
os.read(ready, 1)
time.sleep(0.1)
snap = pm.take(pids=child, join=["mapcount"])
rollup = open(f"/proc/{child}/smaps_rollup").read()
os.kill(child, 9)
os.waitpid(child, 0)
pages = snap.pages
print(json.dumps({
    "facts": {name: snap.facts[name] for name in ("pfns", "pfns_why", "unknown")},
    "nulls": {name: bool(pages[name].isna().all()) for name in ("pfn", "mapcount")},
    "kinds": pages["kind"].value_counts().to_dict(),
    "rss": int(sharing.processes(snap)["rss"][0]),
    "pss": str(sharing.processes(snap)["pss"][0]),
    "kernel_rss": 1024 * int(re.search(r"Rss:\\s+(\\d+)", rollup)[1]),
}))
"""


@pytest.fixture(scope="module")
def seen():
    living.need_root()
    with living.thp():
        command = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.mark.kernel
def test_frame_numbers_and_what_hangs_on_them_are_null_with_a_reason(seen):
    assert seen["facts"]["pfns"] == "hidden"
    assert "CAP_SYS_ADMIN" in seen["facts"]["pfns_why"]
    assert seen["nulls"] == {"pfn": True, "mapcount": True}
    assert "CAP_SYS_ADMIN" in seen["facts"]["unknown"]["mapcount"]
    assert seen["pss"] == "<NA>"


@pytest.mark.kernel
def test_zero_pages_are_told_without_frame_numbers_so_that_rss_is_right(seen):
    assert seen["kinds"]["zero"] >= 24
    assert seen["kinds"]["huge_zero"] >= 512
    assert seen["rss"] == seen["kernel_rss"]


@pytest.mark.kernel
def test_a_huge_zero_page_that_cannot_be_placed_is_told_all_the_same_and_placed_once_it_can_be():
    living.need_root()
    with living.thp(), living.spawn() as child:
        region = child.mmap_alone(512, align=512)
        child.madvise(region, living.HUGEPAGE)
        child.read(region[:1])
        with pm.Procfs() as source:
            with living.thp("never"):
                unplaced = pm.take(source, pids=child.pid)
                assert unplaced.facts["huge_zero_pfn"] is None
            placed = pm.take(source, pids=child.pid)
            assert placed.facts["huge_zero_pfn"] is not None
    for snapshot in (unplaced, placed):
        kinds = snapshot.pages["kind"].value_counts()
        assert kinds["huge_zero"] == region.pages
