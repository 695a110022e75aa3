"""Calls in flight, so that a process that is killed leaves word of them.

A call is written when it ends; one that is killed never does, and may have been billed.  So a call that takes longer
than a second is noted in a file of the spool, without cost to shorter ones: a thread looks once a second.  When the
process dies, whoever adopts its segments finds the note behind them.  A call that has ended since the thread looked is
there twice then, under the same ids: the ledger takes the first, which is the end.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tallystick.instrumentation._guard import guard

if TYPE_CHECKING:
    from tallystick.instrumentation._call import Call
    from tallystick.instrumentation._otlp import Ids
    from tallystick.instrumentation._tracing import Tracing

AFTER_S = 1.0


class Flights:
    """The calls of this process that have begun and not ended."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._stopped = False
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        # Not for a call's end: the garbage collector may end a stream, and so a call, while we hold it.
        self._lock = threading.Lock()
        self._calls: dict[Ids, weakref.ref[Call]] = {}
        self._noted: dict[Ids, list[bytes]] = {}
        """The spans of each call in the note."""
        self._woken = threading.Event()
        self._is_watched = False

    def begin(self, call: Call) -> None:
        """Watch a call from now on; returns at once."""
        if os.getpid() != self._pid:  # forked: the parent's calls are the parent's
            self._reset()
        self._calls[call.ids] = weakref.ref(call)
        was_watched, self._is_watched = self._is_watched, True
        if not was_watched:
            self._start()
        elif not self._woken.is_set():
            self._woken.set()

    def end(self, call: Call) -> None:
        """Forget a call that was written."""
        if os.getpid() != self._pid:
            self._reset()
        self._calls.pop(call.ids, None)

    def leave(self) -> None:
        """Note what is still in flight at the end of the process: threads that nobody waits for."""
        with self._lock:
            self._note(self._flying())
        self._stop()

    def stop(self) -> None:
        """Watch no more, and leave no note."""
        self._calls.clear()
        self._stop()

    def _start(self) -> None:
        self._woken = threading.Event()  # of the kind that is in force now: gevent's, if it came after us
        self._woken.set()
        threading.Thread(target=self._watch, name="tallystick-flights", daemon=True).start()

    def _stop(self) -> None:
        self._stopped = True
        self._woken.set()

    def _watch(self) -> None:
        woken = self._woken
        while woken.wait() and not self._stopped:
            woken.clear()
            time.sleep(AFTER_S)
            with guard("the noting of calls in flight"):
                if self._look():
                    woken.set()

    def _look(self) -> bool:
        """Note the calls that last, if they are others than before; tell whether any call is in flight."""
        with self._lock:
            flying = self._flying()
            lasting = [call for call in flying if call.age_s >= AFTER_S]
            if {call.ids for call in lasting} != self._noted.keys():
                self._note(lasting)
        return bool(flying)

    def _flying(self) -> list[Call]:
        """Return the calls in flight; one that was lost without an end is forgotten."""
        for key, known in list(self._calls.items()):
            if known() is None:
                self._calls.pop(key, None)
        return [call for known in list(self._calls.values()) if (call := known()) is not None]

    def _note(self, calls: Iterable[Call]) -> None:
        known = self._noted
        self._noted = {call.ids: known.get(call.ids) or call.in_flight() for call in calls}
        self._tracing.note([span for spans in self._noted.values() for span in spans])
