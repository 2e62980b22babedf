"""Timers of the guards, all in one thread."""

import heapq
import itertools
import logging
import threading
from collections.abc import Callable

_LOG = logging.getLogger("sallyport")


class Timers:
    """The clock of guards in threads. Its thread lives while a timer is set."""

    def __init__(self, mono: Callable[[], int]) -> None:
        self.mono = mono
        self._changed = threading.Condition()
        self._waiting: list[tuple[int, int, list[Callable[[], None]]]] = []
        self._order = itertools.count()
        self._running = False

    def after(self, ns: int, then: Callable[[], None]) -> Callable[[], None]:
        """Calls ``then`` after a time, in the timers' thread. Returns the function that prevents it."""
        work = [then]
        with self._changed:
            heapq.heappush(self._waiting, (self.mono() + ns, next(self._order), work))
            if self._running:
                self._changed.notify()
            else:
                threading.Thread(target=self._run, name="sallyport-timers", daemon=True).start()
                self._running = True
        return work.clear

    def _run(self) -> None:
        while True:
            with self._changed:
                while True:
                    if not self._waiting:
                        self._running = False
                        return
                    left = self._waiting[0][0] - self.mono()
                    if left <= 0:
                        break
                    self._changed.wait(left / 1e9)
                work = self._waiting[0][2]
                heapq.heappop(self._waiting)
            for then in work[:]:
                try:
                    then()
                except Exception:  # the other streams need their timers
                    _LOG.exception("the guard of a stream failed")
