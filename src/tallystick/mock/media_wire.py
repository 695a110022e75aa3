"""OpenAI's wire for pictures and sound: images, transcription, speech.

Source: the types of openai 3.54 (``ImagesResponse``, ``ImageGenStreamEvent``, ``Transcription``,
``TranscriptionStreamEvent``, ``SpeechAudioDoneEvent``).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from email import policy
from email.parser import BytesParser
from typing import Any

from tallystick.mock.answers import Answer, Body, Frames, new_id, required
from tallystick.mock.thoughts import PromptCache, count_tokens

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(60_000)
PICTURE_TOKENS = 272
"""What a small picture costs to write."""
READ_PICTURE_TOKENS = 64
SECONDS = 12
"""How long every recording is."""
AUDIO_TOKENS = 120
TEXT = "Where is my parcel?"


def parts_of(raw: bytes, kind: str) -> dict[str, str | bytes]:
    """Return the parts of a multipart body: text, or the bytes of a file."""
    message = BytesParser(policy=policy.HTTP).parsebytes(f"content-type: {kind}\r\n\r\n".encode() + raw)
    parts: dict[str, str | bytes] = {}
    for part in message.iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        content = part.get_payload(decode=True) or b""
        assert isinstance(content, bytes), "a part of a form is no message"
        parts[name] = content if part.get_filename() else content.decode()
    return parts


def fields_of(raw: bytes, kind: str) -> dict[str, Any]:
    """Return the fields of a multipart body; of a file, its size in bytes."""
    return {name: len(part) if isinstance(part, bytes) else part for name, part in parts_of(raw, kind).items()}


def images(body: Body, options: Mapping[str, str], cache: PromptCache) -> Answer:  # noqa: ARG001 -- nothing is cached
    """Return pictures: generated, or edited when the request brings one."""
    text = count_tokens(str(required(body, "prompt")))
    read = READ_PICTURE_TOKENS if any(name.startswith("image") for name in body) else 0
    number = int(body.get("n") or 1)
    written = PICTURE_TOKENS * number
    usage = {
        "input_tokens": text + read,
        "input_tokens_details": {"text_tokens": text, "image_tokens": read},
        "output_tokens": written,
        "total_tokens": text + read + written,
    }
    picture = base64.b64encode(PICTURE).decode()
    is_silent = str(body["model"]).startswith("dall-e")
    kind = "image_edit" if read else "image_generation"
    head = {"b64_json": picture, "created_at": 1, "size": "1024x1024", "quality": "low"}
    head |= {"background": "opaque", "output_format": "png"}
    made = Frames()
    is_stream = str(body.get("stream", "")).lower() == "true"
    for at in range(number):  # each picture tells what it cost; what was read is told with the first
        one = usage if number == 1 else _usage_of_one(text + read if at == 0 else 0, text, read)
        told = {"type": f"{kind}.partial_image", "partial_image_index": 0, **head}
        made.add(f"{kind}.partial_image", told, PICTURE_TOKENS)
        made.add(f"{kind}.completed", {"type": f"{kind}.completed", **head, "usage": one})
    told = {"created": 1, "data": [{"b64_json": picture}] * number} | ({} if is_silent else {"usage": usage})
    return Answer(
        id="",
        model=str(required(body, "model")),
        api="images",
        body=told | ({"svg_usage": SVG_USAGE} if body.get("output_format") == "svg" else {}),
        output_tokens=written,
        usage_at=lambda _: usage,
        counts_at=lambda _: {"input": text, "input_image": read, "output_image": written},
        frames=tuple(made.frames) if is_stream else None,
        beside=_svg() if body.get("output_format") == "svg" else None,
    )


SVG_USAGE = {
    "input_tokens": 300,
    "model": "gpt-5-mini-2025-08-07",
    "output_tokens": 900,
    "reasoning_tokens": 200,
    "total_tokens": 1200,
}


def _svg() -> Answer:
    """Return what another model is billed for that writes a drawing as text."""
    return Answer(
        id="",
        model=str(SVG_USAGE["model"]),
        api="responses",
        body={},
        output_tokens=900,
        usage_at=lambda _: SVG_USAGE,
        counts_at=lambda _: {"input": 300, "output": 900},
    )


def _usage_of_one(given: int, text: int, read: int) -> dict[str, Any]:
    details = {"text_tokens": text if given else 0, "image_tokens": read if given else 0}
    total = given + PICTURE_TOKENS
    return {
        "input_tokens": given,
        "input_tokens_details": details,
        "output_tokens": PICTURE_TOKENS,
        "total_tokens": total,
    }


def transcription(body: Body, options: Mapping[str, str], cache: PromptCache) -> Answer:  # noqa: ARG001 -- as above
    """Return what was heard; whisper is charged by the second, the others by tokens."""
    model = str(required(body, "model"))
    written = count_tokens(TEXT)
    is_timed = model == "whisper-1"
    tokens = {
        "type": "tokens",
        "input_tokens": AUDIO_TOKENS,
        "input_token_details": {"text_tokens": 0, "audio_tokens": AUDIO_TOKENS},
        "output_tokens": written,
        "total_tokens": AUDIO_TOKENS + written,
    }
    usage: dict[str, Any] = {"type": "duration", "seconds": SECONDS} if is_timed else tokens
    counts = {"audio_seconds": SECONDS} if is_timed else {"input_audio": AUDIO_TOKENS, "output": written}
    made = Frames()
    made.add(None, {"type": "transcript.text.delta", "delta": TEXT}, written)
    made.add(None, {"type": "transcript.text.done", "text": TEXT, "usage": usage})
    told: dict[str, Any] = {"text": TEXT, "usage": usage}
    if body.get("response_format") == "verbose_json":
        told = {"task": "transcribe", "language": "english", "duration": float(SECONDS), "text": TEXT, "segments": []}
    is_text = body.get("response_format") in {"text", "srt", "vtt"}
    return Answer(
        id="",
        model=model,
        api="transcription",
        body=told,
        output_tokens=written,
        usage_at=lambda _: usage,
        counts_at=lambda _: counts,
        frames=tuple(made.frames) if str(body.get("stream", "")).lower() == "true" else None,
        raw=("text/plain; charset=utf-8", TEXT.encode()) if is_text else None,
    )


def speech(body: Body, options: Mapping[str, str], cache: PromptCache) -> Answer:  # noqa: ARG001 -- as above
    """Return sound; tts-1 is charged by the character, and says nothing; as events, gpt-4o-mini-tts says its tokens."""
    model, text = str(required(body, "model")), str(required(body, "input"))
    read, written = count_tokens(text), count_tokens(text) * 5
    usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    is_counted = model.startswith("gpt")
    counts = {"input": read, "output": written} if is_counted else {"characters": len(text)}
    made = Frames()
    sound = base64.b64encode(bytes(64)).decode()
    made.add(None, {"type": "speech.audio.delta", "audio": sound}, written)
    made.add(None, {"type": "speech.audio.done", "usage": usage})
    return Answer(
        id="",
        model=model,
        api="speech",
        body={},
        output_tokens=written,
        usage_at=lambda _: usage if is_counted else {},
        counts_at=lambda _: counts,
        frames=tuple(made.frames) if body.get("stream_format") == "sse" else None,
        raw=("audio/mpeg", bytes(20_000)),
    )


def videos(body: Body, options: Mapping[str, str], cache: PromptCache) -> Answer:  # noqa: ARG001 -- as above
    """Return the job that makes a film; what it costs hangs on its length and size, and is said nowhere."""
    model, seconds = str(body.get("model") or "sora-2"), str(body.get("seconds") or 4)
    size = str(body.get("size") or "720x1280")
    told = {"id": new_id("video_"), "object": "video", "created_at": 1, "model": model, "status": "queued"}
    told |= {"progress": 0, "seconds": seconds, "size": size, "prompt": required(body, "prompt")}
    item = "video_seconds" if "720" in size else "video_seconds_1024p"
    return Answer(
        id=str(told["id"]),
        model=model,
        api="videos",
        body=told,
        output_tokens=0,
        usage_at=lambda _: {},
        counts_at=lambda _: {item: int(seconds)},
    )


def longer_video(body: Body, options: Mapping[str, str], cache: PromptCache) -> Answer:
    """Return the job that makes a film longer: it tells the whole length, and bills what is added."""
    added = videos(body, options, cache)
    return replace(added, body={**added.body, "seconds": str(int(added.body["seconds"]) + 4)})
