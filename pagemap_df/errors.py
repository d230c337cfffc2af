"""Every error this package raises on purpose.

::

    PagemapError
    ├── ProcessGone       also ProcessLookupError   the process left while we looked, or never was
    ├── NotPermitted      also PermissionError      the kernel refused; says which right is missing
    ├── FormatError       also ValueError           bytes or text are not what they should be
    │   ├── EraError                                words fit no pagemap layout, or fit several
    │   ├── SnapshotError                           files are not a snapshot this version can read
    │   └── ScriptError                             a simulator script does not parse or cannot run
    ├── TableError        also ValueError           a table lacks a column or holds a wrong value
    │   └── NoPages       also AttributeError       a frame of something else, asked for pages
    └── NotAvailable      also LookupError          a fact that this source or capture cannot give
        └── Hidden        also NotPermitted         because the reader lacked the right to see it

    PagemapWarning        also UserWarning          an answer was given, with a doubt worth reading

Each message says what was expected, where, and what to do. A reader who only knows the
built-in exceptions can catch those.
"""

from __future__ import annotations


class PagemapError(Exception):
    """Base of all errors that ``pagemap_df`` raises on purpose."""


class ProcessGone(PagemapError, ProcessLookupError):
    """The process exited, was never there, or has no memory of its own (a kernel thread)."""


class NotPermitted(PagemapError, PermissionError):
    """The kernel refused. The message names the file and the right that would open it."""


class FormatError(PagemapError, ValueError):
    """Bytes or text are not what they should be.

    Parameters
    ----------
    expected : str
        What should have stood there.
    path : str, optional
        The file, relative to the source's root where it has one.
    offset : int, optional
        Byte offset (or 1-based line for text, said so in `unit`) of the first wrong byte.
    found : object, optional
        What stood there instead.
    unit : str, default "byte"
        Unit of `offset`.

    Examples
    --------
    >>> print(FormatError("a hex address range", path="7/maps", offset=3, unit="line", found=b"?"))
    7/maps, line 3: expected a hex address range, found b'?'
    """

    def __init__(
        self,
        expected: str,
        *,
        path: str | None = None,
        offset: int | None = None,
        found: object = None,
        unit: str = "byte",
    ) -> None:
        self.expected, self.path, self.offset, self.found = expected, path, offset, found
        where = ", ".join(
            part for part in (path, None if offset is None else f"{unit} {offset}") if part
        )
        message = f"expected {expected}"
        if found is not None:
            message += f", found {found!r}"
        super().__init__(f"{where}: {message}" if where else message)


class EraError(FormatError):
    """Pagemap words fit no known layout, or too little is there to tell which one."""


class SnapshotError(FormatError):
    """A file or directory is not a snapshot that this version can read."""


class ScriptError(FormatError):
    """A simulator script does not parse, or an operation in it cannot be carried out."""


class TableError(PagemapError, ValueError):
    """A table lacks a column, or a column has the wrong type or an impossible value."""


class NoPages(TableError, AttributeError):
    """A frame that lacks the columns of ``pages``; pandas expects an `AttributeError`."""


class NotAvailable(PagemapError, LookupError):
    """A fact that this source, this kernel or this capture cannot give."""


class Hidden(NotAvailable, NotPermitted):
    """A fact that the capture lacks because its reader had no right to see it."""


class PagemapWarning(UserWarning):
    """An answer was given, but with a doubt that the reader should know of."""
