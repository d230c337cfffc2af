"""From data to pixels: what is drawn is what is there, counted another way."""

from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgba

import pagemap_df as pm
from pagemap_df import palette, plot, printing, schema, sharing, store, swapping
from pagemap_df.algebra import cow, hugepages
from pagemap_df.algebra.figures import Accounts
from pagemap_df.plot import address, bands, pixels
from pagemap_df.plot.changes import _flows
from pagemap_df.plot.colouring import STATES, colouring
from pagemap_df.plot.given import pages_of
from pagemap_df.plot.sharing import similar
from pagemap_df.snapshot import Snapshot
from tests.handmade import PAGE, snapshot

LETTERS = {
    "f": "file, own",
    "m": "shared memory",
    "k": "KSM",
    "h": "hugetlb",
    "z": "zero page",
    "s": "in swap",
    "S": "in swap",
    "g": "guard",
}
WORD = st.sampled_from("-aafmkhzsg")


def coloured(ax, colours):
    """How many pixels of all images have each of `colours` exactly."""
    seen = Counter()
    for image in ax.images:
        flat = np.asarray(image.get_array()).reshape(-1, 4)
        for name, colour in colours.items():
            seen[name] += int(np.isclose(flat, to_rgba(colour), atol=2e-3).all(axis=1).sum())
    return +seen


@st.composite
def machines(draw):
    """Processes of random pages; each anonymous and file page in a frame of a small pool."""
    lines = {}
    for pid in draw(st.lists(st.integers(2, 9), min_size=1, max_size=4, unique=True)):
        lines[pid] = []
        for n in range(draw(st.integers(1, 3))):
            words = draw(st.lists(WORD, min_size=1, max_size=40))
            named = []
            for word in words:
                # Frames of different natures must not be the same ones.
                base = 100 * "afmkhs".find(word) if word in "afmkhs" else 0
                number = draw(st.integers(base, base + 30)) if word in "afmkhs" else ""
                named.append(f"{word}{number}")
            lines[pid].append(f"m{n} rw-p {' '.join(named)}")
    return lines


def words_of(lines):
    return [word.rstrip("+!") for line in lines for word in line.split()[2:]]


@settings(max_examples=25)
@given(machines())
def test_the_address_map_has_a_pixel_for_every_page_in_its_state(lines):
    snap = snapshot(lines)
    holders = Counter(word for mine in lines.values() for word in words_of(mine))
    for pid, mine in lines.items():
        wanted = Counter()
        for word in words_of(mine):
            if word[0] in "af":
                nature = "anonymous" if word[0] == "a" else "file"
                wanted[f"{nature}, {'own' if holders[word] == 1 else 'shared'}"] += 1
            elif word[0] != "-":
                wanted[LETTERS[word[0]]] += 1
        if wanted:
            ax = plot.plot_address_space(snap, pid, ax=plot.blank())
            assert coloured(ax, palette.STATES) == wanted


@settings(max_examples=25)
@given(machines())
def test_the_map_of_owners_has_a_pixel_for_every_frame(lines):
    # The zero page lies far from all others and would make the cells larger than a frame.
    lines = {pid: [line.replace("z", "-") for line in mine] for pid, mine in lines.items()}
    snap = snapshot(lines)
    holders = {}
    for pid, mine in lines.items():
        for word in words_of(mine):
            if word[0] in "afmkh":
                holders.setdefault(int(word[1:]), set()).add(pid)
    if not holders:
        return
    ax = plot.plot_physical(snap, ax=plot.blank())
    alone = Counter(next(iter(who)) for who in holders.values() if len(who) == 1)
    several = sum(len(who) > 1 for who in holders.values())
    colours = {str(n): colour for n, colour in enumerate(palette.OWNERS)}
    seen = coloured(ax, colours | {"several": palette.SEVERAL})
    assert seen.pop("several", 0) == several
    assert sorted(seen.values()) == sorted(alone.values())


@settings(max_examples=25)
@given(machines())
def test_the_map_of_slots_has_a_pixel_for_every_slot(lines):
    snap = snapshot(lines)
    slots = swapping.slots(snap)
    ax = plot.plot_swap(snap, ax=plot.blank())
    seen = coloured(ax, {"several": palette.SEVERAL}).get("several", 0)
    assert seen == int((slots["n_pids"] > 1).sum())
    own = {str(n): colour for n, colour in enumerate(palette.OWNERS)}
    assert sum(coloured(ax, own).values()) == int((slots["n_pids"] == 1).sum())


@settings(max_examples=25)
@given(machines())
def test_parts_of_rss_add_up_to_what_sharing_computes(lines):
    snap = snapshot(lines)
    table = sharing.processes(snap).set_index("pid")
    ax = plot.plot_rss(snap, ax=plot.blank())
    if not ax.axison:
        assert not table["rss"].any()
        return
    bars = Counter()
    for container in ax.containers:
        for tick, patch in zip(ax.get_yticklabels(), container, strict=True):
            pid = int(tick.get_text().split()[0])
            bars[pid] += patch.get_width()
            if container.get_label() == "own (USS)":
                assert patch.get_width() == table["uss"][pid]
    assert dict(bars) == {pid: rss for pid, rss in table["rss"].items() if rss}


