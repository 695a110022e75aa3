"""Where things lie by default; each can be named otherwise by a variable."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

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
