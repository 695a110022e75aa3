"""Two days of a shop's calls, sent to a real collector: what the pages are looked at with, in tests and by eye.

Three services and five priced models, one model without a price; sessions, prompts, keys and tags; retries, fallbacks,
re-asks and the same question twice; headroom as servers tell it; and a spike three hours ago, of one feature, one
model and one user.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from fakes.collector import Running, merged, otlp_call, otlp_unit

HOUR_NS = 3600 * 10**9
BUDGETS = """
[[budget]]
name = "chat"
scope = { feature = "chat" }
limit_usd = 5
window = "day"
thresholds = [0.5, 0.8, 1.0]

[[budget]]
name = "each user"
limit_usd = 4
group_by = ["user"]
window = "month"
thresholds = [0.8, 1.0]

[[budget]]
name = "nightly jobs"
scope = { service = "batch" }
limit_tokens = 300_000
window = "week"
action = "block"
"""
# Feature, provider, model, tokens of a prompt, weight, service, prompt.
WORK = (
    ("chat", "anthropic", "claude-sonnet-4-5", 2400, 40, "shop", "support-v3"),
    ("search", "openai", "gpt-5-mini", 900, 22, "shop", "rerank-v1"),
    ("search", "openai", "text-embedding-3-small", 600, 12, "shop", None),
    ("summarise", "anthropic", "claude-haiku-4-5", 5200, 14, "batch", "digest-v7"),
    ("report", "openai", "gpt-4.1", 7800, 8, "reports", "weekly-v2"),
    (None, "127.0.0.1:8000", "llama-local-70b", 1500, 3, "batch", None),
)
FAULTS = (
    ("rate_limited", 429, "rate_limit_error", "RateLimitError"),
    ("overloaded", 529, "overloaded_error", "OverloadedError"),
    ("timeout_read", None, None, "APITimeoutError"),
    ("server_error", 500, "api_error", "InternalServerError"),
)
SPIKE_HOURS, SPIKE_CALLS = 3, 60


@dataclass
class Shop:
    """Makes the calls; the same ``seed`` and ``now_ns`` make the same."""

    now_ns: int
    seed: int = 7
    chance: random.Random = field(init=False)
    made: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    def calls(self, count: int) -> Iterator[ExportTraceServiceRequest]:
        """Yield ``count`` usual calls, what follows from some of them, and the spike."""
        for _ in range(count):
            at = self.now_ns - int(self.chance.triangular(0.01, 48, 6) * HOUR_NS)
            yield from self._piece_of_work(at)
        for _ in range(SPIKE_CALLS):
            at = self.now_ns - int((SPIKE_HOURS + self.chance.random() * 0.8) * HOUR_NS)
            yield self._answered(at, WORK[4], user="u77", session="s-77-1", size=24_000)

    def _piece_of_work(self, at: int) -> Iterator[ExportTraceServiceRequest]:
        work = self.chance.choices(WORK, weights=[row[4] for row in WORK])[0]
        user = f"u{min(int(self.chance.paretovariate(0.9)), 40)}"
        whose = {"user": user, "session": f"s-{user[1:]}-{self.chance.randint(1, 4)}"}
        draw = self.chance.random()
        if draw < 0.80:
            yield self._answered(at, work, **whose)
        elif draw < 0.86:
            yield self._answered(at, work, **whose, tried=self._tried(retries=self.chance.choice((1, 1, 2))))
        elif draw < 0.90:
            yield self._failed(at, work, **whose)
        elif draw < 0.92:  # the provider is down, another model answers
            first = self._id()
            yield self._failed(at, work, **whose, id=first)
            yield self._answered(at + 4 * 10**9, WORK[1], **whose, **follows(first, "fallback", 1))
        elif draw < 0.94:  # the answer did not parse, and was asked for again
            first = self._id()
            yield self._answered(at, work, **whose, id=first, outcome="invalid_output")
            yield self._answered(at + 3 * 10**9, work, **whose, **follows(first, "re_ask", 1))
        elif draw < 0.96:
            yield self._answered(at, work, **whose, outcome="truncated", finish="max_tokens")
        elif draw < 0.97:
            yield self._answered(at, work, **whose, outcome="abandoned", estimated=True)
        else:  # the same question twice within minutes
            for later in (0, 120):
                yield self._answered(at + later * 10**9, work, **whose, digest=f"{self.seed:08x}{self.made // 40:08x}")

    def _id(self) -> str:
        self.made += 1
        return f"{self.seed:04x}{self.made:012x}"

    def _answered(
        self, at: int, work: tuple[Any, ...], *, size: int = 0, tried: list[dict[str, Any]] | None = None,
        estimated: bool = False, outcome: str = "ok", finish: str = "end_turn", digest: str = "", **more: Any,
    ) -> ExportTraceServiceRequest:  # fmt: skip
        _, provider, model, usual, *_ = work
        sent = int((size or usual) * self.chance.lognormvariate(0, 0.4))
        got = 0 if "embedding" in model else int(sent * self.chance.uniform(0.08, 0.4))
        latency = 180 + got * self.chance.uniform(4, 9)
        return self._call(
            at, work, outcome=outcome, latency_ms=latency, attempts=tried or [self._headroom(200, "ok", latency * 0.9)],
            units=[self._unit(provider, model, sent, got, estimated=estimated)],
            gen_ai__usage__input_tokens=sent, gen_ai__usage__output_tokens=got,
            gen_ai__response__finish_reasons=[finish], tallystick__request_digest=digest or f"{sent:08x}{got:08x}",
            tallystick__template=f"{zlib.crc32(model.encode()):016x}", **more,
        )  # fmt: skip

    def _unit(self, provider: str, model: str, sent: int, got: int, *, estimated: bool) -> dict[str, Any]:
        usage = {"input_tokens": sent, "output_tokens": got}
        if provider != "openai":
            return otlp_unit(provider=provider, model=model, usage=usage, estimated=estimated)
        usage = {"prompt_tokens": sent, "completion_tokens": got, "total_tokens": sent + got}
        api = "embeddings" if "embedding" in model else "chat_completions"
        return otlp_unit(provider=provider, model=model, api=api, usage=usage, estimated=estimated)

    def _failed(self, at: int, work: tuple[Any, ...], **more: Any) -> ExportTraceServiceRequest:
        outcome, _, code, exception = self.chance.choice(FAULTS)
        return self._call(
            at, work, outcome=outcome, latency_ms=5400, attempts=self._tried(retries=3, outcome=outcome)[:3], units=[],
            tallystick__error__code=code, exception__type=exception, **more,
        )  # fmt: skip

    def _call(
        self, at: int, work: tuple[Any, ...], *, user: str, session: str, **more: Any
    ) -> ExportTraceServiceRequest:
        feature, provider, model, _, _, service, prompt = work
        return otlp_call(**{
            "id": self._id(), "trace_id": f"{self.seed:08x}{self.made:024x}", "started_ns": at, "provider": provider,
            "model": model, "service": service, "environment": "prod" if service != "batch" else "staging",
            "tags": {"tenant": self.chance.choice(("acme", "globex", "initech"))}, "tallystick__feature": feature,
            "user__id": user, "session__id": session, "gen_ai__prompt__name": prompt,
            "tallystick__key": "a1b2c3d4…9xyz" if provider == "anthropic" else "e5f6a7b8…4uvw",
            "tallystick__caller": f"{feature or 'jobs'}.tasks:run", "gen_ai__request__max_tokens": 4096, **more,
        })  # fmt: skip

    def _tried(self, retries: int, outcome: str = "") -> list[dict[str, Any]]:
        """Return failed attempts and a good one behind, each after the wait that was asked for, or a little less."""
        rows, begin = [], 0.0
        for number in range(retries):
            fault, status, code, _ = next((row for row in FAULTS if row[0] == outcome), self.chance.choice(FAULTS))
            asked = self.chance.choice((1.0, 2.0, 5.0)) if status == 429 else None
            waited = (asked or 0.5) * self.chance.uniform(0.9, 1.1)
            rows.append({
                **self._headroom(status, fault, 300.0, left=0 if status == 429 else None), "started_ms": begin,
                "tallystick.attempt.retry_after_s": asked, "tallystick.attempt.code": code,
                "tallystick.attempt.waited_s": waited if number else None,
            })  # fmt: skip
            begin += 300 + waited * 1000
        good = self._headroom(200, "ok", 800.0) | {"started_ms": begin, "tallystick.attempt.waited_s": 0.5}
        return [*rows, good]

    def _headroom(self, status: int | None, outcome: str, took_ms: float, left: int | None = None) -> dict[str, Any]:
        left = self.chance.randint(4, 50) if left is None else left
        found: dict[str, Any] = {"tallystick.attempt.outcome": outcome, "duration_ms": took_ms}
        if status is None:
            return found
        return found | {
            "http.response.status_code": status,
            "tallystick.attempt.request_id": f"req_{self.chance.randbytes(6).hex()}",
            "tallystick.ratelimit.requests.limit": 50, "tallystick.ratelimit.requests.remaining": left,
            "tallystick.ratelimit.tokens.limit": 400_000,
            "tallystick.ratelimit.tokens.remaining": self.chance.randint(20_000, 380_000),
        }  # fmt: skip


def follows(first: str, link: str, index: int) -> dict[str, Any]:
    """Return the attributes of a call that goes on from the call ``first``."""
    return {"tallystick__link__id": first, "tallystick__link__kind": link, "tallystick__link__index": index}


def open_shop(collector: Running, now_ns: int, count: int = 1200, seed: int = 7) -> None:
    """Send a shop's two days to ``collector``, and wait until all of it can be asked for."""
    collector.send(merged(*Shop(now_ns, seed).calls(count)))
