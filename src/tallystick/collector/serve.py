"""The collector's HTTP: who may ask, and what answers which question.  No web page, and nobody under another name."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any
from urllib.parse import unquote_plus

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tallystick.collector import (
    advice,
    cause,
    doctor,
    export,
    lookup,
    metrics,
    openapi,
    patience,
    query,
    standings,
    waste,
)
from tallystick.collector.access import HEADERS, Guard, error_answer
from tallystick.collector.admission import Admission
from tallystick.collector.alerting import Alerting
from tallystick.collector.apply import Applier
from tallystick.collector.archive import LEFT_THE_TABLES
from tallystick.collector.budgeting import Budgeting
from tallystick.collector.forward import Forwarder
from tallystick.collector.journal import Journal, Position
from tallystick.collector.prices import Prices
from tallystick.collector.receive import Receiver
from tallystick.collector.settings import CollectorSettings, Settings
from tallystick.collector.store import QueryTimeoutError
from tallystick.errors import StoreError

log = logging.getLogger("tallystick.serve")

SNOOZE_MINUTES_MAX = 7 * 24 * 60
QUERY_CHARS_MAX = 16 * 1024
BODY_BYTES_MAX = 16 * 1024

RANGED = {
    "totals": query.totals,
    "series": query.series,
    "groups": query.groups,
    "failures": query.failures,
    "cause": cause.cause,
    "waste": waste.waste,
    "calls": query.calls,
    "dimensions": query.dimensions,
    "alerts": query.alerts,
    "units": query.units,
    "spans": lookup.spans,
    "refusals": standings.refusals,
    "changes": standings.changes,
}

TABULAR = frozenset({"groups", "series", "calls", "units", "alerts", "refusals"})
"""These have rows, and give them as CSV too."""


@dataclass(slots=True)
class Answers:
    """The questions, each answered in a thread of the pool: the event loop never waits for DuckDB."""

    applier: Applier
    journal: Journal
    settings: Settings
    pool: ThreadPoolExecutor
    prices: Prices
    budgeting: Budgeting
    alerting: Alerting
    forwarder: Forwarder | None
    begun: Position = field(init=False)
    """How far the journal was when the collector started."""

    def __post_init__(self) -> None:
        self.begun = self.journal.end

    async def ranged(self, request: Request) -> Response:
        """Answer one of `RANGED`."""
        name = request.path_params["question"]
        question = RANGED.get(name)
        if question is None:
            known = ", ".join([*RANGED, "advice", "budgets", "ledger", "doctor", "calls/ID", "traces/ID"])
            return error_answer(404, "not_found", f"there is no such question; there are {known}")
        wants_arrow = export.FORMATS["arrow"] in request.headers.get("accept", "")
        if name in TABULAR and (wants_arrow or b"format=" in request.scope["query_string"]):
            return await self._tabular(request, question)
        return await self._answer(lambda: question(self._ask, _params(request), _now()))

    async def call(self, request: Request) -> Response:
        """Answer ``calls/{id}``."""
        return await self._answer(lambda: query.call(self._ask, request.path_params["id"]))

    async def advice(self, request: Request) -> Response:
        """Answer what could be saved, by the prices that are in force."""
        book = self.prices.shelf.book
        return await self._answer(lambda: advice.advice(self._ask, _params(request), _now(), book))

    async def doctor(self, request: Request) -> Response:
        """Answer whether the ledger is right, and what to do if not."""
        host, port = request.scope["server"]
        facts = {
            "address": f"{host}:{port}", "version": version("tallystick"), "data": str(self.settings.collector.data),
            "spool": str(self.settings.collector.spool), "channels": self.alerting.channels(),
        }  # fmt: skip

        def asked() -> Any:
            fault = self.journal.fault or self.applier.trouble()
            kept = self.settings.collector
            return doctor.report(self._ask, _now(), facts | {"fault": fault, "ledger": self._ledger()}) | {
                "kept": {name: getattr(kept, name) for name in ("archive_days", "retention_days", "retention_gb")}
            }

        return await self._answer(asked)

    async def test_alert(self, request: Request) -> Response:
        """Send a test message to every channel, and answer what became of it."""
        if not _is_json(request):
            return error_answer(415, "unsupported", "send the body as application/json; {} will do")
        return await self._run(lambda: {"rows": self.alerting.test()})

    async def acknowledge(self, request: Request) -> Response:
        """Write down that somebody has seen an alert."""
        return await self._order(request, lambda _: self.alerting.acknowledge(request.path_params["id"]))

    async def snooze(self, request: Request) -> Response:
        """Hold back what is told of the same budget or subject; the body is ``{"minutes": 60}``."""
        return await self._order(request, lambda body: self.alerting.snooze(request.path_params["id"], _minutes(body)))

    async def budgets(self, request: Request) -> Response:
        """Answer how far each budget is spent."""
        return await self._answer(lambda: standings.budgets(self._ask, _params(request), _now(), self.budgeting))

    async def create_budget(self, request: Request) -> Response:
        """Put a new budget in force."""
        return await self._order(request, lambda told: standings.create(self.budgeting, told))

    async def replace_budget(self, request: Request) -> Response:
        """Put a budget in force in place of the one of its name."""
        name = request.path_params["id"]
        return await self._order(request, lambda told: standings.replace(self.budgeting, name, told))

    async def delete_budget(self, request: Request) -> Response:
        """Take a budget out of force."""
        return await self._run(lambda: standings.delete(self.budgeting, request.path_params["id"]))

    async def _tabular(self, request: Request, question: Callable[..., Any]) -> Response:
        def asked() -> Response:
            params = _params(request)
            form = ([value for name, value in params if name == "format"] or ["arrow"])[-1]
            if form not in export.FORMATS:
                raise query.BadParameterError(f"format is {form[:64]!r}; one of {', '.join(export.FORMATS)}")
            answer = question(self._ask, [pair for pair in params if pair[0] != "format"], _now())
            if form == "json":
                return _json(200, answer)
            more = {"X-Next-Cursor": answer["next_cursor"]} if answer.get("next_cursor") else {}
            table = export.as_arrow(answer["rows"]) if form == "arrow" else export.as_csv(answer["rows"])
            return Response(table, 200, HEADERS | more, media_type=export.FORMATS[form])

        return await self._answer(asked)

    async def trace(self, request: Request) -> Response:
        """Answer ``traces/{id}``."""
        return await self._answer(lambda: lookup.trace(self._ask, request.path_params["id"]))

    async def ready(self, request: Request) -> Response:
        """Answer 200 when what arrives is stored and what had arrived before the start can be asked for."""
        reason = self.journal.fault or self.applier.trouble()
        if reason is None and self.applier.store.applied < self.begun:
            reason = f"{self.applier.behind_bytes()} bytes of the journal are still to be applied"
        return (
            _json(200, {"status": "ready"}) if reason is None else _json(503, {"status": "not ready", "reason": reason})
        )

    async def metrics(self, request: Request) -> Response:
        """Answer the ledger and the budgets as Prometheus' text."""

        def asked() -> Response:
            budgets = standings.budgets(self._ask, (), _now(), self.budgeting)["rows"]
            healthy = (self.journal.fault or self.applier.trouble()) is None
            return Response(
                metrics.text(self._ledger(), budgets, healthy=healthy), 200, HEADERS, media_type=metrics.MEDIA_TYPE
            )

        return await self._answer(asked)

    async def reprice(self, request: Request) -> Response:
        """Price stored units again."""
        return await self._order(request, self.prices.price_again)

    async def _order(self, request: Request, order: Callable[[Mapping[str, Any]], Any]) -> Response:
        """Do what the body says, which is JSON: a page of another site cannot send that unasked."""
        if not _is_json(request):
            return error_answer(415, "unsupported", "send the body as application/json")
        body = b""
        try:
            async with asyncio.timeout(patience.BODY_S):
                async for part in request.stream():
                    body += part
                    if len(body) > BODY_BYTES_MAX:
                        return error_answer(413, "too_large", f"the body is longer than {BODY_BYTES_MAX} bytes")
        except (ClientDisconnect, TimeoutError):
            return Response(status_code=408, headers={"Connection": "close"})
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            asked = None
        if not isinstance(asked, dict):
            return error_answer(400, "bad_parameter", "the body is no JSON object")
        return await self._run(lambda: order(asked))

    async def ledger(self, request: Request) -> Response:
        """Answer what came and what became of it."""
        return await self._answer(self._ledger)

    async def health(self, request: Request) -> Response:
        """Answer 200 when what arrives is stored, else 503 and why not."""
        reason = self.journal.fault or self.applier.trouble()
        if reason is None:
            return _json(200, {"status": "ok"})
        return _json(503, {"status": "failing", "reason": reason})

    def _ask(self, sql: str, params: Any = ()) -> list[tuple[Any, ...]]:
        return self.applier.ask(sql, params)

    async def _answer(self, question: Callable[[], Any]) -> Response:
        """Answer a question, all of it from one state of the store."""

        def asked() -> Any:
            with self.applier.snapshot():
                return question()

        return await self._run(asked)

    async def _run(self, question: Callable[[], Any]) -> Response:
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self.pool, question)
            return answer if isinstance(answer, Response) else _json(200, answer)
        except query.BadParameterError as error:
            return error_answer(400, "bad_parameter", str(error))
        except query.NotFoundError as error:
            return error_answer(404, "not_found", str(error))
        except standings.ConflictError as error:
            return error_answer(409, "conflict", str(error))
        except QueryTimeoutError as error:
            return error_answer(504, "timeout", str(error))
        except StoreError as error:
            log.warning("a question was not answered: %s", error)
            return error_answer(503, "store", str(error))

    def _ledger(self) -> Any:
        store, journal = self.applier.store, self.journal
        counts = dict(self._ask("SELECT name, count FROM counters"))
        applied = store.applied
        version, age_days = self.prices.version()
        rejected = {
            name.removeprefix("rejected:"): count for name, count in counts.items() if name.startswith("rejected:")
        }
        dropped = {
            name.removeprefix("dropped:"): count for name, count in counts.items() if name.startswith("dropped:")
        }
        accounted = counts.get("stored", 0) + counts.get("duplicates", 0) + sum(rejected.values())
        accounted += sum(counts.get(name, 0) for name in LEFT_THE_TABLES)
        applied_bytes = journal.bytes_between(journal.start, applied)
        return {
            "received_spans": counts.get("received", 0),
            "stored_spans": counts.get("stored", 0),
            "duplicate_spans": counts.get("duplicates", 0),
            "conflicting_spans": counts.get("conflicts", 0),
            "rejected_spans": rejected,
            "unaccounted_spans": counts.get("received", 0) - accounted,
            "dropped_records": counts.get("dropped_records", 0),
            "dropped": dropped,
            "apps": _apps(counts),
            "duplicate_units": counts.get("duplicate_units", 0),
            "journal": {
                "segments": journal.segment_count(), "bytes": journal.size_bytes(), "applied_bytes": applied_bytes,
                "behind_bytes": max(journal.bytes_between(applied, journal.end), 0),
                "damaged_bytes": counts.get("damaged_bytes", 0) + counts.get("damaged_spool_bytes", 0),
            },
            "prices": {"version": version, "age_days": age_days, "fault": self.prices.shelf.fault},
            "forward": self.forwarder.state() if self.forwarder else None,
        }  # fmt: skip


