"""`Task`: the near end of the wire to one real process."""

from __future__ import annotations

import marshal
import socket
from typing import Any

from ...errors import ProcessGone

WAIT = 60.0
"""Seconds after which a process that does not answer is given up."""


class Task:
    """A process that runs ``child.py``; made by accepting its connection.

    Attributes
    ----------
    pid : int
    """

    def __init__(self, listener: socket.socket) -> None:
        self._wire = listener.accept()[0]
        self._wire.settimeout(WAIT)
        self.pid = int(self._wire.recv(64))

    def ask(self, operation: str, *arguments: Any) -> int:
        """Have one operation done; `OSError` as the process got it, `ProcessGone` if it died."""
        self.tell(operation, *arguments)
        answer = self._wire.recv(1 << 16)
        if not answer:
            raise ProcessGone(f"process {self.pid} died in {operation}")
        done, result = marshal.loads(answer)
        if not done:
            raise OSError(result, f"{operation}{arguments}")
        return int(result or 0)

    def call(self, function: str, *arguments: int | bytes) -> int:
        """Call a libc function there."""
        return self.ask("call", function, *arguments)

    def tell(self, operation: str, *arguments: Any) -> None:
        """Say what to do, and await no answer."""
        try:
            self._wire.send(marshal.dumps((operation, *arguments)))
        except BrokenPipeError:
            raise ProcessGone(f"process {self.pid} is dead") from None

    def close(self) -> None:
        """Hang up, which ends the process."""
        self._wire.close()
