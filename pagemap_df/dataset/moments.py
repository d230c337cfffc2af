"""Where the snapshots of a data set are: a listing of ``host=…/ts=…``, and nothing read.

In: a directory on any file system of pyarrow's. Out: a `Moment` for each directory that has the
files of a snapshot or of a delta, and a reason for each that should be one and is not. What is
still being written (`store.PARTIAL`) is neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

from .. import schema
from ..watching import recording

STAMPS = ("%Y%m%dT%H%M%S.%fZ", "%Y%m%dT%H%M%SZ")
"""How the time in a directory's name is written."""


@dataclass(frozen=True)
class Moment:
    """One snapshot of the data set: whose, when, where, and whether it is whole or a delta."""

    host: str
    ts: datetime | None
    place: PurePosixPath
    whole: bool


def listed(filesystem: Any, root: PurePosixPath) -> tuple[list[Moment], list[dict[str, str]]]:
    """The moments below `root`, and directories that should be one and are not."""
    from pyarrow import fs

    found: dict[PurePosixPath, set[str]] = {}
    selector = fs.FileSelector(str(root), recursive=True, allow_not_found=True)
    for info in filesystem.get_file_info(selector):
        path = PurePosixPath(info.path)
        if info.type == fs.FileType.Directory:
            found.setdefault(path, set())
        elif info.is_file:
            found.setdefault(path.parent, set()).add(path.name)
    moments, bad = [], []
    needed = {f"{name}.parquet" for name in schema.TABLES}
    for place, files in found.items():
        if not (place.name.startswith("ts=") and place.parent.name.startswith("host=")):
            continue
        host = unquote(place.parent.name.removeprefix("host="))
        whole = recording.DELTA_FILE not in files
        if whole and (lost := sorted(needed - files)):
            reason = f"a snapshot of host {host} with all its files; {', '.join(lost)} missing"
            bad.append({"host": host, "path": str(place), "reason": reason})
        else:
            moments.append(Moment(host, _stamp(place.name), place, whole))
    return sorted(moments, key=lambda m: (m.host, m.place.name)), bad


def _stamp(name: str) -> datetime | None:
    """The time in ``ts=…``; None if it is none."""
    for form in STAMPS:
        try:
            return datetime.strptime(name.removeprefix("ts="), form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


def time_of(when: datetime | str | None) -> datetime | None:
    """A moment as `datetime` or ISO 8601 text, with a zone: UTC if it names none."""
    if when is None:
        return None
    found = when if isinstance(when, datetime) else datetime.fromisoformat(when)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found
