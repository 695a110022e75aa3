"""Making rows in a process of its own, so that the one that answers does not wait for the one that computes.

The worker reads the journal's files and hands back what is to be stored; it keeps nothing that is needed, so one that
dies is started again.
"""

from __future__ import annotations

import logging
import pickle
from contextlib import suppress
from typing import Any

from tallystick.collector.child import Child, serving
from tallystick.collector.decode import Decoder
from tallystick.collector.journal import Stretch
from tallystick.collector.making import Group, Here
from tallystick.collector.packed import Schemas
from tallystick.collector.reprice import text_of
from tallystick.errors import StoreError
from tallystick.pricing import Book, price

log = logging.getLogger("tallystick.worker")

READY = "ready"
LOST = "reading it ended the process that makes rows"


class WorkerError(StoreError):
    """The process that makes rows does not start, or cannot make them."""


class Worker:
    """Has groups made by a process of its own; the decoder here is for pricing again.

    ``child`` is that process when it has been started already.
    """

    def __init__(self, decoder: Decoder, book: Book, child: Child | None = None) -> None:
        self.decoder = decoder
        self._here = Here(decoder)
        self._text = text_of(book)
        self._begun: tuple[Stretch, Schemas] | None = None
        self._is_ready = False
        self._begin_with(child or Child(__name__))

    def use(self, text: str) -> None:
        """Price by another book, there and here."""
        self._here.use(text)
        self._text = text
        self._tell("use", text)

    def begin(self, stretch: Stretch, schemas: Schemas) -> None:
        """Have a group made; what was begun before and not taken is made for nothing."""
        if self._begun is not None:
            self.result()
        self._begun = stretch, schemas
        self._tell("make", stretch, schemas)

    def result(self) -> Group:
        """Wait for the group; one over which the process dies twice has a fault and no rows.  Raises WorkerError."""
        assert self._begun is not None, "nothing was begun"
        (stretch, schemas), self._begun = self._begun, None
        group = self._received()
        if group is None:
            log.warning("the process that makes rows has ended; it is started again")
            self._tell("make", stretch, schemas)
            group = self._received()
        if group is None:
            found, upto = stretch.read()
            return Group(upto, [stretch.start.offset + one.end for one in found], fault=LOST)
        return group

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def _received(self) -> Group | None:
        """Return what the process answers; when it has died over it, start another and return None."""
        try:
            if not self._is_ready:
                self._is_ready = self._child.pipe.recv() == READY
            answer: Group | str = pickle.loads(self._child.pipe.recv_bytes())  # noqa: S301 -- of our own child
        except (EOFError, OSError) as error:
            was_ready = self._is_ready
            self.close()
            self._begin_with(Child(__name__))
            if not was_ready:
                raise WorkerError("the process that makes rows does not start; what it said is above") from error
            return None
        if isinstance(answer, str):
            raise WorkerError(answer)
        return answer

    def _begin_with(self, child: Child) -> None:
        self._child, self._is_ready = child, False
        self._tell("take", self.decoder.spans_max, self.decoder.attributes_max)
        self._tell("use", self._text)

    def _tell(self, *message: Any) -> None:
        with suppress(OSError):  # it has ended; `result` finds that
            self._child.pipe.send(message)


def run(fd: int) -> None:
    """Be the worker at the other end of ``fd``."""
    here = Here(Decoder(price, 0, 0))
    with serving(fd) as pipe:
        pipe.send(READY)
        while True:
            match pipe.recv():
                case "take", spans_max, attributes_max:
                    here.decoder.spans_max, here.decoder.attributes_max = spans_max, attributes_max
                case "use", text:
                    here.use(text)
                case "make", stretch, schemas:
                    here.begin(stretch, schemas)
                    pipe.send_bytes(pickle.dumps(_made(here), pickle.HIGHEST_PROTOCOL))


def _made(here: Here) -> Group | str:
    try:
        return here.result()
    except Exception as error:  # a fault of ours, or of the disk: told and tried again; nothing is left out for it
        log.exception("rows cannot be made")
        return f"rows cannot be made: {type(error).__name__}: {error}"
