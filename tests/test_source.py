"""Every source of the package against the one contract, and what each can do beyond it."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pagemap_df.errors import EraError, FormatError, NotAvailable, NotPermitted, ProcessGone
from pagemap_df.source.procfs import FACTS_FILE, Procfs
from pagemap_df.source.rawdump import RawDump
from tests import living
from tests import words as made_of
from tests.contract import SourceContract, Truth

PID, FIRST, COUNT = 4321, 0x7F12_3456_7, 3000
MAPS = (
    b"7f1234567000-7f123511f000 rw-p 00000000 00:00 0 \n"
    b"7f1240000000-7f1240010000 r--p 00001000 fe:00 23                         /tmp/\xff a\n"
)
STAT = b"4321 (a) b) S 1 4321 4321 0 -1 4194560 " + b"0 " * 12 + b"77 0 0\n"
FACTS = {"era": "E7", "page_size": 4096, "pfns": "visible"}
FRAMES = {"kpagecount": {0x1EC600: 1, 0x1EC607: 3}, "kpageflags": {0x1EC600: 0x5828}}


def store(path, words, first, order="little"):
    """Words at their natural offset of a sparse file, without the code under test."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.seek(8 * first)
        file.write(words.astype(np.dtype(np.uint64).newbyteorder(order)).tobytes())


def plant(root, era="E7", shift=12, order=sys.byteorder, facts=None):
    """A tree shaped like /proc with one process; what is true of it."""
    words = made_of.a_capture(era, COUNT, shift)
    folder = root / str(PID)
    folder.mkdir(parents=True)
    (root / "9").mkdir()
    (root / "self").symlink_to(str(PID))
    (root / "sys").mkdir()
    texts = {f"{PID}/maps": MAPS, f"{PID}/stat": STAT, f"{PID}/cmdline": b"", "swaps": b"any\n"}
    for path, content in texts.items():
        (root / path).write_bytes(content)
    store(folder / "pagemap", words, FIRST, order)
    for name, known in FRAMES.items():
        for pfn, word in known.items():
            store(root / name, np.array([word], np.uint64), pfn, order)
    if facts is not None:
        (root / FACTS_FILE).write_text(json.dumps(facts))
    return Truth(
        PID, FIRST, words, texts, page_size=1 << shift, hole=FIRST - 1000, end=FIRST + COUNT,
        frames=FRAMES,
    )  # fmt: skip


def packed(root, to, *how):
    subprocess.run(["tar", "-S", *how, "-cf", to, "-C", root, "."], check=True)
    return to


class TestTree(SourceContract):
    @pytest.fixture
    def made(self, tmp_path):
        truth = plant(tmp_path / "tree", facts=FACTS)
        return (lambda: Procfs(tmp_path / "tree")), truth


class TestTreeWithoutFacts(SourceContract):
    """Its facts come from its words."""

    @pytest.fixture
    def made(self, tmp_path):
        truth = plant(tmp_path / "tree")
        return (lambda: Procfs(tmp_path / "tree")), truth


class TestTreeInAProcFolder(SourceContract):
    @pytest.fixture
    def made(self, tmp_path):
        truth = plant(tmp_path / "copy" / "proc", facts=FACTS)
        return (lambda: Procfs(tmp_path / "copy")), truth


@pytest.mark.parametrize("era", ["E3", "E7"])
class TestTreeOfAnotherByteOrder(SourceContract):
    @pytest.fixture
    def made(self, tmp_path, era):
        other = {"little": "big", "big": "little"}[sys.byteorder]
        facts = {**FACTS, "era": era, "byte_order": other}
        truth = plant(tmp_path / "tree", era, order=other, facts=facts)
        return (lambda: Procfs(tmp_path / "tree")), truth


class TestTreeOfLargePages(SourceContract):
    @pytest.fixture
    def made(self, tmp_path):
        truth = plant(tmp_path / "tree", "E3", 16, facts={"era": "E3", "page_size": 65536})
        truth.absent = 16 << 55
        return (lambda: Procfs(tmp_path / "tree")), truth


class TestTar(SourceContract):
    @pytest.fixture
    def made(self, tmp_path):
        truth = plant(tmp_path / "tree", facts=FACTS)
        tar = packed(tmp_path / "tree", tmp_path / "tree.tar")
        return (lambda: Procfs(tar)), truth


class TestCompressedTar(SourceContract):
    @pytest.fixture
    def made(self, tmp_path):
        truth = plant(tmp_path / "tree", facts=FACTS)
        tar = packed(tmp_path / "tree", tmp_path / "tree.tar.gz", "-z")
        return (lambda: Procfs(tar)), truth


