"""A file system whose files are cached in single pages, and go away with whoever mounts it.

Where the file system of a machine caches files in large folios (ext4 from Linux 6.16, xfs,
btrfs), readahead makes some, and which they are depends on more than a script says. ext4 does
without if it was made for encryption, so that is what `attach` makes in a file of our own and
puts behind a loop device. The device takes itself apart when nobody has it open or mounted.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path

from ...errors import NotAvailable

_SIZE = 512 << 20
"""Bytes, none of them taken before they are written."""
_CONTROL = "/dev/loop-control"
_GET_FREE, _CONFIGURE, _AUTOCLEAR = 0x4C82, 0x4C0A, 4
_CONFIG, _FLAGS_AT = 304, 8 + 52
"""Size of ``struct loop_config``, and where ``info.lo_flags`` is in it."""
_TRIES = 8


def attach(image: Path) -> tuple[str, int]:
    """Make a file system in a new file `image`: its device, and a descriptor to close once mounted.

    Raises
    ------
    NotAvailable
        Without ``mkfs.ext4`` or loop devices.
    """
    program = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise NotAvailable("mkfs.ext4 is not installed (Debian: e2fsprogs)")
    with image.open("wb") as file:
        file.truncate(_SIZE)
    made = subprocess.run(
        [program, "-q", "-F", "-O", "encrypt,^has_journal", str(image)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        raise NotAvailable(f"mkfs.ext4: {made.stderr.strip()}")
    try:
        return _behind_loop(image)
    except OSError as error:
        raise NotAvailable(f"no loop device: {error}") from error


def _behind_loop(image: Path) -> tuple[str, int]:
    control = os.open(_CONTROL, os.O_RDWR)
    backing = os.open(image, os.O_RDWR)
    try:
        config = bytearray(_CONFIG)
        struct.pack_into("=II", config, 0, backing, 0)
        struct.pack_into("=I", config, _FLAGS_AT, _AUTOCLEAR)
        for left in reversed(range(_TRIES)):
            device = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            loop = os.open(device, os.O_RDWR)
            try:
                fcntl.ioctl(loop, _CONFIGURE, bytes(config))
            except OSError:
                # Somebody else was quicker.
                os.close(loop)
                if not left:
                    raise
            else:
                return device, loop
    finally:
        os.close(backing)
        os.close(control)
    raise NotAvailable("no loop device is free")
