"""Reservations over HTTP, on the way of every call: one small body in, one small body out, and nothing in between."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tallystick.collector.budgeting import LEASE_S, Budgeting
from tallystick.collector.journal import JournalFullError
from tallystick.collector.query import BadParameterError
from tallystick.model.budgets import DIMENSIONS, TAG_PREFIX, WAIT_S_MAX
from tallystick.model.ledger import Demand, Refusal

BODY_BYTES_MAX = 256 * 1024
SETTLEMENTS_MAX = 1000
DIMENSIONS_MAX = 100
CHARS_MAX = 1024
AMOUNT_MAX = Decimal(10**12)
LEASE_S_MAX = 3600
READY_S = 2.0
LOOK_S = 0.25
ID = re.compile(r"[0-9a-f]{8,64}")
KEYS = (
    "id", "dimensions", "usd", "tokens", "calls", "why_unbounded", "lease_s", "wait_s", "slice", "asks_again",
)  # fmt: skip
STATUSES = ("exact", "provider_reported", "estimated", "unknown")
HEADERS = {"content-type": "application/json", "cache-control": "no-store"}
RESERVE, RENEW, SETTLE = (f"/api/v1/reservations{what}" for what in ("", "/renew", "/settle"))

Answer = tuple[int, Any]


class Admission:
    """Answers ``/api/v1/guard`` and ``/api/v1/reservations``; everything else goes on to ``rest``."""

    def __init__(self, budgeting: Budgeting, rest: ASGIApp) -> None:
        self.budgeting = budgeting
        self.rest = rest
        self._waiting: list[asyncio.Future[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._routes = {
            ("POST", RESERVE): self._reserve,
            ("POST", RENEW): self._renew,
            ("POST", SETTLE): self._settle,
            ("GET", "/api/v1/guard"): self._guard,
        }
        budgeting.freed = self._freed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on."""
        method, path = scope.get("method", ""), scope.get("path", "")
        if (method, path) not in self._routes:
            await self.rest(scope, receive, send)
            return
        data = await _data(receive)
        if data is not None:
            response = await self.answer(method, path, data)
            await response(scope, receive, send)

    async def answer(self, method: str, path: str, data: bytes) -> Response:
        """Answer a request whose body is there whole."""
        try:
            status, body = await self._routes[method, path](_body(data))
        except BadParameterError as error:
            status, body = 400, _error("bad_parameter", str(error))
        except JournalFullError as error:
            status, body = 503, _error("journal", str(error))
        told = json.dumps({**body, "version": self.budgeting.version}, ensure_ascii=False)
        return Response(told, status, HEADERS)

    async def _guard(self, _body: Any) -> Answer:
        return 200, self.budgeting.guard()

    async def _reserve(self, body: Any) -> Answer:
        demand, wait_s = read_demand(body)
        asks_again = _flag("asks_again", body)
        until = time.monotonic() + wait_s
        if not await self._is_ready():
            return 503, _error("starting", "what was spent before is still being counted; try again")
        while True:
            outcome, durable = self.budgeting.admit(demand)
            if not isinstance(outcome, Refusal):
                break
            left_s = min(until - time.monotonic(), WAIT_S_MAX)
            if left_s <= 0 or not _may_fit(outcome, left_s):
                if not asks_again:
                    self.budgeting.refuse(demand, outcome)
                return 409, _refused(outcome)
            await self._wait(outcome, left_s)
        if durable is not None:
            try:
                await asyncio.wrap_future(durable)
            except JournalFullError:
                self.budgeting.undo(demand.id)
                raise
        expires_at = datetime.now(UTC) + timedelta(seconds=demand.lease_s)
        room = {unit: _plain(left) for unit, left in self.budgeting.room(demand, outcome).items()}
        answer = {
            "admitted": True, "id": demand.id, "budgets": outcome, "expires_at": _iso(expires_at), "room": room,
        }  # fmt: skip
        if demand.is_slice and (ends_at := self.budgeting.ends_at(outcome)) is not None:
            answer["ends_at"] = _iso(ends_at)
        return 200, answer

    async def _renew(self, body: Any) -> Answer:
        ids = body.get("ids")
        if not isinstance(ids, list) or len(ids) > SETTLEMENTS_MAX or not all(_is_id(one) for one in ids):
            raise BadParameterError(f"ids is a list of up to {SETTLEMENTS_MAX} ids of 8 to 64 hex digits")
        unknown = self.budgeting.renew(ids, _lease(body))
        return 200, {"renewed": [one for one in ids if one not in set(unknown)], "unknown": unknown}

    async def _settle(self, body: Any) -> Answer:
        told = body.get("settlements")
        if not isinstance(told, list) or len(told) > SETTLEMENTS_MAX:
            raise BadParameterError(f"settlements is a list of up to {SETTLEMENTS_MAX}")
        settlements = [read_settlement(one) for one in told]
        if settlements:
            await asyncio.wrap_future(self.budgeting.settle(settlements))
        return 200, {"settled": len(settlements)}

    async def _is_ready(self) -> bool:
        until = time.monotonic() + READY_S
        while not self.budgeting.is_ready:
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.02)
        return True

    async def _wait(self, refusal: Refusal, left_s: float) -> None:
        """Wait until something is freed, the window ends, or ``left_s`` is over, and then look again."""
        self._loop = asyncio.get_running_loop()
        if refusal.resets_at is not None:
            left_s = min(left_s, max((refusal.resets_at - datetime.now(UTC)).total_seconds(), 0.01))
        left_s = min(left_s, LOOK_S)
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        await asyncio.wait([waiter], timeout=left_s)
        if waiter in self._waiting:
            self._waiting.remove(waiter)

    def _freed(self) -> None:
        """Wake those that wait, first come first; for any thread."""
        if self._waiting and self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


