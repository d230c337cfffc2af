"""The kernel's own tools for page maps, built from Debian's linux-source where it is installed.

``apt-get install linux-source-6.12`` (or another version) puts a tarball into ``/usr/src``; it
carries ``page-types`` and ``thpmaps`` under ``tools/mm``. Without it, without tar, make or a C
compiler, a test that asks for them skips and says so.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path("/usr/src")
_PARTS = ("mm/*", "lib/api/*", "lib/*.c", "include/*", "build/*", "scripts/*")


def build(place: Path) -> Path:
    """Unpack and build the tools below `place`: the directory they are in. Skips if it cannot."""
    found = sorted(SOURCES.glob("linux-source-*.tar.xz"))
    if not found:
        pytest.skip(f"no linux-source-*.tar.xz in {SOURCES}: apt-get install linux-source-6.12")
    for program in ("tar", "xz", "make", "cc"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    parts = [f"*/tools/{part}" for part in _PARTS] + ["*/include/uapi/linux/*"]
    unpack = ["tar", "-xf", str(found[-1]), "-C", str(place), "--strip-components=1"]
    subprocess.run([*unpack, "--wildcards", *parts], check=True)
    command = ["make", "-C", str(place / "tools/mm"), "page-types"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"{found[-1].name} does not build: {made.stderr[-300:]}")
    return place / "tools" / "mm"
