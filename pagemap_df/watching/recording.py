"""Snapshots over time as a data set: key frames, and between them only what changed.

::

    DIRECTORY/host=db1/ts=20261123T144341.449620Z/pages.parquet, vmas.parquet, …    a key frame
                       ts=20261123T144342.449713Z/delta.json                        nothing new
                       ts=20261123T144343.449702Z/delta.json, extents.parquet       changed pages

A key frame is a snapshot as `store` writes it, so any Parquet reader reads it. A delta
directory has ``delta.json``: the name of the directory it follows (``base``) and the facts that
are not as they were there; ``extents.parquet`` if pages changed (see `deltas`); and each of
``vmas``, ``processes`` and ``swaps`` that is not as it was, whole. ``frames`` follows from the
pages.

Every directory is written under another name and renamed when complete. So after a crash, a
``kill -9`` or a full disc, what is there is whole, up to the last snapshot that was finished; what
was being written is left under a name that begins with ``.partial-`` and can be deleted.

In: snapshots, one after the other. Out: directories; and back. What can go wrong
(`SnapshotError`, with the path, which names the host): the disc is full, a base is missing, a
file is damaged, a delta follows one of another boot.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import pyarrow as pa

from .. import schema, store
from ..errors import SnapshotError
from ..snapshot import Snapshot
from . import deltas

DELTA_FILE = "delta.json"
EXTENTS_FILE = "extents.parquet"
_WHOLE = ("vmas", "processes", "swaps")


class Recorder:
    """Writes snapshots of one machine below `root`, as key frames and deltas.

    Parameters
    ----------
    root : path
        Directory of the data set; several recorders may share it.
    key_every : int
        A key frame at least after so many snapshots. 1 makes every snapshot one.
    compression_level : int
        Of zstd.

    Attributes
    ----------
    snapshots, keys, bytes : int
        Written so far.
    """

    def __init__(
        self, root: str | os.PathLike[str], *, key_every: int = 60, compression_level: int = 1
    ) -> None:
        if key_every < 1:
            raise ValueError(f"key_every is a number of snapshots from 1 up, not {key_every}")
        self.root, self.key_every, self.level = Path(root), key_every, compression_level
        self.snapshots = self.keys = self.bytes = 0
        self._last: Snapshot | None = None
        self._place: Path | None = None
        self._since_key = 0

    def add(self, snap: Snapshot) -> Path:
        """Write `snap`; gives its directory.

        Raises
        ------
        SnapshotError
            If the disc has no room (or refuses otherwise); what was written before is whole.
        """
        try:
            place = self._delta(snap) or self._key(snap)
        except OSError as error:
            raise SnapshotError(
                f"room for a snapshot ({error}); the {self.snapshots} before it are whole",
                path=str(self.root / store.place_of(snap.facts)),
            ) from error
        self.snapshots += 1
        self.bytes += sum(file.stat().st_size for file in place.iterdir())
        self._last, self._place = snap, place
        return place

    def _key(self, snap: Snapshot) -> Path:
        place = store.write(snap, self.root, compression_level=self.level)
        self.keys += 1
        self._since_key = 1
        return place

    def _delta(self, snap: Snapshot) -> Path | None:
        """Write `snap` as what is new in it; None where a key frame is due or not larger."""
        last, base = self._last, self._place
        if last is None or base is None or self._since_key >= self.key_every:
            return None
        old, new = last.arrow("pages"), snap.arrow("pages")
        if old.schema.names != new.schema.names or not _same_machine(last.facts, snap.facts):
            return None
        changed = deltas.between(
            old.replace_schema_metadata(None),
            new.replace_schema_metadata(None),
            int(snap.facts["page_size"]),
        )
        if 2 * sum(changed["n_pages"].to_pylist()) > len(new):
            return None
        place = self.root / store.place_of(snap.facts)
        with store.making(place) as partial:
            if len(changed):
                _write_extents(changed, partial / EXTENTS_FILE, self.level)
            for name in _WHOLE:
                table = snap.arrow(name)
                if not table.equals(last.arrow(name)):
                    path = partial / f"{name}.parquet"
                    store.write_table(table, name, path, self.level)
            text = json.dumps(_delta_facts(last.facts, snap.facts, base.name))
            (partial / DELTA_FILE).write_text(text)
        self._since_key += 1
        return place


def _same_machine(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return all(old.get(key) == new.get(key) for key in ("host", "boot_id", "page_size", "era"))


def _delta_facts(old: dict[str, Any], new: dict[str, Any], base: str) -> dict[str, Any]:
    return {
        "schema_version": schema.VERSION,
        "base": base,
        "facts": {k: v for k, v in new.items() if k not in old or old[k] != v},
        "without": [k for k in old if k not in new],
    }


def _write_extents(table: pa.Table, path: Path, level: int) -> None:
    """Columns of nothing but null are left out, and so is what only repeats the specification."""
    import pyarrow.parquet as pq

    table = table.select([n for n in table.schema.names if table[n].null_count < len(table)])
    table = pa.table({name: table[name] for name in table.schema.names})
    delta = [f.name for f in table.schema if pa.types.is_integer(f.type) and f.name != "pid"]
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=level,
        use_dictionary=[name for name in table.schema.names if name not in delta],
        column_encoding=dict.fromkeys(delta, "DELTA_BINARY_PACKED"),
        store_schema=False,
        write_statistics=False,
    )


# -- reading back ----------------------------------------------------------------------------


def read(
    place: PurePath, filesystem: Any, *, after: tuple[PurePath, Snapshot] | None = None
) -> Snapshot:
    """The snapshot in directory `place`, be it a key frame or a delta.

    Parameters
    ----------
    filesystem : pyarrow.fs.FileSystem
        Where `place` is.
    after : tuple of path and Snapshot, optional
        A snapshot read before and where; saves going back to the key frame if this one follows
        from it.
    """
    chain: list[tuple[PurePath, dict[str, Any]]] = []
    while after is None or place != after[0]:
        found = link(place, filesystem)
        if found is None:
            tables, facts = store.read_place(place, filesystem)
            return _follow(Snapshot(tables, facts), chain[::-1], filesystem)
        if any(place == seen for seen, _ in chain):
            raise SnapshotError("deltas that lead to a key frame", path=str(place), found="a ring")
        chain.append((place, found))
        place = place.parent / found["base"]
    return _follow(after[1], chain[::-1], filesystem)


def link(place: PurePath, filesystem: Any) -> dict[str, Any] | None:
    """What ``delta.json`` says; None for a key frame."""
    path = str(PurePosixPath(place) / DELTA_FILE)
    try:
        with filesystem.open_input_file(path) as file:
            found = json.loads(file.read())
        if int(found["schema_version"]) > schema.VERSION:
            raise SnapshotError(
                f"schema_version up to {schema.VERSION} (a newer pagemap_df wrote this)",
                path=path,
                found=found["schema_version"],
            )
        if not isinstance(found["base"], str) or "/" in found["base"]:
            raise KeyError("base")
        return {"base": found["base"], "facts": found["facts"], "without": found["without"]}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, SnapshotError):
            raise
        raise SnapshotError("JSON with base, facts and without", path=path) from error


def _follow(
    snap: Snapshot, chain: Iterable[tuple[PurePath, dict[str, Any]]], filesystem: Any
) -> Snapshot:
    """The snapshot that `snap` became by the deltas of `chain`."""
    chain = list(chain)
    if not chain:
        return snap
    facts = dict(snap.facts)
    tables = {name: snap.arrow(name) for name in _WHOLE}
    changes = []
    for place, link in chain:
        facts = {k: v for k, v in facts.items() if k not in link["without"]} | link["facts"]
        if not _same_machine(facts, snap.facts):
            raise SnapshotError("a delta of the same boot as its key frame", path=str(place))
        for name in _WHOLE:
            if _there(path := place / f"{name}.parquet", filesystem):
                tables[name] = store.read_table(path, name, filesystem)
        if _there(path := place / EXTENTS_FILE, filesystem):
            changes.append(_read_extents(path, filesystem))
    pages = snap.arrow("pages").replace_schema_metadata(None)
    if changes:
        pages = deltas.applied(pages, changes, tables["vmas"], int(facts["page_size"]))
    elif any(_there(place / "vmas.parquet", filesystem) for place, _ in chain):
        pages = deltas.applied(pages, [], tables["vmas"], int(facts["page_size"]))
    return Snapshot({**tables, "pages": pages}, facts)


def _there(path: PurePath, filesystem: Any) -> bool:
    return bool(filesystem.get_file_info(str(PurePosixPath(path))).is_file)


def _read_extents(path: PurePath, filesystem: Any) -> pa.Table:
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(str(path), partitioning=None, filesystem=filesystem)
        for column in schema.EXTENTS.columns:
            if column.name not in table.schema.names and not column.on_request:
                table = table.append_column(column.field, pa.nulls(len(table), column.type))
        return schema.conform(table, "extents")
    except (pa.ArrowException, OSError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise SnapshotError(f"a whole Parquet file of extents ({why})", path=str(path)) from error
