"""``/api/v1/advice``: what could be saved, each figure with the question that brings its evidence."""

# ruff: noqa: S608 -- what is put into SQL here comes from the tables below, never from outside; values are bound

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache, partial
from typing import Any

from tallystick.collector.advise import (
    CACHE_TTLS_S,
    CALLS_MIN,
    COUNTED,
    HISTORY_MESSAGES_MIN,
    PARTS_MAX,
    PROMPT_TOKENS_MIN,
    TTLS_S,
    ZERO,
    Advice,
    Again,
    Asked,
    Flow,
    History,
    ModelName,
    Prefix,
    Quiet,
    RateOf,
    Superseded,
    Tools,
    Verdict,
    advise_batch,
    advise_history,
    advise_max_tokens,
    advise_model,
    advise_prices,
    advise_prompt_caching,
    advise_repeats,
    advise_response_cache,
    advise_tools,
    monthly,
)
from tallystick.collector.query import EARLIEST, BadParameterError, Json, Params, _iso, _plain, _range
from tallystick.collector.rollups import Ask, Range
from tallystick.collector.store import QueryTimeoutError
from tallystick.model.failures import MAY_BE_BILLED
from tallystick.model.usage import Usage
from tallystick.pricing import Book, Rates, rates_of, steps_of

TOOL_REASONS = ("tool_use", "tool_calls", "function_call")
PROMPTS_MAX = 200_000
"""Of so many prompts, the newest, the beginnings are put in order; of more it takes longer than a reader waits."""
MUTE_REASONS = ("completed",)
"""What the Responses API says whether a tool was called or not."""

