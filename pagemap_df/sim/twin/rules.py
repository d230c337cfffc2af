"""What the model cannot know of the kernel: declared, with the reason, and never a tolerance.

A `Rule` takes words out of the comparison. Nothing else does.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from .arena import Model


@dataclass(frozen=True)
class Rule:
    """Words that are not compared.

    Attributes
    ----------
    name : str
    reason : str
        Why the model cannot know them.
    blanks : tuple of str
        The words: columns of ``pages`` and ``vmas``; empty if it is something that the two
        sides do not show, or that is done to both alike.
    after : str
        The operation from which on they are not compared; empty for from the start.
    ends : bool
        The rest of a script is not compared once this happened; how often is counted.
    """

    name: str
    reason: str
    blanks: tuple[str, ...] = ()
    after: str = ""
    ends: bool = False


RULES = (
    Rule(
        "accessed",
        "Referenced adds to the accessed bits of entries those of folios (PG_referenced), which "
        "the kernel sets and clears along its LRU lists: on populating, unmapping, ageing.",
        ("smaps_referenced",),
    ),
    Rule(
        "victims",
        "Which pages memory pressure takes depends on the history of LRU lists: after `reclaim` "
        "the model is told which mapped pages and which cached pages of files are gone, and all "
        "that follows is compared, but not which of several swap areas was whose turn.",
        ("smaps_swap", "swap_type"),
        after="reclaim",
    ),
    Rule(
        "merged",
        "A merged page that went to swap comes back as what it was as long as the swap cache "
        "has it, and else as a copy for each. How long that is under memory pressure depends on "
        "when it was written out.",
        ends=True,
    ),
    Rule(
        "worker",
        "When the last slot of swap is taken, a worker of the kernel begins to take slots away "
        "from pages that are back in memory. Whether a page that needs one comes before the "
        "worker or after it is decided by the scheduler.",
        ends=True,
    ),
    Rule(
        "collapse",
        "MADV_COLLAPSE gives up with EAGAIN where a page must be read from swap, and does not "
        "where the swap cache has it still. How long that is under memory pressure depends on "
        "when it was written out.",
        ends=True,
    ),
    Rule(
        "pieces",
        "Reading ahead around pages that are in memory already makes several requests. Who "
        "faulted waits for one of them, and maps what has come of the others by then.",
        ends=True,
    ),
    Rule(
        "names",
        "Page frame numbers, swap offsets, inodes and devices are compared by who shares them.",
        ("pfn", "swap_offset", "inode", "device"),
    ),
    Rule(
        "placement",
        "Where a mapping without at= goes: the kernel would put it among those of the real "
        "program, so it is asked for the place that the model chose.",
    ),
    Rule(
        "batches",
        "Pages on their way between LRU lists wait in batches of each CPU, and hold references "
        "and flags there: the batches are drained after each operation, one CPU does it all, and "
        "pages on their way to swap are waited for.",
    ),
    Rule(
        "background",
        "khugepaged and ksmd act when they please: khugepaged sleeps, ksmd runs when told to.",
    ),
    Rule(
        "memory",
        "How much RAM there is: memory SIZE is that of the model alone, and real processes have "
        "pages of their own in a cgroup. Where the model runs out of it, or a cgroup reaches its "
        "limit, the kernel need not.",
        ends=True,
    ),
    Rule(
        "folios",
        "Large folios of files, which readahead makes where it can: files lie on a file system "
        "that has none.",
    ),
)
"""Every one of them."""


def ended(model: Model) -> str | None:
    """The rule by which a script is not compared any further, if there is one."""
    kernel = model.machine.kernel
    happened = {
        "memory": kernel.short,
        "worker": kernel.swap.raced,
        "merged": model.merged_out,
        "collapse": model.pressed and kernel.collapse_read,
        "pieces": kernel.read_in_pieces,
    }
    return next((name for name, it in happened.items() if it), None)


def blanked(done: Container[str]) -> frozenset[str]:
    """Words that are not compared once the operations `done` were carried out."""
    return frozenset(
        word for rule in RULES for word in rule.blanks if not rule.after or rule.after in done
    )
