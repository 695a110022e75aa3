"""OpenAI's websockets: realtime sessions, and the Responses API over one connection.

Source: the types of openai 3.54 (``RealtimeServerEvent``, ``RealtimeResponseUsage``, ``ResponsesServerEvent``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tallystick.mock import openai_wire
from tallystick.mock.answers import Answer, dump, new_id
from tallystick.mock.books import Books, Item
from tallystick.mock.media_wire import AUDIO_TOKENS, TEXT
from tallystick.mock.thoughts import count_tokens

AUDIO_PIECES = 6
WRITTEN_AUDIO_TOKENS = 40


def socket_routes() -> list[BaseRoute]:
    """Return the routes that are websockets."""
    return [
        WebSocketRoute("/openai/v1/realtime", _realtime),
        WebSocketRoute("/openai/v1/responses", _responses),
        WebSocketRoute("/azure/openai/realtime", _realtime),
    ]


def _bill(
    socket: WebSocket, unit_id: str, model: str, api: str, usage: Mapping[str, Any], counts: dict[str, int]
) -> None:
    books: Books = socket.app.state.mock.books
    request = books.note({"method": "GET", "path": socket.url.path, "provider": "openai", "request_id": unit_id})
    books.enter(
        Item(
            id=unit_id,
            request_id=unit_id,
            request=request,
            attempt=0,
            at=datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            provider="azure.ai.openai" if socket.url.path.startswith("/azure") else "openai",
            model=model,
            api=api,
            stream=True,
            usage=usage,
            counts=counts,
            service_tier="default",
        )
    )


async def _responses(socket: WebSocket) -> None:
    """Answer each ``response.create`` with the events that the API streams."""
    await socket.accept()
    try:
        while True:
            asked = json.loads(await socket.receive_text())
            answer = openai_wire.responses({**asked, "stream": True}, {}, socket.app.state.mock.cache)
            for frame in answer.frames or ():
                if frame.event == "response.completed":
                    _bill_whole(socket, answer)
                assert isinstance(frame.data, Mapping), "events of the Responses API are objects"
                await socket.send_text(dump(frame.data))
                if asked.get("metadata", {}).get("mock") == "hang-up" and frame.event == "response.output_text.delta":
                    await socket.close(1011)
                    return
    except WebSocketDisconnect:
        return


def _bill_whole(socket: WebSocket, answer: Answer) -> None:
    written = answer.output_tokens
    _bill(socket, answer.id, answer.model, "responses", answer.usage_at(written), answer.counts_at(written))


async def _realtime(socket: WebSocket) -> None:
    """Hold a session: speech that is committed is transcribed, and each ``response.create`` is answered in sound."""
    await socket.accept()
    model = socket.query_params.get("model") or socket.query_params.get("deployment", "")
    session: dict[str, Any] = {"type": "realtime", "object": "realtime.session", "id": new_id("sess_"), "model": model}
    await _say(socket, "session.created", session=session)
    read = 0
    try:
        while True:
            event = json.loads(await socket.receive_text())
            if event["type"] == "session.update":
                session |= event["session"]
                await _say(socket, "session.updated", session=session)
            elif event["type"] == "conversation.item.create":
                read += count_tokens(dump(event["item"].get("content")))
            elif event["type"] == "input_audio_buffer.commit":
                await _transcribe(socket, session)
            elif event["type"] == "response.create":
                await _respond(socket, model, read)
    except WebSocketDisconnect:
        return


async def _say(socket: WebSocket, kind: str, **more: Any) -> None:
    await socket.send_text(dump({"type": kind, "event_id": new_id("event_"), **more}))


async def _transcribe(socket: WebSocket, session: Mapping[str, Any]) -> None:
    heard = ((session.get("audio") or {}).get("input") or {}).get("transcription") or {}
    written = count_tokens(TEXT)
    usage = {
        "type": "tokens",
        "input_tokens": AUDIO_TOKENS,
        "input_token_details": {"text_tokens": 0, "audio_tokens": AUDIO_TOKENS},
        "output_tokens": written,
        "total_tokens": AUDIO_TOKENS + written,
    }
    item = new_id("item_")
    _bill(socket, item, heard["model"], "transcription", usage, {"input_audio": AUDIO_TOKENS, "output": written})
    kind = "conversation.item.input_audio_transcription.completed"
    await _say(socket, kind, item_id=item, content_index=0, transcript=TEXT, usage=usage)


async def _respond(socket: WebSocket, model: str, read: int) -> None:
    response = {"object": "realtime.response", "id": new_id("resp_"), "status": "in_progress", "output": []}
    await _say(socket, "response.created", response=response | {"usage": None, "status_details": None})
    at = {"response_id": response["id"], "item_id": new_id("item_"), "output_index": 0, "content_index": 0}
    for _ in range(AUDIO_PIECES):
        await _say(socket, "response.output_audio.delta", delta="UklGRg==" * 64, **at)
    written = count_tokens(TEXT)
    usage = {
        "total_tokens": read + written + WRITTEN_AUDIO_TOKENS,
        "input_tokens": read,
        "output_tokens": written + WRITTEN_AUDIO_TOKENS,
        "input_token_details": {"text_tokens": read, "audio_tokens": 0, "cached_tokens": 0},
        "output_token_details": {"text_tokens": written, "audio_tokens": WRITTEN_AUDIO_TOKENS},
    }
    counts = {"input": read, "output": written, "output_audio": WRITTEN_AUDIO_TOKENS}
    _bill(socket, str(response["id"]), model, "realtime", usage, counts)
    await _say(socket, "response.done", response=response | {"status": "completed", "usage": usage})
