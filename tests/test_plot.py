"""What all pictures must keep to, on all kinds of snapshots; and how they look."""

import itertools
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import pagemap_df as pm
from pagemap_df import changes, layout, palette, plot, schema
from pagemap_df.errors import NotAvailable, PagemapError, ProcessGone, TableError
from pagemap_df.snapshot import Snapshot
from tests import living
from tests.handmade import snapshot

FAMILY = {
    10: ["heap rw-p a1 a2 a3 z s5 -", "lib r-xp f20 f21+", "shm rw-s m30"],
    11: ["heap rw-p a1 a2 a4 - s5 s6", "lib r-xp f20", "shm rw-s m30"],
    12: ["heap rw-p a9 k50 k50 g", "lib r-xp f20"],
}
LATER = {
    10: ["heap rw-p a1 a2 a3 a8 s5 -", "lib r-xp f20 f21+", "shm rw-s m30"],
    11: ["heap rw-p a7 a2 s9 - s5 s6", "lib r-xp f20", "shm rw-s m30"],
}
AREA = {"swap_type": 0, "path": "/swap/file", "kind": "file", "size": 63 * 4096, "used": 4 * 4096}
AREA |= {"priority": -2, "evidence": "the only one"}

PICTURES = {
    "address_space": plot.plot_address_space,
    "address_space by sharers": lambda s, **k: plot.plot_address_space(s, by="sharers", **k),
    "physical by owner": plot.plot_physical,
    "physical by map count": lambda s, **k: plot.plot_physical(s, by="mapcount", **k),
    "physical by use": lambda s, **k: plot.plot_physical(s, by="use", curve="tiles", **k),
    "sharing_matrix": plot.plot_sharing_matrix,
    "rss": plot.plot_rss,
    "sizes": lambda s, **k: plot.plot_sizes([s, s], **k),
    "cow_loss": lambda s, **k: plot.plot_cow_loss([s, s], parent=10, child=11, **k),
    "swap": plot.plot_swap,
    "contiguity": plot.plot_contiguity,
    "huge": plot.plot_huge,
    "changes": lambda s, **k: plot.plot_changes(s, _later(), **k),
    "changes by process": lambda s, **k: plot.plot_changes(s, _later(), per="process", **k),
    "transitions": lambda s, **k: plot.plot_transitions(s, _later(), **k),
}
SNAPSHOTS = {
    "family": lambda: snapshot(FAMILY, swaps=[AREA]),
    "empty": lambda: Snapshot({}, {"page_size": 4096}),
    "no pages": lambda: snapshot({10: ["heap rw-p -"], 11: ["heap rw-p -"]}),
    "one page": lambda: snapshot({10: ["heap rw-p a1"], 11: ["heap rw-p -"]}),
    "all in swap": lambda: snapshot({10: ["heap rw-p s1 s2 s3"], 11: ["heap rw-p s1 s4"]}),
    "all zero": lambda: snapshot({10: ["heap rw-p z z z"], 11: ["heap rw-p z"]}),
    "all guard": lambda: snapshot({10: ["heap rw-p g g"], 11: ["heap rw-p g"]}),
    "hidden": lambda: snapshot(FAMILY, hidden=True, join=(), facts={"pfns": "hidden"}),
    "nothing joined": lambda: snapshot(FAMILY, join=()),
    "only pages": lambda: snapshot(FAMILY).pages,
    "little of pages": lambda: snapshot(FAMILY).pages.set_index("vaddr")[["pid", "kind"]],
}


def _later():
    return snapshot(LATER, swaps=[AREA])


@pytest.fixture(autouse=True)
def _no_figure_is_left():
    before = dict(mpl.rcParams)
    yield
    plt.close("all")
    assert dict(mpl.rcParams) == before


def texts(ax):
    return [t.get_text() for t in ax.texts]


@pytest.mark.parametrize("what", SNAPSHOTS)
@pytest.mark.parametrize("name", PICTURES)
def test_every_snapshot_gives_a_picture_or_says_what_is_missing(name, what):
    snap, ax = SNAPSHOTS[what](), plot.blank()
    try:
        got = PICTURES[name](snap, ax=ax)
    except (NotAvailable, TableError, ProcessGone):
        assert not ax.has_data()
        assert what not in ("family", "one page", "only pages")
        return
    assert got is ax
    ax.figure.canvas.draw()
    if ax.axison:
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert ax.get_title()
    else:
        assert texts(ax)[0].endswith(".")
    assert plt.get_fignums() == []


@pytest.mark.parametrize("name", PICTURES)
def test_without_axes_one_figure_is_made_that_pyplot_shows(name):
    ax = PICTURES[name](SNAPSHOTS["family"]())
    assert isinstance(ax, Axes)
    assert plt.get_fignums() == [ax.figure.number]


