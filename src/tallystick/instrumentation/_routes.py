"""Which requests of an SDK are calls that may cost something, and how their answers are read."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Route:
    """A kind of call: the operation's name in GenAI conventions, and the API flavour that pricing knows."""

    operation: str
    api: str
    billed: bool = True
    reads: str = "answer"
    """What the body is: an answer; a ``job`` that is made; a ``stored`` answer, told again; a ``batch`` with one usage;
    the ``results`` of one, a message a line; or a word of work that is done apart from its request (`_jobs`)."""
    owner: str | None = None
    """Whose work is told: a session, with what is in it after a slash, a thread or subagent."""

    @property
    def is_fetch(self) -> bool:
        """Whether what it tells may have been told before: its usage belongs to the ledger alone, once by its id."""
        return self.reads not in {"answer", "job"}


_RUN = Route("invoke_agent", "runs", reads="run")
_SESSION = Route("invoke_agent", "sessions", reads="session")

_POST = (
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
    (r"/videos(/[^/?]+/remix|/edits|/extensions)?", Route("video", "videos", reads="job")),
    (r"/responses/[^/?]+/cancel", Route("fetch_response", "responses", reads="stored")),
    (r"/decisions", Route("decision", "decisions")),
    (r"/threads/runs|/threads/[^/?]+/runs(?:/[^/?]+(?:/submit_tool_outputs|/cancel)?)?", _RUN),
    (r"/fine_tuning/jobs(?:/[^/?]+/(?:cancel|pause|resume))?", Route("fine_tuning", "fine_tuning", reads="tuning")),
    (r"/evals/[^/?]+/runs(?:/[^/?]+(?:/cancel)?)?", Route("evaluation", "evals", reads="evaluation")),
    (r"/dreams(?:/[^/?]+/(?:cancel|archive))?", Route("dream", "messages", reads="dream")),
    (r"/sessions(?:/[^/?]+(?:/archive)?)?", _SESSION),
    (r"/sessions/[^/?]+/events", Route("invoke_agent", "sessions", billed=False)),
    (r"/agents/sessions(?:/[^/?]+)?", Route("invoke_agent", "agents", reads="session")),
    (r"/agents/sessions/[^/?]+/events", Route("invoke_agent", "agents", reads="turns")),
)

_EVENTS = Route("fetch_events", "sessions", reads="events")
_TURNS = Route("fetch_events", "agents", reads="turns")

# What was answered apart from its request: in the background, as a batch, by an agent.
_GET = (
    (r"/responses/[^/?]+", Route("fetch_response", "responses", reads="stored")),
    (r"/messages/batches/[^/?]+/results", Route("fetch_batch", "messages", reads="results")),
    (r"/batches/[^/?]+", Route("fetch_batch", "batches", reads="batch")),
    (r"/threads/[^/?]+/runs/[^/?]+", Route("fetch_run", "runs", reads="run")),
    (r"/fine_tuning/jobs/[^/?]+", Route("fetch_fine_tuning", "fine_tuning", reads="tuning")),
    (r"/evals/[^/?]+/runs/[^/?]+", Route("fetch_evaluation", "evals", reads="evaluation")),
    (r"/dreams/[^/?]+", Route("fetch_dream", "messages", reads="dream")),
    (r"/sessions(?:/[^/?]+(?:/threads(?:/[^/?]+)?)?)?", Route("fetch_session", "sessions", reads="session")),
    (r"/sessions/[^/?]+(?:/threads/[^/?]+)?(?:/events|/stream|/events/stream)", _EVENTS),
    (r"/agents/sessions(?:/[^/?]+)?", Route("fetch_session", "agents", reads="session")),
    (r"/agents/sessions/[^/?]+(?:/subagents/[^/?]+)?(?:/turns(?:/[^/?]+)?|/events)", _TURNS),
)

_OWNER = re.compile(r"/(?:sessions|threads|subagents)/([^/?]+)")


def _pattern(routes: tuple[tuple[str, Route], ...]) -> re.Pattern[str]:
    # Anthropic's paths begin with /v1, OpenAI's have it in the base URL, and results have a whole URL of their own.
    return re.compile(
        "|".join(
            rf"(?P<r{n}>^(?:https?://[^/]+(?:/.*)?)?(?:/v1)?(?:{path})/?(?:\?.*)?$)"
            for n, (path, _) in enumerate(routes)
        )
    )


_TABLES = {"POST": (_POST, _pattern(_POST)), "GET": (_GET, _pattern(_GET))}


@lru_cache(maxsize=1024)
def route_of(method: str, url: str) -> Route | None:
    """Return the route of a request as the SDK names it, before Azure, Bedrock or Vertex rewrite it, or None."""
    if (table := _TABLES.get(method.upper())) is None:
        return None
    routes, pattern = table
    found = pattern.match(url)
    if found is None:
        return None
    route = next(route for n, (_, route) in enumerate(routes) if found.group(f"r{n}") is not None)
    if route.reads in {"events", "session", "turns"} and (owners := _OWNER.findall(url)):
        return replace(route, owner="/".join(owners))
    return route
