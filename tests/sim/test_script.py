"""Scripts: what they say, how they go round, and how they fail."""

import json
from pathlib import Path

import pytest

from pagemap_df.errors import ScriptError
from pagemap_df.sim import Machine, Run, Script
from tests.sim.helpers import check, letters

EVERYTHING = """
memory 128M                       # comments go
swap 4M prio=3 partition
swap 1M
file lib 64
file cold 64 cold
memfd shm 32
cgroup web limit=8M
hugepages 2
knob thp=always
knob fault_around=8
proc server uid=33 cgroup=web image=lib
server: heap = mmap 100 private anon rw
server: code = mmap lib[0:64] private r-x populate
server: seg = mmap shm shared rw noreserve
server: pool = mmap 512 private anon rw huge
server: grown = brk 10
server: over = mmap 4 private anon rw at=heap+8
server: write heap[0:50:2]
server: write heap[50:60] value=7
server: read code[10]
server: fwrite lib[1:3]
server: mprotect heap[0:4] none
server: madvise heap[60:] DONTNEED
server: mlock heap[70:72] onfault
server: munlock heap[70:72]
server: mremap seg[0:32] 16
server: munmap over
fork server -> w1 w2
ksm run
reclaim 10
truncate lib 60
unlink cold
snap after the start
w1: exec sleep image=lib
exit w2
swapoff 1
"""


def test_round_trips():
    script = Script.parse(EVERYTHING)
    text = script.dump()
    assert Script.parse(text).dump() == text
    assert [str(op) for op in script] == [
        line.partition("#")[0].strip() for line in EVERYTHING.strip().splitlines()
    ]
    objects = json.loads(json.dumps(script.to_json()))
    assert Script.from_json(objects).dump() == text
    assert objects[11] == {
        "op": "mmap",
        "process": "server",
        "name": "heap",
        "what": 100,
        "sharing": "private",
        "prot": "rw",
    }


def test_load(tmp_path: Path):
    (tmp_path / "a.pms").write_text("proc a\n")
    (tmp_path / "a.json").write_text('[{"op": "proc", "name": "a"}]')
    assert Script.load(tmp_path / "a.pms").dump() == Script.load(tmp_path / "a.json").dump()
    (tmp_path / "b.pms").write_text("proc a\nproc\n")
    with pytest.raises(ScriptError, match=r"b\.pms, line 2: expected a name, found 'the end"):
        Script.load(tmp_path / "b.pms")


def test_everything_runs():
    machine = Machine("128M")
    run = Run(machine)
    seen = []
    run.all(Script.parse(EVERYTHING), lambda name, run: seen.append((name, len(run.processes))))
    assert seen == [("after the start", 3)]
    assert [outcome.what for outcome in machine.outcomes] == []
    assert run.processes["w1"].name == "sleep"
    check(machine)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("frok a -> b", "frok"),
        ("a: wriet heap", "wriet"),
        ("9a: write heap", "9a"),
        ("a: heap = write heap", "write"),
        ("a: mmap 5 private anon rw", "mmap"),
        ("a: h = mmap 5 privat anon rw", "privat"),
        ("a: h = mmap 5 private rw", "rw"),
        ("a: h = mmap 5 private anon rq", "rq"),
        ("a: h = mmap 5 private anon rw populat", "populat"),
        ("a: h = mmap 5 private anon rw at", "at"),
        ("a: write heap[1:2:3:4]", "heap[1:2:3:4]"),
        ("a: write heap[]", "heap[]"),
        ("a: write heap value=x", "x"),
        ("a: madvise heap DONTNED", "DONTNED"),
        ("fork a b", "b"),
        ("fork a ->", "->"),
        ("swap 4X", "4X"),
        ("knob thp=maybe", "thp=maybe"),
        ("exit a b", "b"),
        ("snap", "the end of the line"),
        ("file lib -4", "-4"),
        ("reclaim -1", "-1"),
    ],
)
def test_a_wrong_word_is_named_with_its_line(line: str, word: str):
    with pytest.raises(ScriptError) as error:
        Script.parse(f"# nothing\n{line}\n")
    assert error.value.offset == 2
    assert error.value.found == word


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: read heap", "a"),
        ("proc a\na: read heap", "heap"),
        ("proc a\nproc a", "a"),
        ("file f 1\ntruncate f 0\nproc a image=f", "f, which is empty"),
        ("proc a\na: h = mmap lib private r", "lib"),
        ("truncate lib 3", "lib"),
        ("proc a cgroup=x", "x"),
        ("swapoff 0", 0),
        ("proc a\nfork a -> a", "a"),
        ("proc a\na: h = mmap 9 private anon rw\na: munmap h[::2]", "h[::2]"),
    ],
)
def test_a_script_that_makes_no_sense(text: str, word: str):
    with pytest.raises(ScriptError) as error:
        Run(Machine("16M")).all(Script.parse(text))
    assert error.value.found == word
    assert error.value.offset == len(text.splitlines())


def test_what_linux_refuses_is_noted_and_the_run_goes_on():
    machine = Machine("16M")
    run = Run(machine)
    run.all(
        Script.parse(
            """
            proc a
            a: h = mmap 4 private anon rw
            a: munmap h[1]
            a: mlock h
            fork a -> b c
            a: read h
            a: write h
            fork a -> d
            d: read h
            b: ro = mmap 4 private anon r
            b: write ro
            c: write h[0]
            """
        )
    )
    assert [(o.line, o.process, o.what) for o in machine.outcomes] == [
        (5, "a", "ENOMEM"),
        (7, "a", "SIGSEGV"),
        (8, "a", "ESRCH"),
        (9, "", "ESRCH"),
        (10, "d", "ESRCH"),
        (12, "b", "SIGSEGV"),
    ]
    assert letters(run.processes["c"], run.mappings["c"]["h"][0], 1) == "X"


def test_snapshots_by_name():
    script = Script.parse("proc a\na: h = mmap 9 private anon rw\nsnap one\na: write h\nsnap two")
    snaps = Machine("16M").run(script)
    assert list(snaps) == ["one", "two"]
    assert len(snaps["two"].pages) - len(snaps["one"].pages) == 9


LIBRARY = Path(__file__).parents[2] / "datasets" / "scripts"


@pytest.mark.parametrize("path", sorted(LIBRARY.glob("*.pms")), ids=lambda path: path.stem)
def test_the_library_runs(path: Path):
    script = Script.load(path)
    assert path.read_text().startswith("#")
    machine = Machine(script.memory or "4G")
    Run(machine).all(script)
    assert not [o for o in machine.outcomes if o.what not in ("OOM",)]
    assert any(operation.op == "snap" for operation in script)


def test_knobs_are_set():
    machine = Machine("16M")
    text = "knob thp=never\nknob fault_around=0\nknob ksm_zero=1\nknob zero_huge=0"
    Run(machine).all(Script.parse(text))
    knobs = machine.kernel.knobs
    assert (knobs.thp, knobs.fault_around, knobs.ksm_zero, knobs.zero_huge) == (
        "never",
        1,
        True,
        False,
    )
