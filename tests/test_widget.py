"""The map without a browser: the line, the cells, the view model, and the widget's messages."""

import os
import threading
import time
import xml.etree.ElementTree as ET

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pagemap_df as pm
from pagemap_df import changes, palette, schema, story
from pagemap_df.errors import NotAvailable, PagemapError, ProcessGone, TableError
from pagemap_df.snapshot import Snapshot
from pagemap_df.widget import cells, content, folded, physical, still
from pagemap_df.widget.cells import NOTHING, OUTSIDE, Runs, Window
from pagemap_df.widget.folded import Folded
from pagemap_df.widget.line import fold
from pagemap_df.widget.live import Looking
from pagemap_df.widget.scene import BEGIN, CHANGED, FOLD, Scene
from pagemap_df.widget.telling import page_story
from tests.handmade import PAGE, address, area, snapshot

FAMILY = pm.load_dataset("preforked-family")
LINES = ["heap rw-p a1 a2+ - - s5 z", "lib r-xp f7 f8", "map rw-p - - a9"]


def ints(*values):
    return np.array(values, np.int64)


# -- the line ----------------------------------------------------------------------------------


@st.composite
def stretches(draw, most=12):
    """Starts and stops that ascend and do not overlap."""
    cuts = sorted(draw(st.sets(st.integers(0, 300), max_size=2 * most)))
    pairs = list(zip(cuts[::2], cuts[1::2], strict=False))
    return ints(*(a for a, _ in pairs)), ints(*(b for _, b in pairs))


@given(stretches(), stretches())
def test_every_populated_page_has_a_spot_of_its_own_and_comes_back_from_it(runs, spans):
    line = fold(*runs, *spans)
    pages = ints(*(page for a, b in zip(*runs, strict=True) for page in range(a, b)))
    spots = line.spots(pages)
    assert (np.diff(spots) > 0).all()
    assert line.pages(spots).tolist() == pages.tolist()
    assert line.length == int((line.stop - line.start).sum())
    assert (line.start[1:] > line.stop[:-1]).all()


@given(stretches(), stretches())
def test_nothing_is_on_the_line_but_what_is_mapped_or_populated(runs, spans):
    line = fold(*runs, *spans)
    known = {p for s in (runs, spans) for a, b in zip(*s, strict=True) for p in range(a, b)}
    assert {p for a, b in zip(line.start, line.stop, strict=True) for p in range(a, b)} <= known


@given(stretches(), stretches())
def test_every_mapping_can_be_seen(runs, spans):
    line = fold(*runs, *spans)
    for start, stop in zip(*spans, strict=True):
        shown = np.minimum(line.stop, stop) - np.maximum(line.start, start)
        assert (shown > 0).any()


def test_a_tebibyte_of_reservation_hides_nothing():
    line = fold(ints(10**6), ints(10**6 + 100), ints(10**6), ints(10**6 + (1 << 28)))
    assert line.length < 1000


def test_a_sparse_reservation_is_as_long_as_what_is_in_it():
    start = ints(*range(0, 1 << 28, 1 << 18))
    line = fold(start, start + 1, ints(0), ints(1 << 28))
    assert line.length < 3 * len(start)


# -- cells -------------------------------------------------------------------------------------


def counted(runs, window, codes):
    """The tally, page by page."""
    out = np.zeros((window.cells, codes), np.int64)
    for at, n, code in zip(*runs, strict=True):
        for spot in range(at, at + n):
            cell = (spot - window.first) // window.per
            if spot >= window.first and cell < window.cells:
                out[cell, code] += 1
    return out


@st.composite
def coded(draw):
    start, stop = draw(stretches())
    code = draw(st.lists(st.integers(0, 2), min_size=len(start), max_size=len(start)))
    return Runs(start, stop - start, np.array(code, np.uint8))


windows = st.builds(Window, st.integers(0, 320), st.integers(1, 70), st.integers(1, 40))


@given(coded(), windows)
@settings(max_examples=300)
def test_tally_is_the_count_page_by_page(runs, window):
    assert cells.tally(runs, window, 3).tolist() == counted(runs, window, 3).tolist()


