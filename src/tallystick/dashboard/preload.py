"""Lets the browser fetch what draws the tiles beside Streamlit's own bundle, not after it.

Streamlit's page names the modules of its frame only; what draws a figure or a menu is asked for when the first one
arrives, one round after the other, while the charts' modules are parsed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit
from starlette.middleware import Middleware  # comes with streamlit, so it is not the one to be missed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

DRAWN_FIRST = ("Metric", "ButtonGroup", "Selectbox")
"""Streamlit's modules for what stands at the top of a page; the rest of a file's name is a hash."""
STATIC = Path(streamlit.__file__).with_name("static")
_LINKED = re.compile(r"static/js/([\w.-]+\.js)")
_NAMED = re.compile(r"""(?:from|import)\s*[`"']\./([\w.-]+\.js)[`"']""")


class Preload:
    """ASGI middleware that adds a ``Link`` header to the pages' HTML."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.link = ", ".join(f"</static/js/{name}>; rel=modulepreload" for name in modules()).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""

        async def linked(message: Message) -> None:
            if message["type"] == "http.response.start" and _is_page(message):
                message["headers"] = [*message["headers"], (b"link", self.link)]
            await send(message)

        await self.app(scope, receive, linked if scope["type"] == "http" and self.link else send)


def _is_page(message: Message) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(b"text/html") for name, value in message["headers"])


def modules() -> list[str]:
    """Return the files that draw what stands at the top, with all that they import and the page does not name itself.

    None when Streamlit's files are called otherwise: then all is as without this.
    """
    seen = set(_LINKED.findall((STATIC / "index.html").read_text(encoding="utf-8")))
    paths = [path for name in DRAWN_FIRST for path in (STATIC / "static" / "js").glob(f"{name}.*.js")]
    return [found for path in paths for found in _with_imports(path, seen)]


def _with_imports(path: Path, seen: set[str]) -> Iterator[str]:
    if path.name in seen or not path.is_file():
        return
    seen.add(path.name)
    yield path.name
    for name in _NAMED.findall(path.read_text(encoding="utf-8")):
        yield from _with_imports(path.with_name(name), seen)


PRELOAD = Middleware(Preload)
