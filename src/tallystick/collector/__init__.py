"""Receive, journal, decode, store, price, watch, answer: one process that owns one data folder."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

WORKER = "tallystick.collector.worker"


def run(*, data: Path | None, host: str | None, port: int | None, config: Path | None) -> int:
    """Run a collector in the foreground until SIGINT or SIGTERM; return the exit code.

    Arguments beat variables (``TALLYSTICK_*``) beat the file.  Raises SettingsError, PortTakenError or StoreLockedError
    before anything is received.
    """
    from tallystick.collector.child import Child
    from tallystick.collector.settings import load

    settings = load(data=data, host=host, port=port, config=config)
    with ExitStack() as ended:
        # The worker loads its libraries while this process loads its own.
        worker = ended.enter_context(closing(Child(WORKER))) if settings.collector.worker else None
        from tallystick.collector.service import run_forever  # the libraries of the extra load here

        return run_forever(settings, worker)


def rebuild(*, data: Path | None, config: Path | None) -> int:
    """Make the database anew from the journal, while no collector runs; return the exit code."""
    from tallystick.collector import upkeep
    from tallystick.collector.own import settle_in
    from tallystick.collector.settings import load

    settle_in()
    collector = load(data=data, config=config).collector
    counts = upkeep.rebuild(collector)
    stored, duplicates = counts.get("stored", 0), counts.get("duplicates", 0)
    print(f"tallystick: rebuilt {collector.data}: {stored} spans stored, {duplicates} duplicates")  # noqa: T201
    return 0


def backup(*, file: Path, data: Path | None, config: Path | None) -> int:
    """Copy the journal to ``file``, also while a collector runs; return the exit code."""
    from tallystick.collector import upkeep
    from tallystick.collector.settings import load

    copied = upkeep.backup(load(data=data, config=config).collector.data, file)
    print(f"tallystick: {copied} bytes of the journal are in {file}")  # noqa: T201
    return 0


def restore(*, file: Path, data: Path | None, config: Path | None) -> int:
    """Bring a copy back to an empty data folder; return the exit code."""
    from tallystick.collector import upkeep
    from tallystick.collector.settings import load

    folder = load(data=data, config=config).collector.data
    copied = upkeep.restore(file, folder)
    print(f"tallystick: {copied} bytes of the journal are back in {folder}; start the collector")  # noqa: T201
    return 0