PAID = "coalesce(response_model, model)"
ANSWERED = "units > 0 AND unpriced_units = 0 AND provider IS NOT NULL AND model IS NOT NULL"
SPOKEN = "operation IN ('chat', 'text_completion', 'generate_content', 'completion')"
SUMS = "count(*)::BIGINT, " + ", ".join(
    f"coalesce(sum({name}), 0)::BIGINT"
    for name in ("input_tokens", "cache_read_tokens", "cache_write_tokens", "output_tokens")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What every advice gets to ask with."""

    ask: Ask
    asked: Range
    book: Book
    now: datetime
    spend_usd: Decimal
    to: ModelName | None

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows of ``sql``, in which ``{where}`` stands for range and filters."""
        return self.ask(sql.replace("{where}", self.asked.where), [*self.asked.values, *values])

    def rate(self, *, batch: bool = False) -> RateOf:
        """Return the price book as a function that remembers."""
        return cache(lambda provider, model, tokens: rates_of(
            provider, model, self.now, prompt_tokens=tokens, batch=batch, book=self.book
        ))  # fmt: skip

    def flows(self, condition: str, *also: str) -> list[Flow]:
        """Return the calls by model, by ``also``, and by the lengths of prompts at which a price changes."""
        sql = f"SELECT DISTINCT provider, {PAID} FROM calls WHERE {{where}} AND {ANSWERED} AND {SPOKEN} AND {condition}"
        models = [(provider, model) for provider, model in self.rows(sql)] + ([self.to] if self.to else [])
        steps = sorted({step for model in models for step in steps_of(*model, self.now, book=self.book)})
        band = " + ".join(f"(input_tokens > {int(step)})::INTEGER" for step in steps) or "input_tokens < 0"
        columns = ", ".join((f"provider, {PAID}, model", *also))
        sql = f"""
            SELECT {columns}, {SUMS} FROM calls WHERE {{where}} AND {ANSWERED} AND {SPOKEN} AND {condition}
            GROUP BY {columns}, {band}
        """
        return [
            Flow(
                provider=provider, model=model, asked=asked, calls=calls, **dict(zip(also, rest, strict=False)),
                usage=Usage(input_tokens=sent, cache_read_tokens=read, cache_write_tokens=written, output_tokens=got),
            )
            for provider, model, asked, *rest, calls, sent, read, written, got in self.rows(sql)
        ]  # fmt: skip


def other_model(question: Question) -> Verdict:
    """The same traffic on another model."""
    flows = question.flows("outcome = 'ok'")
    target = question.to or cheapest(flows, question.rate())
    if target is None:
        return Quiet("No other model to compare with: name one, as openai/gpt-5-mini.")
    if question.rate()(*target, 1000) is None:
        raise BadParameterError(f"to is {'/'.join(target)[:100]!r}, which has no listed price; write PROVIDER/MODEL")
    return advise_model(flows, target, question.rate(), question.spend_usd)


def cheapest(flows: Sequence[Flow], rate: RateOf) -> ModelName | None:
    """Return the model in use that would have cost least for all of ``flows``; None when there are not two."""
    models = {
        (flow.provider, flow.asked) for flow in flows if rate(flow.provider, flow.asked, flow.prompt_tokens) is not None
    }

    def cost(model: ModelName) -> Decimal:
        found = [(rate(*model, flow.prompt_tokens), flow.usage) for flow in flows]
        return sum((rates.cost_usd(usage) for rates, usage in found if rates is not None), ZERO)

    return min(sorted(models), key=cost) if len(models) > 1 else None


# A call's place in a cache is named by the one who pays, the model and the digest of the prompt's beginning.
PREFIXED = f"""
    plain AS (
        SELECT rowid AS n, started_at AS began, provider, {PAID} AS model, input_tokens, request_characters, prefixes,
            prefix_characters, coalesce(key_id, '') AS key
        FROM calls WHERE {{where}} AND {ANSWERED} AND {SPOKEN} AND cache_read_tokens = 0 AND cache_write_tokens = 0
            AND input_tokens >= {PROMPT_TOKENS_MIN} AND request_characters > 0 AND len(prefixes) > 0
    )
"""


def prompt_caching(question: Question) -> Verdict:
    """The beginnings of prompts that came again within the time that a provider's cache keeps them."""
    rate = question.rate()
    sql = f"WITH {PREFIXED} SELECT provider, model, count(*)::BIGINT FROM plain GROUP BY ALL"
    counted = question.rows(sql)
    models = {
        (provider, model): rates
        for provider, model, _ in counted
        if (rates := rate(provider, model, PROMPT_TOKENS_MIN)) is not None and rates.cache_write > rates.input
    }
    seen = sum(calls for provider, model, calls in counted if (provider, model) in models)
    if seen < CALLS_MIN:
        return advise_prompt_caching([], seen, seen, rate, question.spend_usd)
    newest = question if seen <= PROMPTS_MAX else _newest(question, PROMPTS_MAX / seen)
    counted = newest.rows(sql)
    looked_at = sum(calls for provider, model, calls in counted if (provider, model) in models)
    found = _prefixes(newest, models) if looked_at else []
    return advise_prompt_caching(found, seen, looked_at, rate, question.spend_usd)


def _newest(question: Question, share: float) -> Question:
    """Return the question over the newest part of the range, which has about ``share`` of its prompts."""
    sql = f"WITH {PREFIXED} SELECT quantile_disc(began, ?::DOUBLE) FROM plain"
    since: datetime = question.rows(sql, 1 - share)[0][0]
    return replace(question, asked=replace(question.asked, start=since.replace(tzinfo=UTC)))


def _prefixes(question: Question, models: Mapping[ModelName, Rates]) -> list[Prefix]:
    """Return what a cache would have read and written with one mark in each prompt, where it saves most in all."""
    weights: list[Any] = []
    for (provider, model), rates in models.items():
        saved, short = rates.input - rates.cache_read, rates.cache_write - rates.input
        long = None if rates.cache_write_1h is None else float(rates.cache_write_1h - rates.input)
        weights += [len(weights) // 6, provider, model, float(saved), float(short), long]
    listed = ", ".join("(?::UTINYINT, ?, ?, ?::DOUBLE, ?::DOUBLE, ?::DOUBLE)" for _ in models)
    short_us, long_us = (ttl_s * 10**6 for ttl_s in CACHE_TTLS_S)
    # Millions of beginnings are put in order: each is a few numbers, and one that came once is dropped before.
    sql = f"""
        WITH {PREFIXED}, weights(m, provider, model, saved, short, long) AS (VALUES {listed}),
        begun AS (
            SELECT n, epoch_us(began) AS began, m, key, unnest(prefixes) AS digest,
                (input_tokens * unnest(prefix_characters) // request_characters)::INTEGER AS tokens
            FROM plain JOIN weights USING (provider, model)
        ),
        named AS (
            SELECT n, began, m, tokens, hash(digest, m, key) AS place FROM begun WHERE tokens >= {PROMPT_TOKENS_MIN}
        ),
        shared AS (SELECT place FROM named GROUP BY place HAVING count(*) > 1),
        timed AS (
            SELECT n, began, m, tokens, place, began - lag(began) OVER (PARTITION BY place ORDER BY began, n) AS gap
            FROM named SEMI JOIN shared USING (place)
        ),
        sums AS (
            SELECT place, any_value(m) AS m, sum(tokens) AS tokens,
                coalesce(sum(tokens) FILTER (gap <= {short_us}), 0) AS soon,
                coalesce(sum(tokens) FILTER (gap <= {long_us}), 0) AS later
            FROM timed GROUP BY place
        ),
        worth AS (
            SELECT place, greatest(soon * saved - (sums.tokens - soon) * short,
                later * saved - (sums.tokens - later) * long) AS usd
            FROM sums JOIN weights USING (m) WHERE usd > 0
        ),
        marked AS (
            SELECT n, any_value(began) AS began, arg_max(place, (usd, tokens)) AS place,
                arg_max(tokens, (usd, tokens)) AS tokens
            FROM timed JOIN worth USING (place) GROUP BY n
        ),
        again AS (
            SELECT n, tokens, coalesce(began - lag(began) OVER (PARTITION BY place ORDER BY began, n), {2**62}) AS gap
            FROM marked
        )
        SELECT provider, {PAID} AS model, template, count(*)::BIGINT,
            coalesce(sum(tokens) FILTER (gap <= {short_us}), 0)::BIGINT,
            coalesce(sum(tokens) FILTER (gap <= {long_us}), 0)::BIGINT,
            coalesce(sum(tokens) FILTER (gap > {short_us}), 0)::BIGINT,
            coalesce(sum(tokens) FILTER (gap > {long_us}), 0)::BIGINT
        FROM again JOIN calls ON calls.rowid = n GROUP BY ALL
    """
    return [
        Prefix(provider=provider, model=model, template=template, calls=calls, read=(read, read_1h),
               written=(written, written_1h))
        for provider, model, template, calls, read, read_1h, written, written_1h in question.rows(sql, *weights)
    ]  # fmt: skip


def response_cache(question: Question) -> Verdict:
    """Calls that a cache for whole answers would have spared."""
    sql = f"SELECT count(*)::BIGINT FROM calls WHERE {{where}} AND {ASKED_ONCE}"
    seen = question.rows(sql)[0][0]
    found = repeated(question.ask, question.asked) if seen >= CALLS_MIN else []
    again = [
        Again(
            ttl_s=ttl_s,
            calls=sum(row[2 + 2 * place] for row in found),
            usd=sum((Decimal(row[3 + 2 * place]) for row in found), ZERO),
        )
        for place, ttl_s in enumerate(TTLS_S)
    ]
    hour = 2 + 2 * TTLS_S.index(3600)
    dearest = sorted((row for row in found if row[hour]), key=lambda row: (-row[hour + 1], row[0]))[:PARTS_MAX]
    listed = [(row[0], row[1], row[hour], Decimal(row[hour + 1])) for row in dearest]
    return advise_response_cache(again, listed, seen, question.spend_usd)


ASKED_ONCE = f"outcome = 'ok' AND {ANSWERED} AND digest IS NOT NULL AND link IS NULL"


def repeated(ask: Ask, asked: Range) -> list[tuple[Any, ...]]:
    """Return (digest, model, and for each of `TTLS_S` how many calls a cache had spared and what they cost)."""
    hits = ", ".join(
        f"count(*) FILTER (gap <= {ttl_s * 10**6})::BIGINT, coalesce(sum(cost_usd) FILTER (gap <= {ttl_s * 10**6}), 0)"
        for ttl_s in TTLS_S
    )
    # Only what came more than once is put in order, by eight bytes in the place of a text.
    sql = f"""
        WITH asked AS (
            SELECT hash(digest) AS request, rowid AS n, epoch_us(started_at) AS began, cost_usd,
                epoch_us(started_at) + (coalesce(latency_ms, 0) * 1000)::BIGINT AS ended
            FROM calls WHERE {asked.where} AND {ASKED_ONCE}
        ),
        often AS (SELECT request FROM asked GROUP BY request HAVING count(*) > 1),
        timed AS (
            SELECT request, n, cost_usd, began - lag(ended) OVER (PARTITION BY request ORDER BY began, n) AS gap
            FROM asked SEMI JOIN often USING (request)
        ),
        spared AS (
            SELECT any_value(n) AS n, {hits} FROM timed WHERE gap BETWEEN 0 AND {max(TTLS_S) * 10**6} GROUP BY request
        )
        SELECT digest, model, spared.* EXCLUDE (n) FROM spared JOIN calls ON calls.rowid = spared.n
    """
    return ask(sql, asked.values)


def repeats(question: Question) -> Verdict:
    """Calls that another call did again."""
    untold = ", ".join(f"'{outcome.value}'" for outcome in sorted(MAY_BE_BILLED))
    sql = f"""
        WITH linked AS (SELECT DISTINCT chain FROM calls WHERE {{where}} AND link IS NOT NULL),
        chained AS (
            SELECT cost_usd, units, outcome,
                lead(link) OVER (PARTITION BY chain ORDER BY link_index NULLS FIRST) AS next
            FROM calls SEMI JOIN linked USING (chain)
        )
        SELECT next, count(*)::BIGINT, coalesce(sum(cost_usd), 0),
            count(*) FILTER (units = 0 AND outcome IN ({untold}))::BIGINT
        FROM chained WHERE next IS NOT NULL GROUP BY next ORDER BY next
    """
    superseded = [
        Superseded(link=link, calls=calls, usd=Decimal(usd), untold=untold)
        for link, calls, usd, untold in question.rows(sql)
    ]
    sql = """
        SELECT count(*)::BIGINT, coalesce(sum(greatest(attempts - 1, 0)), 0)::BIGINT FROM calls WHERE {where}
    """
    seen, extra = question.rows(sql)[0]
    sql = """
        SELECT coalesce(max(tries), 0)::BIGINT FROM (
            SELECT sum(attempts) AS tries FROM calls WHERE {where} AND chain IN (
                SELECT chain FROM calls WHERE link IS NOT NULL) GROUP BY chain)
    """
    return advise_repeats(superseded, extra, question.rows(sql)[0][0], seen, question.spend_usd)


def tools(question: Question) -> Verdict:
    """Tools in prompts whose answers did not use them."""
    used, mute = (", ".join(f"'{reason}'" for reason in reasons) for reasons in (TOOL_REASONS, MUTE_REASONS))
    sql = f"""
        SELECT provider, {PAID}, template, count(*)::BIGINT,
            count(*) FILTER (list_has_any(finish_reasons, [{used}]))::BIGINT,
            coalesce(sum(input_tokens * tools_characters // request_characters)
                FILTER (cache_read_tokens = 0 AND NOT list_has_any(finish_reasons, [{used}])), 0)::BIGINT
        FROM calls WHERE {{where}} AND {ANSWERED} AND {SPOKEN} AND outcome = 'ok' AND tools_characters > 0
            AND request_characters > 0 AND len(finish_reasons) > 0 AND NOT list_has_any(finish_reasons, [{mute}])
        GROUP BY ALL
    """
    found = [
        Tools(provider=provider, model=model, template=template, calls=calls, used=used, idle_tokens=idle)
        for provider, model, template, calls, used, idle in question.rows(sql)
    ]
    return advise_tools(found, question.rate(), question.spend_usd)


def history(question: Question) -> Verdict:
    """Input of long conversations that had been sent before."""
    sql = f"""
        WITH held AS (
            SELECT rowid AS n, started_at AS began, provider, {PAID} AS model, input_tokens, prefixes,
                request_characters, prefix_characters, cache_read_tokens, coalesce(tools_characters, 0) AS tools
            FROM calls WHERE {{where}} AND {ANSWERED} AND {SPOKEN} AND messages >= {HISTORY_MESSAGES_MIN}
                AND request_characters > 0 AND len(prefixes) > 0
        ),
        begun AS (
            SELECT n, began, unnest(prefixes) AS digest, unnest(prefix_characters) AS characters FROM held
        ),
        told AS (SELECT digest, min(began) AS earliest FROM begun GROUP BY digest HAVING count(*) > 1),
        sent AS (
            SELECT n, max(characters) AS characters FROM begun JOIN told USING (digest)
            WHERE earliest < began GROUP BY n
        )
        SELECT provider, model, count(*)::BIGINT, sum(input_tokens)::BIGINT,
            coalesce(sum(greatest(input_tokens * greatest(characters - tools, 0) // request_characters
                - cache_read_tokens, 0)), 0)::BIGINT
        FROM held LEFT JOIN sent USING (n) GROUP BY ALL
    """
    found = [
        History(provider=provider, model=model, calls=calls, input_tokens=sent, repeated_tokens=repeated)
        for provider, model, calls, sent, repeated in question.rows(sql)
    ]
    return advise_history(found, question.rate(), question.spend_usd)


def max_tokens(question: Question) -> Verdict:
    """Calls that ask for far more than they get."""
    sql = f"""
        SELECT provider, model, count(*)::BIGINT, sum(max_tokens)::BIGINT,
            quantile_disc(output_tokens, 0.99)::BIGINT
        FROM calls WHERE {{where}} AND {ANSWERED} AND {SPOKEN} AND outcome = 'ok' AND max_tokens > 0 GROUP BY ALL
    """
    found = [
        Asked(provider=provider, model=model, calls=calls, asked_tokens=asked, p99_tokens=p99)
        for provider, model, calls, asked, p99 in question.rows(sql)
    ]
    return advise_max_tokens(found, question.rate(), question.spend_usd)


def batch(question: Question) -> Verdict:
    """Calls that nobody waits for."""
    unattended = "outcome = 'ok' AND NOT stream AND user_id IS NULL AND session_id IS NULL"
    flows = question.flows(unattended, "service", "feature")
    return advise_batch(flows, question.rate(), question.rate(batch=True), question.spend_usd)


def prices(question: Question) -> Verdict:
    """Responses without a price, and how old the prices are."""
    sql = """
        SELECT coalesce(provider, ''), coalesce(model, ''), sum(unpriced_units)::BIGINT AS units FROM calls
        WHERE {where} AND unpriced_units > 0 GROUP BY ALL ORDER BY units DESC, 1, 2
    """
    age_days = max(question.book.age_days(question.now.date()), 0)
    return advise_prices(question.rows(sql), question.book.version, age_days, question.spend_usd)


ABOUT: Mapping[str, Callable[[Question], Verdict]] = {
    "other_model": other_model,
    "prompt_caching": prompt_caching,
    "response_cache": response_cache,
    "repeats": repeats,
    "tools": tools,
    "history": history,
    "max_tokens": max_tokens,
    "batch": batch,
    "prices": prices,
}


def advice(ask: Ask, params: Params, now: datetime, book: Book) -> Json:
    """Every advice that the range gives, the largest first, and why there is no other."""
    asked = _range(params, now, "about", "to")
    about = asked.rest.get("about", "")
    if about and about not in ABOUT:
        raise BadParameterError(f"about is {about[:64]!r}; one of {', '.join(ABOUT)}")
    spend, calls = ask(f"SELECT coalesce(sum(cost_usd), 0), count(*)::BIGINT FROM calls WHERE {asked.where}",
                       asked.values)[0]  # fmt: skip
    seen = observed(asked, now, ask("SELECT min(started_at) FROM calls", [])[0][0])
    question = Question(
        ask=ask, asked=asked, book=book, now=now, spend_usd=Decimal(spend), to=_target(asked.rest.get("to", ""))
    )
    rows: list[Json] = []
    quiet: list[Json] = []
    for name in [about] if about else ABOUT:
        try:
            verdict = ABOUT[name](question)
        except QueryTimeoutError:
            verdict = Quiet(f"It takes too long over {calls:,} calls; choose a shorter range, or a filter.")
        if isinstance(verdict, Quiet):
            quiet.append({"about": name, "reason": verdict.reason})
        else:
            rows.append(_row(name, verdict, seen))
    rows.sort(key=lambda row: (row["means"] != "saved", -Decimal(row["usd"] or 0)))
    return {
        "start": _iso(asked.start), "end": _iso(asked.end), "days": _plain(round(seen, 4)), "calls": calls,
        "spend_usd": _plain(Decimal(spend)), "monthly_spend_usd": _shown(monthly(Decimal(spend), seen)),
        "rows": rows, "quiet": quiet, "targets": targets(question) if about in {"", "other_model"} else [],
    }  # fmt: skip


def observed(asked: Range, now: datetime, first: datetime | None) -> Decimal:
    """Return how many days of the range lie between the ledger's first call and now."""
    begin = max(asked.start, EARLIEST if first is None else first.replace(tzinfo=UTC))
    return max(Decimal((min(asked.end, now) - begin) / timedelta(days=1)), ZERO)


def targets(question: Question) -> list[str]:
    """Return what the traffic could be moved to: the models in use, then the others that their providers list."""
    sql = f"SELECT DISTINCT provider, model FROM calls WHERE {{where}} AND {ANSWERED} AND {SPOKEN} ORDER BY ALL"
    used = [(provider, model) for provider, model in question.rows(sql)]
    listed = [
        (provider, model.id)
        for provider in dict.fromkeys(provider for provider, _ in used)
        for model in question.book.models(provider)
        if {"input", "output"} <= (model.rates(question.now, "") or {}).keys()
    ]
    return list(dict.fromkeys("/".join(model) for model in (*used, *sorted(listed))))


def _target(text: str) -> ModelName | None:
    provider, slash, model = text.partition("/")
    if text and not (slash and provider and model):
        raise BadParameterError(f"to is {text[:64]!r}; write PROVIDER/MODEL, as openai/gpt-5-mini")
    return (provider, model) if text else None


def _row(name: str, found: Advice, days: Decimal) -> Json:
    shown = partial(monthly, days=days)
    return {
        "about": name, "title": found.title, "cause": found.cause, "means": found.means, "bound": found.bound,
        "usd": _shown(found.usd), "monthly_usd": _shown(shown(found.usd)), "calls": found.calls,
        "counted": COUNTED[name], "assumes": list(found.assumes), "evidence": dict(found.evidence),
        "filters": {key: value if isinstance(value, str) else list(value) for key, value in found.filters.items()},
        "parts": [
            {"label": part.label, "calls": part.calls, "usd": _shown(part.usd), "monthly_usd": _shown(shown(part.usd)),
             "filters": dict(part.filters)}
            for part in found.parts
        ],
    }  # fmt: skip


def _shown(usd: Decimal | None) -> str | None:
    return None if usd is None else _plain(usd)
