"""The loopback provider for tests: Anthropic and OpenAI on a free port, in a thread of this process.

    with running_provider() as provider:
        client = Anthropic(base_url=provider.anthropic_url, api_key="any")
        provider.script("429:retry-after=0.01,200", provider="anthropic")
        ...
        provider.invoice()["total_usd"]

The fixture `provider` starts one for a test: ``from fakes.provider import provider``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tallystick.mock.clouds import PLACES
from tallystick.mock.serve import MockServer


class Provider:
    """A running mock, with its books in reach."""

    def __init__(self, server: MockServer) -> None:
        self._server = server
        self.url = server.url
        self.port = server.port
        self.anthropic_url = server.anthropic_url
        self.openai_url = server.openai_url
        place = f"127.0.0.1:{server.port}"
        self.mapping = {f"{place}/anthropic": "anthropic", f"{place}/openai": "openai"}
        self.mapping |= {f"{place}/{path}": name for path, name in PLACES.items()}
        """What tells `tallystick.instrument` who bills here."""
        self.providers = ",".join(f"{key}={name}" for key, name in self.mapping.items())
        """The same as a value of ``TALLYSTICK_PROVIDERS``."""

    def script(self, script: str, **match: str) -> None:
        """Have the next requests that match (provider, model, path: contained in theirs) meet ``script``."""
        self._server.state.scripts.lay_down(script, match)

    def clear_scripts(self) -> None:
        """Forget every script."""
        self._server.state.scripts.clear()

    def invoice(self) -> dict[str, Any]:
        """Return what was billed so far; see `tallystick.mock.books`."""
        return self._server.state.books.invoice()

    def requests(self) -> list[dict[str, Any]]:
        """Return every HTTP request that was seen, with its body."""
        return list(self._server.state.books.requests)


@contextmanager
def running_provider(port: int = 0) -> Iterator[Provider]:
    """Run a mock in a thread while the block lasts."""
    server = MockServer(port)
    server.start()
    try:
        yield Provider(server)
    finally:
        server.stop()


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A mock of the test's own."""
    with running_provider() as running:
        yield running
