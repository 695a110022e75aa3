"""Receive, journal, decode, store, price, watch, answer: one process that owns one data folder."""

from __future__ import annotations

from pathlib import Path


def run(*, data: Path | None, host: str | None, port: int | None, config: Path | None) -> int:
    """Run a collector in the foreground until SIGINT or SIGTERM; return the exit code.

    Arguments beat variables (``TALLYSTICK_*``) beat the file.  Raises SettingsError, PortTakenError or StoreLockedError
    before anything is received.
    """
    from tallystick.collector.service import run_forever  # the libraries of the extra load here
    from tallystick.collector.settings import load

    return run_forever(load(data=data, host=host, port=port, config=config))
