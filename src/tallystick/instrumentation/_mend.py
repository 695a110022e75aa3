"""Brings our wrapper back to where somebody holds the function that it wraps.

openinference and logfire (0.1.66, 5.2) put a wrapper of ``SyncAPIClient.request`` on ``OpenAI`` itself.  Active before
us, they hold the unpatched function and lead past us; stopped while we are active, they may put it back.  So what they
wrap is exchanged for ours, inside their wrapper, where we would be had we come first: their spans stay as they are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import CellType
from typing import Any

import wrapt

DEPTH_MAX = 8
"""How many wrappers on top of each other are looked through."""


class Mender:
    """Knows one patched method of a base class, and mends the classes below it."""

    def __init__(self, base: type, name: str, undo: list[Callable[[], None]]) -> None:
        self.base = base
        self._name = name
        self._patched: Any = vars(base)[name]
        self._original: Any = self._patched.__wrapped__
        self._unbound: Any = getattr(base, name)
        """The patched function as a class gives it: its first argument is the instance."""
        self._undo = undo
        self._lock = threading.Lock()

    def mend_all(self) -> None:
        """Mend every class that stands on the base."""
        for kind in _below(self.base):
            self.mend(kind)

    def mend(self, kind: type) -> None:
        """Put ours where ``kind`` has the original in a wrapper of its own, or as it is."""
        found = vars(kind).get(self._name)
        if found is None or kind is self.base:
            return
        with self._lock:
            for _ in range(DEPTH_MAX):
                if self._is_ours(found) or self._exchange(kind, found):
                    return
                found = getattr(found, "__wrapped__", None)

    def _is_ours(self, found: Any) -> bool:
        """Tell whether this is our wrapper, as it is or bound; one that an earlier `uninstrument` left is not."""
        return bool(getattr(found, "_self_wrapper", None) == self._patched._self_wrapper)  # noqa: SLF001 -- wrapt's own name

    def _exchange(self, kind: type, found: Any) -> bool:
        original, patched = self._original, self._patched
        if found is original and vars(kind).get(self._name) is original:
            setattr(kind, self._name, patched)
            self._undo.append(partial(_put_back, vars(kind).get, partial(setattr, kind), self._name, patched, original))
            return True
        if isinstance(found, wrapt.FunctionWrapper | wrapt.BoundFunctionWrapper):
            if found.__wrapped__ is not original:
                return False
            # One that was bound when it was taken calls what it wraps with the instance as first argument.
            ours = patched if isinstance(found, wrapt.FunctionWrapper) else self._unbound
            found.__wrapped__ = ours
            read, write = partial(getattr, found), partial(setattr, found)
            self._undo.append(partial(_put_back, read, write, "__wrapped__", ours, original))
            return True
        return self._exchange_cell(getattr(found, "__closure__", None) or ())

    def _exchange_cell(self, cells: tuple[CellType, ...]) -> bool:
        for cell in cells:
            if _is_filled(cell) and cell.cell_contents is self._original:
                cell.cell_contents = self._unbound
                read, write = partial(getattr, cell), partial(setattr, cell)
                self._undo.append(partial(_put_back, read, write, "cell_contents", self._unbound, self._original))
                return True
        return False


def _put_back(read: Callable[[str], Any], write: Callable[[str, Any], None], name: str, ours: Any, was: Any) -> None:
    """Undo an exchange, unless somebody has put something else there since."""
    if read(name) is ours:
        write(name, was)


def _is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 -- an empty cell raises when it is looked at
    except ValueError:
        return False
    return True


def _below(base: type[Any]) -> Iterator[type[Any]]:
    for kind in base.__subclasses__():
        yield kind
        yield from _below(kind)
