"""The simulator against the kernel, and the twin against itself."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from pagemap_df.cli import main
from pagemap_df.errors import NotAvailable, NotPermitted, ScriptError
from pagemap_df.sim import Machine, Script
from pagemap_df.sim.grammar import MACHINE_FORMS, PROCESS_FORMS
from pagemap_df.sim.mm import fault, fork, swapfile
from pagemap_df.sim.twin import RULES, Host, compare, shrink
from pagemap_df.sim.twin import random as random_run
from pagemap_df.sim.twin.arena import Arena, Model
from pagemap_df.sim.twin.compare import TAKING, Both
from pagemap_df.sim.twin.generate import STEPS, Draft
from pagemap_df.sim.twin.generate import script as random_script
from pagemap_df.sim.twin.runs import numbered
from pagemap_df.sim.twin.sides import Names, Side, differences, side
from pagemap_df.sim.twin.tally import verb
from pagemap_df.take import take

DATASETS = Path(__file__).parents[2] / "datasets"
REGRESSIONS = sorted(DATASETS.glob("scripts/regressions/*.pms"))
RECORDS = sorted(DATASETS.glob("twin/*.json"))
SHARED_SWAP = """
swap 8M
memfd pool 20
proc a
a: heap = mmap 64 private anon rw
a: write heap[0:50]
a: pool = mmap pool shared rw
a: write pool[3:5]
a: madvise heap[20:30] PAGEOUT
fork a -> b c
b: write heap[3:7]
c: write heap[22:24]
snap shared
exit c
b: read heap[25]
snap fewer
"""


@pytest.fixture(scope="class")
def host() -> Iterator[Host]:
    try:
        opened = Host().__enter__()
    except (NotAvailable, NotPermitted) as error:
        pytest.skip(str(error))
    try:
        yield opened
    finally:
        opened.__exit__(None, None, None)


@pytest.fixture
def playable() -> None:
    """Skips where scripts cannot be played on the kernel."""
    try:
        with Host():
            pass
    except (NotAvailable, NotPermitted) as error:
        pytest.skip(str(error))


def sides_of(text: str, rng: int) -> tuple[list[Side], Names]:
    """What a machine shows at each snapshot of a script."""
    machine, found, names = Machine("256M", rng=rng), [], Names()
    model = Model(machine, seed=7)
    for operation in Script.parse(text):
        if operation.op != "snap":
            model.step(operation)
            names.learn(model)
            continue
        pids = {
            model.run.processes[name].pid: number
            for number, name in enumerate(names.processes)
            if model.run.processes[name].space is not None
        }
        found.append(side(take(Arena(machine), pids=list(pids), **TAKING), pids))
    return found, names


def found_between(one: str, other: str) -> list[tuple[str, str, int | None, str]]:
    """What differs between two scripts, on machines whose frames have other numbers."""
    (ours, names), (theirs, _) = sides_of(one, rng=1), sides_of(other, rng=2)
    return [
        (d.process, d.mapping, d.page, d.what)
        for mine, its in zip(ours, theirs, strict=True)
        for d in differences("snap", mine, its, names, ())
    ]


class TestSides:
    def test_machines_with_other_frames_are_alike(self):
        assert found_between(SHARED_SWAP, SHARED_SWAP) == []

    def test_a_broken_sharing_is_a_difference_at_its_page(self):
        less = SHARED_SWAP.replace("write heap[3:7]", "write heap[3:6]")
        found = found_between(SHARED_SWAP, less)
        assert ("b", "heap", 6, "frame") in found
        assert {page for _, _, page, what in found if what == "frame"} == {6}
        assert ("b", "heap", 0, "smaps_private_dirty") in found

    def test_whole_rows_are_differences_too(self):
        more = SHARED_SWAP.replace("pool[3:5]", "pool[3:6]")
        assert ("a", "pool", 5, "page") in found_between(SHARED_SWAP, more)
        moved = SHARED_SWAP.replace("exit c", "b: munmap pool")
        assert ("b", "pool", 0, "vma") in found_between(SHARED_SWAP, moved)

    def test_slots_are_compared_by_who_shares_them(self):
        other = SHARED_SWAP.replace("c: write heap[22:24]", "a: write heap[22:24]")
        whats = {(process, page) for process, _, page, what in found_between(SHARED_SWAP, other)}
        assert ("c", 22) in whats


class TestShrinking:
    def test_keeps_only_what_fails(self):
        def fails(script: Script) -> bool:
            text = script.dump()
            return "fork" in text and "PAGEOUT" in text

        small = shrink(Script.parse(SHARED_SWAP), fails)
        assert [operation.op for operation in small] == ["madvise", "fork"]

    def test_what_makes_no_sense_is_no_candidate(self):
        def fails(script: Script) -> bool:
            Machine("64M").run(script)
            return "write" in script.dump()

        small = shrink(Script.parse(SHARED_SWAP), fails)
        assert [operation.op for operation in small] == ["proc", "mmap", "write"]


class TestGenerating:
    def test_every_operation_is_in_play(self):
        seen = {item.op for number in range(400) for item in numbered(0, number)}
        assert seen == set(MACHINE_FORMS) | set(PROCESS_FORMS)

    def test_scripts_make_sense_and_reach_five_processes(self):
        most = 0
        for number in range(60):
            script = numbered(5, number)
            machine = Machine(script.memory or "256M")
            machine.run(script)
            names = {item.words["name"] for item in script if item.op == "proc"}
            names |= {n for item in script if item.op == "fork" for n in item.words["children"]}
            most = max(most, len(names))
        assert most >= 5

    def test_the_same_seed_gives_the_same_script(self):
        assert numbered(3, 4).dump() == numbered(3, 4).dump() != numbered(3, 5).dump()


class BothSides(RuleBasedStateMachine):
    """Any operation in any order, carried out on both sides and compared at each snapshot."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.both = Both(host).__enter__()
        self.draft = Draft(random.Random(), huge=False)
        self.played: list[str] = []

    @initialize(rng=st.randoms(use_true_random=False), huge=st.booleans())
    def begin(self, rng: random.Random, huge: bool) -> None:
        self.draft.huge = huge
        for step in ("swap", "proc", "mmap"):
            self.operate(step, rng)

    @rule(step=st.sampled_from(sorted(STEPS)), rng=st.randoms(use_true_random=False))
    def operate(self, step: str, rng: random.Random) -> None:
        self.draft.rng = rng
        del self.draft.lines[:]
        STEPS[step][1](self.draft)
        self.play()

    def play(self) -> None:
        for line in self.draft.lines:
            (operation,) = Script.parse(line)
            try:
                found = self.both.step(operation)
            except ScriptError:
                continue  # a mapping that could not be made gives nothing to write to
            self.played.append(line)
            if self.both.over is None:
                assert not found, "\n".join(map(str, [*self.played, *found[:5]]))

    def teardown(self) -> None:
        try:
            self.draft.lines[:] = ["snap end"]
            self.play()
        finally:
            self.both.__exit__(None, None, None)


