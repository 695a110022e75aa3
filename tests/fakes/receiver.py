"""A loopback server where the collector would be: takes OTLP, or misbehaves as told."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Receiver:
    """``behaviour``: ok, a status such as "503", hang, drip, or big."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.behaviour = "ok"
        self.answer = b""
        """What follows a 200."""
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.sent_bytes = 0

    def spans(self) -> list[Span]:
        return [
            span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if receiver.behaviour == "hang":
                stopped.wait(30)
                return
            status = int(receiver.behaviour) if receiver.behaviour.isdigit() else 200
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            receiver.headers.append(dict(self.headers))
            if status == 200:
                receiver.bodies.append(body)
            self.send_response(status)
            with suppress(OSError):
                self._answer()

        def _answer(self) -> None:
            if receiver.behaviour == "drip":
                for _ in range(600):
                    if stopped.wait(0.1):
                        return
                    self.wfile.write(b"X: y\r\n")
                return
            size = 50_000_000 if receiver.behaviour == "big" else 0
            self.send_header("Content-Length", str(size or len(receiver.answer)))
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(b"" if size else receiver.answer)
            for _ in range(size // 50_000):
                receiver.sent_bytes += self.wfile.write(b"x" * 50_000)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    stopped = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()


def wait_until(condition: object, timeout_s: float = 60.0) -> None:
    """Poll ``condition``, a callable, until it is true; fail the test when it never is."""
    assert callable(condition)
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"still not true after {timeout_s} s: {condition}"
        time.sleep(0.02)