@pytest.mark.parametrize("name", PICTURES)
def test_an_error_leaves_no_figure(name):
    with pytest.raises(PagemapError):
        PICTURES[name](pd.DataFrame({"a": [1]}))
    assert plt.get_fignums() == []


def test_the_missing_columns_are_named():
    with pytest.raises(TableError, match=r"the columns kind; the frame has vaddr, colour"):
        plot.plot_rss(pd.DataFrame({"vaddr": [1], "colour": [2]}))
    with pytest.raises(TableError, match="taken_at, uss, pss"):
        plot.plot_sizes(pd.DataFrame({"pid": [1]}))
    with pytest.raises(TableError, match="needs the columns start, path, lost"):
        plot.plot_cow_loss(pd.DataFrame({"taken_at": [1]}))
    with pytest.raises(TableError, match="guard_placed"):
        plot.plot_changes(pd.DataFrame({"pid": [1]}))
    with pytest.raises(TableError, match="same pids as index and columns"):
        plot.plot_sharing_matrix(pd.DataFrame({"a": [1]}))
    with pytest.raises(TableError, match="kind holds"):
        plot.plot_rss(pd.DataFrame({"vaddr": [0], "kind": ["swapped"]}))
    with pytest.raises(TableError, match="does not fit"):
        plot.plot_rss(pd.DataFrame({"vaddr": ["x"], "kind": ["swap"]}))
    with pytest.raises(TableError, match="expected a snapshot or a frame of pages, found a list"):
        plot.plot_rss([])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: plot.plot_address_space(s, by="size"), "'state' or 'sharers'"),
        (lambda s: plot.plot_physical(s, by="size"), "'owner', 'mapcount' or 'use'"),
        (lambda s: plot.plot_physical(s, curve="peano"), "'hilbert' or 'tiles'"),
        (lambda s: plot.plot_changes(s, s, per="page"), "'process' or 'vma'"),
        (lambda s: plot.plot_changes(s), "two snapshots"),
        (lambda s: plot.plot_cow_loss([s, s]), "parent= and child="),
        (lambda s: plot.plot_cow_loss([s], parent=10, child=11), "2 snapshots or more"),
        (lambda s: plot.plot_sizes(s), "a list of snapshots"),
        (lambda s: plot.plot_sizes([]), "1 snapshots or more"),
        (
            lambda s: plot.plot_sizes(
                pd.DataFrame({"taken_at": ["x"], "pid": [1], "uss": [1], "pss": [1]})
            ),
            "no time",
        ),
    ],
)
def test_a_wrong_wish_says_what_can_be_wished_for(call, words):
    with pytest.raises(TableError, match=words):
        call(SNAPSHOTS["family"]())


def test_a_process_that_is_not_there_is_gone():
    for picture in (plot.plot_address_space, plot.plot_contiguity):
        with pytest.raises(ProcessGone):
            picture(SNAPSHOTS["family"](), 99)


def test_importing_the_package_loads_no_plotting_library():
    program = (
        "import sys, pagemap_df, pagemap_df.plot, pagemap_df.svg, pagemap_df.accessor; "
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# -- legends, ticks, labels ------------------------------------------------------------------


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_legend_has_every_state_that_occurs_and_its_bytes():
    snap = SNAPSHOTS["family"]()
    ax = plot.plot_address_space(snap, 12, ax=plot.blank())
    assert legend_of(ax) == [
        "anonymous, own  4.0 KiB",
        "file, shared  4.0 KiB",
        "KSM  8.0 KiB",
        "guard  4.0 KiB",
        "mapped, empty",
    ]
    ax = plot.plot_changes(snap, _later(), ax=plot.blank())
    wanted = changes.processes(snap, _later())[list(changes.CHANGES)].sum()
    names = [name for name in changes.CHANGES if wanted[name]]
    assert [text.partition("  ")[0] for text in legend_of(ax)] == [
        name.replace("_", " ") for name in names
    ]


def test_addresses_are_hex_and_sizes_carry_their_unit():
    snap = pm.load_dataset("preforked-family")
    ax = plot.plot_address_space(snap, ax=plot.blank(10, 8))
    ax.figure.canvas.draw()
    assert all(t.get_text().startswith("0x") for t in ax.get_yticklabels())
    labels = [t.get_text() for t in ax.get_xticklabels()]
    assert len(labels) >= 4
    assert all(text == "0" or text.endswith(("KiB", "MiB")) for text in labels)


def _rows_overlap(boxes):
    boxes = sorted(boxes, key=lambda box: box.y0)
    return [(a, b) for a, b in itertools.pairwise(boxes) if b.y0 < a.y1 - 0.35 * a.height]


@pytest.mark.parametrize("size", [(10, 8), (7, 3), (4, 1.6)])
def test_labels_of_the_address_map_do_not_overlap(size):
    ax = plot.plot_address_space(pm.load_dataset("preforked-family"), ax=plot.blank(*size))
    ax.figure.canvas.draw()
    ticks = [t.get_window_extent() for t in ax.get_yticklabels() if t.get_text()]
    names = [t.get_window_extent() for t in ax.texts]
    assert names
    assert ticks
    assert not _rows_overlap(ticks)
    assert not _rows_overlap(names)
    assert min(box.x0 for box in names) >= ax.get_window_extent().x1


def test_labels_and_legend_stay_inside_the_figure():
    snap = pm.load_dataset("preforked-family")
    for picture in (plot.plot_address_space, plot.plot_rss, plot.plot_physical):
        ax = picture(snap)
        ax.figure.canvas.draw()
        box = ax.get_tightbbox()
        inside = ax.figure.bbox
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= inside.x1 + 1
        assert box.y1 <= inside.y1 + 1


def test_many_processes_are_cut_to_the_largest_and_the_title_says_so():
    many = snapshot({pid: [f"heap rw-p a{pid} f1"] for pid in range(100, 300)})
    assert "20 largest of 200" in plot.plot_rss(many, ax=plot.blank()).get_title()
    ax = plot.plot_sharing_matrix(many, ax=plot.blank())
    assert "150 largest of 200" in ax.get_title()
    assert len(ax.get_yticks()) <= 40
    assert len(legend_of(plot.plot_physical(many, ax=plot.blank()))) == 11
    ax = plot.plot_sizes([many, many], ax=plot.blank())
    assert len(legend_of(ax)) == 11


def test_a_family_is_written_to_a_file(tmp_path):
    file = plot.save_family(pm.load_dataset("preforked-family"), tmp_path / "family.png", dpi=50)
    assert file.read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == []


# -- colours ---------------------------------------------------------------------------------

# Machado, Oliveira, Fernandes: A Physiologically-based Model for Simulation of Color Vision
# Deficiency (2009), severity 1.0.
EYES = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
]


