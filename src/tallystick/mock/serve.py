"""Runs the mock on 127.0.0.1, in this thread or in one of its own."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tallystick.errors import PortTakenError
from tallystick.mock.app import State, make_app

HOST = "127.0.0.1"
START_S_MAX = 20.0
STOP_S_MAX = 20.0
DRAIN_S_MAX = 5.0


class Connection:
    """A TCP connection that can be ended as no HTTP server would."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    async def drop(self) -> None:
        """Close without a proper end of the HTTP message, once what was written is out."""
        for _ in range(int(DRAIN_S_MAX / 0.005)):
            if not self._transport.get_write_buffer_size():
                break
            await asyncio.sleep(0.005)
        await self._end()

    async def reset(self) -> None:
        """Close with RST, so that the other end sees "connection reset by peer"."""
        raw = self._transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self._end()

    async def _end(self) -> None:
        self._transport.abort()
        # The protocol hears of it in one of the loop's next rounds; until then uvicorn would send a 500 of its own.
        for _ in range(3):
            await asyncio.sleep(0)


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, which hands each request its connection as an extension of the scope."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember the connection for the app."""
        super().connection_made(transport)
        inner = self.app
        connection = Connection(transport)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("extensions", {})["tallystick.connection"] = connection
            await inner(scope, receive, send)

        self.app = app


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would raise them again at its end, and Ctrl-C would be a failure."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class MockServer:
    """The mock on 127.0.0.1:``port``; 0 takes a free one.  Raises PortTakenError when somebody else has it."""

    def __init__(self, port: int = 0) -> None:
        self.state = State()
        self._socket = socket.socket(
            socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
        )  # as asyncio's NODELAY wants
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((HOST, port))
            self._socket.listen(128)  # who comes before the loop runs waits, and is not refused
        except OSError as error:
            self._socket.close()
            raise PortTakenError(HOST, port) from error
        self.port = int(self._socket.getsockname()[1])
        self._server = _Server(
            uvicorn.Config(
                make_app(self.state),
                http=Protocol,
                ws="auto",  # websockets, where a module for them is installed
                lifespan="off",
                log_config=None,
                log_level="critical",
                access_log=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self.port}"

    @property
    def anthropic_url(self) -> str:
        """What anthropic takes as ``base_url``."""
        return f"{self.url}/anthropic"

    @property
    def openai_url(self) -> str:
        """What openai takes as ``base_url``."""
        return f"{self.url}/openai/v1"

    def run(self) -> None:
        """Serve in this thread until `stop`, or until SIGINT or SIGTERM when this is the main thread."""
        try:
            asyncio.run(self._serve())
        finally:
            self._socket.close()

    async def _serve(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, self._end)
        await self._server.serve(sockets=[self._socket])

    def _end(self) -> None:
        self._server.should_exit = True

    def start(self) -> None:
        """Serve in a thread of its own; return when it answers."""
        self._thread = threading.Thread(target=self.run, name="tallystick-mock", daemon=True)
        self._thread.start()
        waiting = threading.Event()
        for _ in range(int(START_S_MAX / 0.01)):
            if self._server.started:
                return
            waiting.wait(0.01)
        raise RuntimeError(f"the mock did not start within {START_S_MAX:.0f} s")

    def stop(self) -> None:
        """End the thread's server and wait for it."""
        self._end()
        if self._thread:
            self._thread.join(STOP_S_MAX)
