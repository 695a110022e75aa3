"""OTLP over gRPC, for senders that speak nothing else: the same checks, the same journal, the same answers."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from tallystick.collector import otlp
from tallystick.collector.journal import JournalFullError
from tallystick.collector.receive import Receiver
from tallystick.collector.settings import CollectorSettings
from tallystick.errors import MalformedBatchError, PortTakenError

SERVICE = "opentelemetry.proto.collector.{0}.v1.{1}Service"
THREADS = 8
"""Each request holds one while the journal syncs."""
STOP_S = 1.0

Answer = Callable[[bytes, Any], bytes]


class RpcServer:
    """Listens at the collector's host on ``port``; what it takes is in the journal before it answers.

    Raises PortTakenError when somebody listens there.
    """

    def __init__(self, receiver: Receiver, settings: CollectorSettings, port: int) -> None:
        self.receiver = receiver
        token = settings.bearer()
        self.bearer = None if token is None else f"Bearer {token}"
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="tallystick-grpc")
        options = [("grpc.max_receive_message_length", settings.body_bytes_max), ("grpc.so_reuseport", 0)]
        self.server = grpc.server(self.pool, options=options)
        self.server.add_generic_rpc_handlers(
            (
                _service("trace", "Trace", self._traces),
                _service("metrics", "Metrics", self._ignored),
                _service("logs", "Logs", self._ignored),
            )
        )
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            if settings.tls_certificate is None:
                self.port = self.server.add_insecure_port(f"{host}:{port}")
            else:
                certificate = settings.tls_certificate.read_bytes()
                key = (settings.tls_key or settings.tls_certificate).read_bytes()
                credentials = grpc.ssl_server_credentials([(key, certificate)])
                self.port = self.server.add_secure_port(f"{host}:{port}", credentials)
        except RuntimeError as error:  # grpc's own word for a port that is taken
            raise PortTakenError(settings.host, port) from error

    def start(self) -> None:
        """Begin to answer."""
        self.server.start()

    def stop(self) -> None:
        """Answer what is under way, then end."""
        self.server.stop(STOP_S).wait()
        self.pool.shutdown()

    def _traces(self, body: bytes, context: Any) -> bytes:
        self._admit(context)
        try:
            record, rejected = self.receiver.record(otlp.PROTOBUF, "", body, time.time_ns())
            self.receiver.journal.append_encoded(record).result()
        except MalformedBatchError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except JournalFullError as error:
            context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        return otlp.answer(otlp.PROTOBUF, rejected)

    def _ignored(self, body: bytes, context: Any) -> bytes:
        """Take metrics or logs and store nothing; an empty message is a success in both."""
        self._admit(context)
        return b""

    def _admit(self, context: Any) -> None:
        """Abort the call of who bears no token.  No browser speaks gRPC, so there is no Host or Origin to look at."""
        if self.bearer is None:
            return
        given = [str(value) for name, value in context.invocation_metadata() if name == "authorization"]
        if len(given) != 1 or not hmac.compare_digest(given[0].encode(), self.bearer.encode()):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the collector's token is needed, as Bearer TOKEN")


def _service(package: str, name: str, answer: Answer) -> grpc.GenericRpcHandler:
    """Return the service's one method; bodies stay bytes, as the journal keeps them."""
    handlers = {"Export": grpc.unary_unary_rpc_method_handler(answer)}
    return grpc.method_handlers_generic_handler(SERVICE.format(package, name), handlers)
