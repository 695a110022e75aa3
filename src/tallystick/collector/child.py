"""Processes of the collector's own, each at the other end of a pipe; they end when it does, however that ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, Pipe

from tallystick.collector.own import settle_in

# Both are sent to the whole group, and the collector decides when it is over; it may be so while the child still loads.
DEAF = "import signal as s; s.signal(s.SIGINT, s.SIG_IGN); s.signal(s.SIGTERM, s.SIG_IGN)"


class Child:
    """A process in which the function ``run`` of a module serves the other end of `pipe`, whose number it is given."""

    def __init__(self, module: str) -> None:
        self.pipe, theirs = Pipe()
        # It must find what this process found, wherever that was told to look.
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        code = f"{DEAF}; from {module} import run; run({theirs.fileno()})"
        self.process = subprocess.Popen(  # noqa: S603 -- ourselves
            [sys.executable, "-P", "-c", code], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environ
        )
        theirs.close()

    def close(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.kill()
        self.process.wait()


@contextmanager
def serving(fd: int) -> Iterator[Connection]:
    """Be the process at the other end of ``fd``, until that is closed."""
    settle_in()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError), Connection(fd) as pipe:
        yield pipe