class TestKernel:
    @pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.stem)
    def test_regression(self, host, path):
        found = compare(Script.load(path), host=host)
        assert found.empty, found.to_string()

    def test_sharing_and_swap(self, host):
        found = compare(Script.parse(SHARED_SWAP), host=host)
        assert found.empty, found.to_string()

    def test_any_operation_after_any_other(self, host):
        run_state_machine_as_test(
            lambda: BothSides(host),
            settings=settings(
                max_examples=30,
                stateful_step_count=25,
                suppress_health_check=list(HealthCheck),
            ),
        )

    def test_errors_and_signals_are_compared(self, host, monkeypatch):
        script = Script.parse("proc a\na: m = mmap 3 private anon r\na: write m\nsnap end")
        assert compare(script, host=host).empty
        monkeypatch.setattr(fault, "_permitted", lambda space, pages, write: (pages, None))
        found = compare(script, host=host)
        assert found["what"].iloc[0] == "outcome"
        assert found["kernel"].iloc[0] == "SIGSEGV"


def test_a_fixed_batch_of_random_scripts_agrees():
    try:
        result = random_run(150, seed=2026, progress=False)
    except (NotAvailable, NotPermitted) as error:
        pytest.skip(str(error))
    assert not result.divergences, str(result)
    assert result.scripts == 150
    assert result.pages > 10_000


def _no_write_protection(kernel: object, ptes: object) -> None:
    """fork that leaves the parent's entries writable, and its pages exclusive."""


def _no_holders(self: swapfile.SwapDevices, entries: np.ndarray) -> None:
    """swap_duplicate that forgets to count."""


