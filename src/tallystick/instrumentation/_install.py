"""`instrument()` and `uninstrument()`: what is patched, when, and how it is undone."""

from __future__ import annotations

import atexit
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import wrapt

from tallystick.instrumentation import _markers
from tallystick.instrumentation._bank import Bank
from tallystick.instrumentation._foreign import Sends
from tallystick.instrumentation._gate import Gate
from tallystick.instrumentation._guard import guard
from tallystick.instrumentation._hooks import Hooks
from tallystick.instrumentation._mend import Mender
from tallystick.instrumentation._settings import Settings, read_settings
from tallystick.instrumentation._ship import Shipper
from tallystick.instrumentation._spool import Spool
from tallystick.instrumentation._tap import end_open_streams
from tallystick.instrumentation._tracing import Tracing
from tallystick.instrumentation._websocket import MODULES, Sockets
from tallystick.instrumentation._wrapper import Wrapper


@dataclass(slots=True)
class _Installation:
    settings: Settings
    spool: Spool
    shipper: Shipper
    tracing: Tracing
    hooks: Hooks
    bank: Bank
    sends: Sends
    sockets: Sockets
    undo: list[Callable[[], None]] = field(default_factory=list)


_lock = threading.Lock()
_installed: _Installation | None = None


def instrument(
    *,
    service: str | None = None,
    environment: str | None = None,
    collector: str | None = None,
    spool: str | Path | None = None,
    providers: Mapping[str, str] | None = None,
    content: str | None = None,
    redact: Callable[[str], str] | None = None,
    max_input_tokens: int | None = None,
    max_output_tokens: int | None = None,
    max_cost_usd: Decimal | str | float | None = None,
    loop_limit: int | None = None,
) -> None:
    """Record every call of the ``anthropic`` and ``openai`` SDKs, whether they are imported yet or not.

    Call it once, anywhere; a second call changes nothing.  Nothing of the app changes: results, exceptions, requests
    and import order are as without it.

    service: this app's name (else ``OTEL_SERVICE_NAME``, else the program's name).
    environment: such as ``prod`` (else ``TALLYSTICK_ENVIRONMENT``).
    collector: where spans go, any OTLP/HTTP receiver (else ``TALLYSTICK_COLLECTOR``, else http://127.0.0.1:4318).
    spool: the folder that keeps them until then (else ``TALLYSTICK_SPOOL``).
    providers: gateways, as ``{"llm.corp.example/anthropic": "anthropic"}`` (else ``TALLYSTICK_PROVIDERS``).
    content: ``off`` (the default), ``redacted`` or ``full``: whether prompts and answers are recorded (else
    ``TALLYSTICK_CONTENT``).
    redact: your own redactor of a text, run after ours when content is ``redacted``.
    max_input_tokens, max_output_tokens, max_cost_usd: a call that can pass one is not sent: RequestTooLargeError (else
    ``TALLYSTICK_MAX_INPUT_TOKENS`` and so on, else ``[instrument]`` in tallystick.toml).
    loop_limit: how often the very same request may be made within a minute: RequestLoopError (else
    ``TALLYSTICK_LOOP_LIMIT``, else the file).

    Raises SettingsError when one of these is wrong; nothing else, ever.
    """
    global _installed
    settings = read_settings(
        os.environ,
        service=service,
        environment=environment,
        collector=collector,
        spool=spool,
        providers=providers,
        content=content,
        redact=redact,
        limits={
            "max_input_tokens": max_input_tokens,
            "max_output_tokens": max_output_tokens,
            "max_cost_usd": max_cost_usd,
            "loop_limit": loop_limit,
        },
    )
    with _lock:
        if _installed is not None:
            return
        _installed = _install(settings)
        _markers.use(_installed.tracing)


def uninstrument() -> None:
    """Undo `instrument()`: every patched name is again what it was; what was recorded is shipped or stays spooled."""
    global _installed
    with _lock:
        installation, _installed = _installed, None
    if installation is None:
        return
    installation.hooks.enabled = False
    _markers.use(None)
    for undo in reversed(installation.undo):
        with guard("the removal of a patch"):
            undo()
    installation.tracing.flights.stop()  # what is in flight now ends as ever, and is written then
    _leave(installation)


def flush(timeout_s: float = 5.0) -> bool:
    """Send what is spooled now; True when the collector has all of it, False when it did not take it in time.

    Never needed for safety: what is spooled survives the process.
    """
    installation = _installed
    return installation is None or installation.shipper.ship(timeout_s)


