"""Which requests of an SDK are calls that may cost something, and how their answers are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Route:
    """A kind of call: the operation's name in GenAI conventions, and the API flavour that pricing knows."""

    operation: str
    api: str
    billed: bool = True


_ROUTES = (
    (r"/messages/count_tokens", Route("count_tokens", "count_tokens", billed=False)),
    (r"/messages", Route("chat", "messages")),
    (r"/complete", Route("text_completion", "complete")),
    (r"/chat/completions", Route("chat", "chat")),
    (r"/responses", Route("chat", "responses")),
    (r"/responses/compact", Route("chat", "responses")),
    (r"/responses/input_tokens", Route("count_tokens", "count_tokens", billed=False)),
    (r"/completions", Route("text_completion", "completions")),
    (r"/embeddings", Route("embeddings", "embeddings")),
    (r"/moderations", Route("moderation", "moderations", billed=False)),
    (r"/images/(generations|edits|variations)", Route("image", "images")),
    (r"/audio/transcriptions", Route("transcription", "transcription")),
    (r"/audio/translations", Route("transcription", "translation")),
    (r"/audio/speech", Route("speech", "speech")),
)

# Anthropic's paths begin with /v1 in the request, OpenAI's have it in the base URL.
_PATTERN = re.compile("|".join(rf"(?P<r{n}>^(?:/v1)?{path}/?(?:\?.*)?$)" for n, (path, _) in enumerate(_ROUTES)))


@lru_cache(maxsize=1024)
def route_of(method: str, url: str) -> Route | None:
    """Return the route of a request as the SDK names it, before Azure, Bedrock or Vertex rewrite it, or None."""
    if method.upper() != "POST":
        return None
    found = _PATTERN.match(url)
    if found is None or found.lastgroup is None:
        return None
    return next(route for n, (_, route) in enumerate(_ROUTES) if found.group(f"r{n}") is not None)
