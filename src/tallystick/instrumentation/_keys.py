"""API keys as fingerprints: enough to tell keys apart, useless to anybody who finds them."""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path

SALT_FILE = "salt"


class Fingerprints:
    """A salted hash and the last four characters of each key; the salt is of this installation."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._salt: bytes | None = None
        self._known: dict[str, str] = {}

    @property
    def salt(self) -> bytes:
        """The salt of this installation, the same for every process that shares its spool."""
        if self._salt is None:
            self._salt = _read_salt(self._folder)
        return self._salt

    def of(self, key: object) -> str | None:
        """Return ``a1b2c3d4…9xyz`` for a key, None for what is no plain key (a callable, say)."""
        if not isinstance(key, str) or not key:
            return None
        if key not in self._known:
            digest = hashlib.blake2b(key.encode(), key=self.salt, digest_size=4).hexdigest()
            # Four characters of a short key would be most of it.
            self._known[key] = f"{digest}…{key[-4:]}" if len(key) >= 16 else digest
        return self._known[key]


def _read_salt(folder: Path) -> bytes:
    """Return the installation's salt, made on first use; when it cannot be kept, one for this process."""
    path = folder / SALT_FILE
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:  # it is there already, or cannot be
        return _kept(path) or secrets.token_bytes(32)
    salt = secrets.token_bytes(32)
    try:
        os.write(fd, salt)
    except OSError:  # the disk is full; an empty file would stand in the way of a salt for good
        path.unlink(missing_ok=True)
    finally:
        os.close(fd)
    return salt


def _kept(path: Path) -> bytes:
    try:
        return path.read_bytes()[:32]
    except OSError:
        return b""