def _install(settings: Settings) -> _Installation:
    spool = Spool(settings.spool, settings.spool_bytes_max)
    tracing = Tracing(settings, spool)
    shipper = Shipper(spool, settings.collector, tracing.report_dropped)
    spool.wake = shipper.wake
    bank = Bank(settings.collector, settings.spool, settings.rules)
    gate = Gate(bank, settings.limits, {"service": settings.service, "environment": settings.environment})
    hooks = Hooks(settings, tracing, gate)
    sends = Sends(hooks, settings.providers)
    installation = _Installation(settings, spool, shipper, tracing, hooks, bank, sends, Sockets(hooks))
    for name in (
        "anthropic._base_client",
        "openai._base_client",
        "openai._streaming",
        "httpx._client",
        "httpx2._client",
        *MODULES,
    ):
        _when_imported(name, installation)
    atexit.register(_leave, installation)
    installation.undo.append(lambda: atexit.unregister(_leave))
    return installation


def _leave(installation: _Installation) -> None:
    with guard("the end of the process"):
        end_open_streams()
        installation.tracing.flights.leave()
        installation.bank.leave()
        installation.shipper.leave()
        installation.spool.close()


def _when_imported(name: str, installation: _Installation) -> None:
    """Patch a module now if it is there, else right after the app imports it; never import it."""
    if name in sys.modules:
        _patch(sys.modules[name], installation)
        return
    finder = _Finder(name, installation)
    sys.meta_path.insert(0, finder)
    installation.undo.append(finder.remove)


class _Finder:
    """Sees one module being imported, once, and patches it when its code has run."""

    def __init__(self, name: str, installation: _Installation) -> None:
        self._name = name
        self._installation = installation

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name:
            return None
        self.remove()
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _PatchingLoader(spec.loader, self._installation)  # type: ignore[assignment]
        return spec

    def remove(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)


class _PatchingLoader(wrapt.ObjectProxy):  # type: ignore[type-arg]
    """A module's own loader in every respect, but that we patch the module after it ran."""

    def __init__(self, loader: Any, installation: _Installation) -> None:
        super().__init__(loader)
        self._self_installation = installation

    def exec_module(self, module: ModuleType) -> None:
        loader = self.__wrapped__
        module.__loader__ = loader
        if module.__spec__ is not None:
            module.__spec__.loader = loader
        loader.exec_module(module)
        if self._self_installation is _installed:
            _patch(module, self._self_installation)


def _patch(module: ModuleType, installation: _Installation) -> None:
    """Patch one module of an SDK or an HTTP library; a target that is missing disables that target alone."""
    hooks = installation.hooks
    targets: list[tuple[str, Callable[..., Any]]] = [
        ("SyncAPIClient.request", hooks.request),
        ("AsyncAPIClient.request", hooks.request_async),
        ("SyncAPIClient._process_response", hooks.process_response),
        ("AsyncAPIClient._process_response", hooks.process_response_async),
    ]
    if hasattr(module, "start_api_call_span"):  # anthropic >= 1.14
        targets.append(("start_api_call_span", hooks.start_native_span))
    if module.__name__.endswith("._streaming"):
        targets = [("Stream.__stream__", hooks.stream), ("AsyncStream.__stream__", hooks.stream_async)]
    if module.__name__.startswith("httpx"):
        sends = installation.sends
        targets = [("Client.send", sends.send), ("AsyncClient.send", sends.send_async)]
    if module.__name__ in MODULES:
        targets = installation.sockets.targets(module)
    for path, wrapper in targets:
        with guard(f"the patching of {module.__name__}.{path}"):
            _wrap(module, path, wrapper, installation.undo)
    if module.__name__.endswith("._base_client"):
        with guard(f"the patching of what stands on {module.__name__}"):
            for base in (module.SyncAPIClient, module.AsyncAPIClient):
                if isinstance(vars(base).get("request"), Wrapper):
                    mender = Mender(base, "request", installation.undo)
                    mender.mend_all()
                    hooks.menders.append(mender)


def _wrap(module: ModuleType, path: str, wrapper: Callable[..., Any], undo: list[Callable[[], None]]) -> None:
    """Wrap ``module.path``; what restores the very object that was there goes to ``undo``."""
    parent, name, _ = wrapt.resolve_path(module, path)
    original = vars(parent)[name]
    if not hasattr(type(original), "__get__"):
        return  # a test's `mock.patch`, say: it would not be given the client that it is called on
    wrapped = Wrapper(original, wrapper)
    setattr(parent, name, wrapped)

    def restore() -> None:
        # Somebody may have patched over us since; then theirs stays, and ours, disabled, only passes calls through.
        if vars(parent).get(name) is wrapped:
            setattr(parent, name, original)

    undo.append(restore)
