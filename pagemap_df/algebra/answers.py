"""Answers as tables: arrays with unknown places in, pandas with nulls out.

Every analysis ends here, so that all of them hand out the same dtypes whatever the data, and
say what a reader must know of a column in ``.attrs["accuracy"]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .. import schema
from ..entries import Bools

if TYPE_CHECKING:
    import pandas as pd


class Maybe(NamedTuple):
    """Values of a column, and where they are unknown."""

    values: NDArray[Any]
    unknown: Bools


def result(columns: Mapping[str, Any], notes: Mapping[str, str] | None = None) -> pd.DataFrame:
    """A table of answers as pandas; dtypes never depend on the data.

    Parameters
    ----------
    columns : mapping of str to ndarray, Maybe, pyarrow.Array or list
        An array has no nulls, ever; all others may.
    notes : mapping of str to str
        What a reader must know of a column; becomes ``.attrs["accuracy"]``.

    Examples
    --------
    >>> unknown = Maybe(np.array([4096, 0]), np.array([False, True]))
    >>> result({"pid": np.array([7, 8]), "pss": unknown}).dtypes.to_list()
    [dtype('int64'), Int64Dtype()]
    """
    arrays, fields = [], []
    for name, values in columns.items():
        plain = isinstance(values, np.ndarray)
        if isinstance(values, Maybe):
            array = pa.array(values.values, mask=values.unknown)
        else:
            array = pa.array(values) if plain or isinstance(values, list) else values
        arrays.append(array)
        fields.append(pa.field(name, array.type, not plain))
    frame = schema.to_pandas(pa.table(arrays, schema=pa.schema(fields)))
    frame.attrs["accuracy"] = dict(notes or {})
    return frame
