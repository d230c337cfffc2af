"""The grammar of script lines: which words each operation takes, in both directions.

A form is a list of slots. ``name:kind`` is a word that must be there, ``flag?`` one that may,
``key=kind?`` one with a value. `script` says what the operations mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ScriptError
from .mm.hardware import size_of
from .mm.madvise import ADVICE
from .process import protection

MACHINE_FORMS = {
    "memory": "size:size",
    "swap": "size:size prio=int? partition?",
    "swapoff": "type:count",
    "file": "name:new pages:count cold?",
    "memfd": "name:new pages:count",
    "truncate": "file:word pages:count",
    "unlink": "file:word",
    "cgroup": "name:new limit=size?",
    "hugepages": "count:count",
    "knob": "setting:setting",
    "ksm": "action:run",
    "reclaim": "pages:count",
    "proc": "name:new uid=count? cgroup=word? image=word?",
    "fork": "parent:word children:children",
    "exit": "name:word",
    "snap": "name:rest",
}
_OPTIONS = "populate? huge? noreserve? growsdown? at=place?"
PROCESS_FORMS = {
    "mmap": f"what:what sharing:sharing what2:anon prot:prot {_OPTIONS}",
    "brk": "pages:count",
    "read": "part:part",
    "write": "part:part value=int?",
    "fwrite": "part:part",
    "munmap": "part:part",
    "mprotect": "part:part prot:prot",
    "mremap": "part:part pages:count at=place? keep?",
    "madvise": "part:part advice:advice",
    "mlock": "part:part onfault?",
    "munlock": "part:part",
    "exec": "name:new image=word?",
}
NAMING = ("mmap", "brk")
"""Operations that give a mapping its name."""

_NAME = re.compile(r"[A-Za-z_][\w.\-]*")
_PART = re.compile(r"([A-Za-z_][\w.\-]*)(?:\[(-?\d*)(?:(:)(-?\d*)(?::(\d*))?)?\])?")
_PLACE = re.compile(r"([A-Za-z_][\w.\-]*)(?:\+(\d+))?")

FORMS = MACHINE_FORMS | PROCESS_FORMS


@dataclass(frozen=True)
class Operation:
    """One line.

    Attributes
    ----------
    op : str
        Its verb.
    words : Mapping
        What follows, by the names of the form; flags are True.
    process : str or None
        Who does it.
    line : int
        1-based; position in the list for JSON.
    """

    op: str
    words: Mapping[str, Any]
    process: str | None = None
    line: int = 0

    def __str__(self) -> str:
        """The line it is written as."""
        return unparse(self)


@dataclass(frozen=True)
class Part:
    """Pages of a mapping or file: a name, and a slice of page numbers."""

    name: str
    pages: slice

    @staticmethod
    def of(text: str) -> Part:
        """Take ``name[first:stop:step]`` apart.

        Examples
        --------
        >>> Part.of("heap[2:8]"), Part.of("heap[7]").pages, Part.of("heap").pages
        (Part(name='heap', pages=slice(2, 8, None)), slice(7, 8, None), slice(None, None, None))
        """
        found = _PART.fullmatch(text)
        if not found or "[]" in text:
            raise ValueError(text)
        name, first, colon, stop, step = found.groups()
        if first is None:
            return Part(name, slice(None))
        start = int(first) if first else None
        if colon is None:
            assert start is not None
            return Part(name, slice(start, start + 1 if start != -1 else None))
        return Part(name, slice(start, int(stop) if stop else None, int(step) if step else None))


@dataclass(frozen=True)
class Place:
    """Where an error is."""

    path: str | None
    line: int

    def wrong(self, expected: str, found: str | None) -> ScriptError:
        """The error for a word, or for its absence."""
        shown = "the end of the line" if found is None else found
        return ScriptError(expected, path=self.path, offset=self.line, unit="line", found=shown)


def parse_line(words: list[str], place: Place) -> Operation:
    """Read the words of a line."""
    process = target = None
    if words[0].endswith(":"):
        process, words = words[0][:-1], words[1:]
        if not _NAME.fullmatch(process):
            raise place.wrong("the name of a process", process)
        if len(words) > 1 and words[1] == "=":
            target, words = words[0], words[2:]
            if not _NAME.fullmatch(target):
                raise place.wrong("the name of a mapping", target)
    forms, kind = (MACHINE_FORMS, "a machine") if process is None else (PROCESS_FORMS, "a process")
    op = words[0] if words else None
    if op is None or op not in forms:
        raise place.wrong(f"{kind} operation ({', '.join(forms)})", op)
    if (op in NAMING) != (target is not None):
        raise place.wrong("a name and = before mmap and brk, and before nothing else", op)
    found: dict[str, Any] = {} if target is None else {"name": target}
    found |= _fill(forms[op].split(), words[1:], place)
    return Operation(op, found, process, place.line)


def _fill(form: list[str], words: list[str], place: Place) -> dict[str, Any]:
    """Match words with a form: positions first, then flags and key=value in any order."""
    found: dict[str, Any] = {}
    fixed = [slot for slot in form if not slot.endswith("?")]
    loose = {
        slot[:-1].partition("=")[0]: slot[:-1].partition("=")[2] for slot in form if slot[-1] == "?"
    }
    rest = list(words)
    for slot in fixed:
        name, _, kind = slot.partition(":")
        if kind == "anon":
            if str(found["what"]).isdigit():
                _expect("anon", rest, place)
            continue
        if kind in ("rest", "children"):
            found[name] = _many(kind, rest, place)
            rest = []
            continue
        found[name] = _value(kind, rest.pop(0) if rest else None, place)
    for word in rest:
        key, equals, value = word.partition("=")
        if key not in loose or bool(equals) != bool(loose[key]):
            known = ", ".join(f"{key}=" if kind else key for key, kind in loose.items())
            raise place.wrong(f"one of: {known}" if known else "nothing more", word)
        found[key] = _value(loose[key], value, place) if equals else True
    return found


def _expect(word: str, rest: list[str], place: Place) -> None:
    found = rest.pop(0) if rest else None
    if found != word:
        raise place.wrong(f"the word {word}", found)


def _many(kind: str, words: list[str], place: Place) -> Any:
    if kind == "rest":
        if not words:
            raise place.wrong("a name", None)
        return " ".join(words)
    if len(words) < 2 or words[0] != "->":
        raise place.wrong("-> and the names of children", words[0] if words else None)
    for word in words[1:]:
        _value("new", word, place)
    return words[1:]


def _value(kind: str, word: str | None, place: Place) -> Any:
    """Check one word; what is kept is the word itself, or a number."""
    expected, check = _KINDS[kind]
    if word is None:
        raise place.wrong(expected, None)
    try:
        return check(word)
    except ValueError:
        raise place.wrong(expected, word) from None


def _matching(pattern: re.Pattern[str]) -> Any:
    def check(word: str) -> str:
        if not pattern.fullmatch(word):
            raise ValueError(word)
        return word

    return check


def _one_of(*words: str) -> Any:
    return _matching(re.compile("|".join(words)))


def _int(word: str) -> int:
    if not re.fullmatch(r"-?\d+", word):
        raise ValueError(word)
    return int(word)


def _count(word: str) -> int:
    if not word.isdecimal():
        raise ValueError(word)
    return int(word)


def _kept(check: Any) -> Any:
    def keep(word: str) -> str:
        check(word)
        return word

    return keep


def _what(word: str) -> str | int:
    if word.isdigit():
        return int(word)
    Part.of(word)
    return word


_KINDS: dict[str, tuple[str, Any]] = {
    "int": ("a number", _int),
    "count": ("a number, not below 0", _count),
    "size": ("a size such as 64M", _kept(size_of)),
    "word": ("a name", _matching(_NAME)),
    "new": ("a name", _matching(_NAME)),
    "part": ("a name, maybe with [first:stop:step]", _kept(Part.of)),
    "what": ("a number of pages or FILE[first:stop]", _what),
    "sharing": ("private or shared", _one_of("private", "shared")),
    "prot": ("a protection such as rw, r-x or none", _kept(protection)),
    "advice": (f"an advice ({', '.join(ADVICE)})", _one_of(*ADVICE)),
    "place": ("MAPPING+PAGES", _matching(_PLACE)),
    "run": ("the word run", _one_of("run")),
    "setting": (
        "thp=always|madvise|never, fault_around=N, zero_huge=0|1 or ksm_zero=0|1",
        _one_of("thp=(always|madvise|never)", r"fault_around=\d+", "(zero_huge|ksm_zero)=[01]"),
    ),
}


def unparse(item: Operation) -> str:
    """The text of an operation."""
    words = [item.op]
    for slot in FORMS[item.op].split():
        name = slot.rstrip("?").partition("=")[0].partition(":")[0]
        kind = slot.partition(":")[2]
        if kind == "anon":
            words += ["anon"] if str(item.words.get("what", "")).isdigit() else []
        elif name not in item.words:
            continue
        elif kind == "children":
            words += ["->", *item.words[name]]
        elif slot.endswith("?") and "=" not in slot:
            words += [name] if item.words[name] else []
        else:
            value = str(item.words[name])
            words.append(f"{name}={value}" if "=" in slot else value)
    line = " ".join(words)
    if item.op in NAMING:
        line = f"{item.words.get('name', '')} = {line}"
    return f"{item.process}: {line}" if item.process else line
