"""The drawing of the layers, held by walking the imports; and the size of things."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

import pagemap_df

PACKAGE = Path(pagemap_df.__file__).parent

LAYERS = (
    "errors",
    "entries bits pageflags proctext procstatus schema eras columns runs palette printing svg",
    "source sim.mm",
    "take store tree snapshot read extents watching dataset datasets",
    "algebra sharing swapping changes layout story sim",
    "plot widget accessor sim.twin fleet observer",
    "cli magics demo demo_fleet __init__ __main__",
)
"""A module imports from its own layer or from below. A folder stands for all that is in it,
but for those of its modules that are drawn by themselves."""

ALONE = frozenset({"source.collector"})
"""A program of one file for hosts where nothing may be installed: the house rules on size and
printing are not for it. It imports nothing of the package."""

PROGRAMS = ALONE | {"observer"}
"""Modules that are also run as programs and answer on standard output."""

OVER = {"source.collector": 600}
"""Modules that may be longer."""


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if "_datasets" not in path.parts)


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


@cache
def tree_of(path):
    return ast.parse(path.read_text())


def is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def statements(node):
    """All nodes below, but for what is only there for type checkers."""
    for child in ast.iter_child_nodes(node):
        if not is_type_checking(child):
            yield child
            yield from statements(child)


def top_level(path):
    """Imports that happen when the module is imported."""

    def walk(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if not is_type_checking(child):
                yield child
                yield from walk(child)

    return walk(tree_of(path))


def imported(path, nodes):
    """Modules of the package that `path` imports, by their dotted name inside it."""
    home = list(path.relative_to(PACKAGE).parts[:-1])
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = home[: len(home) + 1 - node.level] + (node.module or "").split(".")
            base = [part for part in base if part]
            for alias in node.names:
                yield resolve([*base, alias.name])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pagemap_df"):
            for alias in node.names:
                yield resolve([*node.module.split(".")[1:], alias.name])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "pagemap_df":
                    yield resolve(alias.name.split(".")[1:])


def resolve(parts):
    """The module that ``from a import b`` names: a.b if that is one, else a."""
    for length in range(len(parts), 0, -1):
        place = PACKAGE.joinpath(*parts[:length])
        if place.with_suffix(".py").exists():
            return ".".join(parts[:length])
        if (place / "__init__.py").exists():
            return ".".join([*parts[:length], "__init__"])
    return "__init__"


def layer_of(name):
    """Number of the layer; None for a module that is drawn nowhere."""
    parts = name.removesuffix(".__init__").split(".")
    for length in range(len(parts), 0, -1):
        for number, names in enumerate(LAYERS):
            if ".".join(parts[:length]) in names.split():
                return number
    return None


def rank(name):
    return -1 if name in ALONE else len(LAYERS) if layer_of(name) is None else layer_of(name)


def test_every_module_has_its_layer():
    missing = {name for name in map(name_of, modules()) if layer_of(name) is None}
    assert sorted(missing - ALONE) == [], "draw them into LAYERS"
    known = {name for names in LAYERS for name in names.split()}
    assert len(known) == sum(len(names.split()) for names in LAYERS), "a module in two layers"


def test_imports_go_downwards():
    wrong = [
        f"{name_of(path)} imports {other}"
        for path in modules()
        for other in imported(path, statements(tree_of(path)))
        if rank(other) > rank(name_of(path))
    ]
    assert wrong == []


def test_no_import_cycles():
    """Lazy imports count too: one that hides a cycle is a cycle."""
    graph = {
        name_of(path): set(imported(path, statements(tree_of(path)))) - {name_of(path)}
        for path in modules()
    }
    done, trail = set(), []

    def visit(name):
        if name in trail:
            pytest.fail(" -> ".join([*trail[trail.index(name) :], name]))
        if name in done or name not in graph:
            return
        trail.append(name)
        for other in sorted(graph[name]):
            visit(other)
        trail.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)


HEAVY = {"duckdb", "matplotlib", "tqdm", "click", "IPython", "anywidget", "distributed"}


def test_heavy_packages_are_imported_where_they_are_used():
    """But in the command line, which is not imported with the package."""
    wrong = []
    for path in modules():
        if rank(name_of(path)) < 5:
            for node in top_level(path):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                wrong += [(name_of(path), n) for n in names if n.split(".")[0] in HEAVY]
    assert wrong == []


def test_nobody_prints():
    wrong = [
        name_of(path)
        for path in modules()
        if rank(name_of(path)) < 6 and name_of(path) not in PROGRAMS
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"
    ]
    assert wrong == []


def test_nobody_catches_everything():
    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for path in modules()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or "Exception" in ast.dump(node.type).split("'"))
    ]
    assert wrong == []


# -- sizes ------------------------------------------------------------------------------


def lengths():
    for path in modules():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
                doc = node.body[0] if ast.get_docstring(node) else None
                quiet = doc.end_lineno - doc.lineno + 1 if doc else 0
                yield f"{name_of(path)}.{node.name}", node.end_lineno - first + 1 - quiet


def test_no_module_is_over_400_lines():
    sizes = {name_of(path): len(path.read_text().splitlines()) for path in modules()}
    assert {name: n for name, n in sizes.items() if n > OVER.get(name, 400)} == {}


def test_no_function_is_over_80_lines():
    assert [(name, n) for name, n in lengths() if n > 80] == []


def test_functions_are_short():
    counts = sorted(n for _, n in lengths())
    assert counts[len(counts) // 2] <= 12


# -- names ------------------------------------------------------------------------------


def test_the_public_list_is_what_the_package_has():
    assert sorted(pagemap_df.__all__) == sorted(set(pagemap_df.__all__))
    own = {
        alias.asname or alias.name
        for node in tree_of(PACKAGE / "__init__.py").body
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
        if not (alias.asname or alias.name).startswith("_")
    }
    assert own <= set(pagemap_df.__all__), "imported, but not public"
    for name in pagemap_df.__all__:
        assert getattr(pagemap_df, name) is not None


def test_the_map_in_the_docstring_names_modules_that_are_there():
    rows = (pagemap_df.__doc__ or "").split("=\n")[1].split("\n=")[0].splitlines()
    starts = [line[:15] for line in rows if line[:1].strip()]
    named = {name for start in starts for name in re.sub("[,/]", " ", start).split()}
    there = {name_of(path).split(".")[0] for path in modules()}
    assert named <= there


def test_every_module_says_what_it_is():
    without = [name_of(path) for path in modules() if not ast.get_docstring(tree_of(path))]
    assert without == []
