"""Processes stand still while they are looked at, and run again whatever happens."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pagemap_df import take
from pagemap_df.errors import NotPermitted
from pagemap_df.source import freeze
from tests import living

pytestmark = pytest.mark.kernel

PROC = Path("/proc")

BUSY = """
import sys, threading
def spin(n):
    while True:
        counts[n] += 1
counts = [0] * 4
for n in range(3):
    threading.Thread(target=spin, args=(n,), daemon=True).start()
print("ready", flush=True)
spin(3)
"""


@contextmanager
def program(text, *arguments):
    """A program of our own that has said its first line; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as started:
        try:
            assert started.stdout.readline()
            yield started
        finally:
            started.kill()


@pytest.fixture
def busy():
    """A process with four threads that never rest."""
    with program(BUSY) as started:
        yield started.pid


def states(pid):
    """Letters of all threads."""
    text = ((task / "stat").read_text() for task in (PROC / str(pid) / "task").iterdir())
    return {line.rpartition(")")[2].split()[0] for line in text}


def ticks(pid):
    """Processor time used so far."""
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def is_running(pid):
    return "T" not in states(pid)


def moved_within(pid, seconds):
    before = ticks(pid)
    time.sleep(seconds)
    return ticks(pid) != before


def test_every_thread_stands_still_and_then_runs_again(busy):
    assert len(list((PROC / str(busy) / "task").iterdir())) == 4
    with freeze.frozen([busy]) as facts:
        assert facts["signal"] + facts["cgroup"] == [busy]
        assert facts["still_running"] == facts["before"] == []
        assert states(busy) == {"T"}
        assert not moved_within(busy, 0.1)
    assert is_running(busy)
    living.wait_until(lambda: moved_within(busy, 0.05), "it runs again")


def test_an_exception_lets_them_go(busy):
    def fail():
        with freeze.frozen([busy]):
            assert not is_running(busy)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert is_running(busy)


