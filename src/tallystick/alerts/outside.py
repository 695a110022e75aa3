"""Connections to the world outside, by the proxy that the environment names; loopback never goes through one."""

from __future__ import annotations

import ssl
from base64 import b64encode
from http.client import HTTPConnection, HTTPSConnection
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

if TYPE_CHECKING:
    from collections.abc import Callable


def connection_to(parts: SplitResult, timeout_s: float) -> HTTPConnection:
    """Return a connection that is not open yet, through the environment's proxy when there is one for this host."""
    host = parts.hostname or ""
    secure = {"context": ssl.create_default_context()} if parts.scheme == "https" else {}
    connect: Callable[..., HTTPConnection] = HTTPSConnection if secure else HTTPConnection
    proxy = _proxy(parts)
    if proxy is None:
        return connect(host, parts.port, timeout=timeout_s, **secure)
    connection = connect(proxy.hostname, proxy.port, timeout=timeout_s, **secure)
    connection.set_tunnel(host, parts.port, headers=_proxy_headers(proxy))
    return connection


def _proxy(target: SplitResult) -> SplitResult | None:
    """Return the proxy that the environment names for ``target``, or None; loopback never has one."""
    host = target.hostname or ""
    named = getproxies().get(target.scheme)
    if not named or _is_loopback(host) or proxy_bypass(host):
        return None
    proxy = urlsplit(named if "://" in named else f"http://{named}")
    if not proxy.hostname or not _has_port(proxy):
        raise OSError(f"the proxy that {target.scheme}_proxy names is no URL; one looks like http://host:3128")
    return proxy


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(pair.encode()).decode()}"}


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost" or host.endswith(".localhost")


def is_url(text: str) -> bool:
    """Tell whether ``text`` is an http(s) URL that a request can be sent to."""
    try:
        parts = urlsplit(text)
    except ValueError:  # "https://[": no IPv6 address
        return False
    clean = text.isascii() and text.isprintable() and " " not in text
    return clean and parts.scheme in ("http", "https") and bool(parts.hostname) and _has_port(parts)


def _has_port(parts: SplitResult) -> bool:
    """Tell whether the port of ``parts`` is a number, or left out."""
    try:
        return parts.port is None or parts.port > 0
    except ValueError:
        return False
