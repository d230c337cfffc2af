"""Snapshots as Parquet: one directory for each snapshot, one file for each table.

::

    somewhere/host=db1/ts=20261123T144341.449620Z/pages.parquet
                                                  vmas.parquet  frames.parquet  …

Any Parquet reader takes it from there (``read_parquet('somewhere/*/*/pages.parquet',
hive_partitioning=true)`` in DuckDB). Integers are delta encoded, which for page tables is
worth a factor of ten over the defaults; rows are sorted, and the files say so.

A snapshot is written beside its place under a name that begins with ``.partial-`` and
renamed when all files are complete, so what has the right name is whole.

What can go wrong: a directory holds no snapshot, or several; a file is damaged, lacks the
facts, or comes from a newer version. All are `SnapshotError` with the path.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import pyarrow as pa

from . import schema
from .errors import FormatError, SnapshotError, TableError

if TYPE_CHECKING:
    from .snapshot import Snapshot

ROW_GROUP = 1 << 20
"""Rows that a reader can skip together."""

_ROWS = b"pagemap_df.rows"
"""Schema metadata: how many rows there are. Pages have checksums, the footer has none."""

PARTIAL = ".partial-"
"""What the name of a directory begins with while it is being written."""


def place_of(facts: dict[str, Any]) -> Path:
    """Where a snapshot with these facts goes, relative to the root it is written under.

    Examples
    --------
    >>> place_of({"host": "db 1", "taken_at": "2026-11-23T14:43:41.449620+00:00"}).as_posix()
    'host=db%201/ts=20261123T144341.449620Z'
    """
    when = str(facts.get("taken_at", "unknown"))
    stamp = when.replace("-", "").replace(":", "").replace("+0000", "Z")
    return Path(f"host={quote(str(facts.get('host', 'unknown')), safe='')}") / f"ts={stamp}"


def write(snap: Snapshot, root: str | os.PathLike[str], *, compression_level: int = 3) -> Path:
    """Write `snap` below `root`; gives the directory it is in now.

    Parameters
    ----------
    compression_level : int
        Of zstd: 3 for keeping, 1 while the host is busy.

    Raises
    ------
    SnapshotError
        If there is a snapshot of the same host and time already.
    """
    place = Path(root) / place_of(snap.facts)
    with making(place) as partial:
        for name in schema.TABLES:
            write_table(snap.arrow(name), name, partial / f"{name}.parquet", compression_level)
    return place


@contextmanager
def making(place: Path) -> Iterator[Path]:
    """A new directory that is at `place` when the ``with`` ends well, and else is nowhere."""
    if place.exists():
        raise SnapshotError("no snapshot of this host and time yet", path=str(place))
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=place.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(place)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_table(table: pa.Table, name: str, path: Path, level: int) -> None:
    """Write one table of a snapshot as Parquet."""
    import pyarrow.parquet as pq

    delta = {
        field.name: "DELTA_BINARY_PACKED"
        for field in table.schema
        if pa.types.is_integer(field.type) and field.name not in ("pid", "swap_type")
    }
    plain = [field.name for field in table.schema if field.name not in delta]
    order = [
        pq.SortingColumn(table.schema.get_field_index(column))
        for column in schema.TABLES[name].sorted_by
    ]
    told = {**(table.schema.metadata or {}), _ROWS: str(len(table)).encode()}
    pq.write_table(
        table.replace_schema_metadata(told),
        path,
        row_group_size=ROW_GROUP,
        compression="zstd",
        compression_level=level,
        use_dictionary=plain,
        column_encoding=delta,
        sorting_columns=order,
        write_page_checksum=True,
    )


def find(root: str | os.PathLike[str]) -> list[Path]:
    """The directories below `root` that hold a whole snapshot, or `root` itself; sorted."""
    root = Path(root)
    if (root / "pages.parquet").is_file():
        return [root]
    found = {path.parent for path in root.glob("**/pages.parquet")}
    return sorted(path for path in found if not _is_partial(path.relative_to(root)))


def _is_partial(path: Path) -> bool:
    return any(part.startswith(PARTIAL) for part in path.parts)


def read(root: str | os.PathLike[str]) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    """The tables and facts of the one snapshot at or below `root`."""
    places = find(root)
    if len(places) != 1:
        some = ", ".join(str(place.relative_to(root)) for place in places[:3])
        raise SnapshotError(
            "one snapshot (a directory with pages.parquet)",
            path=str(root),
            found=f"{len(places)} of them: {some}" if places else "none",
        )
    return read_place(places[0])


def read_place(
    place: PurePath, filesystem: Any = None
) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    """The tables and facts of the snapshot whose files are in `place`."""
    tables = {
        name: read_table(place / f"{name}.parquet", name, filesystem) for name in schema.TABLES
    }
    facts = schema.facts_of(tables["pages"].schema.metadata)
    _same_facts(tables.values(), facts, place)
    return tables, facts


def facts_at(place: PurePath, filesystem: Any = None) -> dict[str, Any]:
    """The facts of the snapshot in `place`, from the end of one file alone."""
    import pyarrow.parquet as pq

    path = place / "pages.parquet"
    where = path if filesystem is None else path.as_posix()
    try:
        return schema.facts_of(pq.read_schema(where, filesystem=filesystem).metadata)
    except FormatError as error:
        raise SnapshotError(error.expected, path=str(path), found=error.found) from error
    except (pa.ArrowException, OSError) as error:
        why = str(error).partition("\n")[0]
        raise SnapshotError(f"a whole Parquet file ({why})", path=str(path)) from error


def read_table(path: PurePath, name: str, filesystem: Any = None) -> pa.Table:
    """One table of a snapshot, checked; `filesystem` is one of pyarrow's."""
    import pyarrow.parquet as pq

    where = path if filesystem is None else path.as_posix()
    try:
        with pq.ParquetFile(where, filesystem=filesystem, page_checksum_verification=True) as file:
            table = file.read()
        schema.facts_of(table.schema.metadata, str(path))
        metadata = dict(table.schema.metadata)
        told = metadata.pop(_ROWS, None)
        if told is not None and told != str(len(table)).encode():
            raise FormatError(f"{told.decode(errors='replace')} rows", found=len(table))
        return schema.conform(table.replace_schema_metadata(metadata), name)
    except FileNotFoundError as error:
        raise SnapshotError("a file for each table", path=str(path), found="none") from error
    except FormatError as error:
        raise SnapshotError(error.expected, path=str(path), found=error.found) from error
    except TableError as error:
        raise SnapshotError(f"the columns of a {name} table ({error})", path=str(path)) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        why = str(error).partition("\n")[0]
        raise SnapshotError(f"a whole Parquet file ({why})", path=str(path)) from error


def _same_facts(tables: Iterable[pa.Table], facts: dict[str, Any], place: PurePath) -> None:
    for table in tables:
        other = schema.facts_of(table.schema.metadata)
        if other != facts:
            raise SnapshotError(
                "files of one snapshot, with the same facts in each",
                path=str(place),
                found="files of two put together, or one that is damaged",
            )


def host_of(place: PurePath) -> str:
    """The host in a snapshot's path."""
    return unquote(place.parent.name.removeprefix("host="))
