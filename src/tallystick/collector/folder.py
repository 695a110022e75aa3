"""The data folder: private, and owned by one process."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tallystick.errors import SettingsError, StoreLockedError
from tallystick.model.segment import lock

LOCK = "collector.lock"


@dataclass(frozen=True, slots=True)
class Folder:
    """A data folder that this process owns until `release`."""

    path: Path
    fd: int

    @property
    def journal(self) -> Path:
        """The segments of the journal."""
        return self.path / "journal"

    @property
    def database(self) -> Path:
        """DuckDB's file: a view of the journal."""
        return self.path / "tallystick.duckdb"

    @property
    def aside(self) -> Path:
        """What could not be read is moved here; nothing is deleted."""
        return self.path / "aside"

    def release(self) -> None:
        """Let another process own the folder."""
        os.ftruncate(self.fd, 0)
        os.close(self.fd)


def own(path: Path, address: str) -> Folder:
    """Return the folder at ``path``, made (0700) when it is missing, with ``address`` written down as its owner's.

    Raises StoreLockedError, which names the owner's process and address, when somebody else has it.
    """
    os.umask(0o077)  # from here on every file is for us alone, DuckDB's too
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise SettingsError(f"the data folder {path} cannot be used: {error}; name another with --data") from error
    if not lock(fd):
        holder = os.pread(fd, 200, 0).decode(errors="replace").strip()
        os.close(fd)
        raise StoreLockedError(str(path), holder or "another process")
    with suppress(OSError):  # on a full disk nobody is told who holds the folder, but it is held
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()} at {address}\n".encode(), 0)
    for below in ("journal", "aside"):
        (path / below).mkdir(mode=0o700, exist_ok=True)
    return Folder(path, fd)


def sync_folder(path: Path) -> None:
    """Make names that were added to or removed from ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