@settings(max_examples=25)
@given(machines(), machines())
def test_flows_between_two_snapshots_are_those_of_single_pages(before, after):
    snaps = [snapshot(before), snapshot(after)]
    states = []
    for snap in snaps:
        view = Accounts(snap)
        code = colouring(view, "state").code.tolist()
        places = zip(view.pid.tolist(), view.vaddr.tolist(), strict=True)
        states.append(dict(zip(places, code, strict=True)))
    wanted = Counter(
        (states[0].get(place, len(STATES)), states[1].get(place, len(STATES)))
        for place in {*states[0], *states[1]}
    )
    flows, size = _flows(*snaps, None)
    assert size == PAGE
    assert {(a, b): int(flows[a, b]) for a, b in zip(*np.nonzero(flows), strict=True)} == wanted


def test_contiguity_counts_every_byte_once_in_the_right_bar():
    snap = pm.load_dataset("preforked-family")
    ax = plot.plot_contiguity(snap, ax=plot.blank())
    heights = Counter()
    for container in ax.containers:
        for k, patch in enumerate(container):
            heights[k] += patch.get_height()
    table = hugepages.contiguity(snap)
    assert sum(heights.values()) == table["bytes"].sum()
    longest = int(table["longest"].max()) // PAGE
    assert max(k for k, height in heights.items() if height) >= longest.bit_length() - 1


def test_bars_of_huge_pages_add_up_to_rss():
    snap = pm.load_dataset("preforked-family")
    ax = plot.plot_huge(snap, top=5, ax=plot.blank())
    widths = np.sum([[p.get_width() for p in c] for c in ax.containers], axis=0)
    assert widths.tolist() == hugepages.huge(snap)["rss"].nlargest(5).tolist()


def test_copy_on_write_areas_are_what_was_lost():
    first = snapshot({10: ["heap rw-p a1 a2 a3"], 11: ["heap rw-p a1 a2 a3"]})
    second = snapshot({10: ["heap rw-p a1 a2 a3"], 11: ["heap rw-p a1 a8 a3"]})
    third = snapshot({10: ["heap rw-p a1 a2 a9"], 11: ["heap rw-p a7 a8 a3"]})
    ax = plot.plot_cow_loss([first, second, third], parent=10, child=11, ax=plot.blank())
    (area,) = ax.collections
    top = {}
    for x, y in area.get_paths()[0].vertices:
        top[x] = max(top.get(x, 0), y)
    lost = [cow.lost(first, s, parent=10, child=11)["lost"].sum() for s in (first, second, third)]
    assert [top[k] for k in range(3)] == lost == [0, PAGE, 3 * PAGE]


def test_lines_over_time_are_the_sizes_of_sharing():
    snaps = [snapshot({7: ["heap rw-p a1 a2+"]}), snapshot({7: ["heap rw-p a1 a2"]})]
    ax = plot.plot_sizes(snaps, ax=plot.blank())
    lines = {line.get_linestyle(): line.get_ydata().tolist() for line in ax.lines}
    assert lines == {"-": [PAGE * 1.5, PAGE * 2], "--": [PAGE, PAGE * 2]}
    times = [s.facts.get("taken_at") for s in snaps]
    assert times == [None, None]
    assert ax.get_xlabel() == "snapshot"


# -- the ground floor ------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-1, 4)), max_size=60))
def test_a_tally_counts_as_a_counter_does(rows):
    cell = np.array([a for a, _ in rows], np.int64)
    code = np.array([b for _, b in rows], np.int8)
    counts = pixels.tally(cell, code, 7, 5)
    wanted = Counter((a, b) for a, b in rows if b >= 0)
    assert {(a, b): int(counts[a, b]) for a, b in zip(*np.nonzero(counts), strict=True)} == wanted


def test_a_tally_is_the_same_in_pieces(monkeypatch):
    rng = np.random.default_rng(1)
    cell, code = rng.integers(0, 50, 5000), rng.integers(-1, 4, 5000).astype(np.int8)
    whole = pixels.tally(cell, code, 50, 4)
    monkeypatch.setattr(pixels, "BLOCK", 77)
    assert (pixels.tally(cell, code, 50, 4) == whole).all()


def test_a_cell_has_the_colour_of_its_majority_the_fainter_the_emptier():
    counts = np.array([[3, 1], [0, 4], [1, 0], [0, 0]])
    full, other, faint, empty = pixels.painted(counts, ["#FF0000", "#0000FF"], 4, "#FFFFFF")
    assert full.tolist() == [1, 0, 0, 1]
    assert other.tolist() == [0, 0, 1, 1]
    assert 0 < faint[1] < 0.6
    assert empty.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("order", range(6))
