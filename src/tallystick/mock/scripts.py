"""Faults on request: a script is a list of steps, one for each HTTP request.

    429:retry-after=0.05,200          refuse once, then answer
    cut:after=3                       drop the connection after three events of a stream
    200:input=1200:output=350:crlf    answer with these token counts, lines ended by CR LF

Steps are separated by commas, their options by ``:`` or ``;``.  A script comes in the header ``x-mock-script`` (one for
each ``x-mock-script-id``, or for each script text when there is no id; a retry repeats the headers and so takes the
next step; after the last step the script begins anew) or is laid down with ``POST /_mock/script``, where the next
requests that match take it and it is gone after its last step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STEPS = {
    "200": "answer",
    "429": "rate limited; retry-after=SECONDS or date+SECONDS, retry-after-ms=MS, should-retry=true|false",
    "quota": "the money is used up: 402 billing_error of Anthropic, 429 insufficient_quota of OpenAI",
    "529": "overloaded",
    "500": "internal error",
    "503": "out of service",
    "504": "the server took too long",
    "401": "the key is wrong",
    "403": "the key may not",
    "404": "no such model",
    "400": "invalid request",
    "413": "too large a request",
    "context_length": "400: too long a prompt",
    "slow": "answer late: headers=SECONDS before the headers, body=SECONDS between events, or before the body",
    "hang": "take the request and say nothing",
    "reset": "reset the connection before the headers; with `billed` after the answer was made",
    "cut": "drop the connection after=N events of a stream (default 3), or amid a body",
    "sse-error": "an error event after=N events of a stream (default 3), then the end",
    "unterminated": "end the stream cleanly, but without its terminal marker",
    "failed": "Responses: response.failed; elsewhere as sse-error, or 500 without a stream",
    "refusal": "the model refuses; with `credit` in a way that a fallback model may go on from",
    "content_filter": "the filter stops the answer",
    "truncated": "the answer is longer than it may be",
    "bad-json": "200 with half a JSON body",
    "html": "200 with a page of HTML",
    "gzip": "answer with content-encoding gzip",
    "br": "answer with content-encoding br, if the module is there",
    "zstd": "answer with content-encoding zstd, if the module is there",
    "crlf": "answer with lines that end in CR LF",
}  # fmt: skip
ALIASES = {"ok": "200", "insufficient_quota": "quota", "402": "quota", "overloaded": "529", "rate_limit": "429"}
OPTIONS = frozenset({
    "after", "body", "headers", "retry-after", "retry-after-ms", "should-retry", "gzip", "crlf", "billed", "input",
    "output", "cache_read", "cache_write_5m", "cache_write_1h", "reasoning", "web_search", "compaction", "credit",
    "br", "zstd", "polls",
})  # fmt: skip
ERRORS = frozenset({"429", "quota", "529", "500", "503", "504", "401", "403", "404", "400", "413", "context_length"})
STOPS = {"refusal": "refusal", "content_filter": "filter", "truncated": "length"}


class BadScriptError(ValueError):
    """A script has a step or an option that nobody knows."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one request is to meet."""

    name: str = "200"
    options: Mapping[str, str] = field(default_factory=dict)

    def has(self, flag: str) -> bool:
        """Tell whether ``flag`` is an option of the step, or the step itself."""
        return self.name == flag or flag in self.options

    def number(self, option: str, default: float) -> float:
        """Return the value of ``option``, a number."""
        return float(self.options.get(option) or default)

    def __str__(self) -> str:
        return ":".join([self.name, *(f"{name}={value}" if value else name for name, value in self.options.items())])


ANSWER = Step()


def parse(script: str) -> tuple[Step, ...]:
    """Return the steps of ``script``; raise BadScriptError for what is unknown."""
    steps = tuple(_step(part.strip()) for part in script.split(",") if part.strip())
    if not steps:
        raise BadScriptError(f"script {script!r} has no step; one is {', '.join(STEPS)}")
    return steps


def _step(text: str) -> Step:
    name, *rest = text.replace(";", ":").split(":")
    name = ALIASES.get(name, name)
    if name not in STEPS:
        raise BadScriptError(f"unknown step {name!r} in script; known: {', '.join(STEPS)}")
    options: dict[str, str] = {}
    for part in rest:
        option, _, value = part.partition("=")
        if option not in OPTIONS:
            raise BadScriptError(f"unknown option {option!r} of step {name!r}; known: {', '.join(sorted(OPTIONS))}")
        options[option] = value
    return Step(name, options)


@dataclass
class Rule:
    """A script that was laid down: the next requests that match it take its steps."""

    steps: list[Step]
    match: dict[str, str]

    def takes(self, facts: Mapping[str, str]) -> bool:
        """Tell whether a request with these ``facts`` (provider, model, path) is meant."""
        return bool(self.steps) and all(wanted in facts.get(name, "") for name, wanted in self.match.items())


@dataclass
class Scripts:
    """All scripts that are under way."""

    _by_key: dict[str, list[Step]] = field(default_factory=dict)
    _rules: list[Rule] = field(default_factory=list)

    def lay_down(self, script: str, match: Mapping[str, str]) -> None:
        """Have the next requests that ``match`` (provider, model, path: contained in theirs) meet ``script``."""
        if unknown := set(match) - {"provider", "model", "path"}:
            raise BadScriptError(f"cannot match on {', '.join(sorted(unknown))}; known: provider, model, path")
        self._rules.append(Rule(list(parse(script)), dict(match)))

    def clear(self) -> None:
        """Forget every script."""
        self._by_key.clear()
        self._rules.clear()

    def next_step(self, headers: Mapping[str, str], facts: Mapping[str, str]) -> Step:
        """Return what a request meets: by its own header, else by the first rule that takes it, else an answer."""
        if script := headers.get("x-mock-script"):
            return self._of_header(headers.get("x-mock-script-id") or script, script)
        for rule in self._rules:
            if rule.takes(facts):
                step = rule.steps.pop(0)
                self._rules = [left for left in self._rules if left.steps]
                return step
        return ANSWER

    def _of_header(self, key: str, script: str) -> Step:
        steps = self._by_key.pop(key, None) or list(parse(script))
        step = steps.pop(0)
        if steps:
            self._by_key[key] = steps
        return step
