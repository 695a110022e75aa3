"""Anthropic's managed agents: an agent, its sessions and their events; and dreams.

A message to a session makes the agent ask its model twice; each request is an event with its usage, and the session
tells sums of them, which are nobody's bill.  Its time is billed besides.
Source: the types of anthropic 2.12 (``BetaManagedAgentsSession``, ``BetaManagedAgentsSpanModelRequestEndEvent``,
``BetaManagedAgentsSessionUsageEvent``, ``BetaDream``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from tallystick.mock.answers import Frame, new_id
from tallystick.mock.books import FULL_NAMES

DAY = "2026-11-21T12:00:00Z"
QUARTER_S = 900.0
"""How long every turn of an agent takes: a quarter of an hour."""
HELD_S = 20.0
"""How long a stream of events stays open when nothing happens."""
REQUEST_USAGE = {
    "input_tokens": 400,
    "output_tokens": 50,
    "cache_read_input_tokens": 1000,
    "cache_creation_input_tokens": 0,
}
DREAM_USAGE = {**REQUEST_USAGE, "input_tokens": 9000}


def agent_routes() -> list[BaseRoute]:
    """Return the routes of agents, sessions and dreams."""
    base = "/anthropic/v1"
    return [
        Route(f"{base}/agents", _make_agent, methods=["POST"]),
        Route(f"{base}/sessions", _make_session, methods=["POST"]),
        Route(f"{base}/sessions/{{id}}", _session),
        Route(f"{base}/sessions/{{id}}/events", _send, methods=["POST"]),
        Route(f"{base}/sessions/{{id}}/events", _events),
        Route(f"{base}/sessions/{{id}}/events/stream", _stream),
        Route(f"{base}/dreams", _dream, methods=["POST"]),
        Route(f"{base}/dreams/{{id}}", _look_at_dream),
    ]


def _bill(
    request: Request, unit_id: str, model: str, api: str, usage: Mapping[str, Any], counts: Mapping[str, int]
) -> None:
    full = FULL_NAMES.get(model, model)
    request.app.state.mock.books.bill(
        unit_id,
        provider="anthropic",
        model=full,
        api=api,
        usage=usage,
        counts=counts,
        path=request.url.path,
        grows=api == "sessions",
    )


def _counts(usage: Mapping[str, int]) -> dict[str, int]:
    return {
        "input": usage["input_tokens"],
        "cache_read": usage["cache_read_input_tokens"],
        "output": usage["output_tokens"],
    }


async def _make_agent(request: Request) -> Response:
    body = await request.json()
    model = body["model"] if isinstance(body["model"], dict) else {"id": body["model"]}
    agent = {"id": new_id("agent_"), "type": "agent", "name": body["name"], "model": model, "version": 1}
    request.app.state.mock.agents[str(agent["id"])] = agent
    return JSONResponse(agent)


async def _make_session(request: Request) -> Response:
    body = await request.json()
    agents = request.app.state.mock.agents
    session = {
        "id": new_id("sesn_"),
        "type": "session",
        "agent": agents[body["agent"]],
        "environment_id": body["environment_id"],
        "status": "idle",
        "created_at": DAY,
        "updated_at": DAY,
        "metadata": {},
        "outcome_evaluations": [],
        "resources": [],
        "stats": {},
        "vault_ids": [],
        "usage": {},
    }
    agents[str(session["id"])] = session | {"events": []}
    return JSONResponse(session)


def _found(request: Request) -> dict[str, Any]:
    session: dict[str, Any] = request.app.state.mock.agents[request.path_params["id"]]
    return session


async def _session(request: Request) -> Response:
    return JSONResponse({name: value for name, value in _found(request).items() if name not in {"events", "followed"}})


async def _send(request: Request) -> Response:
    """Let the agent work: two requests to its model, and a quarter of an hour."""
    session = _found(request)
    model = session["agent"]["model"]["id"]
    events = session["events"]
    for _ in range(2):
        start, end = new_id("sevt_"), new_id("sevt_")
        _bill(request, end, model, "messages", REQUEST_USAGE, _counts(REQUEST_USAGE))
        events.append({"type": "span.model_request_start", "id": start, "processed_at": DAY})
        done = {"id": end, "model_request_start_id": start, "is_error": False, "model_usage": REQUEST_USAGE}
        events.append({"type": "span.model_request_end", "processed_at": DAY, **done})
    before = session["usage"]
    session["usage"] = {
        "active_seconds": before.get("active_seconds", 0) + QUARTER_S,
        "input_tokens": before.get("input_tokens", 0) + 2 * REQUEST_USAGE["input_tokens"],
        "output_tokens": before.get("output_tokens", 0) + 2 * REQUEST_USAGE["output_tokens"],
        "cache_read_input_tokens": before.get("cache_read_input_tokens", 0)
        + 2 * REQUEST_USAGE["cache_read_input_tokens"],
        "list_cost": {"amount": "2", "currency": "USD"},
    }
    quarters = {"session_quarters": round(session["usage"]["active_seconds"] / QUARTER_S)}
    _bill(request, f"{session['id']}/runtime", model, "sessions", {}, quarters)
    events.append({"type": "session.usage", "id": new_id("sevt_"), "processed_at": DAY, "usage": session["usage"]})
    idle = {"type": "end_turn"}
    events.append({"type": "session.status_idle", "id": new_id("sevt_"), "processed_at": DAY, "stop_reason": idle})
    return JSONResponse({"data": []})


async def _events(request: Request) -> Response:
    return JSONResponse({"data": _found(request)["events"], "next_page": None})


async def _stream(request: Request) -> Response:
    """Tell what has happened since it was last followed, and then stay, as the real one does."""
    session = _found(request)
    begin, session["followed"] = session.get("followed", 0), len(session["events"])

    async def told() -> AsyncIterator[bytes]:
        for event in session["events"][begin:]:
            yield Frame(event["type"], event, 0).encode("\n")
        await asyncio.sleep(HELD_S)

    return StreamingResponse(told(), media_type="text/event-stream")


async def _dream(request: Request) -> Response:
    body = await request.json()
    model = body["model"] if isinstance(body["model"], dict) else {"id": body["model"], "speed": "standard"}
    dream = {
        "id": new_id("drm_"),
        "type": "dream",
        "created_at": DAY,
        "inputs": body["inputs"],
        "model": model,
        "output_behavior": {"type": "create_new"},
        "outputs": [],
        "status": "pending",
        "usage": dict.fromkeys(DREAM_USAGE, 0),
    }
    _bill(request, str(dream["id"]), model["id"], "dreams", DREAM_USAGE, _counts(DREAM_USAGE))
    request.app.state.mock.agents[str(dream["id"])] = dream
    return JSONResponse(dream)


async def _look_at_dream(request: Request) -> Response:
    """Show a dream: half dreamt at the first look, ended at the next."""
    dream = _found(request)
    half = {name: count // 2 for name, count in DREAM_USAGE.items()}
    later = {"pending": ("running", half), "running": ("completed", DREAM_USAGE)}
    dream["status"], dream["usage"] = later.get(dream["status"], (dream["status"], dream["usage"]))
    return JSONResponse(dream)
