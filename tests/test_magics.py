"""The magics in an IPython shell of this process: maps, commands, and what a cell did."""

import mmap
import os
import warnings
import xml.etree.ElementTree as ET

import numpy as np
import pytest

pytest.importorskip("anywidget")
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import pagemap_df as pm
from pagemap_df import magics
from pagemap_df.errors import ProcessGone
from pagemap_df.observer import Observer
from pagemap_df.widget.memorymap import MemoryMap

PAGE = mmap.PAGESIZE
FAMILY = pm.load_dataset("preforked-family")


@pytest.fixture(scope="module")
def shell():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = InteractiveShell()
    magics.load_ipython_extension(made)
    yield made
    made.history_manager.end_session()
    made.restore_sys_module_state()


# -- %pagemap ----------------------------------------------------------------------------------


def test_without_words_it_is_this_process(shell):
    found = shell.run_line_magic("pagemap", "")
    assert isinstance(found, MemoryMap)
    assert found.pid == os.getpid()
    assert found.snapshot.arrow("pages").schema.get_field_index("mapcount") >= 0


def test_another_process_and_the_words_of_the_map(shell):
    found = shell.run_line_magic("pagemap", f"{os.getppid()} --color vma")
    assert (found.pid, found.color) == (os.getppid(), "vma")


def test_stored_snapshots_can_be_shown(shell, tmp_path):
    FAMILY.to_parquet(tmp_path / "kept")
    found = shell.run_line_magic("pagemap", f"--from {tmp_path / 'kept'} --space physical")
    assert found.snapshot.arrow("processes").num_rows == len(FAMILY.processes)
    assert found.space == "physical"


def test_a_still_picture_needs_no_widget(shell):
    found = shell.run_line_magic("pagemap", "--still")
    assert ET.fromstring(found._repr_svg_()) is not None
    assert str(os.getpid()) in repr(found)


def test_every_command_of_the_program_is_there(shell, capsys):
    assert shell.run_line_magic("pagemap", f"ps {os.getpid()} --json") is None
    assert f'"pid": {os.getpid()}' in capsys.readouterr().out


@pytest.mark.parametrize("words", ["--help", "ps --help"])
def test_help_is_printed_and_is_no_error(shell, capsys, words):
    assert shell.run_line_magic("pagemap", words) is None
    assert "--cgroup" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [("--nonsense", "No such option"), ("ps --nonsense", "No such option"), ("'", "quotation")],
)
def test_wrong_words_are_one_line(shell, words, told):
    with pytest.raises(UsageError, match=told):
        shell.run_line_magic("pagemap", words)


def test_a_command_that_fails_is_one_line_and_says_why(shell, capsys):
    with pytest.raises(UsageError, match="status 1"):
        shell.run_line_magic("pagemap", "ps 99999999")
    assert "99999999" in capsys.readouterr().err


def test_a_process_that_is_not_there_is_told_by_type(shell):
    with pytest.raises(ProcessGone):
        shell.run_line_magic("pagemap", "99999999")


# -- %%pagemap ---------------------------------------------------------------------------------


def bytes_of(report, change):
    return int(report.vmas[change].sum())


def test_a_cell_that_writes_is_seen_to_fault_pages_in_where_it_wrote(shell):
    region = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    region.madvise(mmap.MADV_NOHUGEPAGE)
    start = np.frombuffer(region, np.uint8).ctypes.data
    shell.user_ns["region"] = region
    report = shell.run_cell_magic("pagemap", "", "region[: 8 << 20] = bytes(8 << 20)")
    inside = report.vmas["start"].le(start) & report.vmas["faulted_in"].ge(8 << 20)
    assert inside.any()
    found = pm.changes.pages(report.before, report.after)
    mine = found[found["vaddr"].between(start, start + (8 << 20) - 1)]
    assert len(mine) == (8 << 20) // PAGE
    assert set(mine["change"]) == {"faulted_in"}
    again = shell.run_cell_magic("pagemap", "", "region.madvise(4, 0, 4 << 20)")  # DONTNEED
    assert bytes_of(again, "freed") >= 4 << 20
    html = again._repr_html_()
    assert "freed" in html
    assert "<svg" in html
    assert "freed" in repr(again)
    assert isinstance(again.map, MemoryMap)
    assert again.map.color == "change"


def test_an_idle_cell_hardly_changes_a_page(shell):
    """The observer's own doing is kept out: it is another process."""
    reports = [shell.run_cell_magic("pagemap", "", "pass") for _ in range(3)]
    changed = [len(pm.changes.pages(r.before, r.after).query("change in @own")) for r in reports]
    assert min(changed) <= 64


own = ("faulted_in", "freed", "unshared", "zero_mapped")


def test_what_the_cell_prints_and_defines_stays(shell, capsys):
    shell.run_cell_magic("pagemap", "", "answer = 6 * 7\nprint('computed')")
    assert shell.user_ns["answer"] == 42
    assert "computed" in capsys.readouterr().out


def test_a_failing_cell_fails_after_its_report(shell, capsys):
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        shell.run_cell_magic("pagemap", "", "1 / 0")
    printed = capsys.readouterr().out
    assert "division by zero" in printed
    assert "pid" in printed or "No page changed" in printed


def test_the_cell_magic_takes_the_words_that_choose_processes(shell, capsys):
    with pytest.raises(UsageError, match="No such option"):
        shell.run_cell_magic("pagemap", "--from here", "pass")
    assert shell.run_cell_magic("pagemap", "--help", "never_run") is None
    assert "--cgroup" in capsys.readouterr().out
    with pytest.raises(ProcessGone):
        shell.run_cell_magic("pagemap", "99999999", "pass")


def test_no_changes_are_a_sentence():
    report = magics.CellReport(FAMILY, FAMILY)
    assert repr(report) == "No page changed."
    assert "No page changed" in report._repr_html_()


def test_reports_escape_what_mappings_are_called():
    from tests.handmade import snapshot

    report = magics.CellReport(snapshot({7: ["<b> rw-p a1 -"]}), snapshot({7: ["<b> rw-p a1 a2"]}))
    assert "<b>]" not in report._repr_html_()
    assert "&lt;b&gt;" in report._repr_html_()


# -- the observer ------------------------------------------------------------------------------


def test_the_observer_sees_what_take_sees_and_never_itself():
    with Observer({"pids": None, "name": "*"}) as observer:
        observer.take()
        (seen,) = observer.snapshots()
        helper = observer._helper.pid
    pids = seen.arrow("processes")["pid"].to_pylist()
    assert os.getpid() in pids
    assert helper not in pids


def test_snapshots_can_be_forgotten_and_the_helper_ends():
    with Observer({"pids": [os.getpid()]}) as observer:
        observer.take()
        observer.forget()
        assert observer.snapshots() == []
        observer.take()
        observer.take()
        assert len(observer.snapshots()) == 2
    assert observer._helper.returncode == 0


def test_what_goes_wrong_over_there_is_raised_here():
    with Observer({"pids": [99999999]}) as observer, pytest.raises(ProcessGone, match="99999999"):
        observer.take()


def test_a_helper_that_dies_is_told():
    with Observer({"pids": [os.getpid()]}) as observer:
        observer._helper.terminate()
        with pytest.raises(pm.PagemapError, match="status -15"):
            observer._ask(["take"])