@given(coded(), windows)
def test_cells_show_what_most_pages_are_and_how_full_they_are(runs, window):
    count, length = counted(runs, window, 3), 310
    painted = cells.paint(runs, window, 3, length)
    for k in range(window.cells):
        room = max(min(window.first + window.per * (k + 1), length) - window.edges[k], 0)
        if room <= 0:
            assert painted.code[k] == OUTSIDE
        elif not count[k].any():
            assert (painted.code[k], painted.fill[k]) == (NOTHING, 0)
        else:
            assert count[k, painted.code[k]] == count[k].max()
            assert painted.fill[k] == np.ceil(255 * (count[k].sum() / room))


def test_a_zoom_step_looks_at_what_is_visible_alone():
    class Watched(np.ndarray):
        """Counts how many elements are taken out of it as slices."""

        taken = 0

        def __getitem__(self, key):
            found = super().__getitem__(key)
            if isinstance(key, slice):
                Watched.taken += len(found)
            return found

    n = 100_000
    at = (np.arange(n) * 10).view(Watched)
    runs = Runs(at, np.full(n, 5), np.zeros(n, np.uint8))
    cells.tally(runs, Window(500_000, 1, 1000), 1)
    assert 0 < Watched.taken <= 101


# -- content -----------------------------------------------------------------------------------


def pages_of(found):
    """page -> name, of a `Content`."""
    return {
        page: found.legend.names[code]
        for start, n, code in zip(found.start, found.n, found.code, strict=True)
        for page in range(start, start + n)
    }


def page(mapping, k=0):
    return address(mapping, k) // PAGE


@pytest.mark.parametrize("make", [lambda snap: snap, Folded.of], ids=["pages", "extents"])
def test_codes_say_what_pages_are(make):
    snap = make(snapshot({7: LINES}, swaps=[area(0, 8)]))
    state = pages_of(content.of_process(snap, 7, "state", None))
    assert state[page(0)] == "anonymous, own"
    assert state[page(0, 1)] == "anonymous, shared"
    assert state[page(0, 4)] == "in swap"
    assert state[page(0, 5)] == "zero page"
    assert state[page(1)] == "file, own"
    assert page(0, 2) not in state
    sharers = pages_of(content.of_process(snap, 7, "sharers", None))
    assert (sharers[page(0)], sharers[page(0, 1)]) == ("1", "2")
    vma = pages_of(content.of_process(snap, 7, "vma", None))
    assert {vma[page(0)], vma[page(1)], vma[page(2, 2)]} == {"[heap]", "[lib]", "[map]"}
    swap = pages_of(content.of_process(snap, 7, "swap", None))
    assert (swap[page(0, 4)], swap[page(0)], swap[page(0, 5)]) == ("/swap", "in memory", "neither")


@pytest.mark.parametrize("color", ["state", "sharers", "vma", "swap"])
def test_pages_and_extents_give_the_same_content(color):
    for pid in FAMILY.processes["pid"]:
        one = content.of_process(FAMILY, pid, color, None)
        other = content.of_process(Folded.of(FAMILY), pid, color, None)
        assert one.legend == other.legend
        for name in ("start", "n", "code"):
            assert np.array_equal(getattr(one, name), getattr(other, name))


