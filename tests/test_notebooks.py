"""The gallery is kept without outputs. That every notebook runs is for nbmake."""

import json
from pathlib import Path

import pytest

BOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def test_there_is_a_gallery():
    assert [book.name[:2] for book in BOOKS] == [f"{n:02}" for n in range(1, len(BOOKS) + 1)]
    assert len(BOOKS) >= 11


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
