"""What a request looks like without a word of it: salted digests and sizes, made of one pass over its text.

Equal requests have equal digests, requests that begin alike have equal first prefix digests, and prompts of one
template have one template: enough to find repeated calls, missed prompt caching and prompt versions.  The salt is of
this installation, so that nobody can look up a prompt in a table of digests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from tallystick.model import attributes as names

PREFIXES_MAX = 32
"""Of a longer request the first and the last prefixes are kept, half of each."""
TEMPLATES_MAX = 512
EXCERPT = 2048
"""Of a longer text the first and last characters tell it from others where nothing is claimed of its bytes."""
_HALF = PREFIXES_MAX // 2
_DIGEST_BYTES = 8

# How the request is sent says nothing of what is asked.
_UNASKED = frozenset({"stream", "stream_options"})
# In the order in which providers read and cache them.
_STABLE = ("tools", "functions", "system", "instructions")
_TURNS = ("messages", "input", "prompt")
_PARTS = frozenset({*_UNASKED, *_STABLE, *_TURNS})
_PROMPTED = frozenset({"messages", "chat", "responses", "completions", "complete"})
_SYSTEM_ROLES = frozenset({"system", "developer"})
_ABSENT = frozenset({"NotGiven", "Omit"})

# What changes from day to day in a system prompt that is still the same: dates, times, ids, long numbers.
_PASSING = re.compile(
    r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
    r"|\b\d{1,4}[-/.:]\d{1,2}(?:[-/.:]\d{1,4})?(?:[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?)?(?:Z|[+-]\d{2}:?\d{2})?"
    r"|\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day\b"
    r"|\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]* \d{1,2}(?:st|nd|rd|th)?(?:, \d{4})?"
    r"|\d{4,}"
)


class Look(NamedTuple):
    """A request by its looks."""

    attributes: Mapping[str, Any]
    digest: str
    words: int
    """Of the texts that are not system's, whichever API they are for: the same question has the same words.  Python's
    own hash, which is quick and means nothing outside this process."""
    prefix: str
    """Of everything up to the last block."""
    prefixes: frozenset[str]
    """Of what comes before the last block; a conversation that goes on has its former ``prefix`` among them."""


class Digests:
    """Looks at requests with the salt of one installation."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._templates: dict[str, str] = {}

    def look(self, request: Mapping[str, Any], api: str) -> Look:
        """Return how a request of an API looks; reads the text once and keeps none of it."""
        rolling = _Rolling(self._salt)
        prompted = api in _PROMPTED
        stable = rolling.at
        if prompted:
            rolling.take_stable(request)
            stable = rolling.take_turns(request)
        rest = {
            name: value
            for name, value in request.items()
            if not (prompted and name in _PARTS) and name not in _UNASKED and type(value).__name__ not in _ABSENT
        }
        whole = rolling.hash.copy()
        whole.update(f"{api}\0{_encode(rest)}".encode("utf-8", "replace"))
        digest = whole.hexdigest()
        attributes: dict[str, Any] = {names.REQUEST_DIGEST: digest}
        if prompted and rolling.prefixes:
            attributes[names.PREFIX_DIGESTS] = _prefixes(rolling.prefixes)
            attributes[names.REQUEST_CHARACTERS] = rolling.characters
            attributes[names.REQUEST_MESSAGES] = rolling.messages
            if rolling.tools_characters:
                attributes[names.REQUEST_TOOLS_CHARACTERS] = rolling.tools_characters
            if stable:
                attributes[names.TEMPLATE] = self._template(rolling.stable_texts, stable)
        digests = [prefix for prefix, _ in rolling.prefixes]
        return Look(
            attributes=attributes,
            digest=digest,
            words=hash(tuple(rolling.words)),
            prefix=digests[-1] if digests else "",
            prefixes=frozenset(digests[:-1]),
        )

    def _template(self, texts: list[str], exact: str) -> str:
        """Return the fingerprint of the stable part; ``exact`` is its own digest, which spares to read it again."""
        known = self._templates.get(exact)
        if known is not None:
            return known
        if len(self._templates) >= TEMPLATES_MAX:
            self._templates.clear()
        text = _PASSING.sub("0", "\0".join(texts)).encode("utf-8", "replace")
        made = self._templates[exact] = blake2b(text, key=self._salt, digest_size=_DIGEST_BYTES).hexdigest()
        return made