def test_runs_cover_every_populated_page_once():
    found = content.of_process(FAMILY, int(FAMILY.processes["pid"][0]), "state", None)
    mine = FAMILY.pages[FAMILY.pages["pid"] == FAMILY.processes["pid"][0]]
    assert sorted(pages_of(found)) == (mine["vaddr"] // PAGE).to_list()
    assert (found.start[1:] >= found.start[:-1] + found.n[:-1]).all()


@pytest.mark.parametrize("make", [lambda snap: snap, Folded.of], ids=["pages", "extents"])
def test_frames_are_owned_by_one_or_by_several(make):
    snap = make(snapshot({7: ["heap rw-p a1 a2 a3"], 8: ["heap rw-p a2 a4", "lib r-xp f4"]}))
    owner = pages_of(physical.of_frames(snap, "owner", None))
    assert owner == {1: "7 p7", 2: "several", 3: "7 p7", 4: "8 p8"}


def test_owners_agree_with_counting_by_pandas():
    found = pages_of(physical.of_frames(FAMILY, "owner", None))
    held = FAMILY.pages[FAMILY.pages["present"] & (FAMILY.pages["kind"] == "present")]
    pids = held.groupby("pfn")["pid"].nunique()
    assert sorted(found) == sorted(pids.index)
    several = {pfn for pfn, name in found.items() if name == "several"}
    assert several == set(pids[pids > 1].index)


@pytest.mark.parametrize("color", ["state", "sharers", "owner"])
def test_extents_give_the_same_frames(color):
    one = physical.of_frames(FAMILY, color, None)
    assert pages_of(one) == pages_of(physical.of_frames(Folded.of(FAMILY), color, None))


BEFORE = snapshot({7: ["heap rw-p a1 a2 a3 -"]})
AFTER = snapshot({7: ["heap rw-p a1 - a3 a5"]})


def test_changes_lie_over_what_is_as_it_was():
    found = content.changed(BEFORE, AFTER).of(7)
    shown = pages_of(content.of_process(AFTER, 7, "change", found))
    assert shown == {
        page(0): "as it was",
        page(0, 1): "freed",
        page(0, 2): "as it was",
        page(0, 3): "faulted in",
    }


@pytest.mark.parametrize("make", [lambda snap: snap, Folded.of], ids=["pages", "extents"])
def test_changed_pages_are_those_that_changes_tells(make):
    after = snapshot({7: ["heap rw-p a1 a12 a3 a5"]})
    found = content.changed(make(BEFORE), make(after))
    told = changes.pages(BEFORE, after)
    assert (found.page * PAGE).tolist() == told["vaddr"].to_list()
    assert [changes.CHANGES[k] for k in found.change] == told["change"].to_list()


def test_ages_count_looks():
    first = content.changed(BEFORE, AFTER)
    later = content.changed(AFTER, snapshot({7: ["heap rw-p a1 - a3 -"]}))
    both = first.plus(later)
    assert dict(zip((both.page - page(0)).tolist(), both.age.tolist(), strict=True)) == {1: 1, 3: 0}
    shown = pages_of(content.of_process(AFTER, 7, "age", both.of(7)))
    assert shown[page(0, 1)] == "1 to 4 looks before"
    assert shown[page(0, 3)] == "at the last look"


def test_all_colours_are_of_the_palette_and_differ():
    for space, names in content.COLOURS.items():
        for name in names:
            scene = Scene(AFTER, BEFORE, space=space, color=name)
            colours = scene.content.legend.colours
            assert len(set(colours)) == len(colours), (space, name)
            assert palette.UNTOUCHED not in colours


# -- the scene ---------------------------------------------------------------------------------


def shown(answer):
    return np.frombuffer(answer.data, np.uint8).reshape(3, -1)


def test_one_message_of_three_bytes_a_cell_whatever_the_size():
    for columns, rows in ((1, 1), (90, 38)):
        for data in (snapshot({7: LINES}), FAMILY):
            scene = Scene(data)
            answer = scene.cells(0, scene.fitting(columns * rows), columns, rows)
            assert len(answer.data) == 3 * columns * rows
            assert len(answer.addresses) == rows
            assert len(answer.labels) <= rows


def test_zooming_to_a_page_shows_that_page():
    scene = Scene(FAMILY)
    wanted = FAMILY.pages[FAMILY.pages["pid"] == scene.pid].iloc[[5, 700, -1]]
    for vaddr in wanted["vaddr"]:
        spot = scene.spot_of(vaddr // PAGE)
        answer = scene.cells(spot, 1, 4, 1)
        assert answer.addresses == [f"{vaddr:#x}"]
        assert shown(answer)[1][0] == 255
        assert str(story.page(FAMILY, scene.pid, vaddr)) == scene.tell(spot, 1)


def test_marks_show_folds_beginnings_and_changes():
    scene = Scene(snapshot({7: ["heap rw-p a1 a2", "lib r-xp f7 f8"]}))
    mark = shown(scene.cells(0, 1, 8, 1))[2]
    assert mark.tolist() == [BEGIN, 0, FOLD | BEGIN, 0, 0, 0, 0, 0]
    changed = shown(Scene(AFTER, BEFORE).cells(0, 1, 4, 1))[2]
    assert (changed & CHANGED).tolist() == [0, CHANGED, 0, CHANGED]


def test_labels_name_the_mapping_each_row_begins_with():
    scene = Scene(snapshot({7: ["heap rw-p a1 a2 a3 a4", "lib r-xp f7", "map rw-p a9 a10"]}))
    assert scene.cells(0, 1, 4, 2).labels == [(0, "[heap]"), (1, "[map], 1 more")]
    assert scene.cells(1, 1, 3, 1).labels == [(0, "[heap]")]


def test_legend_has_all_bytes():
    scene = Scene(FAMILY)
    pages = (FAMILY.pages["pid"] == scene.pid).sum()
    assert sum(one["bytes"] for one in scene.legend) == pages * PAGE


def test_a_sum_says_what_is_in_it():
    scene = Scene(snapshot({7: LINES}))
    told = scene.tell(0, scene.line.length)
    assert "in [heap] rw-p, [lib] r-xp, [map] rw-p: 8.0 KiB anonymous, own; " in told
    assert "4.0 KiB in swap" in told
    assert "empty" in told
    assert scene.tell(scene.line.length, 1) == ""


def test_pages_between_spots_are_rows_of_pages():
    scene = Scene(FAMILY)
    whole = scene.pages(0, scene.line.length)
    mine = FAMILY.pages[FAMILY.pages["pid"] == scene.pid].reset_index(drop=True)
    assert whole.equals(mine)
    assert len(scene.pages(5, 5)) == 0
    assert scene.pages(5, 5).dtypes.astype(str).equals(mine.dtypes.astype(str))


def test_physical_selection_has_every_holder():
    snap = snapshot({7: ["heap rw-p a1 a2"], 8: ["heap rw-p a2 a4"]})
    scene = Scene(snap, space="physical")
    found = scene.pages(scene.spot_of(2), scene.spot_of(2) + 1)
    assert found["pid"].to_list() == [7, 8]
    assert "The same memory is held by process 8" in scene.tell(scene.spot_of(2), 1)
    assert (
        scene.tell(scene.spot_of(3), 1) == "Page frame 0x3 is held by no process of the snapshot."
    )


@given(st.data())
@settings(max_examples=40)
def test_rows_cut_out_of_extents_are_those_cut_out_of_pages(data):
    small = Folded.of(FAMILY)
    pid = data.draw(st.sampled_from(FAMILY.processes["pid"].to_list()))
    mine = FAMILY.pages[FAMILY.pages["pid"] == pid]
    lo, hi = sorted(data.draw(st.sampled_from(mine["vaddr"].to_list())) for _ in range(2))
    one = folded.between(FAMILY, pid, lo, hi)
    assert folded.between(small, pid, lo, hi).to_pydict() == one.to_pydict()
    first = data.draw(st.sampled_from(FAMILY.pages["pfn"].dropna().astype(int).to_list()))
    one = folded.of_place(FAMILY, "pfn", first, first + 9)
    other = folded.of_place(small, "pfn", first, first + 9)
    assert other.to_pydict() == one.to_pydict()


@pytest.mark.parametrize("make", [lambda snap: snap, Folded.of], ids=["pages", "extents"])
def test_a_page_has_the_same_story_from_the_cut_down_snapshot(make):
    other = {8: ["heap rw-p a1 - - - s5 -"]}
    snap = snapshot({7: [*LINES, "odd rw-p z g k3 l4"], **other}, swaps=[area(0, 8)])
    given_ = make(snap)
    for mapping in range(4):
        for k in range(6):
            vaddr = address(mapping, k)
            assert str(page_story(given_, 7, vaddr + 9)) == str(story.page(snap, 7, vaddr))


def test_folded_unfolds_to_what_it_was():
    small = Folded.of(FAMILY)
    assert small.arrow("pages").equals(FAMILY.arrow("pages"))
    assert pm.sharing.processes(small).equals(pm.sharing.processes(FAMILY))


# -- bad input ---------------------------------------------------------------------------------


def test_an_empty_snapshot_is_a_message():
    scene = Scene(Snapshot({}, {"page_size": PAGE}))
    assert scene.message == "There is no process in this snapshot."
    assert set(shown(scene.cells(0, 1, 4, 2))[0]) == {OUTSIDE}
    assert scene.tell(0, 1) == ""
    assert len(scene.pages(0, 9)) == 0
    assert scene.message in still.svg(scene)


def test_a_process_without_memory_is_a_message():
    snap = snapshot({7: ["heap rw-p a1"], 8: []})
    assert "8 has no memory" in Scene(snap, pid=8).message
    assert Scene(snap).pid == 7


def test_hidden_frames_are_a_message_that_says_why():
    snap = snapshot({7: LINES}, hidden=True)
    scene = Scene(snap, space="physical")
    assert "not root" in scene.message
    assert Scene(snap).message == ""
    assert "not root" in still.svg(scene)


def test_one_page_is_a_map():
    scene = Scene(snapshot({7: ["heap rw-p a1"]}))
    assert scene.line.length == 1
    assert shown(scene.cells(0, 1, 2, 1))[0].tolist()[1] == OUTSIDE


def test_wrong_words_are_refused_by_name():
    snap = snapshot({7: LINES})
    with pytest.raises(ProcessGone, match="no process 9"):
        Scene(snap, pid=9)
    with pytest.raises(TableError, match="space is"):
        Scene(snap, space="imaginary")
    with pytest.raises(TableError, match="color is one of state, sharers, vma"):
        Scene(snap, color="owner")
    with pytest.raises(TableError, match="needs two snapshots"):
        Scene(snap, color="change")
    with pytest.raises(TableError, match="a window"):
        Scene(snap).cells(-1, 1, 4, 4)
    with pytest.raises(TableError, match="a window"):
        Scene(snap).cells(0, 1, 1 << 20, 1)


# -- without a browser -------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["virtual", "physical"])
def test_the_picture_is_wellformed_and_bounded(space):
    for color in content.COLOURS[space]:
        scene = Scene(FAMILY, FAMILY, space=space, color=color)
        picture = still.svg(scene)
        root = ET.fromstring(picture)
        colours = {node.get("fill") for node in root.iter("{http://www.w3.org/2000/svg}rect")}
        assert len(colours) > 2
        assert len(picture) < 400_000


def test_the_picture_escapes_names():
    assert ET.fromstring(still.svg(Scene(snapshot({7: ["<a&b> rw-p a1"]})))) is not None


# -- the widget --------------------------------------------------------------------------------

pytest.importorskip("anywidget")
from pagemap_df.widget.memorymap import MemoryMap


@pytest.fixture
def sent(monkeypatch):
    """What maps send to the browser, in order."""
    out = []
    monkeypatch.setattr(
        MemoryMap, "send", lambda self, message, buffers=(): out.append((message, buffers))
    )
    return out


def ask(shown_, **message):
    shown_._handle_custom_msg(message, [])


def test_cells_are_answered_with_the_number_of_the_question(sent):
    found = MemoryMap(FAMILY)
    ask(found, type="cells", id=17, first=0, per=8, columns=20, rows=10)
    ((header, (data,)),) = sent
    assert (header["type"], header["id"], header["columns"]) == ("cells", 17, 20)
    assert len(data) == 3 * 200
    assert "data" not in header


def test_bad_questions_are_answered_in_words(sent):
    found = MemoryMap(FAMILY)
    ask(found, type="cells", id=1, first=0, per=1, columns=10**6, rows=10**6)
    ask(found, type="nonsense")
    found.color = "owner"
    assert [message["type"] for message, _ in sent] == ["said", "said"]


def test_pinning_sets_the_selection_and_observers_hear_of_it():
    found, heard = MemoryMap(FAMILY), []
    found.observe(lambda change: heard.append(change["new"]), "selection")
    ask(found, type="pin", first=3, stop=5)
    assert found.selection["pid"].unique().tolist() == [found.pid]
    ask(found, type="pin")
    assert found.selection is None
    assert len(heard) == 2


def test_traits_choose_what_is_shown(sent):
    found = MemoryMap(FAMILY)
    other = next(pid for pid in FAMILY.processes["pid"] if pid != found.pid)
    epoch = found._about["epoch"]
    found.pid = other
    assert str(other) in repr(found)
    assert found._about["epoch"] > epoch
    assert found._about["moved"]
    ask(found, type="pin", first=0, stop=1)
    found.color = "vma"
    assert not found._about["moved"]
    assert len(found.selection) == 1
    found.space = "physical"
    assert found.selection is None
    assert found.color == "state"
    assert found._about["moved"]
    assert not sent


def test_a_host_without_widgets_has_a_picture():
    data, _ = MemoryMap(FAMILY)._repr_mimebundle_()
    assert data["image/svg+xml"].startswith("<svg")
    assert data["text/plain"].startswith("<MemoryMap of")
    assert "application/vnd.jupyter.widget-view+json" in data


def test_frames_of_pages_can_be_shown():
    scene = MemoryMap(FAMILY.pages)._scene
    told = scene.tell(0, 1)
    assert told.startswith(f"{scene.page_at(0) * PAGE:#x} of process {scene.pid}: ")
    assert "kind present" in told
    assert "pfn 0x" in told
    assert scene.cells(0, 1, 4, 1).labels == []


# -- live --------------------------------------------------------------------------------------


def waiting(what, seconds=10):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def alive():
    return [t for t in threading.enumerate() if t.name == "pagemap_df live map"]


@pytest.fixture
def own():
    snap = pm.take(pids=os.getpid())
    found = MemoryMap(snap)
    found.every = 0.02
    yield found
    found.close()
    assert not alive()


def test_live_mode_looks_again_and_pushes_what_was_asked_for(own, sent):
    ask(own, type="cells", id=1, first=0, per=64, columns=20, rows=10)
    own.live = True
    waiting(lambda: sum(message.get("id") == -1 for message, _ in sent) >= 3)
    own.live = False
    assert not alive()
    count = len(sent)
    time.sleep(0.1)
    assert len(sent) == count
    assert own.color == "state"
    own.color = "age"
    assert own._scene.legend[0]["name"] == "at the last look"


def test_the_last_view_that_closes_ends_live_mode(own, sent):
    for kind in ("opened", "opened", "closed"):
        ask(own, type=kind)
    own.start(every=0.02)
    assert len(alive()) == 1
    ask(own, type="closed")
    ask(own, type="opened")  # it was only moved
    time.sleep(0.2)
    assert own.live
    ask(own, type="closed")
    waiting(lambda: not own.live)
    waiting(lambda: not alive())


def test_live_mode_is_refused_for_another_machine(sent):
    found = MemoryMap(FAMILY)
    with pytest.raises(NotAvailable, match="another"):
        found.live = True
    assert not found.live
    ask(found, type="opened")
    found.live = True  # now there is somebody to tell
    assert "another" in sent[-1][0]["text"]
    assert not alive()


def test_a_process_that_exits_ends_live_mode_and_says_so(sent):
    from tests import living

    with living.spawn() as child:
        found = MemoryMap(pm.take(pids=child.pid))
    found.start(every=0.01)
    waiting(lambda: not found.live)
    waiting(lambda: not alive())
    assert "live mode ended" in sent[-1][0]["text"]


def test_a_thread_ends_when_nobody_holds_its_owner():
    class Owner:
        def look(self):
            raise AssertionError("the owner has gone")

        def failed(self, error):
            raise AssertionError(error)

    owner = Owner()
    looking = Looking(owner.look, owner.failed, 0.01)
    del owner
    waiting(lambda: not looking.alive)


def test_errors_end_the_looking_and_are_told():
    class Owner:
        told = None

        def look(self):
            raise PagemapError("no more")

        def failed(self, error):
            self.told = str(error)

    owner = Owner()
    looking = Looking(owner.look, owner.failed, 0.01)
    waiting(lambda: owner.told == "no more")
    looking.stop()
    assert not looking.alive


def test_machine_size_does_not_matter_to_the_browser():
    """A hundred million pages as ten thousand extents: the message is as small as any."""
    n, each = 10_000, 10_000
    start = (np.arange(n) * (each + 3) + 1000) * PAGE
    columns = {
        "pid": pa.array(np.full(n, 7, np.int32)),
        "start": start,
        "n_pages": np.full(n, each),
        "kind": ["present"] * n,
        "pfn": np.arange(n) * each,
        **{name: pa.nulls(n) for name in ("swap_type", "swap_offset", "soft_dirty", "uffd_wp")},
        **{name: pa.nulls(n) for name in ("guard", "vma")},
        "file": pa.array([False] * n),
        "exclusive": pa.array([True] * n),
    }
    big = Folded(schema.conform(pa.table(columns), "extents"), {}, {"page_size": PAGE})
    scene = Scene(big)
    assert scene.line.length >= n * each
    answer = scene.cells(0, scene.fitting(4000), 100, 40)
    assert len(answer.data) == 12_000
    spot = scene.line.length // 2
    assert len(scene.pages(spot, spot + 3)) <= 3
    assert scene.tell(spot, 1).startswith(f"{scene.page_at(spot) * PAGE:#x}")
