"""``%load_ext pagemap_df``: memory under the eyes of a notebook.

``%pagemap [PID ...] [options]``
    The zoomable map of this kernel's own memory, or of other processes.
``%pagemap COMMAND ...``
    Any command of the program pagemap-df, with all its options: ``%pagemap ps --vmas``.
``%%pagemap [PID ...] [options]``
    Run the cell, then show what it did to pages: faulted in, unshared, swapped, freed, by VMA.

The options that choose processes are those of the program (``--name``, ``--cgroup``, ``--join``,
``--freeze``, ``--from``); ``%pagemap --help`` lists them.

What a cell did is told by two snapshots, and looking at oneself leaves traces. They are kept
out as far as can be: another process looks, and it does so once for practice before it
counts (`Observer`); garbage is collected and a cell that does nothing is run before the first
look; tables are made and pictures drawn after the last. What remains is what the notebook's
machinery itself touches while a cell runs, some ten to hundred pages; an empty cell shows it.
That others come to map, or leave, a file page of ours (``shared``, ``left_alone``) is no doing of
the cell, and is seen too.

What can go wrong: words that are no option (IPython's ``UsageError``, one line); what `take`
raises. If the cell fails, its own traceback is shown, the report is shown too, and the cell
counts as failed.
"""

from __future__ import annotations

import gc
import os
import shlex
from collections.abc import Callable
from functools import cached_property, partial, update_wrapper
from html import escape
from typing import TYPE_CHECKING, Any

import click

from . import changes, printing
from .cli import main
from .cli.answers import ALL
from .cli.base import looking
from .observer import Observer
from .snapshot import Snapshot
from .widget import still
from .widget.content import COLOURS
from .widget.scene import Scene

if TYPE_CHECKING:
    import pandas as pd

_HELP = {"help_option_names": ["-h", "--help"]}
_CHOICE = tuple(name for name in COLOURS["virtual"] if name not in ("change", "age"))


def load_ipython_extension(shell: Any) -> None:
    """Called by ``%load_ext pagemap_df``."""
    cell_magic = partial(pagemap_cell, shell)
    update_wrapper(cell_magic, pagemap_cell)
    shell.register_magic_function(pagemap, "line", "pagemap")
    shell.register_magic_function(cell_magic, "cell", "pagemap")


def pagemap(line: str) -> object:
    """``%pagemap [PID ...] [options]``, or ``%pagemap COMMAND ...``.

    Without a process, this kernel. Gives a `MemoryMap`, or a picture with ``--still`` or where
    anywidget is not installed.
    """
    words = _words(line)
    if words and words[0] in main.commands:
        _guarded(lambda: main.main(words, prog_name="%pagemap", standalone_mode=False))
        return None
    return _guarded(lambda: _run(_shown, words))


def pagemap_cell(shell: Any, line: str, cell: str) -> CellReport | None:
    """``%%pagemap [PID ...] [options]``: what the cell does to pages, by VMA, with a picture.

    Without a process, this kernel. Another process looks, before and after; see the module for
    what that keeps out and what it cannot.
    """
    options = _guarded(lambda: _run(_chosen, _words(line)))
    if options is None:  # only help was asked for
        return None
    with Observer(options) as observer:
        observer.take()
        observer.forget()
        shell.run_cell("pass", store_history=False, silent=True)
        gc.collect()
        observer.take()
        outcome = shell.run_cell(cell, store_history=False)
        observer.take()
        before, after = observer.snapshots()
    report = CellReport(before, after)
    if not outcome.success:
        from IPython import display
        from IPython.core.error import UsageError

        display.display(report)  # type: ignore[no-untyped-call]
        error = outcome.error_before_exec or outcome.error_in_exec
        raise UsageError(f"the cell under %%pagemap raised {type(error).__name__}; see above")
    return report


class CellReport:
    """What happened to pages between two snapshots, as a notebook shows it.

    Attributes
    ----------
    before, after : Snapshot
        Taken around the cell.
    """

    def __init__(self, before: Snapshot, after: Snapshot) -> None:
        self.before, self.after = before, after

    @cached_property
    def vmas(self) -> pd.DataFrame:
        """`changes.vmas`: bytes of each change, one row for each VMA in which there was any."""
        return changes.vmas(self.before, self.after)

    @property
    def map(self) -> object:
        """The same as a `MemoryMap`, to zoom."""
        from .widget.memorymap import MemoryMap

        return MemoryMap(self.before, self.after, color="change", pid=self._pid)

    @property
    def _pid(self) -> int | None:
        """The process with most changes; None if there are none."""
        if not len(self.vmas):
            return None
        found = self._shown
        total = found.drop(columns=["pid", "start", "path"]).sum(axis=1)
        sums = total.groupby(found["pid"].to_numpy()).sum().sort_values()
        return int(sums.index.to_numpy()[-1])

    @property
    def _shown(self) -> pd.DataFrame:
        """Changes that occur, the VMAs with most on top."""
        found = self.vmas
        quiet = [name for name in changes.CHANGES if not found[name].any()]
        kept = [name for name in changes.CHANGES if name not in quiet]
        order = found[kept].sum(axis=1).sort_values(ascending=False, kind="stable").index
        return found.drop(columns=quiet).loc[order]

    def __repr__(self) -> str:
        """The table as text."""
        if not len(self.vmas):
            return "No page changed."
        return printing.text(self._shown, printing.sizes_of(self._shown), limit=_MOST_ROWS)

    def _repr_html_(self) -> str:
        """Totals, a table by VMA, and a picture of where in memory it was."""
        found = self._shown
        if not len(found):
            return "<p>No page changed.</p>"
        kept = [name for name in changes.CHANGES if name in found.columns]
        totals = ", ".join(
            f"<b>{printing.size(int(found[name].sum()))}</b> {name.replace('_', ' ')}"
            for name in kept
        )
        picture = still.svg(Scene(self.after, self.before, pid=self._pid, color="change"))
        return f"<p>{totals}</p>{_table(found, kept)}{picture}"