class TestRawDump(SourceContract):
    @pytest.fixture(params=["E1", "E3", "E7"])
    def made(self, request):
        era = request.param
        words = made_of.a_capture(era, COUNT)
        absent = {"E1": 1 << 61, "E3": 12 << 55}.get(era, 0)
        maps = f"{FIRST * 4096:x}-{(FIRST + COUNT) * 4096:x} rw-p 00000000 00:00 0 \n".encode()
        truth = Truth(
            PID, FIRST, words, {f"{PID}/maps": maps}, absent=absent, hole=FIRST - 1000,
            end=FIRST + COUNT,
        )  # fmt: skip
        return (lambda: RawDump(words.tobytes(), start=FIRST * 4096, pid=PID, era=era)), truth


class TestRawDumpOfAnotherByteOrder(SourceContract):
    @pytest.fixture
    def made(self, tmp_path):
        other = {"little": "big", "big": "little"}[sys.byteorder]
        words = made_of.a_capture("E7", COUNT)
        path = tmp_path / "words"
        store(path, words, 0, other)
        truth = Truth(PID, FIRST, words, {}, hole=FIRST - 1000, end=FIRST + COUNT)
        return (
            lambda: RawDump(path, start=FIRST * 4096, pid=PID, era="E7", byte_order=other)
        ), truth


@pytest.mark.kernel
class TestLive(SourceContract):
    @pytest.fixture(scope="class")
    @classmethod
    def made(cls):
        with living.spawn() as child:
            region = child.mmap_alone(COUNT)
            child.madvise(region, living.NOHUGEPAGE)
            child.write(region[:1000])
            child.read(region[1500:1600])
            child.stop()
            first = region.start // living.PAGE
            with open(f"/proc/{child.pid}/pagemap", "rb", buffering=0) as file:
                raw = os.pread(file.fileno(), 8 * COUNT, 8 * first)
            texts = {
                f"{child.pid}/{name}": Path(f"/proc/{child.pid}/{name}").read_bytes()
                for name in ("maps", "cmdline", "comm", "cgroup", "stat")
            }
            hole = 0x10  # below mmap_min_addr nothing is ever mapped
            words = np.frombuffer(raw, np.uint64)
            end = None
            if os.uname().machine == "x86_64":
                wide = " la57 " in Path("/proc/cpuinfo").read_text()
                end = ((1 << (56 if wide else 47)) - 4096) // 4096
            yield Procfs, Truth(child.pid, first, words, texts, hole=hole - 16, end=end)


# -- beyond the contract ----------------------------------------------------------------


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("era", [era for era in made_of.ERAS[2:] if era != "E4v2"])
def test_a_tree_without_facts_is_read_by_what_its_words_tell(tmp_path, era, order):
    truth = plant(tmp_path / "tree", era, order=order)
    with Procfs(tmp_path / "tree", byte_order=order) as source:
        facts = source.facts()
        np.testing.assert_array_equal(source.words(truth.pagemap, FIRST, COUNT), truth.words)
    assert facts["era"] == {"E4v1": "E3", "E6": "E5", "E7": "E5"}.get(era, era)
    assert facts["era_evidence"]


def test_a_tree_of_the_other_byte_order_says_so(tmp_path):
    other = {"little": "big", "big": "little"}[sys.byteorder]
    plant(tmp_path / "tree", order=other)
    with pytest.raises(EraError, match="byte_order="):
        Procfs(tmp_path / "tree")


def test_what_the_caller_tells_wins_over_the_trees_own_facts(tmp_path):
    plant(tmp_path / "tree", facts=FACTS)
    with Procfs(tmp_path / "tree", era="E6", zero_pfns=[7]) as source:
        assert source.facts()["era"] == "E6"
        assert source.facts()["zero_pfns"] == [7]


def test_page_size_comes_from_smaps_where_words_do_not_tell(tmp_path):
    plant(tmp_path / "tree", "E7", 16)
    smaps = MAPS.splitlines(keepends=True)[0] + b"Size:                 64 kB\n"
    smaps += b"KernelPageSize:       64 kB\n"
    (tmp_path / "tree" / str(PID) / "smaps").write_bytes(smaps)
    with Procfs(tmp_path / "tree", era="E7") as source:
        assert source.facts()["page_size"] == 65536


def test_a_capture_without_frame_numbers_is_known_as_such(tmp_path):
    root = tmp_path / "tree"
    plant(root)
    words = np.array([1 << 63, 1 << 62, 0, 5 << 61], np.uint64)
    (root / str(PID) / "pagemap").unlink()
    store(root / str(PID) / "pagemap", words, FIRST)
    with Procfs(root) as source:
        assert source.facts()["pfns"] == "hidden"
        assert source.facts()["pfns_why"]


@pytest.mark.parametrize("facts", [b"{", b"\xff", b'{"era": "E7",'])
def test_facts_that_are_not_json_are_an_error_that_names_the_file(tmp_path, facts):
    plant(tmp_path / "tree")
    (tmp_path / "tree" / FACTS_FILE).write_bytes(facts)
    with pytest.raises(FormatError, match=FACTS_FILE):
        Procfs(tmp_path / "tree")


