"""What a table *is*: five specifications and a checker that can ask or raise.

A snapshot is five Arrow tables. They are ordinary tables; nothing here subclasses or wraps
a frame. This module says which columns each has, with type, unit and what null means, and
turns a table into pandas without losing digits.

All integers are signed (unsigned ones break ``diff`` in pandas, Spark and Delta) except the
five-bit swap type. Addresses and sizes are bytes; ``pfn`` and ``swap_offset`` are indices
in units of a base page. **Unknown is null, never 0.**

The facts of the machine that was looked at (page size, kernel, what could not be seen and
why) travel in one schema-metadata key, ``pagemap_df``, as JSON.

What can go wrong: a table lacks a column, has another type, or holds null where the
specification forbids it. `problems` lists that, `conform` repairs what a cast can repair
and raises `TableError` for the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from .entries import KINDS
from .errors import FormatError, TableError

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
"""Version of the table layout; readers refuse a newer one."""

METADATA_KEY = b"pagemap_df"

DtypeBackend = Literal["numpy", "pyarrow"]

_TEXT = pa.dictionary(pa.int32(), pa.string())
_KIND = pa.dictionary(pa.int8(), pa.string())


@dataclass(frozen=True)
class Column:
    """One column: its Arrow type, whether null may stand in it, and what it says."""

    name: str
    type: pa.DataType
    doc: str
    nullable: bool = False
    on_request: bool = False

    @cached_property
    def field(self) -> pa.Field:
        """The column as an Arrow field, its sentence kept as metadata."""
        return pa.field(self.name, self.type, self.nullable, {"doc": self.doc})


@dataclass(frozen=True)
class Spec:
    """One table: what a row is, what rows are sorted by, and the columns."""

    name: str
    row: str
    sorted_by: tuple[str, ...]
    columns: tuple[Column, ...]

    def __getitem__(self, name: str) -> Column:
        """The column called `name`; `TableError` lists the ones there are."""
        for column in self.columns:
            if column.name == name:
                return column
        raise TableError(
            f"table {self.name!r} has no column {name!r}; it has "
            + ", ".join(column.name for column in self.columns)
        )

    def schema(self, names: Iterable[str] | None = None) -> pa.Schema:
        """Arrow schema of the columns in `names`, or of those that are always there."""
        if names is None:
            names = [column.name for column in self.columns if not column.on_request]
        return pa.schema([self[name].field for name in names])


def _flag(name: str, doc: str, *, nullable: bool = True) -> Column:
    return Column(name, pa.bool_(), doc, nullable)


_FRAME_FACTS = (
    Column("mapcount", pa.int32(), "page table entries that map the frame (kpagecount)", True),
    Column("flags", pa.int64(), "flag word of /proc/kpageflags", True),
    Column("cgroup", pa.int64(), "inode of the memory cgroup charged (kpagecgroup)", True),
)

PAGES = Spec(
    "pages",
    "populated page of a process",
    ("pid", "vaddr"),
    (
        Column("pid", pa.int32(), "process"),
        Column("vaddr", pa.int64(), "address of the page, bytes"),
        Column("kind", _KIND, "what the word says: " + ", ".join(KINDS)),
        _flag("present", "the page is in memory", nullable=False),
        _flag("swapped", "the page is in a swap area: kind is swap", nullable=False),
        Column("pfn", pa.int64(), "page frame number; null if hidden or not in memory", True),
        Column("swap_type", pa.uint8(), "number of the swap area; null if not in swap", True),
        Column("swap_offset", pa.int64(), "slot in the area, in pages; null likewise", True),
        _flag("file", "bit 61: file page or shared anonymous; null before Linux 3.5"),
        _flag("exclusive", "bit 56: one page table entry maps it; null before Linux 4.3"),
        _flag("soft_dirty", "bit 55: written since last reset; null if the kernel has none"),
        _flag("uffd_wp", "bit 57: userfaultfd write-protected; null before Linux 5.14"),
        _flag("guard", "bit 58: guard region; null before Linux 6.15"),
        Column("vma", pa.int32(), "row of the `vmas` table the page lies in", True),
        *(Column(c.name, c.type, c.doc, True, on_request=True) for c in _FRAME_FACTS),
        Column("huge", pa.bool_(), "mapped by a huge page table entry", True, on_request=True),
        Column("word", pa.int64(), "the raw 64-bit word, same bits, signed", on_request=True),
    ),
)

_SAME_IN_AN_EXTENT = ("file", "exclusive", "soft_dirty", "uffd_wp", "guard", "vma")

EXTENTS = Spec(
    "extents",
    "run of neighbouring pages of one mapping, alike and in consecutive places",
    ("pid", "start"),
    (
        PAGES["pid"],
        Column("start", pa.int64(), "address of the first page, bytes"),
        Column("n_pages", pa.int64(), "pages in the run"),
        PAGES["kind"],
        Column("pfn", pa.int64(), "frame of the first page; of all, for kind zero", True),
        PAGES["swap_type"],
        Column("swap_offset", pa.int64(), "slot of the first page; the next has the next", True),
        *(PAGES[name] for name in _SAME_IN_AN_EXTENT),
        *(PAGES[name] for name in ("mapcount", "flags", "cgroup", "huge")),
        Column("word", pa.int64(), "the raw word of the first page", on_request=True),
    ),
)
"""The compact form of ``pages``; see `extents`. Not one of the five: it says nothing new."""

SMAPS_FIGURES = (
    "rss",
    "pss",
    "pss_dirty",
    "shared_clean",
    "shared_dirty",
    "private_clean",
    "private_dirty",
    "referenced",
    "anonymous",
    "ksm",
    "lazyfree",
    "anonhugepages",
    "shmempmdmapped",
    "filepmdmapped",
    "shared_hugetlb",
    "private_hugetlb",
    "swap",
    "swappss",
    "locked",
)
"""The smaps fields kept on request, each as column ``smaps_<name>`` in bytes."""

VMAS = Spec(
    "vmas",
    "mapping of a process (one line of maps)",
    ("pid", "start"),
    (
        Column("pid", pa.int32(), "process"),
        Column("start", pa.int64(), "first address, bytes"),
        Column("end", pa.int64(), "first address behind it, bytes"),
        Column("perms", _TEXT, "rwx and s(hared) or p(rivate), as in maps"),
        Column("offset", pa.int64(), "offset into the file, bytes"),
        Column("device", _TEXT, "major:minor in hex, as in maps"),
        Column("inode", pa.int64(), "inode number; 0 for none"),
        Column("path", _TEXT, "name as in maps, undecodable bytes as \\xNN; empty for none"),
        Column("kind", _TEXT, "heap, stack, anon, file, shmem, hugetlb, vdso, vvar or special"),
        _flag("changed", "the mapping changed while its pages were read", nullable=False),
        *(
            Column(f"smaps_{name}", pa.int64(), f"the kernel's own {name}, bytes", True, True)
            for name in SMAPS_FIGURES
        ),
        Column("smaps_pagesize", pa.int64(), "KernelPageSize of smaps, bytes", True, True),
        Column("vm_flags", _TEXT, "two-letter VmFlags of smaps", True, True),
    ),
)

FRAMES = Spec(
    "frames",
    "page frame seen",
    ("pfn",),
    (Column("pfn", pa.int64(), "page frame number"), *_FRAME_FACTS),
)

SWAPS = Spec(
    "swaps",
    "swap area (one line of /proc/swaps)",
    ("swap_type",),
    (
        Column("swap_type", pa.uint8(), "its number in swap entries; null if not certain", True),
        Column("path", pa.string(), "file or device, undecodable bytes as \\xNN"),
        Column("kind", _TEXT, "file or partition"),
        Column("size", pa.int64(), "bytes, without the header page"),
        Column("used", pa.int64(), "bytes in use"),
        Column("priority", pa.int32(), "higher is filled first"),
        Column("evidence", pa.string(), "how swap_type is known, or why it is not"),
    ),
)

PROCESSES = Spec(
    "processes",
    "process taken",
    ("pid",),
    (
        Column("pid", pa.int32(), "process"),
        Column("ppid", pa.int32(), "its parent", True),
        Column("name", _TEXT, "comm, at most 15 bytes", True),
        Column("cmdline", pa.string(), "arguments joined by blanks", True),
        Column("uid", pa.int64(), "real user", True),
        Column("start_time", pa.int64(), "clock ticks after boot (field 22 of stat)", True),
        Column("cgroup", _TEXT, "path in the unified or the memory hierarchy", True),
        Column("state", _TEXT, "one letter of stat, when first looked at", True),
        Column("mm", pa.int32(), "lowest pid with the same address space; null if unknown", True),
    ),
)

TABLES: Mapping[str, Spec] = {spec.name: spec for spec in (PAGES, VMAS, FRAMES, SWAPS, PROCESSES)}
"""The five specifications by name."""

_SPECS: Mapping[str, Spec] = {**TABLES, EXTENTS.name: EXTENTS}


def problems(table: pa.Table, name: str) -> list[str]:
    """What keeps `table` from being a ``name`` table, one sentence each; empty if nothing.

    Examples
    --------
    >>> problems(pa.table({"pfn": pa.array([7.0])}), "frames")[0]
    'frames.pfn is double, expected int64'
    """
    spec = _SPECS[name]
    found = []
    for column in spec.columns:
        if column.name not in table.schema.names:
            if not column.on_request:
                found.append(f"{name}.{column.name} is missing")
            continue
        values = table[column.name]
        if values.type != column.type:
            found.append(f"{name}.{column.name} is {values.type}, expected {column.type}")
        elif values.null_count and not column.nullable:
            found.append(f"{name}.{column.name} holds null, which has no meaning there")
    return found


def conform(table: pa.Table, name: str) -> pa.Table:
    """`table` with the types and column order of the ``name`` specification.

    Columns the specification does not know are kept, behind the others. Raises `TableError`
    where a column is missing or cannot be cast.

    Examples
    --------
    >>> rough = pa.table({"pfn": pa.array([7, 8], pa.uint32()), "mapcount": [1, 2],
    ...                   "flags": [None, 64], "cgroup": pa.nulls(2)})
    >>> conform(rough, "frames").schema.field("pfn").type
    DataType(int64)
    """
    spec = _SPECS[name]
    if _is_exact(table, spec):
        return table
    known = [column for column in spec.columns if column.name in table.schema.names]
    extra = [n for n in table.schema.names if n not in {column.name for column in known}]
    arrays, fields = [], []
    for column in known:
        try:
            arrays.append(_cast(table[column.name], column.type))
        except pa.ArrowInvalid as error:
            raise TableError(f"{name}.{column.name} does not fit {column.type}: {error}") from error
        fields.append(column.field)
    arrays += [table[other] for other in extra]
    fields += [table.schema.field(other) for other in extra]
    result = pa.table(arrays, schema=pa.schema(fields, table.schema.metadata))
    if wrong := problems(result, name):
        raise TableError("; ".join(wrong))
    return result


def _is_exact(table: pa.Table, spec: Spec) -> bool:
    """Whether `table` was made by the specification, so that there is nothing to do."""
    fields = list(table.schema)
    place = {column.name: at for at, column in enumerate(spec.columns)}
    order = [place.get(field.name, -1) for field in fields]
    return (
        order == sorted(order)
        and {column.name for column in spec.columns if not column.on_request}
        <= set(table.schema.names)
        and all(
            field.equals(spec.columns[at].field) for field, at in zip(fields, order, strict=True)
        )
        and not any(
            table.column(at).null_count for at, field in enumerate(fields) if not field.nullable
        )
    )


def _cast(values: pa.ChunkedArray, to: pa.DataType) -> pa.ChunkedArray:
    if values.type == to:
        return values
    if pa.types.is_dictionary(to) and not pa.types.is_dictionary(values.type):
        return values.cast(to.value_type).dictionary_encode().cast(to)
    return values.cast(to)


def empty(name: str, columns: Iterable[str] | None = None) -> pa.Table:
    """A ``name`` table without rows."""
    return _SPECS[name].schema(columns).empty_table()


def with_facts(table: pa.Table, facts: Mapping[str, Any]) -> pa.Table:
    """`table` carrying `facts` in its schema metadata."""
    metadata = dict(table.schema.metadata or {})
    metadata[METADATA_KEY] = json.dumps({"schema_version": VERSION, **facts}).encode()
    return table.replace_schema_metadata(metadata)


def facts_of(metadata: Mapping[bytes, bytes] | None, path: str | None = None) -> dict[str, Any]:
    """The facts inside schema metadata; `FormatError` if they are missing or from the future."""
    if not metadata or METADATA_KEY not in metadata:
        raise FormatError(
            "schema metadata with the key 'pagemap_df' (was this file written by pagemap_df?)",
            path=path,
        )
    try:
        facts = json.loads(metadata[METADATA_KEY])
        version = int(facts["schema_version"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise FormatError(
            "JSON with a schema_version under the key 'pagemap_df'", path=path
        ) from error
    if version > VERSION:
        raise FormatError(
            f"schema_version up to {VERSION} (a newer pagemap_df wrote this; upgrade to read it)",
            path=path,
            found=version,
        )
    return dict(facts)


_MASKED = {
    pa.int64(): "Int64",
    pa.int32(): "Int32",
    pa.int16(): "Int16",
    pa.int8(): "Int8",
    pa.uint8(): "UInt8",
    pa.bool_(): "boolean",
}


def to_pandas(table: pa.Table, dtype_backend: DtypeBackend = "numpy") -> pd.DataFrame:
    """`table` as a DataFrame whose integers stay integers.

    With ``"numpy"`` an integer or bool column whose Arrow field is nullable becomes ``Int64``,
    ``UInt8``, ``boolean`` and so on whether or not this table holds a null, so that dtypes
    never depend on the data; the others are NumPy, dictionaries become ``category``. With
    ``"pyarrow"`` every column stays Arrow. The facts are in ``.attrs["pagemap_df"]``.

    Examples
    --------
    >>> frames = conform(pa.table({"pfn": [7, 8], "mapcount": [1, None], "flags": [0, 0],
    ...                            "cgroup": pa.nulls(2)}), "frames")
    >>> print(to_pandas(frames).dtypes.to_string())
    pfn         int64
    mapcount    Int32
    flags       Int64
    cgroup      Int64
    """
    import pandas as pd

    if dtype_backend not in ("numpy", "pyarrow"):
        raise ValueError(f"dtype_backend is 'numpy' or 'pyarrow', not {dtype_backend!r}")
    if dtype_backend == "pyarrow":
        frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    else:
        parts = {}
        masked = {type_: pd.api.types.pandas_dtype(name) for type_, name in _MASKED.items()}
        for field in table.schema:
            values = table[field.name]
            as_masked = field.nullable and field.type in masked
            found = values.to_pandas(types_mapper=masked.get if as_masked else None)
            # Plain numbers in a single chunk are handed over without a copy, and read-only.
            alone = pa.types.is_integer(field.type) and values.num_chunks == 1
            parts[field.name] = found.copy() if alone and not as_masked else found
        frame = pd.DataFrame(parts, copy=False)
    if table.schema.metadata and METADATA_KEY in table.schema.metadata:
        frame.attrs["pagemap_df"] = facts_of(table.schema.metadata)
    return frame