HOLDING = """
import signal, sys, time
from pagemap_df.source import freeze
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs tests behind a & ignores it
try:
    with freeze.frozen([int(sys.argv[1])]):
        print("frozen", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_control_c_lets_them_go(busy):
    with program(HOLDING, busy) as holder:
        assert not is_running(busy)
        holder.send_signal(signal.SIGINT)
        assert holder.stdout.readline() == "interrupted\n"
        assert is_running(busy)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_they_are_let_go_even_if_the_taker_is_killed(busy, number):
    """A guard, which is another process, does it."""
    with program(HOLDING, busy) as holder:
        assert not is_running(busy)
        holder.send_signal(number)
        holder.wait()
        living.wait_until(lambda: is_running(busy), "the guard lets it go", 5)


def guards():
    """Shells that wait to let somebody go."""
    found = []
    for path in PROC.glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if b"read word ||" in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def test_no_guard_is_left_behind(busy):
    before = set(guards())
    with freeze.frozen([busy]):
        living.wait_until(lambda: len(set(guards()) - before) == 1, "a guard")
    assert set(guards()) - before == set()


def test_a_guard_that_was_killed_costs_nothing(busy):
    before = set(guards())
    with freeze.frozen([busy]):
        living.wait_until(lambda: len(set(guards()) - before) == 1, "a guard")
        (guard,) = set(guards()) - before
        os.kill(guard, signal.SIGKILL)
        living.wait_until(lambda: guard not in guards(), "the guard is dead")
    assert is_running(busy)


def test_who_stood_still_before_stands_still_after(busy):
    os.kill(busy, signal.SIGSTOP)
    living.wait_until(lambda: states(busy) == {"T"}, "stopped")
    with freeze.frozen([busy]) as facts:
        assert facts["before"] == [busy]
        assert facts["signal"] == facts["cgroup"] == []
    assert states(busy) == {"T"}


def test_we_do_not_freeze_ourselves_nor_the_dead(busy):
    with freeze.frozen([os.getpid(), (1 << 22) - 1]) as facts:
        assert os.getpid() not in facts["signal"]
        assert facts["still_running"] == []
    with freeze.frozen([]) as facts:
        assert facts == {"cgroup": [], "signal": [], "before": [], "still_running": []}


def test_one_that_leaves_meanwhile_harms_nobody(busy):
    with program(BUSY) as other:
        with freeze.frozen([busy, other.pid]):
            other.kill()
            other.wait()
        assert is_running(busy)


def test_without_the_right_nobody_is_left_stopped(busy):
    living.need_root()
    if not Path("/dev/null").is_char_device():
        pytest.skip("/dev/null is no device on this machine, so nobody but root can open it")
    script = (
        "import os, sys\nfrom pagemap_df.source import freeze\nfrom pagemap_df.errors import NotPermitted\n"
        "import subprocess\nos.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "mine = subprocess.Popen(['/bin/sleep', '9'])\n"
        "try:\n"
        "    with freeze.frozen([mine.pid, int(sys.argv[1])]): print('frozen')\n"
        "except NotPermitted as error: print(error)\n"
        "print(open(f'/proc/{mine.pid}/stat').read().split()[2])\n"
        "mine.kill()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(busy)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert re.match(rf"process {busy}: .*CAP_KILL", done[0])
    assert done[1] == "S"
    assert is_running(busy)


def test_not_permitted_is_a_permission_error():
    assert issubclass(NotPermitted, PermissionError)


def test_take_freezes_and_says_how(busy):
    snap = take(pids=busy, freeze=True)
    assert snap.facts["frozen"]["signal"] + snap.facts["frozen"]["cgroup"] == [busy]
    assert is_running(busy)
    assert take(pids=busy).facts["frozen"] is None


# -- the cgroup freezer -----------------------------------------------------------------


@contextmanager
def cgroup(*pids):
    """A v2 cgroup of our own with `pids` in it; removed at the end."""
    living.need_root()
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    places = [Path(fields[4]) for fields in mounts if "cgroup2" in fields]
    if not places:
        pytest.skip("no cgroup v2 hierarchy is mounted")
    group = places[0] / f"pagemap_df-{os.getpid()}"
    home = places[0] / "cgroup.procs"
    try:
        group.mkdir()
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        with suppress(OSError):
            group.rmdir()
        pytest.skip(f"no cgroup can be made: {error}")
    try:
        yield group
    finally:
        (group / "cgroup.freeze").write_text("0")
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(OSError):
                home.write_text(pid)
        for inner in group.glob("*/"):
            inner.rmdir()
        living.wait_until(lambda: not (group / "cgroup.procs").read_text(), "cgroup empty")
        group.rmdir()


def is_frozen(group):
    return "frozen 1" in (group / "cgroup.events").read_text()


def test_a_cgroup_of_its_own_is_frozen_without_a_signal(busy):
    with cgroup(busy) as group:
        with freeze.frozen([busy]) as facts:
            assert facts["cgroup"] == [busy]
            assert facts["signal"] == []
            assert is_frozen(group)
            assert "T" not in states(busy)
            assert not moved_within(busy, 0.1)
        assert not is_frozen(group)
        living.wait_until(lambda: moved_within(busy, 0.05), "it runs again")


def test_a_cgroup_with_others_in_it_is_left_alone(busy):
    with program(BUSY) as other, cgroup(busy, other.pid) as group:
        with freeze.frozen([busy]) as facts:
            assert facts["signal"] == [busy]
            assert facts["cgroup"] == []
            assert not is_frozen(group)
            assert is_running(other.pid)
        with freeze.frozen([busy, other.pid]) as facts:
            assert facts["cgroup"] == sorted([busy, other.pid])
            assert is_frozen(group)


def test_others_further_down_count_too(busy):
    with program(BUSY) as other, cgroup(busy) as group:
        (group / "inner").mkdir()
        (group / "inner" / "cgroup.procs").write_text(str(other.pid))
        with freeze.frozen([busy]) as facts:
            assert facts["signal"] == [busy]
            assert is_running(other.pid)
        (group.parent / "cgroup.procs").write_text(str(other.pid))


def test_a_frozen_cgroup_thaws_if_the_taker_is_killed(busy):
    with cgroup(busy) as group, program(HOLDING, busy) as holder:
        assert is_frozen(group)
        holder.kill()
        holder.wait()
        living.wait_until(lambda: not is_frozen(group), "the guard thaws it", 5)


def test_a_cgroup_that_was_frozen_before_stays_frozen(busy):
    with cgroup(busy) as group:
        (group / "cgroup.freeze").write_text("1")
        living.wait_until(lambda: is_frozen(group), "frozen")
        with freeze.frozen([busy]) as facts:
            assert facts["before"] == [busy]
        assert is_frozen(group)


def test_take_in_a_frozen_cgroup(busy):
    with cgroup(busy) as group:
        snap = take(pids=busy, freeze=True)
        assert snap.facts["frozen"]["cgroup"] == [busy]
        assert snap.processes.state[0] in ("R", "S")
        assert not is_frozen(group)
