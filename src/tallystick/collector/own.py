"""What is set for a whole process, when it is the collector's own and not somebody's app or test."""

from __future__ import annotations

import gc
import logging
import sys
from importlib.abc import MetaPathFinder


def settle_in() -> None:
    """Have this process log, collect garbage and share out its time as rows and answers want it."""
    logging.basicConfig(level=logging.WARNING, format="tallystick: %(message)s", stream=sys.stderr)
    # Spans become many short-lived rows; looking for cycles among them so often costs a fifth of the CPU.
    gc.set_threshold(50_000, 20, 50)
    # The thread that answers waits this long for one that computes; the default is 5 ms.
    sys.setswitchinterval(0.001)
    sys.meta_path.insert(0, _WithoutPandas())


class _WithoutPandas(MetaPathFinder):
    """The first pa.array loads pandas when that is installed: 60 MB, and a second, for nothing that is used here."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Find no pandas."""
        if fullname == "pandas":
            raise ModuleNotFoundError("a collector needs no pandas", name=fullname)
