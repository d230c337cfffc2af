"""Random scripts: valid ones, over all operations, from any source of randomness.

A `Draft` knows which processes, mappings, files and swap areas there are, and writes only
lines that make sense; what the kernel then thinks of them is another matter. Each script
prefers some operations over others (*swarm testing*, Groce et al. 2012): scripts that do a bit
of everything seldom get far into anything.

`script` takes a `random.Random`, so that a seed will do, and so will a property tester that
draws the numbers itself and shrinks them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from ...errors import ScriptError
from ..machine import Machine
from ..mm.hardware import BLOCK
from ..mm.madvise import ADVICE
from ..script import Script
from .arena import Model

MAX_PROCESSES = 5
_SMALL, _LARGE = 40, 3 * BLOCK


@dataclass
class Draft:
    """A script in the making."""

    rng: random.Random
    huge: bool
    lines: list[str] = field(default_factory=list)
    mappings: dict[str, dict[str, int]] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    swaps: list[bool] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    pool: bool = False
    names: int = 0
    last: tuple[str, str] = ("", "")

    def name(self, stem: str) -> str:
        """A name that is not taken."""
        self.names += 1
        return f"{stem}{self.names}"

    def often(self, percent: int) -> bool:
        """True so many times in a hundred."""
        return self.rng.randrange(100) < percent

    def pages(self) -> int:
        """How long a mapping or file is."""
        if self.huge and self.often(50):
            return self.rng.choice([BLOCK, 2 * BLOCK, 2 * BLOCK + 7, _LARGE, 700])
        return self.rng.randint(1, _SMALL)

    def slice_of(self, pages: int, *, step: bool = False) -> str:
        """Some of so many pages; all of them more often than others."""
        if self.often(35):
            return ""
        if pages > BLOCK and self.often(50):
            edges = [n for n in (0, 100, BLOCK // 2, BLOCK, BLOCK + 5, pages) if n <= pages]
            low, high = sorted(self.rng.sample(edges, 2))
        else:
            low = self.rng.randrange(pages)
            high = self.rng.randint(low + 1, pages + (3 if self.often(4) else 0))
        if high == low + 1:
            return f"[{low}]"
        return (
            f"[{low}:{high}:{self.rng.randint(2, 5)}]"
            if step and self.often(20)
            else f"[{low}:{high}]"
        )

    def process(self) -> str:
        """A process."""
        return self.rng.choice(list(self.mappings))

    def part(self, *, step: bool = False) -> tuple[str, str] | None:
        """A process and some of one of its mappings, if it has any."""
        process, name = self.last
        if name not in self.mappings.get(process, ()) or self.often(50):
            process = self.process()
            if not self.mappings[process]:
                return None
            name = self.rng.choice(list(self.mappings[process]))
        self.last = process, name
        return process, name + self.slice_of(self.mappings[process][name], step=step)

    # ---- operations: each adds lines, or nothing where it makes no sense ----------------

    def on_part(self, form: str, *words: str, step: bool = False) -> None:
        """An operation on some pages, with one of `words`."""
        found = self.part(step=step)
        if found is not None:
            word = self.rng.choice(words) if words else ""
            self.lines.append(f"{found[0]}: {form.format(found[1], word)}".rstrip())

    def prot(self) -> str:
        """A protection; most often one that allows everything to be tried."""
        if self.often(75):
            return "rw"
        return self.rng.choice(["r", "none", "rwx", "r-x", "w", "rw"])

    def place(self, process: str) -> str:
        """Where to put something, rarely."""
        known = self.mappings[process]
        if not known or not self.often(15):
            return ""
        name = self.rng.choice(list(known))
        return f" at={name}+{self.rng.randrange(known[name] + 20)}"

    def mmap(self) -> None:
        """A mapping of whatever there is."""
        process, name, pages = self.process(), self.name("m"), self.pages()
        sharing = "shared" if self.often(30) else "private"
        what = f"{pages} {sharing} anon"
        if self.files and self.often(40):
            file = self.rng.choice(list(self.files))
            part = self.slice_of(self.files[file]) if self.files[file] else "[0:3]"
            what, pages = f"{file}{part} {sharing}", max(self.files[file], 3)
        options = "".join(
            f" {option}"
            for option, percent in (("populate", 10), ("noreserve", 5), ("growsdown", 3))
            if self.often(percent)
        )
        options = options.replace(" growsdown", "") if sharing == "shared" else options
        place = self.place(process)
        if self.pool and "anon" in what and self.often(40):
            pages = self.rng.choice([BLOCK, 2 * BLOCK])
            what, options, place = f"{pages} {sharing} anon", options + " huge", ""
            options = options.replace(" growsdown", "")
        self.lines.append(f"{process}: {name} = mmap {what} {self.prot()}{options}{place}")
        self.mappings[process][name] = pages
        if self.huge and pages >= BLOCK and self.often(60):
            self.last = process, name
            self.lines.append(f"{process}: madvise {name} HUGEPAGE")
            self.on_part("{1} {0}", "read", "write")

    def brk(self) -> None:
        """A heap that grows and shrinks."""
        process, pages = self.process(), self.rng.randint(0, _SMALL)
        self.lines.append(f"{process}: heap = brk {pages}")
        self.mappings[process].pop("heap", None)
        if pages:
            self.mappings[process]["heap"] = pages

    def write(self) -> None:
        """Stores."""
        value = f" value={self.rng.choice([0, 1, 2])}" if self.often(25) else ""
        self.on_part("write {}" + value, step=True)

    def fwrite(self) -> None:
        """write(2)."""
        if self.files:
            name = self.rng.choice(list(self.files))
            low = self.rng.randrange(self.files[name] + 3)
            high = low + self.rng.randint(1, 6)
            self.lines.append(f"{self.process()}: fwrite {name}[{low}:{high}]")

    def mremap(self) -> None:
        """Move, grow, shrink, or leave behind."""
        process = self.process()
        if not self.mappings[process]:
            return
        name = self.rng.choice(list(self.mappings[process]))
        old = self.mappings[process][name]
        part, new = "", self.pages()
        if self.often(30):
            part = self.slice_of(old)
        place = self.place(process)
        if self.often(25):
            part, place, new = "", place if self.often(30) else "", old
            place += " keep"
        self.lines.append(f"{process}: mremap {name}{part} {new}{place}")
        self.mappings[process][name] = new

    def mlock(self) -> None:
        """Lock."""
        self.on_part("mlock {} {}", "", "", "onfault")

    def madvise(self) -> None:
        """Any advice."""
        self.on_part("madvise {} {}", *ADVICE)

    def advise_often(self) -> None:
        """The advice that says most."""
        self.on_part("madvise {} {}", "PAGEOUT", "PAGEOUT", "DONTNEED", "FREE", "GUARD_INSTALL")

    def family(self) -> None:
        """Pages in swap that several processes hold, and that some of them want back."""
        self.on_part("write {}")
        self.on_part("madvise {} PAGEOUT")
        self.fork()
        self.on_part("{1} {0}", "read", "write")

    def fork(self) -> None:
        """A child or two."""
        parent = self.process()
        count = min(self.rng.choice([1, 1, 2]), MAX_PROCESSES - len(self.mappings))
        if count > 0:
            names = [self.name("p") for _ in range(count)]
            self.lines.append(f"fork {parent} -> {' '.join(names)}")
            for name in names:
                self.mappings[name] = dict(self.mappings[parent])

    def proc(self) -> None:
        """A stranger."""
        if len(self.mappings) >= MAX_PROCESSES:
            return
        name = self.name("p")
        words = " uid=1000" if self.often(10) else ""
        if self.groups and self.often(50):
            words += f" cgroup={self.rng.choice(self.groups)}"
        whole = [file for file, pages in self.files.items() if pages]
        if whole and self.often(20):
            words += f" image={self.rng.choice(whole)}"
        self.lines.append(f"proc {name}{words}")
        self.mappings[name] = {}

    def exit(self) -> None:
        """The end of one that is not the last."""
        if len(self.mappings) > 1:
            name = self.process()
            self.lines.append(f"exit {name}")
            del self.mappings[name]

    def exec(self) -> None:
        """A fresh start."""
        process = self.process()
        self.lines.append(f"{process}: exec {self.name('x')}")
        self.mappings[process] = {}

    def file(self) -> None:
        """A file, in the page cache or not."""
        name, pages = self.name("f"), self.pages()
        self.lines.append(f"file {name} {pages}{' cold' if self.often(25) else ''}")
        self.files[name] = pages

    def memfd(self) -> None:
        """A memory file."""
        name, pages = self.name("s"), self.pages()
        self.lines.append(f"memfd {name} {pages}")
        self.files[name] = pages

    def truncate(self) -> None:
        """Another size."""
        if self.files:
            name = self.rng.choice(list(self.files))
            pages = self.rng.randint(0, self.files[name] + 5)
            self.lines.append(f"truncate {name} {pages}")
            self.files[name] = pages

    def unlink(self) -> None:
        """A name less. A memory file has none."""
        named = [name for name in self.files if name.startswith("f")]
        if named:
            name = self.rng.choice(named)
            self.lines.append(f"unlink {name}")
            del self.files[name]

    def swap(self) -> None:
        """One more swap area."""
        if len(self.swaps) < 3:
            priority = f" prio={self.rng.choice([1, 1, 2])}" if self.often(50) else ""
            partition = " partition" if self.often(10) else ""
            self.lines.append(f"swap {self.rng.choice(['1M', '8M', '8M'])}{priority}{partition}")
            free = self.swaps.index(False) if False in self.swaps else len(self.swaps)
            self.swaps[free : free + 1] = [True]

    def swapoff(self) -> None:
        """One less."""
        on = [number for number, it in enumerate(self.swaps) if it]
        if on:
            number = self.rng.choice(on)
            self.lines.append(f"swapoff {number}")
            self.swaps[number] = False

    def cgroup(self) -> None:
        """A cgroup with more than enough memory."""
        name = self.name("g")
        limit = " limit=256M" if self.often(50) else ""
        self.lines.append(f"cgroup {name}{limit}")
        self.groups.append(name)

    def reclaim(self) -> None:
        """Memory pressure, a little or as much as there is."""
        self.lines.append(f"reclaim {self.rng.choice([10, 50, 100000])}")

    def hugepages(self) -> None:
        """A pool of huge pages."""
        self.lines.append(f"hugepages {self.rng.randint(1, 4)}")
        self.pool = True

    def knob(self) -> None:
        """A setting."""
        settings = ["thp=always", "thp=madvise", "thp=never", "zero_huge=0", "zero_huge=1"]
        self.lines.append(f"knob {self.rng.choice([*settings, 'ksm_zero=1', 'ksm_zero=0'])}")

    def ksm(self) -> None:
        """Merging, of something that wants it."""
        if self.often(60):
            self.on_part("madvise {} MERGEABLE")
            self.on_part("write {} value=1")
        self.lines.append("ksm run")

    def snap(self) -> None:
        """A snapshot."""
        self.lines.append(f"snap {len(self.lines)}")


STEPS: dict[str, tuple[int, Callable[[Draft], None]]] = {
    "mmap": (16, Draft.mmap),
    "write": (22, Draft.write),
    "read": (14, lambda draft: draft.on_part("read {}", step=True)),
    "fork": (10, Draft.fork),
    "madvise": (12, Draft.madvise),
    "advise_often": (14, Draft.advise_often),
    "family": (6, Draft.family),
    "mprotect": (5, lambda draft: draft.on_part("mprotect {} " + draft.prot())),
    "munmap": (4, lambda draft: draft.on_part("munmap {}")),
    "mremap": (6, Draft.mremap),
    "mlock": (3, Draft.mlock),
    "munlock": (2, lambda draft: draft.on_part("munlock {}")),
    "brk": (3, Draft.brk),
    "fwrite": (3, Draft.fwrite),
    "proc": (3, Draft.proc),
    "exit": (3, Draft.exit),
    "exec": (1, Draft.exec),
    "file": (3, Draft.file),
    "memfd": (3, Draft.memfd),
    "truncate": (3, Draft.truncate),
    "unlink": (1, Draft.unlink),
    "swap": (2, Draft.swap),
    "swapoff": (2, Draft.swapoff),
    "cgroup": (1, Draft.cgroup),
    "hugepages": (1, Draft.hugepages),
    "knob": (2, Draft.knob),
    "reclaim": (1, Draft.reclaim),
    "ksm": (3, Draft.ksm),
    "snap": (10, Draft.snap),
}
"""What a draft may do next, and how often it does."""


def script(rng: random.Random, length: int = 25) -> Script:
    """A random script of at most about `length` operations; it ends with a snapshot.

    Examples
    --------
    >>> [operation.op for operation in script(random.Random(2), 4)][-1]
    'snap'
    """
    draft = Draft(rng, huge=rng.randrange(100) < 20)
    weights = [weight * rng.choice([0, 1, 1, 4]) for weight, _ in STEPS.values()]
    if draft.often(5):
        draft.lines.append("memory 512M")
    if draft.often(75):
        draft.swap()
    if draft.often(40):
        draft.rng.choice([Draft.file, Draft.memfd])(draft)
    draft.proc()
    draft.mmap()
    steps = [step for _, step in STEPS.values()]
    if any(weights):
        for step in rng.choices(steps, weights, k=rng.randint(2, length)):
            step(draft)
    draft.snap()
    return _sensible(draft.lines)


def _sensible(lines: list[str]) -> Script:
    """The lines that make sense: an mmap that is refused gives no mapping to write to."""
    model = Model(Machine(Script.parse("\n".join(lines)).memory or "1G"))
    kept = []
    for line in lines:
        (operation,) = Script.parse(line)
        try:
            if operation.op != "snap":
                model.step(operation)
        except ScriptError:
            continue
        kept.append(line)
    return Script.parse("\n".join(kept))
