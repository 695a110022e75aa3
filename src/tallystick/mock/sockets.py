"""OpenAI's websockets: realtime and live sessions, translations, and the Responses API over one connection.

Source: the types of openai 3.54 (``RealtimeServerEvent``, ``RealtimeResponseUsage``, ``ResponsesServerEvent``; of
``live`` ``ServerEvent``; ``RealtimeTranslationServerEvent``).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tallystick.mock import openai_wire
from tallystick.mock.answers import Answer, dump, new_id
from tallystick.mock.books import Books
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
        WebSocketRoute("/openai/v1/realtime/translations", _translate),
        WebSocketRoute("/openai/v1/live/sessions", _live),
        WebSocketRoute("/openai/v1/live/sessions/{id}/attach", _observe),
    ]


def _bill(
    socket: WebSocket, unit_id: str, model: str, api: str, usage: Mapping[str, Any], counts: dict[str, int]
) -> None:
    books: Books = socket.app.state.mock.books
    provider = "azure.ai.openai" if socket.url.path.startswith("/azure") else "openai"
    books.bill(
        unit_id,
        provider=provider,
        model=model,
        api=api,
        usage=usage,
        counts=counts,
        path=socket.url.path,
        stream=True,
        grows=api == "live",
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


# Billed by their time -----------------------------------------------------------------------------------------------

TOLD_S = (60.0, 120.0)
"""How long a live session says that it has been, each time that it is asked."""
TRANSLATED_BYTES_PER_MINUTE = 2 * 24_000 * 60


async def _live(socket: WebSocket) -> None:
    """Hold a live session: it tells the time as a sum, and what others did for it, a response and a decision."""
    await socket.accept()
    session = {"id": new_id("sess_"), "expires_at": 1, "status": "active"}
    told = 0
    try:
        while True:
            event = json.loads(await socket.receive_text())
            if event["type"] == "session.start":
                session |= event["session"]
                await _say(socket, "session.started", session=session)
            elif event["type"] == "session.commentary.append":
                told = min(told + 1, len(TOLD_S))
                _bill_live(socket, session, TOLD_S[told - 1])
                await _say(socket, "session.usage.updated", usage={"seconds": TOLD_S[told - 1]})
            elif event["type"] == "response.create":
                await _delegate(socket)
            elif event["type"] == "decision.create":
                await _decide(socket)
            elif event["type"] == "session.close":
                usage = {"seconds": TOLD_S[max(told, 1) - 1]}
                _bill_live(socket, session, usage["seconds"])
                await _say(socket, "session.closed", reason="close_requested", session=session, usage=usage)
                await socket.close()
                return
    except WebSocketDisconnect:
        return


def _bill_live(socket: WebSocket, session: Mapping[str, Any], seconds: float) -> None:
    minutes = {"live_minutes": round(seconds / 60)}
    _bill(socket, session["id"], session["model"], "live", {"seconds": seconds}, minutes)


async def _observe(socket: WebSocket) -> None:
    """Attach to a session from the side: the same words about the same time."""
    await socket.accept()
    session = {"id": socket.path_params["id"], "expires_at": 1, "status": "active", "model": "gpt-live-1"}
    await _say(socket, "session.started", session=session)
    await _say(socket, "session.usage.updated", usage={"seconds": TOLD_S[0]})
    await _say(socket, "session.closed", reason="close_requested", session=session, usage={"seconds": TOLD_S[-1]})
    await socket.close()


async def _delegate(socket: WebSocket) -> None:
    asked = {"model": "gpt-4o-mini", "input": TEXT, "stream": True}
    answer = openai_wire.responses(asked, {}, socket.app.state.mock.cache)
    for frame in answer.frames or ():
        if frame.event == "response.completed":
            _bill_whole(socket, answer)
        await _say(socket, "response.event", event=frame.data, delegation_id="dlg_1")


async def _decide(socket: WebSocket) -> None:
    event_id = new_id("event_")
    usage = {"input_tokens": 30, "output_tokens": 2, "total_tokens": 32}
    decision = {"answers": [], "model": "gpt-5-mini-2025-08-07", "usage": usage}
    _bill(socket, event_id, str(decision["model"]), "decisions", usage, {"input": 30, "output": 2})
    inner = {"type": "decision.completed", "decision": decision}
    await socket.send_text(dump({"type": "decision.event", "event_id": event_id, "event": inner}))


async def _translate(socket: WebSocket) -> None:
    """Translate what is heard; how long it was is told nowhere, and billed by the minute."""
    await socket.accept()
    model = socket.query_params["model"]
    session = {"id": new_id("sess_"), "type": "translation", "model": model, "expires_at": 1, "audio": {}}
    await _say(socket, "session.created", session=session)
    heard = 0
    try:
        while True:
            event = json.loads(await socket.receive_text())
            if event["type"] == "session.input_audio_buffer.append":
                heard += len(base64.b64decode(event["audio"]))
                await _say(socket, "session.output_transcript.delta", delta=TEXT)
            elif event["type"] == "session.close":
                minutes = {"live_minutes": heard // TRANSLATED_BYTES_PER_MINUTE}
                _bill(socket, str(session["id"]), model, "live", {}, minutes)
                await _say(socket, "session.closed")
                await socket.close()
                return
    except WebSocketDisconnect:
        return