def test_a_hilbert_curve_visits_every_cell_in_single_steps(order):
    x, y = pixels.hilbert(order)
    side = 1 << order
    assert len(set(zip(x.tolist(), y.tolist(), strict=True))) == side * side
    assert x.max() == y.max() == side - 1
    assert (np.abs(np.diff(x)) + np.abs(np.diff(y)) == 1).all()
    # It ends beside the next square, so that squares can stand in a row.
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, side - 1, 0)


@given(st.integers(1, 300), st.integers(1, 5), st.integers(1, 4))
def test_tiles_never_put_two_cells_in_one_place(cells, side, across):
    x, y = pixels.tiles(cells, side, across)
    assert len(set(zip(x.tolist(), y.tolist(), strict=True))) == cells
    assert x.max() < side * across


def test_neighbours_of_a_family_stand_together_whatever_the_order():
    families = np.repeat(np.arange(6), 5)
    shared = np.where(families[:, None] == families, 80, 3) + np.diag(np.full(30, 20))
    shuffled = np.random.default_rng(3).permutation(30)
    order = similar(shared[np.ix_(shuffled, shuffled)])
    found = families[shuffled][order]
    assert sorted(order.tolist()) == list(range(30))
    assert int((np.diff(found) != 0).sum()) == 5


@given(st.integers(0, 12), st.randoms(use_true_random=False))
def test_an_order_of_processes_leaves_none_out(n, random):
    shared = np.array([[random.randrange(5) for _ in range(n)] for _ in range(n)]).reshape(n, n)
    shared = shared + shared.T + np.diag(np.full(n, 20))
    assert sorted(similar(shared).tolist()) == list(range(n))


# -- any size in bounded room ----------------------------------------------------------------


def cells_of(ax):
    return sum(np.asarray(image.get_array()).shape[0] for image in ax.images)


def scattered(pages, step, mappings):
    """A process with `pages` single pages `step` pages apart, in so many mappings."""
    vaddr = (1 << 30) + np.arange(pages, dtype=np.int64) * step * PAGE
    frame = pd.DataFrame({"vaddr": vaddr, "kind": pd.Categorical(["present"] * pages)})
    cut = np.linspace(0, pages, mappings + 1).astype(int)
    vmas = pd.DataFrame({"start": vaddr[cut[:-1]], "end": vaddr[cut[1:] - 1] + PAGE})
    vmas = vmas.assign(pid=0, perms="rw-p", offset=0, device="00:00", inode=0, kind="anon")
    vmas = vmas.assign(path="", changed=False)
    tables = {"pages": pages_of(frame), "vmas": schema.conform(pa.table(dict(vmas)), "vmas")}
    return Snapshot(tables, {"page_size": PAGE})


@pytest.mark.parametrize(
    ("pages", "step", "mappings"),
    [(1, 1, 1), (300_000, 1, 1), (100_000, 7, 3), (100_000, 1 << 20, 1), (20_000, 5000, 20_000)],
)
def test_any_address_space_fits_on_the_page_and_every_page_is_in_it(pages, step, mappings):
    snap = scattered(pages, step, mappings)
    ax = plot.plot_address_space(snap, ax=plot.blank())
    assert cells_of(ax) <= 3 * bands.ROWS
    assert len(ax.images) <= 3 * bands.ROWS
    legend = ax.get_legend().get_texts()[0].get_text()
    assert legend == f"in memory  {printing.size(pages * PAGE)}"


def test_a_reservation_does_not_hide_the_heap():
    gaps = np.array([1, 2, 1 << 28, 1 << 28, 3])
    assert address._longest(gaps, 100) == 3
    assert address._longest(np.zeros(0, np.int64), 10) == 1
    # Equal stretches all stay or all go.
    assert address._longest(np.full(50, 1000), 5000) == 1
    # Not more folds than a picture has room for.
    assert address._longest(np.arange(1, 10_000), 1) >= 10_000 - address._FOLDS - 1


def test_the_recorded_family_is_drawn_from_its_parquet_as_from_memory(tmp_path):
    snap = snapshot({7: ["heap rw-p a1 a2 s3 z"], 8: ["heap rw-p a1"]})
    again = Snapshot(*store.read(store.write(snap, tmp_path)))
    seen = [
        coloured(plot.plot_address_space(s, 7, ax=plot.blank()), palette.STATES)
        for s in (snap, again)
    ]
    assert (
        seen[0]
        == seen[1]
        == {
            "anonymous, shared": 1,
            "anonymous, own": 1,
            "in swap": 1,
            "zero page": 1,
        }
    )


def test_a_frame_of_pages_without_mappings_has_regions_by_its_gaps():
    frame = pd.DataFrame({"kind": ["present"] * 3}, index=pd.Index([0x1000, 0x2000, 0x9000000]))
    frame.index.name = "vaddr"
    ax = plot.plot_address_space(frame, ax=plot.blank())
    assert coloured(ax, palette.STATES) == {"in memory": 3}
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0x1000"]