def lab(colour, eye):
    red = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(red <= 0.04045, red / 12.92, ((red + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(eye) @ linear, 0, 1)
    xyz = np.array(TO_XYZ) @ seen / [0.95047, 1, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("name", ["STATES", "SHARERS", "USES", "CHANGES", "FOLIOS", "OWNERS"])
def test_any_two_colours_of_a_table_differ_for_all_eyes(name, eye):
    table = getattr(palette, name)
    colours = list(table.values()) if name != "OWNERS" else [*table, palette.SEVERAL]
    colours += [palette.OTHERS] if name == "OWNERS" else []
    points = [lab(colour, EYES[eye]) for colour in colours]
    apart = {
        (a, b): float(np.linalg.norm(points[a] - points[b]))
        for a in range(len(points))
        for b in range(a)
    }
    assert min(apart.values()) >= 15, min(apart, key=apart.get)


def test_tables_of_colours_name_what_the_analyses_name():
    assert tuple(palette.USES) == layout.USES
    assert tuple(palette.CHANGES) == changes.CHANGES


# -- a running kernel ------------------------------------------------------------------------


@pytest.mark.kernel
def test_a_live_process_with_everything_in_it():
    if pm.Procfs().facts().get("pfns") == "hidden":
        pytest.skip("page frames are hidden from this reader")
    with living.thp(), living.swap_area(32), living.spawn() as child:
        heap = child.mmap_alone(600)
        child.madvise(heap, living.NOHUGEPAGE)
        child.write(heap)
        living.page_out(child, heap[:500])
        big = child.mmap_alone(1024, align=512)
        child.madvise(big, living.HUGEPAGE)
        child.write(big)
        reserve = child.mmap(1 << 28, flags=living.NORESERVE)
        child.write(reserve, range(0, 1 << 28, 1 << 22))
        child.read(child.mmap_alone(50))
        snap = pm.take(pids=child.pid, join=["mapcount", "flags", "huge"])
    ax = plot.plot_address_space(snap, ax=plot.blank(10, 8))
    legend = dict(text.split("  ") for text in legend_of(ax) if "  " in text)
    assert legend["in swap"] == "2.0 MiB"
    zeros = int((snap.pages["kind"] == "zero").sum())
    assert zeros >= 50
    assert legend["zero page"] == f"{zeros * 4:.1f} KiB"
    assert "anonymous, own" in legend
    ax.figure.canvas.draw()
    assert not _rows_overlap([t.get_window_extent() for t in ax.texts])
    assert any("2.0 MiB of" in text for text in legend_of(plot.plot_swap(snap))) or any(
        "2.0 MiB of 32.0 MiB" in text for text in texts(plot.plot_swap(snap))
    )
    huge = legend_of(plot.plot_huge(snap, ax=plot.blank()))
    assert any(text.startswith("mapped by PMD  4.0 MiB") for text in huge)
    assert schema.problems(snap.arrow("pages"), "pages") == []
