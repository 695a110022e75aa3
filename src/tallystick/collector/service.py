"""Puts the parts of a collector together, runs them, and takes them apart in the right order."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pyarrow as pa
import uvicorn

from tallystick.collector import standings
from tallystick.collector.adopt import Adopter
from tallystick.collector.alerting import Alerting
from tallystick.collector.apply import Applier, Retention
from tallystick.collector.budgeting import Budgeting
from tallystick.collector.decode import Decoder
from tallystick.collector.folder import Folder, own
from tallystick.collector.forward import Forwarder
from tallystick.collector.journal import Journal
from tallystick.collector.lane import lane_to
from tallystick.collector.making import Here
from tallystick.collector.own import settle_in
from tallystick.collector.patience import allow_many_connections
from tallystick.collector.prices import Prices
from tallystick.collector.receive import Receiver
from tallystick.collector.serve import Answers, application
from tallystick.collector.settings import Settings
from tallystick.collector.store import Store, open_or_set_aside
from tallystick.collector.worker import Worker
from tallystick.errors import PortTakenError, SettingsError
from tallystick.pricing import Shelf

if TYPE_CHECKING:
    from tallystick.collector.child import Child
    from tallystick.collector.rpc import RpcServer

log = logging.getLogger("tallystick.collector")

BACKLOG = 2048
STOP_S = 3.0


class Service:
    """A collector.  Made: port and folder are ours.  `serve` runs it until `stop`; `close` gives all back."""

    def __init__(self, settings: Settings, worker: Child | None = None) -> None:
        self.settings = settings
        collector = settings.collector
        self.socket = listen(collector.host, collector.port)
        self.folder: Folder | None = None
        try:
            self.folder = own(collector.data, self.address)
            self._assemble(self.folder, worker)
        except BaseException:
            self.socket.close()
            if self.folder is not None:
                self.folder.release()
            raise

    def _assemble(self, folder: Folder, worker: Child | None) -> None:
        collector = self.settings.collector
        # The first pa.array loads pandas when that is installed: 1.5 s that the first request should not wait for.
        pa.array([0])

        def open_store() -> tuple[Store, str | None]:
            return open_or_set_aside(
                folder.database, folder.aside, collector.memory_limit_mb, collector.query_timeout_s
            )

        self.journal = Journal(folder.journal, collector.segment_bytes_max)
        shelf = Shelf(folder.path / "prices")
        decoder = Decoder(shelf.price, collector.spans_max, collector.attributes_max)
        quarantine = folder.aside / "records.tly"
        maker = Worker(decoder, shelf.book, worker) if collector.worker else Here(decoder)
        retention = Retention(
            archive_days=collector.archive_days,
            days=collector.retention_days,
            bytes_max=None if collector.retention_gb is None else int(collector.retention_gb * 1e9),
        )
        self.applier = Applier(self.journal, open_store, maker, quarantine, collector.group_ms, retention)
        self.prices = Prices(shelf, self.journal, self.applier)
        self.adopter = Adopter(collector.spool, self.journal)
        self.forwarder = (
            Forwarder(
                self.journal,
                collector.forward_url,
                {name: value.get_secret_value() for name, value in collector.forward_headers.items()},
                folder.path / "forward.json",
            )
            if collector.forward_url
            else None
        )
        self.budgeting = Budgeting(self.settings.budgets(), self.journal, self.applier)
        self.applier.keeps_from = self._keeps_from
        self.alerting = Alerting(
            self.settings, self.journal, self.applier, self.budgeting.budgets, self.prices.version,
            lambda name: standings.raise_limit(self.budgeting, name),
        )  # fmt: skip
        self.pool = ThreadPoolExecutor(collector.query_threads, thread_name_prefix="tallystick-query")
        answers = Answers(
            self.applier,
            self.journal,
            self.settings,
            self.pool,
            self.prices,
            self.budgeting,
            self.alerting,
            self.forwarder,
        )
        receiver = Receiver(self.journal, collector)
        self.rpc: RpcServer | None = None
        if collector.grpc_port is not None:
            from tallystick.collector.rpc import RpcServer

            self.rpc = RpcServer(receiver, collector, collector.grpc_port)
        guard, admission = application(receiver, answers, collector)
        config = uvicorn.Config(
            guard,
            http=lane_to(receiver, admission, guard),
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=int(STOP_S),
            ssl_certfile=collector.tls_certificate,
            ssl_keyfile=collector.tls_key,
        )
        self.server = _Server(config)

    def _keeps_from(self) -> int:
        """Return the first segment of the journal that somebody still reads, now or after a restart."""
        forwarded = self.forwarder.position.segment if self.forwarder else self.journal.end.segment
        return min(self.applier.store.applied.segment, self.budgeting.keeps_from(), forwarded)

    @property
    def address(self) -> str:
        """Where it listens, as ``127.0.0.1:4318``."""
        host, port = self.socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def serve(self) -> None:
        """Run until `stop` is called."""
        self.prices.start()
        self.applier.start()
        self.adopter.start()
        if self.forwarder:
            self.forwarder.start()
        self.budgeting.start()
        if self.rpc:
            self.rpc.start()
        self.alerting.start()
        await self.server.serve(sockets=[self.socket])

    def stop(self) -> None:
        """Have `serve` return; for any thread."""
        self.server.should_exit = True

    def close(self) -> None:
        """End every part: first what brings work, last what holds it."""
        self.socket.close()
        if self.rpc:
            self.rpc.stop()
        self.pool.shutdown(cancel_futures=True)
        self.adopter.stop()
        if self.forwarder:
            self.forwarder.stop()
        self.prices.stop()
        self.alerting.stop()
        self.budgeting.stop()
        self.journal.close()
        self.applier.stop()
        if self.folder is not None:
            self.folder.release()


class _Server(uvicorn.Server):
    """Leaves signals to us: uvicorn would raise them again when it is done, and the exit code would be a signal's."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run_forever(settings: Settings, worker: Child | None = None) -> int:
    """Run a collector in the foreground until SIGINT or SIGTERM; return 0.  ``worker`` may be on its way already."""
    settle_in()
    allow_many_connections()
    service = Service(settings, worker)
    try:
        asyncio.run(_until_signal(service))
    finally:
        service.close()
    return 0


async def _until_signal(service: Service) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, service.stop)
    scheme = "https" if service.settings.collector.tls_certificate else "http"
    told = f"tallystick: collector at {scheme}://{service.address}, data in {service.settings.collector.data}"
    print(told, flush=True)  # noqa: T201 -- a command's own voice
    await service.serve()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raises PortTakenError when somebody else does, before anything else is touched."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    # asyncio does so only for sockets that were made with IPPROTO_TCP; without it the second write of an answer waits
    # for the client's delayed acknowledgement of the first, 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a restart waits for old connections' TIME_WAIT
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except PermissionError as error:
        listener.close()
        raise SettingsError(
            f"port is {port}, which only root may listen at; one from 1024 to 65535 is right"
        ) from error
    except OSError as error:
        listener.close()
        raise PortTakenError(host, port) from error
    listener.setblocking(False)
    return listener
