"""From a script that fails to the few operations that make it fail.

`shrink` takes operations away in ever smaller pieces (*ddmin*, Zeller and Hildebrandt 2002),
then makes numbers smaller, as long as the script still makes sense and still fails. It knows
nothing of why it fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ...errors import ScriptError
from ..script import Script

_NUMBER = re.compile(r"(?<![\w.])\d+(?![\w.])")


def shrink(script: Script, fails: Callable[[Script], bool], *, budget: int = 400) -> Script:
    r"""The smallest script found that fails as `script` does.

    Parameters
    ----------
    fails : callable
        Whether a script fails; a `ScriptError` from it means that it makes no sense.
    budget : int
        How many scripts to try at most.

    Examples
    --------
    >>> long = Script.parse("proc a\na: m = mmap 9 private anon rw\na: write m\nsnap end")
    >>> print(shrink(long, lambda s: "mmap" in s.dump() and "proc" in s.dump()).dump(), end="")
    proc a
    a: m = mmap 1 private anon rw
    """
    lines = script.dump().splitlines()
    tried: dict[str, bool] = {}

    def still(candidate: list[str]) -> bool:
        text = "\n".join(candidate)
        if text not in tried and len(tried) < budget:
            tried[text] = _fails(text, fails)
        return tried.get(text, False)

    better = True
    while better:
        before = list(lines)
        lines = _fewer(lines, still)
        lines = _smaller(lines, still)
        better = lines != before
    return Script.parse("\n".join(lines))


def _fails(text: str, fails: Callable[[Script], bool]) -> bool:
    try:
        return fails(Script.parse(text))
    except ScriptError:
        return False


def _fewer(lines: list[str], still: Callable[[list[str]], bool]) -> list[str]:
    """Without the pieces that are not needed."""
    size = max(1, len(lines) // 2)
    while size:
        at = 0
        while at < len(lines):
            candidate = lines[:at] + lines[at + size :]
            if candidate and still(candidate):
                lines = candidate
            else:
                at += size
        size //= 2
    return lines


def _smaller(lines: list[str], still: Callable[[list[str]], bool]) -> list[str]:
    """With simpler lines."""
    for at in range(len(lines)):
        better = True
        while better:
            better = False
            for simpler in _simpler(lines[at]):
                candidate = [*lines[:at], simpler, *lines[at + 1 :]]
                if simpler != lines[at] and still(candidate):
                    lines, better = candidate, True
                    break
    return lines


def _simpler(line: str) -> Iterator[str]:
    """A line without its slice, without its last word, with smaller numbers."""
    if line.startswith("snap"):
        return
    yield re.sub(r"\[[^]]*\]", "", line, count=1)
    yield line.rpartition(" ")[0]
    for found in _NUMBER.finditer(line):
        number = int(found.group())
        for smaller in sorted({1, 2, number // 2, number - 1}):
            if 0 < smaller < number:
                yield line[: found.start()] + str(smaller) + line[found.end() :]