BROKEN: dict[str, tuple[object, str, Callable[..., object]]] = {
    "fork": (fork, "_share", _no_write_protection),
    "swap": (swapfile.SwapDevices, "hold", _no_holders),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_caught_and_shrunk(name, monkeypatch):
    where, attribute, broken = BROKEN[name]
    monkeypatch.setattr(where, attribute, broken)
    try:
        result = random_run(40, seed=1, progress=False)
    except (NotAvailable, NotPermitted) as error:
        pytest.skip(str(error))
    assert result.divergences
    assert min(len(found.script) for found in result.divergences) <= 7
    assert "script" in str(result)


def _helpers() -> set[str]:
    """Names under which helpers run."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        found |= {word.decode() for word in words if word.startswith(b"pagemap_df-twin-")}
    return found


def test_nothing_is_left_behind_by_a_killed_run():
    program = "from pagemap_df.sim import twin; twin.random(500, seed=3, progress=False)"
    run = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    mine = f"pagemap_df-twin-{run.pid}-0"
    directories = set(Path("/tmp").glob("pagemap_df-twin-*"))
    try:
        end = time.monotonic() + 60
        while mine not in _helpers() or not _swap_is_on():
            if run.poll() is not None:
                assert run.stderr is not None
                pytest.skip(run.stderr.read().decode()[-200:])
            assert time.monotonic() < end, "the run never got so far"
            time.sleep(0.002)
    finally:
        run.send_signal(signal.SIGKILL)
        run.communicate()
    end = time.monotonic() + 30
    while mine in _helpers():
        assert time.monotonic() < end, "helpers are still there"
        time.sleep(0.01)
    assert not _swap_is_on()
    assert set(Path("/tmp").glob("pagemap_df-twin-*")) <= directories
    sleep = Path("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs")
    assert int(sleep.read_text()) < 1 << 31


def _swap_is_on() -> bool:
    return "pagemap_df-twin-" in Path("/proc/swaps").read_text()


class TestCommand:
    """``pagemap-df twin``."""

    def test_is_called_wrongly_without_a_script_or_with_two_kinds(self, tmp_path):
        script = tmp_path / "one.pms"
        script.write_text("proc a\nsnap end\n")
        for words in ([], [str(script), "--random", "3"], ["--random", "0"]):
            assert CliRunner().invoke(main, ["twin", *words]).exit_code == 2

    def test_sums_up_one_script_and_many(self, playable, tmp_path):
        script = tmp_path / "one.pms"
        script.write_text(SHARED_SWAP)
        one = CliRunner().invoke(main, ["twin", str(script), "--json"])
        assert one.exit_code == 0
        found = json.loads(one.stdout)
        assert found["operations"] == len(Script.parse(SHARED_SWAP))
        assert found["snapshots"] == 2
        assert found["divergences"] == []
        many = CliRunner().invoke(main, ["twin", "--random", "5", "--seed", "3"])
        assert many.exit_code == 0
        assert re.search(r"^divergences +0$", many.stdout, re.MULTILINE)

    def test_prints_and_keeps_the_smallest_script_that_diverges(
        self, playable, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(fork, "_share", _no_write_protection)
        script = tmp_path / "one.pms"
        script.write_text(SHARED_SWAP)
        kept = tmp_path / "kept"
        found = CliRunner().invoke(main, ["twin", str(script), "--keep", str(kept)])
        assert found.exit_code == 1
        assert "fork a" in found.stdout
        assert "what" in found.stdout
        (small,) = kept.iterdir()
        assert len(Script.load(small)) <= 7


def test_rules_give_their_reasons():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(len(rule.reason) > 40 for rule in RULES)


def test_hypothesis_and_seeds_draw_from_the_same_generator():
    assert random_script(random.Random("0/7")).dump() == numbered(0, 7).dump()


class TestRecord:
    """What is kept of long runs, in ``datasets/twin``."""

    @pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
    def test_scripts_of_all_kinds_and_no_divergence(self, path):
        told = json.loads(path.read_text())
        assert told["scripts"] >= 5_000
        assert told["divergences"] == []
        assert told["rules"] == {rule.name: rule.reason for rule in RULES}
        coverage = told["coverage"]
        verbs = {verb(item) for number in range(400) for item in numbered(0, number)}
        assert verbs == set(coverage["operations"])
        assert sum(coverage["operations"].values()) == told["operations"]
        assert sum(coverage["pages"].values()) == told["pages"]
        pairs = {tuple(pair.split(", ")) for pair in coverage["pairs"]}
        assert {verb for pair in pairs for verb in pair} == verbs
        assert len(pairs) > 0.8 * len(verbs) ** 2

    def test_there_is_one(self):
        assert RECORDS
