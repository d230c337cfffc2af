"""Look again and again until told to stop.

One thread that sleeps between two looks and does nothing else; `stop` wakes and joins it, and
it ends by itself when whoever it looks for is gone. It holds the owner only weakly, so that a
forgotten map does not go on looking for ever.

What can go wrong in a look ends the looking, and the owner is told why: the process has
exited, or a right was taken away. Anything else is a bug and shows up as one.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

from ..errors import PagemapError


class Looking:
    """A thread that calls a method of an owner every so often.

    Parameters
    ----------
    look : bound method
        Called without arguments, from the thread.
    failed : bound method of the same owner
        Called with the error when `look` raised a `PagemapError` or `OSError`; no look follows.
    every : float
        Seconds from the end of a look to the next.
    """

    def __init__(
        self, look: Callable[[], Any], failed: Callable[[Exception], Any], every: float
    ) -> None:
        self._look, self._failed = weakref.WeakMethod(look), weakref.WeakMethod(failed)
        self._every, self._enough = every, threading.Event()
        self._thread = threading.Thread(target=self._run, name="pagemap_df live map", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether there will be another look."""
        return self._thread.is_alive() and not self._enough.is_set()

    def stop(self) -> None:
        """End it, and wait until the last look is over."""
        self._enough.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while not self._enough.wait(self._every):
            look = self._look()
            if look is None:
                return
            try:
                look()
            except (PagemapError, OSError) as error:
                self._enough.set()
                failed = self._failed()
                if failed is not None:
                    failed(error)
            del look