def _apps(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return each service's own equation: finished = spooled + dropped + unaccounted, each counted by itself."""
    services = {name.partition(":")[2] for name in counts if name.startswith("finished:")}
    found = []
    for service in sorted(services):
        finished, spooled, dropped, records = (
            counts.get(f"{what}:{service}", 0) for what in ("finished", "spooled", "dropped_calls", "dropped_records")
        )
        found.append({
            "service": service, "finished_calls": finished, "spooled_calls": spooled, "dropped_calls": dropped,
            "unaccounted_calls": finished - spooled - dropped, "dropped_records": records,
        })  # fmt: skip
    return found


def application(receiver: Receiver, answers: Answers, settings: CollectorSettings) -> tuple[Guard, Admission]:
    """Return the collector's ASGI application, and the part of it that answers calls which wait."""
    admission = Admission(answers.budgeting, Starlette(
        routes=[
            Route("/v1/traces", receiver.traces, methods=["POST"]),
            Route("/v1/metrics", receiver.ignored, methods=["POST"]),
            Route("/v1/logs", receiver.ignored, methods=["POST"]),
            Route("/healthz", answers.health),
            Route("/readyz", answers.ready),
            Route("/metrics", answers.metrics),
            Route("/api/v1/budgets", answers.budgets),
            Route("/api/v1/budgets", answers.create_budget, methods=["POST"]),
            Route("/api/v1/budgets/{id:path}", answers.replace_budget, methods=["PUT"]),
            Route("/api/v1/budgets/{id:path}", answers.delete_budget, methods=["DELETE"]),
            Route("/api/v1/ledger", answers.ledger),
            Route("/api/v1/openapi.json", _described),
            Route("/api/v1/calls/{id}", answers.call),
            Route("/api/v1/traces/{id}", answers.trace),
            Route("/api/v1/advice", answers.advice),
            Route("/api/v1/doctor", answers.doctor),
            Route("/api/v1/alerts/{id}/ack", answers.acknowledge, methods=["POST"]),
            Route("/api/v1/alerts/{id}/snooze", answers.snooze, methods=["POST"]),
            Route("/api/v1/alerts/test", answers.test_alert, methods=["POST"]),
            Route("/api/v1/reprice", answers.reprice, methods=["POST"]),
            Route("/api/v1/{question}", answers.ranged),
        ],
        exception_handlers={404: _not_found, 405: _not_allowed, 500: _broken},
    ))  # fmt: skip
    return Guard(admission, settings.names, settings.bearer()), admission


async def _described(_request: Request) -> Response:
    return _json(200, openapi.document([*RANGED, "advice"]))


async def _not_found(request: Request, _: Exception) -> Response:
    return error_answer(404, "not_found", f"nothing is at {request.url.path[:200]}; see docs/api.md")


async def _not_allowed(request: Request, _: Exception) -> Response:
    return error_answer(405, "method_not_allowed", f"{request.method[:16]} is not answered at {request.url.path[:200]}")


async def _broken(_request: Request, _: Exception) -> Response:
    return error_answer(500, "fault", "a fault of tallystick's own; its traceback is in the collector's log")


def _params(request: Request) -> list[tuple[str, str]]:
    """Return the parameters in order, empty values included."""
    text = request.scope["query_string"].decode("latin-1")
    if len(text) > QUERY_CHARS_MAX:
        raise query.BadParameterError(f"the query is longer than {QUERY_CHARS_MAX} characters")
    pairs = [part.partition("=") for part in text.split("&") if part]
    return [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]


def _minutes(body: Mapping[str, Any]) -> int:
    minutes = body.get("minutes", 60)
    if not isinstance(minutes, int) or isinstance(minutes, bool) or not 1 <= minutes <= SNOOZE_MINUTES_MAX:
        raise query.BadParameterError(f"minutes is {str(minutes)[:40]}; a number from 1 to {SNOOZE_MINUTES_MAX}")
    return minutes


def _is_json(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _now() -> datetime:
    return datetime.now(UTC)


def _json(status: int, body: Any) -> Response:
    return Response(json.dumps(body, ensure_ascii=False), status, HEADERS, media_type="application/json")
