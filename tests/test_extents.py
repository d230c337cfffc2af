"""Extents say what pages say: both ways, for any table, against counting in plain Python."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagemap_df import extents, schema, take
from pagemap_df.entries import KINDS
from pagemap_df.errors import FormatError, TableError

PAGE = 4096
ALWAYS = [column for column in schema.PAGES.columns if not column.on_request]
PRESENT = ("present", "zero", "huge_zero")


def _optional(values: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.none() | values


FLAGS = ("file", "exclusive", "soft_dirty", "uffd_wp", "guard", "huge")


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, object]]:
    """Runs of pages that mostly go on, with a break of some kind now and then."""
    found: list[dict[str, object]] = []
    pid, vaddr = 1, 0
    for _ in range(draw(st.integers(0, 8))):
        pid += draw(st.integers(0, 1))
        vaddr += PAGE * draw(st.integers(0, 2))
        kind = draw(st.sampled_from(KINDS))
        state: dict[str, object] = {
            "pid": pid,
            "kind": kind,
            "vma": draw(_optional(st.integers(0, 1))),
            "mapcount": draw(_optional(st.integers(0, 1))),
            "flags": draw(_optional(st.integers(0, 1))),
            "cgroup": draw(_optional(st.integers(0, 1))),
            **{name: draw(_optional(st.booleans())) for name in FLAGS},
        }
        hidden = draw(st.booleans())
        place, word = draw(st.integers(0, 3)), draw(st.integers(0, 64))
        for _ in range(draw(st.integers(1, 5))):
            row = dict(state, vaddr=vaddr, present=kind in PRESENT, swapped=kind == "swap")
            known = kind in PRESENT and not hidden
            row["pfn"] = place if known else None
            slot = kind == "swap" and not hidden
            row["swap_type"], row["swap_offset"] = (0, place) if slot else (None, None)
            row["word"] = word
            found.append(row)
            vaddr += PAGE
            step = draw(st.sampled_from([0, 1, 1, 1, 1]))
            place, word = place + step, word + draw(st.sampled_from([0, 1, 32]))
    return found


def _table(found: list[dict[str, object]], *, word: bool) -> pa.Table:
    names = [c.name for c in schema.PAGES.columns if word or c.name != "word"]
    return schema.conform(
        pa.table(
            {n: pa.array([row[n] for row in found], _plain(schema.PAGES[n].type)) for n in names}
        ),
        "pages",
    )


def _plain(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_


@settings(max_examples=150)
@given(rows(), st.booleans(), st.integers(1, 5))
def test_pages_come_back_exactly(found: list[dict[str, object]], word: bool, chunk: int) -> None:
    pages = _table(found, word=word)
    cut = pa.Table.from_batches(pages.to_batches(max_chunksize=chunk), pages.schema)
    folded = extents.of_pages(cut, PAGE)
    assert extents.to_pages(folded, PAGE).to_pylist() == pages.to_pylist()
    assert schema.problems(folded, "extents") == []
    assert extents.folded(folded, PAGE).equals(folded)


def _goes_on(a: dict[str, object], b: dict[str, object]) -> bool:
    """One page after another, told column by column in plain Python."""
    same = ("pid", "kind", "vma", "mapcount", "flags", "cgroup", "swap_type", *FLAGS)
    if any(a[name] != b[name] for name in same) or b["vaddr"] != a["vaddr"] + PAGE:  # type: ignore[operator]
        return False
    for name in ("pfn", "swap_offset"):
        step = 0 if a["kind"] == "zero" or a[name] is None else 1
        if b[name] != (None if a[name] is None else a[name] + step):  # type: ignore[operator]
            return False
    return True


@settings(max_examples=150)
@given(rows())
def test_as_many_extents_as_there_are_breaks(found: list[dict[str, object]]) -> None:
    breaks = sum(not _goes_on(a, b) for a, b in itertools.pairwise(found))
    folded = extents.of_pages(_table(found, word=False), PAGE)
    assert len(folded) == (breaks + 1 if found else 0)


def test_an_extent_may_span_blocks() -> None:
    n = 200_000
    pages = _long(n)
    folded = extents.of_pages(pages, PAGE)
    assert folded["n_pages"].to_pylist() == [n]
    assert folded["pfn"].to_pylist() == [1000]
    assert extents.contiguity(pages, PAGE) == n


def _long(n: int) -> pa.Table:
    always = dict.fromkeys(["file", "exclusive", "soft_dirty", "uffd_wp", "guard"], False)
    names = np.full(n, "present")
    values = {
        "pid": np.full(n, 7),
        "vaddr": np.arange(n) * PAGE,
        "kind": names,
        "present": np.ones(n, np.bool_),
        "swapped": np.zeros(n, np.bool_),
        "pfn": np.arange(1000, 1000 + n),
        "swap_type": pa.nulls(n),
        "swap_offset": pa.nulls(n),
        **{name: np.full(n, value) for name, value in always.items()},
        "vma": np.zeros(n, np.int32),
    }
    return schema.conform(pa.table(values), "pages")


def test_zero_pages_fold_though_their_frame_stays() -> None:
    row = {c.name: None for c in ALWAYS} | {"pid": 7, "present": True, "swapped": False}
    rows = [row | {"vaddr": at * PAGE, "kind": "zero", "pfn": 9} for at in range(4)]
    pages = schema.conform(pa.Table.from_pylist(rows, _schema()), "pages")
    folded = extents.of_pages(pages, PAGE)
    assert folded.select(["n_pages", "pfn"]).to_pylist() == [{"n_pages": 4, "pfn": 9}]
    assert extents.to_pages(folded, PAGE).to_pylist() == pages.to_pylist()


def _schema() -> pa.Schema:
    return pa.schema([(c.name, _plain(c.type)) for c in ALWAYS])


@pytest.mark.kernel
def test_a_real_process_comes_back_with_facts() -> None:
    snap = take(pids=os.getpid(), raw=True)
    pages = snap.arrow("pages")
    page = snap.facts["page_size"]
    folded = extents.of_pages(pages, page)
    back = extents.to_pages(folded, page)
    assert back.equals(pages)
    assert schema.facts_of(back.schema.metadata) == schema.facts_of(pages.schema.metadata)
    assert extents.contiguity(pages) == len(pages) / len(folded)


def test_a_column_without_a_rule_is_refused() -> None:
    pages = _long(3).append_column("mine", pa.array([1, 2, 3]))
    with pytest.raises(TableError, match="mine"):
        extents.of_pages(pages, PAGE)


def test_present_that_contradicts_kind_is_refused() -> None:
    pages = _long(3)
    at = pages.schema.get_field_index("present")
    wrong = pages.set_column(at, pages.schema.field(at), pa.array([True, False, True]))
    with pytest.raises(TableError, match=r"pages\.present contradicts"):
        extents.of_pages(wrong, PAGE)


def test_an_extent_of_no_pages_is_refused() -> None:
    folded = extents.of_pages(_long(3), PAGE)
    at = folded.schema.get_field_index("n_pages")
    wrong = folded.set_column(at, folded.schema.field(at), pa.array([0]))
    with pytest.raises(TableError, match="n_pages"):
        extents.to_pages(wrong, PAGE)


def test_contiguity_needs_to_know_the_page_size() -> None:
    with pytest.raises(FormatError, match="metadata"):
        extents.contiguity(_long(3))
