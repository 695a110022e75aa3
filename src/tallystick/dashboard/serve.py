"""Starts Streamlit in this process, on loopback, without a question, a browser or a word to anybody outside."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from importlib import import_module
from pathlib import Path

from tallystick.dashboard.theme import THEME
from tallystick.errors import PortTakenError, SettingsError

AGENTS = "/_stcore/agent/mcp"
"""Where Streamlit answers programs, when it may."""
HOSTS_ALLOWED = ("localhost", "127.0.0.1", "::1")


def run(*, collector: str, host: str, port: int, agents: bool = False) -> int:
    """Serve the pages at ``host``:``port`` until SIGINT or SIGTERM; port 0 takes a free one.

    ``agents``: programs may read and work the pages too, at ``/_stcore/agent/mcp`` (docs/dashboard.md).

    Raises SettingsError when ``host`` is not loopback, PortTakenError when somebody listens there already.
    """
    if not is_loopback(host):
        raise SettingsError(
            f"cannot show the pages at --host {host}: there is no login yet, so whoever reaches the port "
            "reads every figure. Listen at 127.0.0.1; from elsewhere, come through ssh -L or a proxy that has a login"
        )
    port = free_port(host, port)
    # The pages run in this process, and this is the name by which the whole house knows the collector.
    os.environ["TALLYSTICK_COLLECTOR"] = collector
    from streamlit import App

    from tallystick.dashboard.preload import PRELOAD

    import_module("tallystick.dashboard.pages").import_all()  # so that the first viewer does not wait for it
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"Dashboard at {address} (asks the collector at {collector})", flush=True)  # noqa: T201 -- the command's own voice
    if agents:
        print(f"Agents may ask at {address}{AGENTS} (MCP)", flush=True)  # noqa: T201
    app = App(Path(__file__).with_name("app.py"), middleware=[PRELOAD])
    app.run(config=flags(host, port) | {"server.enableAgentApi": agents})
    return 0


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def free_port(host: str, port: int) -> int:
    """Return ``port``, or one that is free when it is 0; raise PortTakenError before Streamlit looks for another."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As Streamlit binds: a port in TIME_WAIT is free, one with a listener is not.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise PortTakenError(host, port) from error
            raise SettingsError(f"cannot listen at {host}:{port}: {error.strerror}; try --host 127.0.0.1") from error
        taken: int = probe.getsockname()[1]
        return taken


def flags(host: str, port: int) -> dict[str, object]:
    """Return Streamlit's settings; flags win over a config.toml that the folder or the home may hold."""
    return {
        "server.address": host,
        "server.port": port,
        "server.headless": True,
        "server.showEmailPrompt": False,
        "server.fileWatcherType": "none",
        "server.runOnSave": False,
        "server.allowedHosts": sorted({*HOSTS_ALLOWED, host}),
        "server.enableCORS": True,
        "server.enableXsrfProtection": True,
        "server.enableStaticServing": False,
        "server.baseUrlPath": "",
        "browser.gatherUsageStats": False,
        "client.toolbarMode": "viewer",
        "client.showErrorDetails": "none",
        "client.showErrorLinks": False,
        "logger.hideWelcomeMessage": True,
        "logger.level": "warning",
        "global.developmentMode": False,
        **THEME,
    }
