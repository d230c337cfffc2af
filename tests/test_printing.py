"""Tables as text and JSON."""

import json

import pandas as pd

from pagemap_df import printing


def test_columns_are_as_wide_as_their_widest_cell_and_numbers_stand_right():
    frame = pd.DataFrame({"name": ["a", "longer"], "pid": [1, 12345]})
    assert printing.text(frame).splitlines() == ["name      pid", "a           1", "longer  12345"]


def test_addresses_are_hex_also_those_of_words_with_the_top_bit_set():
    frame = pd.DataFrame({"vaddr": [0x7F00_0000_0000], "word": [-(1 << 63)]})
    assert printing.text(frame).splitlines()[1].split() == ["0x7f0000000000", "0x8000000000000000"]


def test_a_limit_says_what_it_left_out():
    frame = pd.DataFrame({"pid": range(2000)})
    assert printing.text(frame, limit=1).splitlines()[-1] == "… 1,999 more rows"


def test_large_integers_keep_every_digit_beside_nulls():
    frame = pd.DataFrame({"pfn": pd.array([(1 << 53) + 1, None], "Int64")})
    assert json.loads(printing.records(frame)) == [{"pfn": (1 << 53) + 1}, {"pfn": None}]
    assert printing.text(frame).splitlines()[1:] == [str((1 << 53) + 1), "-".rjust(16)]


def test_empty_tables_print_their_header_and_an_empty_list():
    frame = pd.DataFrame({"pid": pd.Series(dtype="int64")})
    assert printing.text(frame) == "pid"
    assert json.loads(printing.records(frame)) == []


def test_lists_of_pids_print_as_words_and_as_json_lists():
    frame = pd.DataFrame({"pids": [pd.array([1, 2]).to_numpy()]})
    assert printing.text(frame).splitlines()[1] == "1 2"
    assert json.loads(printing.records(frame)) == [{"pids": [1, 2]}]
