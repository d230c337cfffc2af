"""The summary that a notebook shows of a snapshot."""

import re
import xml.etree.ElementTree as ET

import pyarrow as pa
import pytest

import pagemap_df as pm
from pagemap_df import svg
from pagemap_df.snapshot import Snapshot
from tests.handmade import snapshot

FAMILY = {10: ["heap rw-p a1 a2 z s5 g"], 11: ["heap rw-p a1 a3 - s5"]}


def widths(html):
    return [float(r.get("width")) for r in ET.fromstring(html).findall(".//{*}rect")]


def legend(html):
    return re.findall(r"■</span> ([^<]+)<", html)


def test_a_tally_counts_what_the_rows_say():
    pages = snapshot(FAMILY).arrow("pages")
    rows = pages.to_pylist()
    found = svg.tally(pages)
    assert found["in memory, own"] == sum(bool(row["exclusive"]) for row in rows) == 2
    assert found["in memory, shared"] == sum(r["present"] and not r["exclusive"] for r in rows)
    assert found["in swap"] == sum(row["kind"] == "swap" for row in rows) == 2
    assert sum(found.values()) == len(rows)


def test_a_tally_of_pages_that_do_not_say_whose_they_are():
    pages = snapshot(FAMILY).arrow("pages")
    at = pages.schema.get_field_index("exclusive")
    blind = pages.set_column(at, pages.schema.field(at), pa.nulls(len(pages), pa.bool_()))
    assert (
        svg.tally(blind)["in memory"]
        == svg.tally(pages)["in memory, own"] + (svg.tally(pages)["in memory, shared"])
    )
    assert sum(svg.tally(blind).values()) == len(pages)


def test_the_bar_is_whole_and_its_parts_are_bytes_by_state():
    plain = snapshot(FAMILY)
    html = snapshot(FAMILY, facts={"tally": svg.tally(plain.arrow("pages"))})._repr_html_()
    assert sum(widths(html)) == pytest.approx(480, abs=0.05)
    own, shared, swap, guard = legend(html)
    assert own == "in memory, own 8.0 KiB"
    assert shared == "in memory, shared 12.0 KiB"
    assert swap == "in swap 8.0 KiB"
    assert guard == "neither 4.0 KiB"


def test_without_a_tally_the_bar_is_of_what_arrow_knows():
    assert legend(snapshot(FAMILY)._repr_html_()) == [
        "in memory 20.0 KiB",
        "in swap 8.0 KiB",
        "neither 4.0 KiB",
    ]


def test_hidden_frames_are_said_and_no_state_is_made_up():
    facts = {"pfns": "hidden", "pfns_why": "no <right>"}
    html = snapshot(FAMILY, hidden=True, facts=facts)._repr_html_()
    assert legend(html) == ["unknown 32.0 KiB"]
    assert "no &lt;right&gt;" in html
    ET.fromstring(html)


def test_an_empty_snapshot_has_a_summary_without_a_bar():
    html = Snapshot({}, {"host": "a<b"})._repr_html_()
    assert "0 pages" in html
    assert "a&lt;b" in html
    assert "<svg" not in html
    ET.fromstring(html)


def test_the_summary_never_looks_at_pages(monkeypatch):
    """Neither converts a table nor reads a column's values: null counts and lengths alone."""
    snap = pm.load_dataset("preforked-family")

    class Shut:
        """A table that only tells its length and null counts."""

        def __init__(self, table):
            self.table = table

        def __len__(self):
            return len(self.table)

        def __getitem__(self, name):
            return type("Column", (), {"null_count": self.table[name].null_count})

    def refuse(*_):
        raise AssertionError("a repr has looked at pages")

    wanted = snap._repr_html_()
    monkeypatch.setitem(snap._tables, "pages", Shut(snap._tables["pages"]))
    monkeypatch.setattr(Snapshot, "arrow", refuse)
    monkeypatch.setattr(Snapshot, "table", refuse)
    assert snap._repr_html_() == wanted
    assert repr(snap)


def test_skipped_processes_are_mentioned():
    html = snapshot(FAMILY, facts={"skipped": [{"pid": 7, "reason": "gone"}]})._repr_html_()
    assert "1 processes were skipped" in html
