"""The command: what it prints where, and how it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

import pagemap_df as pm
from pagemap_df.cli import main
from pagemap_df.datasets import directory
from tests import living

RECORDED = str(directory() / "preforked-family")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_ps_of_a_stored_snapshot_lists_the_largest_pss_first():
    found = run("ps", "--from", RECORDED)
    header, *lines = found.stdout.splitlines()
    assert found.exit_code == 0
    assert header.split() == ["pid", "ppid", "name", "vss", "rss", "pss", "uss", "swap"]
    expected = pm.sharing.processes(pm.load_dataset("preforked-family")).sort_values("pss")
    assert [int(line.split()[0]) for line in lines] == expected["pid"].tolist()[::-1]
    assert all("MiB" in line for line in lines)


def test_json_has_the_same_rows_as_plain_integers():
    rows = json.loads(run("ps", "--from", RECORDED, "--json", "--sort", "pid").stdout)
    expected = pm.sharing.processes(pm.load_dataset("preforked-family"))
    assert [row["uss"] for row in rows] == expected["uss"].tolist()


def test_null_is_a_dash_in_text_and_null_in_json():
    assert (
        json.loads(run("pages", "--from", RECORDED, "--json", "-n", 1).stdout)[0]["soft_dirty"]
        is None
    )
    line = run("pages", "--from", RECORDED, "-n", 1).stdout.splitlines()[1]
    assert " - " in line


@pytest.mark.parametrize(
    "words",
    [
        ("share",),
        ("share", "--show", "matrix"),
        ("share", "--show", "mechanisms"),
        ("share", "--group-by", "name"),
        ("share", "--group-by", "/pyth(on)/"),
        ("ps", "--group-by", "tree"),
        ("ps", "--vmas", "--sort", "rss"),
        ("swap", "--by", "area"),
        ("swap", "--by", "process"),
        ("swap", "--by", "vma"),
        ("swap", "--by", "slot"),
        ("layout",),
        ("layout", "--show", "folios"),
        ("layout", "--show", "contiguity"),
        ("info",),
    ],
)
def test_every_answer_prints_from_a_snapshot_in_text_and_json(words):
    for more in ((), ("--json",)):
        found = run(*words, "--from", RECORDED, *more)
        assert found.exit_code == 0, found.output
        assert found.stdout.strip()
    json.loads(found.stdout)


def test_share_cost_and_lost_of_the_recorded_family():
    pids = pm.load_dataset("preforked-family").processes["pid"].tolist()
    cost = json.loads(run("share", "--cost", pids[0], "--from", RECORDED, "--json").stdout)
    assert cost[0]["frees"] > 0
    lost = run("share", "--lost", pids[0], pids[3], "--from", RECORDED, "--json")
    assert json.loads(lost.stdout)[0]["lost"] == 32 << 20  # half of 64 MiB was rewritten


def test_diff_of_a_snapshot_with_itself_finds_no_change():
    found = run("diff", RECORDED, RECORDED, "--json")
    assert found.exit_code == 0
    assert not set(json.loads(found.stdout)[0]) & set(pm.changes.CHANGES)


def test_sql_answers_and_bad_sql_is_one_line():
    found = run("sql", "select count(*) as n from processes", "--from", RECORDED, "--json")
    assert json.loads(found.stdout) == [{"n": 4}]
    bad = run("sql", "select nonsense from nowhere", "--from", RECORDED)
    assert bad.exit_code == 1
    assert bad.stderr.startswith("pagemap-df: expected SQL that DuckDB understands")


@pytest.mark.parametrize("form", ["csv", "jsonl", "arrow"])
def test_export_writes_every_row_once(form, tmp_path):
    out = tmp_path / "pages"
    assert run("export", "-F", form, "-o", out, "--from", RECORDED).exit_code == 0
    expected = pm.load_dataset("preforked-family").arrow("pages")
    if form == "arrow":
        assert pa.ipc.open_stream(out).read_all().combine_chunks() == expected.combine_chunks()
    else:
        lines = out.read_text().splitlines()
        assert len(lines) == len(expected) + (form == "csv")
        assert lines[0].startswith("pid,vaddr,kind" if form == "csv" else '{"pid"')


def test_export_makes_a_tree_that_reads_the_same(tmp_path):
    tree = tmp_path / "tree"
    assert run("export", "-F", "procfs", "-o", tree, "--from", RECORDED).exit_code == 0
    before = json.loads(run("ps", "--from", RECORDED, "--json").stdout)
    after = json.loads(run("ps", "--from", tree, "--json").stdout)
    assert [row["pss"] for row in after] == [row["pss"] for row in before]


def test_capture_says_where_and_reads_back(tmp_path):
    done = run("capture", os.getpid(), "-o", tmp_path, "--json")
    said = json.loads(done.stdout)
    assert said["rows"]["processes"] == 1
    assert len(pm.read_snapshot(Path(said["path"])).pages) == said["rows"]["pages"]
    assert run("ps", "--from", tmp_path, "--json").exit_code == 0


def test_page_tells_its_story(tmp_path):
    row = json.loads(run("pages", os.getpid(), "--json", "-n", 1).stdout)[0]
    told = run("page", os.getpid(), hex(row["vaddr"]))
    assert told.exit_code == 0
    assert hex(row["vaddr"]) in told.stdout
    assert "is in memory" in told.stdout
    assert "no mapping" in run("page", os.getpid(), "0x0").stdout


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("ps", 2**22 + 1), 1, "gone"),
        (("ps", "--from", "/nonexistent"), 1, "/nonexistent"),
        (("ps", "--sort", "nonsense", "--from", RECORDED), 2, "no column 'nonsense'"),
        (("ps", "--group-by", "nonsense", "--from", RECORDED), 1, "nonsense"),
        (("ps", "--group-by", "/(/", "--from", RECORDED), 2, "/(/"),
        (("ps", 1, "--from", RECORDED), 2, "finished snapshot"),
        (("page", os.getpid(), "here"), 2, "no address"),
        (("export", "-F", "parquet", "--from", RECORDED), 2, "--output"),
        (("nonsense",), 2, "No such command"),
    ],
)
def test_wrong_calls_end_with_one_clear_message(words, status, says):
    found = run(*words)
    assert found.exit_code == status
    assert says in found.stderr
    assert not found.stdout
    assert "Traceback" not in found.stderr


def test_without_rights_pfns_are_null_and_it_says_why_and_strangers_are_refused():
    living.need_root()
    with living.spawn() as child:
        program = (
            "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534);"
            "import ctypes; ctypes.CDLL(None).prctl(4, 1);"
            "from pagemap_df.cli import main; main(sys.argv[1:])"
        )

        def as_nobody(*words: object) -> subprocess.CompletedProcess[str]:
            # The interpreter may lie where nobody cannot read: import before the rights go.
            load = "import pagemap_df.cli, pagemap_df.sharing, pagemap_df.story;"
            command = [sys.executable, "-c", load + program, *map(str, words)]
            return subprocess.run(command, capture_output=True, text=True, check=False)

        refused = as_nobody("ps", child.pid)
        assert refused.returncode == 3
        assert "refused" in refused.stderr
        info = as_nobody("info", "--json", "--name", "nobody-is-called-so")
        assert json.loads(info.stdout)["pfns"] == "hidden"
        assert "CAP_SYS_ADMIN" in info.stderr


def test_a_reader_that_stops_early_gets_no_traceback():
    command = f"{sys.executable} -m pagemap_df pages --from {RECORDED} | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "pid"
    assert done.stderr == ""


# -- commands that make something -------------------------------------------------------

SCRIPT = """
swap 16M
proc one
one: heap = mmap 64 private anon rw
one: write heap
snap full
one: madvise heap[0:8] PAGEOUT
one: write heap[60:70]
snap out
"""


def test_simulate_keeps_every_snap_and_tells_what_befell_processes(tmp_path):
    script = tmp_path / "one.pms"
    script.write_text(SCRIPT.replace("one: write heap[60:70]", "one: read heap[1]"))
    done = run("simulate", script, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    places = [line.split() for line in done.stdout.splitlines()]
    assert [name for _, name in places] == ["full", "out"]
    assert int(pm.read_snapshot(places[1][0]).pages["swapped"].sum()) == 7


def test_simulate_writes_a_tree_that_ps_reads(tmp_path):
    script = tmp_path / "one.pms"
    script.write_text("proc one\none: heap = mmap 64 private anon rw\none: write heap\n")
    assert run("simulate", script, "-F", "procfs", "-o", tmp_path / "tree").exit_code == 0
    rows = json.loads(run("ps", "--from", tmp_path / "tree", "--json").stdout)
    assert next(row for row in rows if row["name"] == "one")["uss"] >= 64 * 4096


def test_a_script_that_does_not_parse_names_its_line(tmp_path):
    script = tmp_path / "bad.pms"
    script.write_text("proc one\none: nonsense heap\n")
    done = run("simulate", script, "-o", tmp_path / "out")
    assert done.exit_code == 1
    assert "bad.pms, line 2" in done.stderr


def test_a_picture_is_a_picture(tmp_path):
    out = tmp_path / "rss.png"
    assert run("plot", "rss", "--from", RECORDED, "-o", out).exit_code == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert run("plot", "changes", "--from", RECORDED, "-o", out).exit_code == 2
    done = run("plot", "transitions", "--before", RECORDED, "--from", RECORDED, "-o", out)
    assert done.exit_code == 0, done.output


def test_the_collector_it_prints_makes_an_archive_that_ps_reads(tmp_path):
    living.need_root()
    (tmp_path / "c.py").write_text(run("collector").stdout)
    archive = tmp_path / "host.tar.gz"
    with living.spawn() as child:
        child.write(child.mmap(256))
        command = [sys.executable, "-I", "-S", str(tmp_path / "c.py"), "--frames"]
        subprocess.run([*command, "--pid", str(child.pid), "-o", archive], check=True)
        live = json.loads(run("ps", child.pid, "--json").stdout)
    kept = json.loads(run("ps", "--from", archive, "--json").stdout)
    assert [row["rss"] for row in kept] == [row["rss"] for row in live]
