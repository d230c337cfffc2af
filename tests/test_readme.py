"""The README keeps its word: its Python runs, its commands exist."""

import doctest
import re
from pathlib import Path

from pagemap_df.cli import main

README = Path(__file__).parent.parent / "README.md"


def test_python_examples_give_what_they_show():
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    text = README.read_text().replace("…", "...").replace("```", "")
    test = doctest.DocTestParser().get_doctest(text, {}, "README", str(README), 0)
    assert len(test.examples) > 8
    assert doctest.DocTestRunner(optionflags=flags).run(test).failed == 0


def test_every_command_it_names_exists():
    named = set(re.findall(r"^    pagemap-df (\w+)", README.read_text(), re.MULTILINE))
    assert named == set(main.commands)


def test_make_targets_it_names_exist():
    makefile = (README.parent / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z]+)", README.read_text())):
        assert f"\n{target}:" in makefile
