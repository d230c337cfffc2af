"""A question to many hosts gives the same rows wherever it runs, and names who could not answer."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest

from pagemap_df import Snapshot, demo_fleet, fleet, sharing
from pagemap_df.dataset import Dataset, open_dataset
from pagemap_df.errors import NotAvailable, PagemapError
from tests.handmade import snapshot

HOSTS = 24
ROOT = Path(__file__).parents[1]
COUNT = "select ts, pid, count(*) as pages, count(distinct pfn) as frames from pages group by all"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """24 simulated hosts: a server and workers that share more or less of its heap."""
    return demo_fleet.hosts(tmp_path_factory.mktemp("fleet"), HOSTS)


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        yield executor


def _by_hand(dataset: Dataset) -> list[tuple[str, int, int]]:
    rows = []
    for moment, snap in zip(dataset.moments, dataset, strict=True):
        counts = snap.pages.groupby("pid").size()
        rows += [(moment.host, pid, pages) for pid, pages in counts.items()]
    return rows


def test_serial_and_pool_give_the_same_rows(dataset: Dataset, pool: Executor) -> None:
    alone = fleet.map(COUNT, dataset)
    pd.testing.assert_frame_equal(fleet.map(COUNT, dataset, pool), alone)
    found = sorted(zip(alone["host"], alone["pid"], alone["pages"], strict=True))
    assert found == _by_hand(dataset)
    assert alone["host"].is_monotonic_increasing
    assert alone.attrs["skipped"] == []


@pytest.mark.parametrize("name", fleet.QUESTIONS)
def test_packaged_questions_give_the_same_rows(dataset: Dataset, pool: Executor, name: str) -> None:
    few = dataset.host(*dataset.hosts[:6])
    alone = fleet.map(name, few)
    assert len(alone) or name == "swap"
    pd.testing.assert_frame_equal(fleet.map(name, few, pool), alone)


def test_the_cost_of_a_worker_is_what_it_wrote(dataset: Dataset) -> None:
    found = fleet.map("workers", dataset).set_index("name")
    sums = [
        sharing.processes(snap).astype({"name": str}).set_index("name").loc[["worker"], "uss"]
        for snap in dataset
    ]
    every = pd.concat(sums)
    assert found.loc["worker", "uss"] == every.sum()
    assert found.loc["worker", "each"] == pytest.approx(every.mean())
    assert found.loc["worker", "processes"] == sum(1 + n % 3 for n in range(HOSTS))


def test_top_sharers_are_sorted_and_counted(dataset: Dataset) -> None:
    found = fleet.map("sharers", dataset)
    assert found["shared"].is_monotonic_decreasing
    assert found["hosts"].tolist() == [HOSTS] * len(found)


def test_unaccounted_swap_names_the_host(tmp_path: Path) -> None:
    for host, used in (("a", 1), ("b", 5)):
        area = {
            "swap_type": 0, "path": "/swap", "kind": "file", "size": 1 << 20, "used": used << 12,
            "priority": -2, "evidence": "by hand",
        }  # fmt: skip
        facts = {"host": host, "taken_at": "2026-11-23T00:00:00.000000+00:00"}
        snapshot({7: ["heap rw-p s1"]}, swaps=[area], facts=facts).to_parquet(tmp_path)
    found = fleet.map("swap", open_dataset(tmp_path))
    assert found["host"].tolist() == ["b", "a"]
    assert found["unaccounted"].tolist() == [4 << 12, 0]


def _fails_on_h03(snap: Snapshot) -> pd.DataFrame:
    if snap.facts["host"] == "h03":
        raise KeyError("no such thing")
    return pd.DataFrame({"pages": [len(snap.pages)]})


def test_a_host_that_fails_is_raised_or_listed(dataset: Dataset) -> None:
    with pytest.raises(PagemapError, match="host h03: KeyError"):
        fleet.map(_fails_on_h03, dataset)
    found = fleet.map(_fails_on_h03, dataset, on_error="skip")
    assert [skip["host"] for skip in found.attrs["skipped"]] == ["h03"]
    assert found["host"].tolist() == [h for h in dataset.hosts if h != "h03"]


def test_failures_come_back_from_a_pool(dataset: Dataset, pool: Executor) -> None:
    few = dataset.host("h00", "h01")
    with pytest.raises(PagemapError, match="host h0"):
        fleet.map("select 1 as one from nowhere", few, pool)
    found = fleet.map("select 1 as one from nowhere", few, pool, on_error="skip")
    assert [skip["host"] for skip in found.attrs["skipped"]] == ["h00", "h01"]
    assert found.empty


def test_a_damaged_host_is_listed_with_its_name(dataset: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(dataset.root, copy)
    path = next(copy.glob("host=h05/*/pages.parquet"))
    path.write_bytes(b"nothing")
    with pytest.raises(PagemapError, match="h05"):
        fleet.map(COUNT, open_dataset(copy))
    found = fleet.map(COUNT, open_dataset(copy), on_error="skip")
    assert [skip["host"] for skip in found.attrs["skipped"]] == ["h05"]
    assert "h05" not in set(found["host"])
    whole = fleet.map(COUNT, open_dataset(copy, on_error="skip"))
    assert [skip["host"] for skip in whole.attrs["skipped"]] == ["h05"]


def test_another_version_is_refused(dataset: Dataset) -> None:
    task = fleet.Task("h00", COUNT, dataset.host("h00"), "1GiB", version("pagemap_df"))
    assert fleet.answer(task).table is not None
    with pytest.raises(NotAvailable, match="h00: this worker has"):
        fleet.answer(replace(task, version="0.0.0"))


def test_progress_counts_to_the_end(dataset: Dataset) -> None:
    seen: list[tuple[int, int]] = []
    fleet.map(COUNT, dataset, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n + 1, HOSTS) for n in range(HOSTS)]


# -- a real cluster --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_same_rows_though_a_worker_is_killed(
    dataset: Dataset, tmp_path: Path
) -> None:
    pytest.importorskip("distributed")
    alone = fleet.map(demo_fleet.slow_sizes, dataset)
    with demo_fleet.Cluster(tmp_path) as cluster, cluster.client.get_executor() as executor:
        pd.testing.assert_frame_equal(fleet.map(demo_fleet.slow_sizes, dataset, executor), alone)

        def lose(done: int, total: int) -> None:
            if done == total // 4:
                cluster.lose_a_worker()

        found = fleet.map(demo_fleet.slow_sizes, dataset, executor, progress=lose)
        assert cluster.processes[-1].returncode != 0
        pd.testing.assert_frame_equal(found, alone)
        assert found["host"].nunique() == HOSTS