class _Rolling:
    """A hash that grows block by block, and the prefixes it has passed."""

    def __init__(self, salt: bytes) -> None:
        self.hash = blake2b(key=salt, digest_size=_DIGEST_BYTES)
        self.words: list[str] = []
        self.at = ""
        self.characters = 0
        self.tools_characters = 0
        self.messages = 0
        self.prefixes: list[tuple[str, int]] = []
        self.stable_texts: list[str] = []

    def take_stable(self, request: Mapping[str, Any]) -> None:
        """Take tools and system prompt, where the API has them beside the messages."""
        for name in _STABLE:
            value = request.get(name)
            if not value or type(value).__name__ in _ABSENT:
                continue
            before = self.characters
            for part in [value] if isinstance(value, str) or name in {"tools", "functions"} else _items(value):
                text = self._text_of(part)
                self.stable_texts.append(text)
                self._add(name, text)
            if name in {"tools", "functions"}:
                self.tools_characters += self.characters - before

    def take_turns(self, request: Mapping[str, Any]) -> str:
        """Take the messages; return the digest at the end of what is stable: tools, system, leading system messages."""
        leading = True
        stable = self.at if self.stable_texts else ""
        for name in _TURNS:
            turns = request.get(name)
            if not turns or type(turns).__name__ in _ABSENT:
                continue
            for turn in [turns] if isinstance(turns, str) else _items(turns):
                leading = self._take_turn(turn, name, leading)
                if leading:
                    stable = self.at
        return stable

    def _take_turn(self, turn: Any, name: str, leading: bool) -> bool:
        """Take a message; return whether it is one of the leading system messages, as all before it were."""
        role = turn.get("role") if isinstance(turn, Mapping) else None
        system = role in _SYSTEM_ROLES
        leading = leading and system
        self.messages += 1
        for part in _parts(turn):
            text = part if isinstance(part, str) else self._text_of(part)
            self._add(role or name, text)
            if leading:
                self.stable_texts.append(text)
            elif not system:
                self.words.append(_excerpt(part, text))
        return leading

    def _text_of(self, part: Any) -> str:
        if isinstance(part, str):
            return part
        if isinstance(part, Mapping) and "cache_control" in part:
            # Where a cache ends is no part of what is cached.
            part = {name: value for name, value in part.items() if name != "cache_control"}
        if isinstance(part, Mapping) and len(part) == 2 and isinstance(text := part.get("text"), str):
            return text
        return _encode(part)

    def _add(self, role: str, text: str) -> None:
        # The lengths keep two blocks from looking like one.
        self.hash.update(f"{role}\0{len(text)}\0{text}".encode("utf-8", "replace"))
        self.characters += len(text)
        self.at = self.hash.copy().hexdigest()
        self.prefixes.append((self.at, self.characters))
        if len(self.prefixes) > PREFIXES_MAX:
            del self.prefixes[_HALF]


def _parts(turn: Any) -> Iterable[Any]:
    """Return the parts of a message that says no more than its role and content; any other message whole."""
    content = turn.get("content") if isinstance(turn, Mapping) and len(turn) == 2 else None
    if content is None:
        return [turn]
    return [content] if isinstance(content, str) else _items(content)


def _excerpt(part: Any, text: str) -> str:
    if isinstance(part, Mapping) and isinstance(inner := part.get("text") or part.get("content"), str):
        text = inner
    return text if len(text) <= 2 * EXCERPT else f"{text[:EXCERPT]}{len(text)}{text[-EXCERPT:]}"


def _prefixes(prefixes: list[tuple[str, int]]) -> str:
    return "[" + ",".join(f'["{digest}",{characters}]' for digest, characters in prefixes) + "]"


def _items(value: Any) -> Iterable[Any]:
    # Only lists: what can be read but once is the SDK's to read.
    return value if isinstance(value, list | tuple) else [value]


def _plain(value: Any) -> Any:
    """Return what stands for an object that JSON does not know; never its address, which changes."""
    dump = getattr(value, "model_dump", None)
    return dump() if callable(dump) and not isinstance(value, type) else f"<{type(value).__name__}>"


_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=_plain).encode
