"""`MemoryMap`: the map of a snapshot in a notebook.

This half keeps a `Scene` and answers messages; map.js draws cells and sends what the mouse and
the keyboard ask for. Messages, all of them custom messages of the widget:

=================  =========================================  ================================
from the browser   holds                                      answer
=================  =========================================  ================================
``cells``          ``id first per columns rows``              header and one buffer, as `Answer`
``tell``           ``id first count``                         ``text``
``pin``            ``first stop``; none to let go             `MemoryMap.selection` is set
``opened``         nothing: a view is there                   none
``closed``         nothing: a view has gone                   none; without any, live mode ends
=================  =========================================  ================================

An answer carries the ``id`` of its question, so that a late one is known. The state that both
halves share (what is shown, legend, length of the line) is in traits.

In live mode a thread takes a new snapshot every second and pushes the cells of the window last
asked for, even while the kernel is busy with a cell: the map moves while your code runs.

What can go wrong: anywidget is not installed (`NotAvailable`); live mode on a snapshot of
another machine or boot (`NotAvailable`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..algebra.arrays import Tables
from ..errors import NotAvailable, PagemapError
from ..plot.given import tables_of
from ..take import AnySource, source_of, take
from . import content, still
from .content import COLOURS, Changed
from .live import Looking
from .scene import GROUND, Answer, Scene

try:
    import anywidget
    import traitlets
except ModuleNotFoundError as error:
    raise NotAvailable(
        "the map needs anywidget; install it with pip install 'pagemap_df[widgets]'"
    ) from error

if TYPE_CHECKING:
    import pandas as pd

_HERE = Path(__file__).parent
_MOST_PROCESSES = 200
_USUAL = (80, 36)
_GRACE = 3
_JOINS = ("mapcount", "flags", "cgroup", "huge")


class MemoryMap(anywidget.AnyWidget):
    """A map of memory to zoom, from terabytes down to one page.

    The wheel zooms, dragging moves, hovering tells what is there, a click pins it and a click
    with shift pins all from there to here. On the keyboard: arrows, ``+`` and ``-``, Enter to pin,
    Escape to let go, Home for the whole.

    Parameters
    ----------
    snapshot : Snapshot, Folded or DataFrame of pages
        What to show.
    after : Snapshot, optional
        A later one of the same machine: it is shown then, and what changed flashes.
    pid : int, optional
        Which process; the one with most pages, if not given.
    space : {"virtual", "physical"}
        The address space of that process, or the page frames of all.
    color : {"state", "sharers", "vma", "swap", "owner", "change", "age"}
        What colours tell; see `content`.
    source : Source or path, optional
        Where live mode looks; the running kernel, if not given.

    Attributes
    ----------
    pid, space, color : traits
        May be set at any time.
    live : bool trait
        Whether it looks again every `every` seconds.
    every : float trait
        Seconds between two looks.
    selection : DataFrame or None
        The rows of ``pages`` that are pinned; a trait, so that it can be observed.

    Examples
    --------
    >>> from pagemap_df import load_dataset
    >>> found = MemoryMap(load_dataset("preforked-family"))
    >>> found.space, found.live, found.selection is None
    ('virtual', False, True)
    """

    _esm = _HERE / "map.js"
    _css = _HERE / "map.css"

    pid = traitlets.Int(None, allow_none=True).tag(sync=True)
    space = traitlets.Enum(tuple(COLOURS), "virtual").tag(sync=True)
    color = traitlets.Unicode("state").tag(sync=True)
    live = traitlets.Bool(False).tag(sync=True)
    every = traitlets.Float(1.0)
    selection = traitlets.Any(None, allow_none=True)
    _about = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        snapshot: Tables | pd.DataFrame,
        after: Tables | pd.DataFrame | None = None,
        *,
        pid: int | None = None,
        space: str = "virtual",
        color: str = "state",
        source: AnySource = None,
    ) -> None:
        self._snap = tables_of(snapshot if after is None else after)
        self._before = None if after is None else tables_of(snapshot)
        self._source, self._looking = source, None
        self._changed: Changed | None = None
        self._views, self._epoch, self._asked, self._unseen = 0, 0, None, None
        # Made before the widget, so that a wrong argument leaves no widget behind.
        scene = Scene(self._snap, self._before, pid=pid, space=space, color=color)
        super().__init__(pid=scene.pid, space=space, color=color)
        self._show(scene)
        self.observe(self._look_changed, ["pid", "space", "color"])
        self.observe(self._switched, "live")
        self.on_msg(self._received)

    _looking: Looking | None
    _asked: tuple[int, int, int, int] | None
    _unseen: int | None

    @property
    def snapshot(self) -> Tables:
        """What is shown: the last one taken, in live mode."""
        return self._snap

    # -- what is shown -------------------------------------------------------------------------

    def _scene_now(self) -> Scene:
        """A scene by the traits as they are."""
        return Scene(
            self._snap,
            self._before,
            pid=self.pid,
            space=self.space,
            color=self.color,
            changed=self._changed,
        )

    def _show(self, scene: Scene, *, moved: bool = True, pushed: bool = False) -> None:
        """Make `scene` the one that questions are answered by, and tell the browser."""
        self._scene, self._epoch = scene, self._epoch + 1
        self._about = {
            "epoch": self._epoch,
            "moved": moved,
            "pushed": pushed,
            "length": scene.line.length,
            "page_size": scene.page_size,
            "title": scene.title,
            "message": scene.message,
            "legend": scene.legend,
            "legend_title": scene.content.legend.title,
            "ground": GROUND,
            "ground_name": scene.ground_name,
            "colors": self._colors(scene.space),
            "processes": [[pid, name] for pid, name, _ in scene.processes[:_MOST_PROCESSES]],
            "changes": scene.changed is not None,
        }

    def _colors(self, space: str) -> list[str]:
        have = dict.fromkeys(("change", "age"), self._before is not None)
        return [name for name in COLOURS[space] if have.get(name, True)]

    def _look_changed(self, change: dict[str, Any]) -> None:
        """A trait was set, from Python or from the browser."""
        if change["name"] == "space" and self.color not in COLOURS[self.space]:
            self.color = "state"  # comes back here
            return
        try:
            scene = self._scene_now()
            old = self._scene
            moved = (scene.space, scene.pid) != (old.space, old.pid)
            self._show(scene, moved=moved)
            if moved:
                self.selection = None
        except PagemapError as error:
            self._say(str(error))

    def _say(self, text: str) -> None:
        self.send({"type": "said", "text": text})

    # -- questions -----------------------------------------------------------------------------

    def _received(self, _: Any, message: dict[str, Any], __: Any) -> None:
        answer = {
            "cells": self._cells,
            "tell": self._tell,
            "pin": self._pin,
            "opened": self._opened,
            "closed": self._closed,
        }.get(message.get("type", ""))
        if answer is None:
            return
        try:
            answer(message)
        except PagemapError as error:
            self._say(str(error))

    def _cells(self, message: dict[str, Any]) -> None:
        first, per, columns, rows = (int(message[k]) for k in ("first", "per", "columns", "rows"))
        self._asked = first, per, columns, rows
        self._send_cells(self._scene, self._scene.cells(*self._asked), message.get("id", 0))

    def _send_cells(self, scene: Scene, answer: Answer, number: int) -> None:
        header = answer._asdict()
        data = header.pop("data")
        header |= {"type": "cells", "id": number, "length": scene.line.length}
        self.send(header, [data])

    def _tell(self, message: dict[str, Any]) -> None:
        text = self._scene.tell(int(message["first"]), int(message["count"]))
        self.send({"type": "told", "id": message.get("id", 0), "text": text})

    def _pin(self, message: dict[str, Any]) -> None:
        if "first" not in message:
            self.selection = None
            return
        self.selection = self._scene.pages(int(message["first"]), int(message["stop"]))

    def _opened(self, _: dict[str, Any]) -> None:
        self._views += 1

    def _closed(self, _: dict[str, Any]) -> None:
        self._views -= 1
        self._unseen = 0

    # -- live mode -----------------------------------------------------------------------------

    def start(self, every: float | None = None) -> None:
        """Look again every so many seconds; the same as ``live = True``."""
        if every is not None:
            self.every = every
        self.live = True

    def stop(self) -> None:
        """Stop looking; when this returns, the thread is gone."""
        self.live = False
        if self._looking is not None:
            self._looking.stop()
            self._looking = None

    def close(self) -> None:
        """Stop looking and leave the notebook."""
        self.stop()
        super().close()

    def _switched(self, change: dict[str, Any]) -> None:
        if not change["new"]:
            if self._looking is not None and self._looking.alive:
                self.stop()
            return
        try:
            self._check_here()
        except PagemapError as error:
            self.live = False
            self._say(str(error))
            if not self._views:
                raise
            return
        self._looking = Looking(self.look, self._lost, self.every)

    def _check_here(self) -> None:
        """Raise `NotAvailable` unless the snapshot is of the machine that would be looked at."""
        source = source_of(self._source)
        facts = source.facts()
        if source is not self._source:
            source.close()
        for name in ("host", "boot_id"):
            here, there = facts.get(name), self._snap.facts.get(name)
            if here is not None and there is not None and here != there:
                raise NotAvailable(
                    f"live mode looks at this machine, and the snapshot has another {name} "
                    f"({there!r}, not {here!r}); pass source= where it was taken"
                )

    def look(self) -> None:
        """Take a new snapshot of the same processes, and show it and what changed."""
        if self._unwatched():
            self.live = False
            return
        pids = self._snap.arrow("processes")["pid"].to_pylist()
        if self.space == "virtual" and self.pid is not None:
            pids = [self.pid]
        join = [name for name in _JOINS if name in self._snap.arrow("pages").schema.names]
        now = take(self._source, pids=pids, join=join, progress=False)
        found = content.changed(self._snap, now)
        self._changed = found if self._changed is None else self._changed.plus(found)
        self._before, self._snap = self._snap, now
        old, scene = self._scene, self._scene_now()
        self._show(scene, moved=False, pushed=True)
        # While the kernel is busy no question comes through; a usual screen is a good guess.
        columns, rows = _USUAL
        asked = self._asked or (0, scene.fitting(columns * rows), columns, rows)
        if asked[0]:  # what was in the corner stays there, whatever came before it
            asked = (scene.spot_of(old.page_at(asked[0])), *asked[1:])
            self._asked = asked
        self._send_cells(scene, scene.cells(*asked), -1)

    def _unwatched(self) -> bool:
        """Whether the last view has been gone for some looks; one may only have moved."""
        if self._views > 0 or self._unseen is None:
            return False
        self._unseen += 1
        return self._unseen > _GRACE

    def _lost(self, error: Exception) -> None:
        """A look failed: say why, and let it be."""
        self._say(f"live mode ended: {error}")
        self.live = False

    # -- without a browser ---------------------------------------------------------------------

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget for hosts that know widgets, and an SVG picture for those that do not."""
        data, metadata = super()._repr_mimebundle_(**kwargs) or ({}, {})
        picture = {"image/svg+xml": still.svg(self._scene), "text/plain": repr(self)}
        return {**data, **picture}, metadata

    def __repr__(self) -> str:
        """One line: what is shown."""
        return f"<MemoryMap of {self._scene.title}>"