def _may_fit(refusal: Refusal, within_s: float) -> bool:
    if refusal.may_fit_sooner:
        return True
    resets_at = refusal.resets_at
    return resets_at is not None and (resets_at - datetime.now(UTC)).total_seconds() < within_s


def read_demand(body: Mapping[str, Any]) -> tuple[Demand, float]:
    """Return what ``body`` asks for, and how long it may wait, in seconds; raises BadParameterError."""
    for key in body:
        if key not in KEYS:
            raise BadParameterError(f"unknown key {key[:64]!r}; known: {', '.join(KEYS)}")
    if not _is_id(body.get("id")):
        raise BadParameterError(f"id is {str(body.get('id'))[:80]!r}; 8 to 64 hex digits")
    why = body.get("why_unbounded")
    if why is not None and not isinstance(why, str):
        raise BadParameterError("why_unbounded is a text or null")
    wait_s = body.get("wait_s", 0)
    if isinstance(wait_s, bool) or not isinstance(wait_s, int | float) or not 0 <= wait_s <= WAIT_S_MAX:
        raise BadParameterError(f"wait_s is {str(wait_s)[:40]!r}; seconds from 0 to {WAIT_S_MAX}")
    demand = Demand(
        id=body["id"], dimensions=_dimensions(body.get("dimensions", {})), usd=_usd(body.get("usd")),
        tokens=_count("tokens", body.get("tokens")), calls=_count("calls", body.get("calls", 1)) or 0,
        why_unbounded=why, lease_s=_lease(body), is_slice=_flag("slice", body),
    )  # fmt: skip
    return demand, float(wait_s)


def read_settlement(told: Any) -> dict[str, Any]:
    """Return a settlement as the ledger's event has it; raises BadParameterError."""
    if not isinstance(told, dict) or not _is_id(told.get("id")):
        raise BadParameterError("a settlement is an object with the id of its reservation")
    status = told.get("status", "exact")
    if status not in STATUSES:
        raise BadParameterError(f"status is {str(status)[:40]!r}; one of {', '.join(STATUSES)}")
    usd = _usd(told.get("usd"))
    return {
        "id": told["id"], "usd": None if usd is None else str(usd), "tokens": _count("tokens", told.get("tokens")),
        "calls": _count("calls", told.get("calls", 1)), "status": status,
        "final": _flag("final", told, default=True),
    }  # fmt: skip


