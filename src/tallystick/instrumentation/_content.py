"""Prompts and answers on a call's span, only where the app opted in; redacted and cut short before they leave the app.

The shape is that of the OpenTelemetry GenAI conventions: a JSON list of messages, each a role and typed parts.  What is
no text (images, audio, files) is named and left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tallystick.model import attributes as names

MODES = ("off", "redacted", "full")
TEXT_CHARACTERS_MAX = 8192
"""Of one part; what is longer is cut and says so."""
CONTENT_CHARACTERS_MAX = 65536
"""Of one attribute; then messages are left out, the second one first: the first tells the task, the last the news."""
MESSAGES_MAX = 64
_MARGIN = 1024
"""Read beyond the cut, so that what must be redacted is not cut in two and missed."""

Redact = Callable[[str], str]
Message = dict[str, Any]

_TEXT_TYPES = frozenset({"text", "input_text", "output_text", "summary_text"})
_SECRETS = (
    (
        "key",
        re.compile(
            r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----[\s\S]{0,16384}?(?:-----END [A-Z ]{0,32}PRIVATE KEY-----|\Z)"
        ),
    ),
    ("token", re.compile(r"(?i)\b(?:bearer|basic)\s{1,8}[a-z0-9._~+/=-]{8,}")),
    ("token", re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?")),
    ("key", re.compile(r"\b(?:sk|pk|rk|gsk|xai|key|api)[-_](?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{16,}")),
    ("key", re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{30,}|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}")),
    ("key", re.compile(r"\bxox[abprs]-[\w-]{10,}|\bhf_\w{20,}|\bglpat-[\w-]{16,}")),
    (
        "secret",
        re.compile(r"(?i)\b(?:api[-_ ]?key|secret|password|passwd|token)[\"']?\s{0,4}[=:]\s{0,4}[\"']?[^\s\"',;]{4,}"),
    ),
    ("email", re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")),
)
_CARD = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
_PHONE = re.compile(r"(?<![\w.])(?:\+\d{1,3}[ ./-]?)?(?:\(\d{1,5}\)[ ./-]?)?\d{2,5}(?:[ ./-]?\d{2,5}){1,5}(?!\w)")


def redacted(text: str) -> str:
    """Return ``text`` without keys, tokens, e-mail addresses, card and phone numbers; each leaves its kind in brackets.

    A pattern finds what looks like one: it is a help, not a promise.  Names and addresses of people it does not know.
    """
    for kind, pattern in _SECRETS:
        text = pattern.sub(f"[{kind}]", text)
    text = _CARD.sub(lambda found: "[card]" if _is_card(found[0]) else found[0], text)
    return _PHONE.sub(lambda found: "[phone]" if _is_phone(found[0]) else found[0], text)


def _is_card(text: str) -> bool:
    """Tell whether the last digit is the check digit of the others (Luhn)."""
    digits = [int(character) for character in text if character.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_phone(text: str) -> bool:
    digits = sum(character.isdigit() for character in text)
    # A bare number is as likely an order's or an amount's.
    return 9 <= digits <= 15 and (text[0] in "+(" or not text.isdigit())


class Capture:
    """Makes the content attributes of calls."""

    def __init__(self, mode: str, redact: Redact | None) -> None:
        self._redact = [redacted, *([redact] if redact else [])] if mode == "redacted" else []

    def asked(self, request: Mapping[str, Any]) -> dict[str, str]:
        """Return what a request says; raises what the app's redactor raises."""
        found = {}
        if system := [*self._parts(request.get("system")), *self._parts(request.get("instructions"))]:
            found[names.SYSTEM_INSTRUCTIONS] = _bounded([_json(part) for part in system])
        turns: list[Any] = []
        for name in ("messages", "input", "prompt"):
            value = request.get(name)
            turns += value if isinstance(value, list | tuple) else [value] if isinstance(value, str) else []
        if turns:
            if left_out := max(len(turns) - MESSAGES_MAX, 0):
                turns = [turns[0], _left_out(left_out), *turns[left_out + 1 :]]
            found[names.INPUT_MESSAGES] = _bounded([_json(self._message(turn)) for turn in turns])
        return found

    def answered(self, body: Any, stop_reasons: Iterable[str] = ()) -> dict[str, str]:
        """Return what a whole JSON body answers."""
        if not isinstance(body, Mapping):
            return {}
        if isinstance(choices := body.get("choices"), list):
            messages = [self._choice(choice) for choice in choices if isinstance(choice, Mapping)]
        elif isinstance(output := body.get("output"), list):
            messages = [self._message(item, "assistant") for item in output]
        elif "content" in body:
            messages = [self._message(body, "assistant")]
        else:
            return {}
        return _output(messages, stop_reasons)

    def streamed(self, events: Iterable[bytes], stop_reasons: Iterable[str] = ()) -> dict[str, str]:
        """Return what the content events of a stream answer, put together."""
        texts: dict[tuple[Any, ...], list[str]] = {}
        called: dict[tuple[Any, ...], str] = {}
        for data in events:
            for place, text, name in _pieces(_loaded(data)):
                texts.setdefault(place, []).append(text)
                if name:
                    called[place] = name
        parts = []
        for place, pieces in texts.items():
            text = self._text("".join(pieces))
            if place[-1] == "tool_call":
                parts.append({"type": "tool_call", "name": called.get(place), "arguments": text})
            elif text:
                parts.append({"type": place[-1], "content": text})
        return _output([{"role": "assistant", "parts": parts}], stop_reasons) if parts else {}

    def _choice(self, choice: Mapping[str, Any]) -> Message:
        if isinstance(text := choice.get("text"), str):
            return {"role": "assistant", "parts": [{"type": "text", "content": self._text(text)}]}
        return self._message(choice.get("message"), "assistant")

    def _message(self, turn: Any, role: str = "user") -> Message:
        if not isinstance(turn, Mapping):
            return {"role": role, "parts": self._parts(turn)}
        if turn.get("type") in {"omitted", "function_call", "function_call_output", "reasoning"} or "role" not in turn:
            return {"role": role, "parts": self._parts([turn])}
        parts = self._parts(turn.get("content"))
        if turn["role"] == "tool":
            answer = [str(part.get("content")) for part in parts]
            parts = [{"type": "tool_call_response", "id": turn.get("tool_call_id"), "response": "\n".join(answer)}]
        for name, kind in (("refusal", "refusal"), ("reasoning_content", "reasoning")):
            if isinstance(text := turn.get(name), str):
                parts.append({"type": kind, "content": self._text(text)})
        for tool_call in turn.get("tool_calls") or ():
            parts += self._parts([{"type": "tool_call", **tool_call}] if isinstance(tool_call, Mapping) else None)
        return {"role": str(turn["role"]), "parts": parts}

    def _parts(self, content: Any) -> list[Message]:
        if isinstance(content, str):
            return [{"type": "text", "content": self._text(content)}]
        return [self._part(block) for block in content] if isinstance(content, list | tuple) else []

    def _part(self, block: Any) -> Message:
        if isinstance(block, str):
            return {"type": "text", "content": self._text(block)}
        if not isinstance(block, Mapping):
            return {"type": "omitted"}
        kind = str(block.get("type"))
        if kind in _TEXT_TYPES:
            return {"type": "text", "content": self._text(block.get("text"))}
        if kind in {"thinking", "reasoning"}:
            said = block.get("thinking") or [part.get("content") for part in self._parts(block.get("summary"))]
            return {"type": "reasoning", "content": self._text(said)}
        if kind == "refusal":
            return {"type": "refusal", "content": self._text(block.get("refusal"))}
        if kind in {"tool_use", "server_tool_use", "function_call", "function", "tool_call"}:
            function = block.get("function") if isinstance(block.get("function"), Mapping) else block
            arguments = function.get("arguments", function.get("input"))  # type: ignore[union-attr]
            return {
                "type": "tool_call",
                "id": block.get("call_id") or block.get("id"),
                "name": function.get("name"),  # type: ignore[union-attr]
                "arguments": self._text(arguments),
            }
        if kind in {"tool_result", "function_call_output"}:
            inner = block.get("content", block.get("output"))
            texts = [str(part.get("content")) for part in self._parts(inner)]
            return {
                "type": "tool_call_response",
                "id": block.get("tool_use_id") or block.get("call_id"),
                "response": "\n".join(texts),
            }
        return {"type": kind} if kind != "omitted" else dict(block)

    def _text(self, value: Any) -> str:
        """Return a text redacted and cut; what is no text, as JSON."""
        text = value if isinstance(value, str) else "" if value is None else _json(value)
        whole = len(text)
        text = text[: TEXT_CHARACTERS_MAX + _MARGIN]
        for redact in self._redact:
            text = redact(text)
            if not isinstance(text, str):
                raise TypeError(f"redact returned {type(text).__name__}; it must return the text")
        if whole <= TEXT_CHARACTERS_MAX:
            return text
        return f"{text[:TEXT_CHARACTERS_MAX]}… [cut; {whole} characters]"


