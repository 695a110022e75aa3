"""What the mock's models think: an answer and its token counts, told by the request alone.

The same request gets the same answer and the same counts, but for the prompt cache, which remembers what it has read as
the real ones do.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

TOKEN = re.compile(r"\w+|[^\w\s]")
STORY = (
    "the parcel left our house on monday and will be at your door within two days if it is not there by friday write "
    "to us and we send another one at no cost we are glad to help and wish you a good week with it"
)
WORDS = STORY.split()
MESSAGE_TOKENS = 3
"""What a message costs beside its text."""
CACHE_TOKENS_MIN = 1024
CACHE_STEP = 128
"""OpenAI caches prompts from 1024 tokens on, in steps of 128."""
PREFIXES_MAX = 512


def count_tokens(text: str) -> int:
    """Return how many tokens ``text`` has here: one for each word and each sign."""
    return sum(1 for _ in TOKEN.finditer(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought:
    """An answer before it has taken the form of a wire."""

    input_tokens: int
    """Read afresh: neither from the cache nor into it."""
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0
    pieces: tuple[str, ...] = ()
    """The text, in the pieces in which it is streamed."""
    piece_tokens: tuple[int, ...] = ()
    stop: str = "end"
    """``end``, ``length``, ``refusal``, ``filter`` or ``tool``."""
    tool: tuple[str, Any] | None = None
    """Name and arguments of the tool that is to be called."""
    tool_tokens: int = 0
    web_searches: int = 0

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.pieces)

    @property
    def prompt_tokens(self) -> int:
        """Everything that was read, the inclusive convention."""
        return self.input_tokens + self.cache_read + self.cache_write_5m + self.cache_write_1h

    @property
    def output_tokens(self) -> int:
        """Everything that was written, reasoning included."""
        return self.reasoning + sum(self.piece_tokens) + self.tool_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A request, read: what decides over the answer."""

    text: str
    messages: int
    blocks: tuple[tuple[str, str | None], ...] = ()
    """(text, cache ttl or None) in reading order; a ttl marks the end of a prefix that is to be cached."""
    max_tokens: int | None = None
    reasoning: int = 0
    tool: tuple[str, Any] | None = None
    web_search: bool = False
    schema: Mapping[str, Any] | None = None
    """When given, the answer is JSON of this schema."""

    @property
    def tokens(self) -> int:
        """How many tokens were read."""
        return count_tokens(self.text) + MESSAGE_TOKENS * self.messages


def think(prompt: Prompt, options: Mapping[str, str]) -> Thought:
    """Return the answer to ``prompt``; ``options`` of a script may dictate its size and its end."""
    wanted = int(options["output"]) if "output" in options else None
    reasoning = int(options.get("reasoning", prompt.reasoning))
    text, stop = _answer(prompt, wanted)
    room = prompt.max_tokens if wanted is None else None
    if options.get("stop") == "length" and room is None:
        room = reasoning + max(1, count_tokens(text) // 2)
    if prompt.tool and "stop" not in options:
        return Thought(
            input_tokens=prompt.tokens,
            reasoning=reasoning,
            stop="tool",
            tool=prompt.tool,
            tool_tokens=count_tokens(str(prompt.tool)),
            web_searches=int(prompt.web_search),
        )
    pieces, tokens, cut = _fit(text, None if room is None else max(0, room - reasoning))
    return Thought(
        input_tokens=prompt.tokens,
        reasoning=min(reasoning, room) if room is not None else reasoning,
        pieces=pieces,
        piece_tokens=tokens,
        stop="length" if cut else options.get("stop", stop),
        web_searches=int(options.get("web_search", int(prompt.web_search))),
    )


def dictated(thought: Thought, options: Mapping[str, str]) -> Thought:
    """Return ``thought`` with the counts of input that a script dictates."""
    counts = {
        field_: int(options[name])
        for name, field_ in (
            ("input", "input_tokens"),
            ("cache_read", "cache_read"),
            ("cache_write_5m", "cache_write_5m"),
            ("cache_write_1h", "cache_write_1h"),
        )
        if name in options
    }
    return replace(thought, **counts) if counts else thought  # type: ignore[arg-type]


def _answer(prompt: Prompt, words: int | None) -> tuple[str, str]:
    seed = hashlib.sha256(prompt.text.encode()).digest()
    if prompt.schema is not None and words is None:
        import json

        return json.dumps(sample(prompt.schema)), "end"
    length = words if words is not None else 20 + seed[0] % 60
    start = seed[1] % len(WORDS)
    return " ".join(WORDS[(start + at) % len(WORDS)] for at in range(length)), "end"


def _fit(text: str, room: int | None) -> tuple[tuple[str, ...], tuple[int, ...], bool]:
    """Cut ``text`` into streamed pieces of eight tokens, at most ``room`` tokens in all."""
    ends = [match.end() for match in TOKEN.finditer(text)]
    kept = ends if room is None else ends[:room]
    pieces, counts, start = [], [], 0
    for at in range(0, len(kept), 8):
        group = kept[at : at + 8]
        pieces.append(text[start : group[-1]])
        counts.append(len(group))
        start = group[-1]
    return tuple(pieces), tuple(counts), len(kept) < len(ends)


def sample(schema: Mapping[str, Any]) -> Any:
    """Return a value that ``schema`` (JSON Schema) accepts."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if schema.get(choice):
            return sample(schema[choice][0])
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object" or "properties" in schema:
        return {name: sample(part) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [sample(schema.get("items", {"type": "string"}))]
    return {"integer": 2, "number": 2.5, "boolean": True, "null": None}.get(str(kind), "parcel")


@dataclass
class PromptCache:
    """What the models remember of prompts: prefixes by hash, the oldest forgotten first."""

    _known: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def marked(self, model: str, blocks: Sequence[tuple[str, str | None]]) -> dict[str, int]:
        """Return the cache counts of a prompt whose ``blocks`` carry marks, as Anthropic's do; {} without marks.

        The longest marked prefix that is known is read; what lies between it and the last mark is written.
        """
        read = written = 0
        ttl = "5m"
        tokens = 0
        prefix = hashlib.sha256(model.encode())
        for text, mark in blocks:
            tokens += count_tokens(text)
            prefix.update(text.encode())
            if mark is None:
                continue
            if self._seen(prefix.hexdigest()):
                read, written = tokens, 0
            else:
                written, ttl = tokens - read, mark
        if not read and not written:
            return {}
        return {"cache_read": read, ("cache_write_1h" if ttl == "1h" else "cache_write_5m"): written}

    def automatic(self, model: str, text: str) -> int:
        """Return how many tokens of ``text`` are read from the cache, as OpenAI's do without being asked."""
        read = 0
        total = count_tokens(text)
        if total < CACHE_TOKENS_MIN:
            return 0
        for at, digest in _steps(model, text, total):
            if self._seen(digest):
                read = at
        return read

    def _seen(self, digest: str) -> bool:
        known = digest in self._known
        self._known[digest] = None
        self._known.move_to_end(digest)
        while len(self._known) > PREFIXES_MAX:
            self._known.popitem(last=False)
        return known


def _steps(model: str, text: str, total: int) -> Iterator[tuple[int, str]]:
    prefix = hashlib.sha256(model.encode())
    tokens = TOKEN.finditer(text)
    for at in range(CACHE_STEP, total + 1, CACHE_STEP):
        prefix.update(" ".join(match.group() for match in islice(tokens, CACHE_STEP)).encode())
        if at >= CACHE_TOKENS_MIN:
            yield at, prefix.hexdigest()