_MOST_ROWS = 12


def _table(found: pd.DataFrame, kept: list[str]) -> str:
    """The VMAs with most changes as an HTML table."""
    right, cell = "text-align:right", "padding:1px 8px;white-space:nowrap"
    heads = "".join(
        f'<th style="{cell};{right}">{escape(name.replace("_", " "))}</th>' for name in kept
    )
    rows = []
    for row in found.head(_MOST_ROWS).to_dict("records"):
        start = "" if row["start"] != row["start"] else f"{int(row['start']):#x}"
        sizes = "".join(
            f'<td style="{cell};{right}">{printing.size(row[name]) if row[name] else ""}</td>'
            for name in kept
        )
        path = str(row["path"] or "anonymous")
        name = escape(path.rpartition("/")[2] or path)
        rows.append(
            f'<tr><td style="{cell};{right}">{row["pid"]}</td>'
            f'<td style="{cell}"><code>{start}</code></td>'
            f'<td style="{cell};text-align:left" title="{escape(path)}">{name}</td>{sizes}</tr>'
        )
    more = len(found) - _MOST_ROWS
    last = f'<tr><td colspan="{3 + len(kept)}">… {more} more mappings</td></tr>' if more > 0 else ""
    head = f"<tr><th>pid</th><th>start</th><th>mapping</th>{heads}</tr>"
    return f"<table>{head}{''.join(rows)}{last}</table>"


# -- words -----------------------------------------------------------------------------------


@click.command(context_settings=_HELP)
@looking(*ALL)
@click.option("--space", type=click.Choice(list(COLOURS)), default="virtual", show_default=True)
@click.option("--color", type=click.Choice([*_CHOICE, "owner"]), default="state", show_default=True)
@click.option("--still", "as_picture", is_flag=True, help="A picture, no widget.")
def _shown(snap: Snapshot, space: str, color: str, as_picture: bool) -> object:
    """Map of the memory of this kernel, or of other processes."""
    if not as_picture:
        from .errors import NotAvailable

        try:
            from .widget.memorymap import MemoryMap
        except NotAvailable as error:
            click.echo(f"%pagemap: {error}", err=True)
        else:
            return MemoryMap(snap, space=space, color=color)
    return Picture(Scene(snap, space=space, color=color))


class Picture:
    """A scene as a picture in a notebook."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def __repr__(self) -> str:
        """What is shown, in a line."""
        return self.scene.title

    def _repr_svg_(self) -> str:
        return still.svg(self.scene)


def _options(pids: tuple[int, ...], join: tuple[str, ...], **rest: Any) -> dict[str, Any]:
    """Show what the cell below does to the pages of this kernel, or of other processes."""
    return {"pids": list(pids) or None, "join": sorted({*ALL, *join}), **rest}


_chosen = click.Command(
    "pagemap",
    callback=_options,
    params=[p for p in _shown.params if p.name in ("pids", "name", "cgroup", "join", "freeze")],
    help=_options.__doc__,
    context_settings=_HELP,
)


def _run(command: click.Command, words: list[str]) -> Any:
    """`command` with some words; this process, if they choose none."""
    with command.make_context("pagemap", words) as context:
        chosen = ("pids", "where", "name", "cgroup")
        if not any(context.params.get(word) for word in chosen):
            context.params["pids"] = (os.getpid(),)
        return command.invoke(context)


def _words(line: str) -> list[str]:
    from IPython.core.error import UsageError

    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"%pagemap: {error}") from error


def _guarded(what: Callable[[], Any]) -> Any:
    """The value of `what`; wrong words become one line, and help is no error."""
    from IPython.core.error import UsageError

    try:
        return what()
    except click.exceptions.Exit:
        return None
    except click.ClickException as error:
        raise UsageError(f"%pagemap: {error.format_message()}") from error
    except SystemExit as ending:  # the program has said why
        if ending.code:
            raise UsageError(f"%pagemap: status {ending.code}") from ending
        return None