def _dimensions(told: Any) -> dict[str, str]:
    if not isinstance(told, dict) or len(told) > DIMENSIONS_MAX:
        raise BadParameterError(f"dimensions is an object of up to {DIMENSIONS_MAX} texts")
    for key, value in told.items():
        if key not in DIMENSIONS and not (key.startswith(TAG_PREFIX) and len(key) <= CHARS_MAX):
            raise BadParameterError(f"{key[:64]!r} is no dimension; known: {', '.join(DIMENSIONS)}, tag.NAME")
        if value is not None and not isinstance(value, str):
            raise BadParameterError(f"dimension {key[:64]!r} is {str(value)[:40]!r}, not a text")
    return {key: value[:CHARS_MAX] for key, value in told.items() if value}


def _usd(value: Any) -> Decimal | None:
    if value is None:
        return None
    try:
        amount = Decimal(value) if isinstance(value, str) and len(value) <= 40 else None
    except InvalidOperation:
        amount = None
    if amount is None or not amount.is_finite() or not 0 <= amount <= AMOUNT_MAX:
        raise BadParameterError(f"usd is {str(value)[:40]!r}; an amount of 0 or more as a text, or null")
    return amount


def _count(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= AMOUNT_MAX:
        raise BadParameterError(f"{name} is {str(value)[:40]!r}; a whole number of 0 or more, or null")
    return value


def _flag(name: str, told: Mapping[str, Any], *, default: bool = False) -> bool:
    value = told.get(name, default)
    if not isinstance(value, bool):
        raise BadParameterError(f"{name} is {str(value)[:40]!r}; true or false")
    return value


def _lease(body: Mapping[str, Any]) -> int:
    lease_s = body.get("lease_s", LEASE_S)
    if isinstance(lease_s, bool) or not isinstance(lease_s, int) or not 1 <= lease_s <= LEASE_S_MAX:
        raise BadParameterError(f"lease_s is {str(lease_s)[:40]!r}; seconds from 1 to {LEASE_S_MAX}")
    return lease_s


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and ID.fullmatch(value) is not None


def _refused(refusal: Refusal) -> dict[str, Any]:
    standing = refusal.standing
    budget = standing.budget
    return {
        "admitted": False, "budget": budget.name, "group": dict(zip(budget.group_by, standing.group, strict=True)),
        "reason": refusal.reason, "unit": budget.unit,
        "window": {"start": _iso(standing.window.start), "end": _iso(standing.window.end)},
        "limit": _plain(budget.limit), "spent": _plain(standing.spent), "reserved": _plain(standing.reserved),
        "needed": None if refusal.needed is None else _plain(refusal.needed), "room": _plain(standing.room),
        "resets_at": None if refusal.resets_at is None else _iso(refusal.resets_at), "action": budget.action,
    }  # fmt: skip


def _plain(amount: Decimal) -> str:
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _iso(at: datetime) -> str:
    return at.replace(tzinfo=None).isoformat() + "Z"


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


async def _data(receive: Receive) -> bytes | None:
    """Return the request's body, of one that is too long only the beginning; None when it was broken off."""
    data = b""
    more = True
    while more and len(data) <= BODY_BYTES_MAX:
        message = await receive()
        if message["type"] != "http.request":
            return None
        data += message.get("body", b"")
        more = message.get("more_body", False)
    return data


def _body(data: bytes) -> Any:
    """Return the object that ``data`` is; without a body it is an empty one."""
    if len(data) > BODY_BYTES_MAX:
        raise BadParameterError(f"the body is longer than {BODY_BYTES_MAX} bytes")
    try:
        body = json.loads(data) if data else {}
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise BadParameterError("the body is no JSON object")
    return body