def _pieces(event: Mapping[str, Any]) -> Iterable[tuple[tuple[Any, ...], str, str | None]]:
    """Yield where each piece of an event belongs (its kind last), its text, and the name of the tool it calls."""
    delta = event.get("delta")
    if isinstance(delta, str):  # Responses
        kind = str(event.get("type"))
        what = "tool_call" if "arguments" in kind else "reasoning" if "reasoning" in kind else "text"
        yield (event.get("output_index"), event.get("content_index"), what), delta, None
    elif isinstance(delta, Mapping):  # Messages
        for name, what in (("text", "text"), ("thinking", "reasoning"), ("partial_json", "tool_call")):
            if isinstance(text := delta.get(name), str):
                yield (event.get("index"), what), text, None
    for choice in event.get("choices") or ():
        at = choice.get("index")
        if isinstance(text := choice.get("text"), str):
            yield (at, "text"), text, None
        said = choice.get("delta") or {}
        for name, what in (("content", "text"), ("reasoning_content", "reasoning"), ("refusal", "refusal")):
            if isinstance(text := said.get(name), str):
                yield (at, what), text, None
        for call in said.get("tool_calls") or ():
            function = call.get("function") or {}
            yield (at, call.get("index"), "tool_call"), function.get("arguments") or "", function.get("name")


def _output(messages: list[Message], stop_reasons: Iterable[str]) -> dict[str, str]:
    reasons = list(stop_reasons)
    for message, reason in zip(messages, reasons, strict=False):
        message["finish_reason"] = reason
    return {names.OUTPUT_MESSAGES: _bounded([_json(message) for message in messages])}


def _left_out(messages: int) -> Message:
    return {"type": "omitted", "messages": messages}


def _bounded(items: list[str]) -> str:
    """Return the JSON list of encoded ``items``, the second ones left out while it is too long."""
    left_out = 0
    while sum(map(len, items)) > CONTENT_CHARACTERS_MAX and len(items) > 2:
        del items[1]
        left_out += 1
    if left_out:
        items.insert(1, _json({"role": "user", "parts": [_left_out(left_out)]}))
    return "[" + ",".join(items) + "]"


def _loaded(data: bytes) -> Mapping[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        return {}
    return event if isinstance(event, Mapping) else {}


def _plain(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    return dump() if callable(dump) and not isinstance(value, type) else f"<{type(value).__name__}>"


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_plain).encode