def test_a_file_cut_in_the_middle_of_a_word(tmp_path):
    truth = plant(tmp_path / "tree", facts=FACTS)
    path = tmp_path / "tree" / truth.pagemap
    os.truncate(path, 8 * (FIRST + 10) + 3)
    with Procfs(tmp_path / "tree") as source, pytest.raises(FormatError) as caught:
        source.words(truth.pagemap, FIRST, COUNT)
    assert caught.value.offset == 8 * (FIRST + 10) + 3
    assert truth.pagemap in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a tar", bytes(20000)])
def test_a_file_that_is_no_tar(tmp_path, content):
    path = tmp_path / "some.tar"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"some\.tar: expected a directory shaped like /proc"):
        Procfs(path)


@pytest.mark.parametrize("kind", ["", "z", "J"])
def test_a_damaged_tar(tmp_path, kind):
    """Cut it, and flip bytes in the middle of it: one error of ours, and no folder left over."""
    plant(tmp_path / "tree", facts=FACTS)
    tar = packed(tmp_path / "tree", tmp_path / "tree.tar", *([f"-{kind}"] if kind else []))
    whole = tar.read_bytes()
    (tmp_path / "temporary").mkdir()
    broken = 0
    for at in range(0, len(whole), max(len(whole) // 40, 1)):
        for content in (
            whole[:at],
            whole[:at] + bytes(b ^ 0xFF for b in whole[at : at + 9]) + whole[at + 9 :],
        ):
            tar.write_bytes(content)
            try:
                Procfs(tar).close()
            except FormatError as error:
                broken += "tree.tar" in str(error)
    assert broken > 20


@pytest.mark.usefixtures("tmp_path")
def test_a_directory_that_is_no_tree(tmp_path):
    (tmp_path / "bin").mkdir()
    with pytest.raises(FormatError, match=r"shaped like /proc.*found \['bin'\]"):
        Procfs(tmp_path)
    with pytest.raises(NotAvailable, match="nowhere"):
        Procfs(tmp_path / "nowhere")


def test_a_tar_of_no_tree(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(__file__, "file.py")
    with pytest.raises(FormatError, match=r"x\.tar"):
        Procfs(tmp_path / "x.tar")


def test_a_tar_cannot_write_outside_its_folder(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(__file__, "7/maps")
        tar.add(__file__, "../../escaped")
    with pytest.raises(FormatError, match="outside"):
        Procfs(tmp_path / "x.tar")


@pytest.mark.kernel
def test_a_live_kernel_is_not_told_its_facts():
    with pytest.raises(ValueError, match="tells its facts itself"):
        Procfs("/proc", era="E3")


@pytest.mark.kernel
def test_a_process_that_left_is_gone_and_never_its_successor():
    with living.spawn() as child, Procfs() as source:
        source.text(f"{child.pid}/stat")
        source.words(f"{child.pid}/pagemap", 0, 1)
        worker = child.fork()
        source.text(f"{worker.pid}/stat")
        worker.kill()
        living.wait_until(lambda: not os.path.exists(f"/proc/{worker.pid}"), "reaped")
        with pytest.raises(ProcessGone, match=str(worker.pid)):
            source.text(f"{worker.pid}/maps")
        with pytest.raises(ProcessGone):
            source.words(f"{worker.pid}/pagemap", 0, 1)


@pytest.mark.kernel
def test_a_kernel_thread_has_no_pagemap():
    if Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("no kernel threads in this pid namespace")
    with Procfs() as source, pytest.raises(ProcessGone):
        source.words("2/pagemap", 0, 1)


@pytest.mark.kernel
def test_a_refusal_names_the_file_and_the_right():
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    script = (
        "import os\nfrom pagemap_df.source.procfs import Procfs\n"
        "from pagemap_df.errors import NotPermitted\n"
        "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "try:\n Procfs().words('1/pagemap', 0, 1)\n"
        "except NotPermitted as e: print(e)\n"
        "try:\n Procfs().words('kpagecount', 0, 1)\n"
        "except NotPermitted as e: print(e)\n"
    )
    done = as_nobody(script)
    assert "1/pagemap: refused" in done
    assert "CAP_SYS_PTRACE" in done
    assert "kpagecount: refused" in done


def as_nobody(script):
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.kernel
def test_ranges_without_pagemap_scan_leave_out_what_smaps_calls_empty():
    with living.spawn() as child, Procfs() as source:
        heap, empty = child.mmap_alone(64), child.mmap_alone(64)
        child.write(heap[:3])
        source.facts()["scan"] = False
        assert list(source.populated(child.pid, heap.start, heap.end)) == [(heap.start, heap.end)]
        assert list(source.populated(child.pid, empty.start, empty.end)) == []


def test_not_permitted_is_the_built_in_too():
    assert issubclass(NotPermitted, PermissionError)
