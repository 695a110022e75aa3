"""Where things lie by default, and how the collector is reached; each can be named otherwise by a variable."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from tallystick.errors import SettingsError

DEFAULT_COLLECTOR_URL = "http://127.0.0.1:4318"
DEFAULT_COLLECTOR_PORT = 4318
DEFAULT_DASHBOARD_PORT = 8501


def _home(environ: Mapping[str, str], variable: str, below_home: str) -> Path:
    """Return the base folder that ``variable`` names, else one below HOME, else one in the temporary folder.

    A relative path names another folder for each process, so it is passed by, as XDG's specification says.
    """
    if (named := Path(environ.get(variable, ""))).is_absolute():
        return named / "tallystick"
    if (home := Path(environ.get("HOME", ""))).is_absolute():
        return home / below_home / "tallystick"
    return Path(tempfile.gettempdir()) / f"tallystick-{os.getuid()}"


def data_dir(environ: Mapping[str, str]) -> Path:
    """Return the collector's data folder: ``TALLYSTICK_DATA``, else XDG's data home."""
    if named := environ.get("TALLYSTICK_DATA"):
        return Path(named)
    return _home(environ, "XDG_DATA_HOME", ".local/share")


def spool_dir(environ: Mapping[str, str]) -> Path:
    """Return the folder in which apps leave their segments: ``TALLYSTICK_SPOOL``, else XDG's state home.

    App and collector of one machine must agree on it: that is how a killed app's last calls are found.
    """
    if named := environ.get("TALLYSTICK_SPOOL"):
        return Path(named)
    return _home(environ, "XDG_STATE_HOME", ".local/state") / "spool"


def collector_url(environ: Mapping[str, str]) -> str:
    """Return where the collector listens: ``TALLYSTICK_COLLECTOR``, else the default port on loopback."""
    return (environ.get("TALLYSTICK_COLLECTOR") or DEFAULT_COLLECTOR_URL).rstrip("/")


def bearer(environ: Mapping[str, str], url: str) -> dict[str, str]:
    """Return the header that lets us in at ``url``: the token of ``TALLYSTICK_TOKEN``, or of ``TALLYSTICK_TOKEN_FILE``.

    Empty when neither is set.  Raises SettingsError when the file cannot be read, and when the token would go over a
    network for everybody to read.
    """
    token = environ.get("TALLYSTICK_TOKEN", "")
    if not token and (named := environ.get("TALLYSTICK_TOKEN_FILE")):
        try:
            token = Path(named).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"TALLYSTICK_TOKEN_FILE is {named!r}, which cannot be read: {error}") from error
    if not token:
        return {}
    if not (token.isascii() and token.isprintable()):
        raise SettingsError("TALLYSTICK_TOKEN has characters that no header may hold; it is printable ASCII")
    parts = urlsplit(url)
    if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
        raise SettingsError(f"the token would go to {url} in the clear; write https://, or leave TALLYSTICK_TOKEN out")
    return {"Authorization": f"Bearer {token}"}


def is_loopback(host: str) -> bool:
    """Tell whether ``host``, an address or a name, is this machine and nobody else reaches it."""
    return host in {"localhost", "::1"} or (host.startswith("127.") and host.replace(".", "").isdecimal())


def authorities(environ: Mapping[str, str]) -> str | None:
    """Return the PEM file of who vouches for the collector's certificate, None for the system's: ``TALLYSTICK_CA``."""
    return environ.get("TALLYSTICK_CA") or None
