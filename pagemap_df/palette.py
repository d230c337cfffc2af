"""The colours of all pictures, each chosen once.

Colours are hex strings by the name of what they stand for, in the order of legends. Within
each table any two differ by at least 15 in CIELAB, for full colour vision and for the three
kinds of colour blindness (as simulated by Machado, Oliveira and Fernandes, 2009). Tables are
not meant to be mixed. `SHARERS` is a scale: dark to light is few to many.

Nothing here needs a plotting library.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

STATES: Mapping[str, str] = MappingProxyType(
    {
        "anonymous, own": "#0072B2",
        "anonymous, shared": "#7CC4F0",
        "file, own": "#003E16",
        "file, shared": "#B7FD95",
        "shared memory": "#DE74A1",
        "KSM": "#E7CE3B",
        "hugetlb": "#300079",
        "in memory": "#AC8458",
        "zero page": "#DDDDDD",
        "in swap": "#D55E00",
        "being moved": "#632966",
        "guard": "#000000",
        "marker": "#60635A",
    }
)
"""What a page is; ``in memory`` where it is not known of what nature or whose it is."""

SHARERS: Mapping[str, str] = MappingProxyType(
    {
        "1": "#440154",
        "2": "#414487",
        "3 to 4": "#2A788E",
        "5 to 8": "#22A884",
        "9 to 16": "#7AD151",
        "17 and more": "#FDE725",
        "unknown": "#A0522D",
        "not mapped": "#DDE6F0",
    }
)
"""How many page table entries map a page frame."""

SHARER_STEPS = (2, 3, 5, 9, 17)
"""Where the classes of `SHARERS` begin, but the first."""

OWNERS = (
    *("#0072B2", "#E69F00", "#00B05B", "#904F73"),
    *("#2BDCFF", "#D53B0E", "#FFD671", "#040DA6"),
)
"""Processes, VMAs or whatever else there is a handful of; the largest first."""

SEVERAL, OTHERS, NOBODY = "#222222", "#96A8A1", "#E8E8E8"
"""Held by several; by others than those that have a colour of `OWNERS`; by nobody known."""

USES: Mapping[str, str] = MappingProxyType(
    {
        "hole": "#FFDCC3",
        "offline": "#B6D6FF",
        "poisoned": "#C30016",
        "free": "#CDCDCD",
        "slab": "#AB9A0F",
        "page tables": "#920D29",
        "reserved": "#8E3B61",
        "hugetlb": "#300079",
        "zero page": "#000000",
        "KSM": "#FFC100",
        "anonymous": "#0072B2",
        "shared memory": "#CA7AAB",
        "page cache": "#2CB57F",
        "kernel": "#74A24D",
    }
)
"""What a page frame is in use for, as `layout.USES`."""

CHANGES: Mapping[str, str] = MappingProxyType(
    {
        "guard_placed": "#000000",
        "guard_removed": "#6B6582",
        "swapped_out": "#D55E00",
        "swapped_in": "#E18E62",
        "zero_mapped": "#B8D4A9",
        "zero_dropped": "#FFE5F6",
        "merged": "#F6CD2C",
        "faulted_in": "#0072B2",
        "freed": "#ABFF99",
        "huge_formed": "#24007D",
        "huge_split": "#B39FAF",
        "unshared": "#860E47",
        "migrated": "#996557",
        "shared": "#7CC4F0",
        "left_alone": "#003400",
        "other": "#58276E",
    }
)
"""What became of a page, as `changes.CHANGES`."""

FOLIOS: Mapping[str, str] = MappingProxyType(
    {
        "mapped by PMD": "#300079",
        "aligned": "#0072B2",
        "unaligned": "#7CC4F0",
        "partial": "#D55E00",
        "uncertain": "#E7CE3B",
        "small pages": "#DDDDDD",
    }
)
"""How memory is covered by large folios, as `hugepages.huge` has it."""

UNTOUCHED = "#F4F4F6"
"""Mapped or there, but nothing in it that the data knows of."""
