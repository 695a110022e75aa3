"""Batches of both providers, at half price: laid down, looked at, and read.

Anthropic's tells the results as JSON lines, a message each; OpenAI's is made of an uploaded file and tells one usage
for all.

Source: the types of anthropic 2.12 (``MessageBatch``, ``MessageBatchIndividualResponse``) and openai 3.54 (``Batch``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tallystick.mock import anthropic_wire, media_wire, openai_wire
from tallystick.mock.answers import Answer, InvalidRequestError, dump, new_id
from tallystick.mock.books import BATCH_FACTOR, Books
from tallystick.mock.thoughts import PromptCache

DAY = "2026-11-21T12:00:00Z"
WIRES = {
    "/v1/chat/completions": openai_wire.chat,
    "/v1/responses": openai_wire.responses,
    "/v1/embeddings": openai_wire.embeddings,
}


@dataclass
class Batches:
    """What was laid down."""

    files: dict[str, bytes] = field(default_factory=dict)
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Batches by id, as they are when they have ended."""
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Anthropic's results by the batch's id."""
    looked_at: set[str] = field(default_factory=set)


def batch_routes() -> list[BaseRoute]:
    """Return the routes of both providers' batches."""
    return [
        Route("/anthropic/v1/messages/batches", _create_messages, methods=["POST"]),
        Route("/anthropic/v1/messages/batches/{id}", _look_at_messages),
        Route("/anthropic/v1/messages/batches/{id}/results", _results),
        Route("/openai/v1/files", _upload, methods=["POST"]),
        Route("/openai/v1/batches", _create, methods=["POST"]),
        Route("/openai/v1/batches/{id}", _look_at),
    ]


def _bill(books: Books, provider: str, answer: Answer, unit_id: str) -> None:
    books.bill(
        unit_id,
        provider=provider,
        model=answer.model,
        api=answer.api,
        usage=answer.usage_at(answer.output_tokens),
        counts=answer.counts_at(answer.output_tokens),
        path="(a batch)",
        tier="batch",
        factor=BATCH_FACTOR,
    )


# Anthropic ------------------------------------------------------------------------------------------------------------


async def _create_messages(request: Request) -> JSONResponse:
    """Answer every request of the batch at once; who looks at it finds it ended."""
    state = request.app.state.mock
    body = await request.json()
    batch_id = new_id("msgbatch_")
    lines = [_line(state.books, state.cache, asked) for asked in body["requests"]]
    state.batches.lines[batch_id] = lines
    ended = sum(line["result"]["type"] == "succeeded" for line in lines)
    counts = {"processing": 0, "succeeded": ended, "errored": len(lines) - ended, "canceled": 0, "expired": 0}
    batch = {
        "id": batch_id,
        "type": "message_batch",
        "processing_status": "ended",
        "request_counts": counts,
        "created_at": DAY,
        "ended_at": DAY,
        "expires_at": DAY,
        "archived_at": None,
        "cancel_initiated_at": None,
        "results_url": f"{str(request.base_url).rstrip('/')}/anthropic/v1/messages/batches/{batch_id}/results",
    }
    state.batches.told[batch_id] = batch
    begun = {"processing_status": "in_progress", "ended_at": None, "results_url": None}
    return JSONResponse({**batch, **begun}, headers={"request-id": new_id("req_")})


def _line(books: Books, cache: PromptCache, asked: Mapping[str, Any]) -> dict[str, Any]:
    try:
        answer = anthropic_wire.answer(asked["params"], {}, cache)
    except InvalidRequestError as error:
        told = {"type": "error", "error": {"type": "invalid_request_error", "message": str(error)}}
        return {"custom_id": asked["custom_id"], "result": {"type": "errored", "error": told}}
    _bill(books, "anthropic", answer, answer.id)
    message = dict(answer.body)
    message["usage"] = {**message["usage"], "service_tier": "batch"}
    return {"custom_id": asked["custom_id"], "result": {"type": "succeeded", "message": message}}


async def _look_at_messages(request: Request) -> JSONResponse:
    return _told(request.app.state.mock.batches.told.get(request.path_params["id"]), anthropic_wire.error)


async def _results(request: Request) -> Response:
    lines = request.app.state.mock.batches.lines.get(request.path_params["id"])
    if lines is None:
        return _told(None, anthropic_wire.error)
    body = "".join(f"{dump(line)}\n" for line in lines)
    return Response(body, media_type="application/x-jsonl", headers={"request-id": new_id("req_")})


def _told(batch: Mapping[str, Any] | None, error: Any) -> JSONResponse:
    request_id = new_id("req_")
    if batch is None:
        status, told = error("404", request_id, "no such batch")
        return JSONResponse(told, status_code=status)
    return JSONResponse(dict(batch), headers={"request-id": request_id, "x-request-id": request_id})


# OpenAI ---------------------------------------------------------------------------------------------------------------


async def _upload(request: Request) -> JSONResponse:
    state = request.app.state.mock
    parts = media_wire.parts_of(await request.body(), request.headers["content-type"])
    file_id, content = new_id("file-"), parts["file"]
    state.batches.files[file_id] = content
    told = {"id": file_id, "object": "file", "bytes": len(content), "created_at": 1, "filename": "batch.jsonl"}
    return JSONResponse({**told, "purpose": parts["purpose"], "status": "processed"})


async def _create(request: Request) -> JSONResponse:
    state = request.app.state.mock
    body = await request.json()
    batch_id = new_id("batch_")
    asked = [json.loads(line)["body"] for line in state.batches.files[body["input_file_id"]].splitlines()]
    answers = [WIRES[body["endpoint"]](each, {}, state.cache) for each in asked]
    for answer in answers:
        _bill(state.books, "openai", answer, batch_id)
    state.batches.told[batch_id] = {
        "id": batch_id,
        "object": "batch",
        "endpoint": body["endpoint"],
        "input_file_id": body["input_file_id"],
        "completion_window": "24h",
        "created_at": 1,
        "completed_at": 2,
        "status": "completed",
        "model": answers[0].model,
        "request_counts": {"total": len(answers), "completed": len(answers), "failed": 0},
        "usage": _usage_of(answers),
    }
    return JSONResponse(state.batches.told[batch_id] | UNDER_WAY)


UNDER_WAY: dict[str, Any] = {"status": "in_progress", "completed_at": None, "usage": None}


def _usage_of(answers: list[Answer]) -> dict[str, Any]:
    """Return one usage for all: of chats, too, a batch tells it in the words of the Responses API."""
    counts = [answer.counts_at(answer.output_tokens) for answer in answers]
    cached = sum(count.get("cache_read", 0) for count in counts)
    read = sum(count.get("input", 0) for count in counts) + cached
    written = sum(count.get("output", 0) for count in counts)
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }


async def _look_at(request: Request) -> JSONResponse:
    """Show the batch: under way at the first look, ended at the next."""
    batches: Batches = request.app.state.mock.batches
    batch_id = request.path_params["id"]
    batch = batches.told.get(batch_id)
    if batch is not None and batch_id not in batches.looked_at:
        batches.looked_at.add(batch_id)
        batch = batch | UNDER_WAY
    return _told(batch, openai_wire.error)
