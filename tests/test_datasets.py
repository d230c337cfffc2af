"""Data sets: small, said where they come from, and those simulated can be made again."""

import importlib.util
import json

import pytest

import pagemap_df as pm
from pagemap_df import datasets, schema

ROOT = datasets.directory()


def made_again():
    spec = importlib.util.spec_from_file_location("simulate", ROOT / "simulate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_recorded_and_simulated_ones_and_they_are_small():
    listed = pm.list_datasets()
    simulated = listed["name"].str.startswith("sim-")
    assert simulated.sum() >= 4
    assert (~simulated).sum() >= 4
    assert sum(file.stat().st_size for file in ROOT.rglob("*") if file.is_file()) < 10 << 20


@pytest.mark.parametrize("name", pm.list_datasets()["name"])
def test_each_loads_and_says_where_it_comes_from(name):
    snap = pm.load_dataset(name)
    assert len(snap.arrow("pages")) > 1000
    about = json.loads((ROOT / name / "about.json").read_text())
    assert set(about) == {"title", "made_by", "provenance", "licence"}
    assert snap.facts["about"] == about


@pytest.mark.parametrize("name", sorted(made_again().MADE))
def test_a_simulated_one_made_again_is_the_same(name):
    kept, again = pm.load_dataset(name), made_again().snapshot(name)
    for table in schema.TABLES:
        assert again.arrow(table).to_pylist() == kept.arrow(table).to_pylist(), table


def test_an_unknown_name_is_an_error_that_lists_the_known():
    with pytest.raises(pm.NotAvailable, match="preforked-family"):
        pm.load_dataset("nonsense")
