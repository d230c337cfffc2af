"""``df.pagemap`` on frames from everywhere, and what it says to frames that are none of ours."""

import importlib
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

import pagemap_df as pm
from pagemap_df import accessor, extents, plot, schema, sharing
from pagemap_df.errors import NotAvailable, PagemapError, TableError
from tests.handmade import PAGE, address, snapshot

FAMILY = {
    10: ["heap rw-p a1 a2 a3 z s5 -", "lib r-xp f20 f21+"],
    11: ["heap rw-p a1 a2 a4 - s5 s6", "lib r-xp f20"],
}


@pytest.fixture
def pages():
    return snapshot(FAMILY).pages


def test_the_columns_that_are_missing_are_named_on_first_use():
    frame = pd.DataFrame({"vaddr": [1], "colour": ["red"]})
    with pytest.raises(AttributeError, match=r"lacks kind \(the columns are vaddr, colour\)"):
        _ = frame.pagemap
    with pytest.raises(TableError, match="vaddr, kind"):
        _ = pd.DataFrame().pagemap
    assert not hasattr(frame, "pagemap")
    assert issubclass(accessor.NoPages, PagemapError)


def test_it_survives_what_frames_go_through(pages):
    mixed = pd.concat([pages.query("kind == 'present'"), pages.query("kind == 'swap'")])
    assert len(mixed.pagemap.extents()) > 0
    assert pages.pagemap.extents().equals(pages.copy().pagemap.extents())


def test_extents_are_those_of_the_table():
    snap = pm.load_dataset("preforked-family")
    wanted = schema.to_pandas(extents.of_pages(snap.arrow("pages"), PAGE))
    found = snap.pages.pagemap.extents()
    assert found["n_pages"].sum() == len(snap.pages)
    pd.testing.assert_frame_equal(found, wanted[found.columns], check_categorical=False)


def test_a_process_read_alone_is_indexed_by_address():
    frame = pm.read_pagemap(os.getpid())
    runs = frame.pagemap.extents()
    assert runs["n_pages"].sum() == len(frame)
    assert frame.pagemap.sharers().index.equals(frame.index)
    assert frame.pagemap.plot.address_space(ax=plot.blank()).has_data()


def test_the_mapping_of_a_page_is_that_of_the_reader(pages):
    snap = snapshot(FAMILY)
    found = pages.pagemap.to_vma(snap.vmas)
    known = snap.vmas.iloc[pages["vma"].to_numpy(np.int64)]
    assert found["vma_start"].tolist() == known["start"].tolist()
    assert found["vma_path"].tolist() == known["path"].tolist()
    assert found["vma_start"].dtype == "Int64"
    assert found.index.equals(pages.index)


def test_a_page_outside_of_every_mapping_has_none():
    vmas = pd.DataFrame({"start": [0x2000, 0x8000], "end": [0x3000, 0x9000], "path": ["a", "b"]})
    frame = pd.DataFrame(
        {"vaddr": [0x1000, 0x2000, 0x3000, 0x8000, 0x9000], "kind": ["present"] * 5}
    )
    found = frame.pagemap.to_vma(vmas.iloc[::-1])
    assert found["vma_path"].fillna("-").tolist() == ["-", "a", "-", "b", "-"]
    assert found["vma_start"].isna().tolist() == [True, False, True, False, True]
    assert frame.pagemap.to_vma(vmas.iloc[:0])["vma_start"].isna().all()


def test_mappings_must_fit_the_pages(pages):
    with pytest.raises(TableError, match="needs the columns end, pid"):
        pages.pagemap.to_vma(pd.DataFrame({"start": [1]}))
    alone = pages[pages["pid"] == 10].drop(columns="pid")
    with pytest.raises(TableError, match="of several"):
        alone.pagemap.to_vma(snapshot(FAMILY).vmas)


def test_sharers_are_map_counts_in_the_order_of_the_rows(pages):
    shuffled = pages.sample(frac=1, random_state=1)
    found = shuffled.pagemap.sharers()
    assert found.index.equals(shuffled.index)
    mapped = shuffled["mapcount"].notna()
    assert found[mapped].tolist() == shuffled["mapcount"][mapped].tolist()
    assert found.dtype == "Int32"
    assert "kpagecount" in found.attrs["accuracy"]
    without = pages.drop(columns="mapcount").pagemap.sharers()
    alone = pages["exclusive"].fillna(False).to_numpy(bool)
    assert (without[alone] == 1).all()
    assert without[~alone].isna().all()


def test_pictures_are_methods(pages):
    for name in dir(pages.pagemap.plot):
        if name not in ("changes", "transitions"):
            picture = getattr(pages.pagemap.plot, name)
            assert picture(ax=plot.blank()).get_title()
    later = snapshot({10: ["heap rw-p a1 a9"]}).pages
    assert pages.pagemap.plot.transitions(later, ax=plot.blank()).has_data()
    assert pages.pagemap.plot(pid=11, ax=plot.blank()).get_title().endswith("11 process")
    with pytest.raises(AttributeError, match="there is no picture 'pie'; there are address_space"):
        _ = pages.pagemap.plot.pie
    assert plt.get_fignums() == []


def test_every_picture_that_takes_pages_is_a_method(pages):
    public = {n.removeprefix("plot_") for n in plot.__all__ if n.startswith("plot_")}
    assert set(dir(pages.pagemap.plot)) == public - {"sizes", "cow_loss"}


def test_a_styled_frame_has_hex_addresses_and_sizes_with_units(pages):
    html = pages.pagemap.style.to_html()
    assert hex(address(0)) in html
    assert str(address(0)) not in html
    indexed = pages[pages["pid"] == 10].set_index("vaddr").pagemap.style.to_html()
    assert hex(address(0)) in indexed
    table = sharing.processes(snapshot(FAMILY))
    html = accessor.styled(table).to_html()
    assert f">{table['rss'][0] // 1024}.0 KiB<" in html
    assert ">10<" in html  # a pid is no size
    assert ">-<" in html  # swappss is unknown


def test_without_jinja2_a_style_says_what_to_install(pages, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    for name in [n for n in sys.modules if n.startswith("pandas.io.formats.style")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(NotAvailable, match="pip install jinja2"):
        _ = pages.pagemap.style


def test_registering_twice_is_silent_and_a_stranger_is_not_thrown_out(monkeypatch):
    accessor.register()
    importlib.reload(accessor)
    monkeypatch.setattr(pd.DataFrame, "pagemap", property(lambda self: 7))
    with pytest.raises(TableError, match="not ours"):
        accessor.register()


def test_importing_the_accessor_is_cheap():
    program = (
        "import sys, pandas, pyarrow, pagemap_df.accessor; "
        "heavy = {'matplotlib', 'jinja2', 'duckdb', 'IPython'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
