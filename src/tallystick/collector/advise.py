"""What to advise, from figures of the ledger: pure functions, each with the least evidence that it needs.

A figure is never more than its evidence: below `CALLS_MIN` calls there is none.  Definitions: docs/advice.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from tallystick.model.money import show_usd
from tallystick.model.usage import Usage
from tallystick.pricing import Rates

ZERO = Decimal(0)
MONTH_DAYS = 30
DAYS_MIN = 1
"""Of less ledger than this no month is made: nights and days differ too much."""
CALLS_MIN = 100
REPEATS_MIN = 10
SHARE_MIN = Decimal("0.01")
"""What saves less than one percent of the spend is not worth a line."""
PROMPT_TOKENS_MIN = 1024
"""No provider caches a shorter beginning; some models ask for 2,048 or 4,096."""
HISTORY_MESSAGES_MIN = 10
TOOL_USE_MAX = Decimal("0.2")
"""Tools that more calls use than this earn their place."""
PRICES_AGE_DAYS_MAX = 14
PARTS_MAX = 10
TTLS_S = (60, 3600, 86_400)
CACHE_TTLS_S = (300, 3600)
COUNTED = {
    "other_model": "tokens by class of answered calls at their own rates, less the same tokens at the target's; "
    "each prompt at the rates of its length",
    "prompt_caching": "input tokens x characters of the repeated beginning / characters of the prompt; each read saves "
    "input - cache read, each write costs cache write - input",
    "response_cache": "the cost of answered calls with the request digest of one that had ended at most an hour before",
    "repeats": "the cost of calls that another one followed in its chain: a retry of the app, a fallback, a re-ask",
    "tools": "input tokens x characters of the tools / characters of the prompt, at the input rate, of calls "
    "that used none",
    "history": "input tokens x characters that an earlier call had sent / characters of the prompt, less the tools and "
    "what a cache gave, at the input rate",
    "max_tokens": "(max_tokens - enough) x the output rate; enough is what 99 of 100 answers took and half as much "
    "again, rounded up",
    "batch": "the tokens of answered calls without a stream, a user and a session at standard rates, less the same at "
    "batch rates",
    "prices": "responses without a price, and the age of the price book",
}
"""The definition of each figure, in a line; docs/advice.md has it whole."""

ModelName = tuple[str, str]
"""(provider, model)."""
RateOf = Callable[[str, str, int], Rates | None]
"""The price book: (provider, model, tokens of the prompt) to rates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One row of an advice, and which calls it is about."""

    label: str
    calls: int
    usd: Decimal | None
    filters: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One figure with its cause; money is of the range, a month is made of it where it is told."""

    title: str
    cause: str
    """One sentence."""
    usd: Decimal | None
    """None when it is about money that nobody knows."""
    means: str = "saved"
    """``saved``, ``held`` (by reservations and rate limits while calls run) or ``unknown``."""
    bound: str = "about"
    """How the figure stands to the truth: ``exact``, ``about``, ``at most``, ``at least``."""
    calls: int
    assumes: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()
    filters: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Quiet:
    """Why there is nothing to advise."""

    reason: str


Verdict = Advice | Quiet


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Calls of one model whose prompts are of one length as far as prices go."""

    provider: str
    model: str
    """As the response named it, which is what is paid for."""
    asked: str
    """As the app asked for it, which is what the pages filter by."""
    calls: int
    usage: Usage
    service: str | None = None
    feature: str | None = None

    @property
    def prompt_tokens(self) -> int:
        """The mean length of a prompt, which lies between the same steps of the price as each of them."""
        return self.usage.input_tokens // max(self.calls, 1)


def advise_model(flows: Sequence[Flow], target: ModelName, rate: RateOf, spend_usd: Decimal) -> Verdict:
    """Price the tokens of ``flows`` by ``target``'s rates and by their own; the difference is the advice.

    What was charged beside the tokens at their standard rates (searches, tiers) stays as it is.
    """
    moved, unknown = _moved(flows, target, rate)
    calls = sum(flow.calls for flow, _ in moved)
    if thin := _thin(calls, f"calls of other models than {target[1]}"):
        return thin
    saved = sum((usd for _, usd in moved), ZERO)
    shown = show_usd(abs(saved))
    verb = "would have cost less" if saved > 0 else "would have cost more"
    if saved <= 0 or saved < spend_usd * SHARE_MIN:
        return Quiet(f"On {target[1]} the tokens of these {calls:,} calls {verb} by {shown}.")
    return Advice(
        title=f"The same traffic on {target[1]}",
        cause=f"The tokens of {_plural(calls, 'call')} {verb} by {shown} at the rates of {target[1]}.",
        usd=saved,
        calls=calls,
        assumes=(
            "the answers are as good and as long; try it on a part first",
            "both models count the same text as the same number of tokens, which other makers' tokenizers do not",
            "standard tier; searches and other fees stay as they are",
            "cached input is charged as such where the target has a cache, and as plain input where it has none",
            *((f"{_plural(unknown, 'call')} of models without a listed price are left out",) if unknown else ()),
        ),
        parts=_parts(
            (flow.asked, flow.calls, usd, {"provider": flow.provider, "model": flow.asked}) for flow, usd in moved
        ),
        evidence={"to": "/".join(target)},
    )


def _moved(flows: Sequence[Flow], target: ModelName, rate: RateOf) -> tuple[list[tuple[Flow, Decimal]], int]:
    """Return (flow, what it would save), and how many calls cannot be compared."""
    moved, unknown = [], 0
    for flow in flows:
        if target in {(flow.provider, flow.model), (flow.provider, flow.asked)}:
            continue
        ours = rate(flow.provider, flow.model, flow.prompt_tokens)
        theirs = rate(*target, flow.prompt_tokens)
        if ours is None or theirs is None:
            unknown += flow.calls
        else:
            moved.append((flow, ours.cost_usd(flow.usage) - theirs.cost_usd(flow.usage)))
    return moved, unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """What a cache for prompts would have read and written, by how long it keeps them; tokens."""

    provider: str
    model: str
    template: str | None
    calls: int
    read: tuple[int, int]
    """Tokens that were sent again within 5 minutes, and within 1 hour."""
    written: tuple[int, int]


def advise_prompt_caching(
    prefixes: Sequence[Prefix], seen: int, looked_at: int, rate: RateOf, spend_usd: Decimal
) -> Verdict:
    """Weigh cheaper reads against dearer writes, for the beginning of each prompt that saves most.

    ``prefixes`` are of the newest ``looked_at`` of ``seen`` calls; the figure is made for all of them.
    """
    if thin := _thin(seen, f"calls without a cache, with {PROMPT_TOKENS_MIN:,} tokens of input and more"):
        return thin
    chosen = []
    for prefix in prefixes:
        rates = rate(prefix.provider, prefix.model, PROMPT_TOKENS_MIN)
        if rates is not None and (best := max(cache_savings(prefix, rates), key=lambda found: found[1]))[1] > 0:
            ttl_s, usd = best
            chosen.append(
                (replace(prefix, calls=prefix.calls * seen // looked_at), ttl_s, round(usd * seen / looked_at, 12))
            )
    saved = sum((usd for _, _, usd in chosen), ZERO)
    if quiet := _little(saved, spend_usd, f"caching the beginnings of {seen:,} prompts"):
        return quiet
    calls = sum(prefix.calls for prefix, _, _ in chosen)
    hours = sum(ttl_s == 3600 for _, ttl_s, _ in chosen)
    kept = (
        "5 minutes" if not hours else "1 hour" if hours == len(chosen) else "5 minutes or 1 hour, whichever is better"
    )
    return Advice(
        title="Cache the beginnings of prompts",
        cause=f"{_plural(calls, 'call')} began as earlier ones had, and paid for it in full; kept for {kept}.",
        usd=saved,
        calls=calls,
        assumes=(
            *((f"made from the newest {looked_at:,} of {seen:,} such calls, and multiplied by {seen / looked_at:.3g}",)
              if looked_at < seen else ()),
            "one cache_control mark, where it saves most; more marks may save more",
            "a share of the characters is the same share of the tokens",
            "each use renews the cache's time; calls side by side count as if one came after the other",
            "providers that cache by themselves are left out: there is nothing to switch on",
            "it overlaps with a cache for whole answers: what one saves the other cannot",
        ),
        parts=_parts(
            (f"{_prompt(prefix.template)}, {prefix.model}", prefix.calls, usd,
             {"template": prefix.template or ""})
            for prefix, _, usd in chosen
        ),
    )  # fmt: skip


def cache_savings(prefix: Prefix, rates: Rates) -> list[tuple[int, Decimal]]:
    """Return (how long the cache keeps, what that saves) for each time that the model has."""
    kept = zip(CACHE_TTLS_S, prefix.read, prefix.written, (rates.cache_write, rates.cache_write_1h), strict=True)
    return [
        (ttl_s, read * (rates.input - rates.cache_read) - written * (write - rates.input))
        for ttl_s, read, written, write in kept
        if write is not None
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """Calls whose equal was answered within so many seconds before."""

    ttl_s: int
    calls: int
    usd: Decimal


def advise_response_cache(
    again: Sequence[Again], dearest: Sequence[tuple[str, str, int, Decimal]], seen: int, spend_usd: Decimal
) -> Verdict:
    """Say what a cache for whole answers would have saved at one hour; ``dearest`` are (digest, model, calls, USD)."""
    if thin := _thin(seen, "answered calls with a request digest"):
        return thin
    hour = next(found for found in again if found.ttl_s == 3600)
    if hour.calls < REPEATS_MIN:
        return Quiet(f"{_plural(hour.calls, 'call')} of {seen:,} asked what had been answered within the hour before; "
                     f"{REPEATS_MIN} are needed.")  # fmt: skip
    if quiet := _little(hour.usd, spend_usd, f"a cache for answers over {seen:,} calls"):
        return quiet
    times = ", ".join(f"{show_usd(found.usd)} at {_kept(found.ttl_s)}" for found in again)
    return Advice(
        title="Keep answers for an hour",
        cause=f"{_plural(hour.calls, 'call')} asked word for word what had been answered within the hour before.",
        usd=hour.usd,
        bound="at most",
        calls=hour.calls,
        assumes=(
            f"each use renews the time; by time: {times}",
            "the same question may be answered the same way: not so for samples that are to differ",
            "retries and re-asks are not counted: their answers were of no use",
        ),
        parts=_parts(
            (f"{model}, request {digest}", calls, usd, {"digest": digest}) for digest, model, calls, usd in dearest
        ),
        evidence={
            "by_ttl": [{"ttl_s": each.ttl_s, "calls": each.calls, "usd": format(each.usd, "f")} for each in again]
        },
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Superseded:
    """Calls that were followed by another one for the same piece of work."""

    link: str
    calls: int
    usd: Decimal
    untold: int
    """How many of them may be billed although no answer came."""


WORK = {
    "retry": "asked again by the app",
    "fallback": "asked of another model",
    "re_ask": "answer of no use, asked again",
}


def advise_repeats(
    superseded: Sequence[Superseded], attempts_extra: int, longest: int, seen: int, spend_usd: Decimal
) -> Verdict:
    """Say what was paid for calls whose work another call did again."""
    if thin := _thin(seen, "calls"):
        return thin
    calls = sum(each.calls for each in superseded)
    if calls < REPEATS_MIN:
        return Quiet(f"{_plural(calls, 'call')} of {seen:,} had to be made again; {REPEATS_MIN} are needed.")
    wasted = sum((each.usd for each in superseded), ZERO)
    untold = sum(each.untold for each in superseded)
    if not untold and (quiet := _little(wasted, spend_usd, f"making each of {seen:,} calls but once")):
        return quiet
    told = f"; the longest piece of work took {longest} HTTP requests" if longest > 1 else ""
    return Advice(
        title="Ask once",
        cause=f"{_plural(calls, 'call')} had to be made again, and were paid for all the same{told}.",
        usd=wasted,
        bound="at least" if untold else "exact",
        calls=calls,
        assumes=(
            f"the SDKs made {_plural(attempts_extra, 'attempt')} more by themselves; what failed there is not billed",
            *(
                (f"{_plural(untold, 'call')} timed out and may be billed: unknown, not in the figure",)
                if untold
                else ()
            ),
            "retries of an app multiply with the SDK's own: max_retries=0 on one side",
        ),
        parts=_parts(
            (WORK.get(each.link, each.link), each.calls, each.usd, {"link": each.link}) for each in superseded
        ),
        filters={"link": tuple(each.link for each in superseded)},
        evidence={"attempts_extra": attempts_extra, "longest": longest, "untold": untold},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The tools that prompts of one template carry."""

    provider: str
    model: str
    template: str | None
    calls: int
    used: int
    """How many of the calls ended in the use of a tool."""
    idle_tokens: int
    """What the tools took of the uncached input of the calls that used none."""


def advise_tools(tools: Sequence[Tools], rate: RateOf, spend_usd: Decimal) -> Verdict:
    """Say what tools cost in the calls that did not use them, where few calls do."""
    seen = sum(each.calls for each in tools)
    if thin := _thin(seen, "calls with tools"):
        return thin
    found = [
        (each, each.idle_tokens * rates.input)
        for each in tools
        if each.calls >= CALLS_MIN
        and Decimal(each.used) / each.calls < TOOL_USE_MAX
        and (rates := rate(each.provider, each.model, 1000)) is not None
    ]
    idle = sum((usd for _, usd in found), ZERO)
    if quiet := _little(idle, spend_usd, f"leaving out the tools that few of {seen:,} calls use"):
        return quiet
    calls, used = sum(each.calls for each, _ in found), sum(each.used for each, _ in found)
    return Advice(
        title="Send tools where they are used",
        cause=f"Of {_plural(calls, 'call')} with tools {used:,} used one; the others paid for the definitions.",
        usd=idle,
        bound="at most",
        calls=calls,
        assumes=(
            "which calls will need a tool can be known before; a router or fewer, shorter definitions save a part",
            "a share of the characters is the same share of the tokens; cached input is left out",
        ),
        parts=_parts(
            (f"{_prompt(each.template)}, {each.model}", each.calls, usd,
             {"template": each.template or ""})
            for each, usd in found
        ),
        evidence={"used": used},
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Long conversations with one model."""

    provider: str
    model: str
    calls: int
    input_tokens: int
    repeated_tokens: int
    """Uncached input that an earlier call had sent already, tools left out."""


def advise_history(histories: Sequence[History], rate: RateOf, spend_usd: Decimal) -> Verdict:
    """Say what it costs to send a long conversation again with each turn."""
    seen = sum(each.calls for each in histories)
    if thin := _thin(seen, f"calls with {HISTORY_MESSAGES_MIN} messages and more"):
        return thin
    found = [
        (each, each.repeated_tokens * rates.input)
        for each in histories
        if (rates := rate(each.provider, each.model, each.input_tokens // max(each.calls, 1))) is not None
    ]
    spent = sum((usd for _, usd in found), ZERO)
    if quiet := _little(spent, spend_usd, f"shortening {seen:,} long conversations"):
        return quiet
    whole = sum(each.input_tokens for each, _ in found)
    share = Decimal(sum(each.repeated_tokens for each, _ in found)) / max(whole, 1)
    return Advice(
        title="Shorten long conversations",
        cause=f"Of the input of {_plural(seen, 'call')} with {HISTORY_MESSAGES_MIN} messages and more, "
        f"{share * 100:.0f} % had been sent before.",
        usd=spent,
        bound="at most",
        calls=seen,
        assumes=(
            "nothing of the history is sent again; a summary of it, or only the last turns, save a part",
            "a share of the characters is the same share of the tokens; cached input and tools are left out",
            "it overlaps with caching the beginnings of prompts: what one saves the other cannot",
        ),
        parts=_parts((each.model, each.calls, usd, {"model": each.model}) for each, usd in found),
        evidence={"share": format(round(share, 4), "f")},
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What calls of a model asked for at most, and what they got."""

    provider: str
    model: str
    calls: int
    asked_tokens: int
    """The sum of what was asked."""
    p99_tokens: int
    """What all but one answer in a hundred stayed within."""


def advise_max_tokens(asked: Sequence[Asked], rate: RateOf, spend_usd: Decimal) -> Verdict:
    """Say how much less a hard budget and a rate limit would hold for calls that ask for far more than they get."""
    seen = sum(each.calls for each in asked)
    if thin := _thin(seen, "answered calls with max_tokens"):
        return thin
    found = []
    for each in asked:
        enough = round_up(each.p99_tokens * 3 // 2)
        spare_tokens = each.asked_tokens - enough * each.calls
        rates = rate(each.provider, each.model, 1000)
        if each.calls >= CALLS_MIN and spare_tokens > each.asked_tokens // 2 and rates is not None:
            found.append((each, enough, spare_tokens * rates.output))
    held = sum((usd for _, _, usd in found), ZERO)
    if quiet := _little(held, spend_usd, f"asking for less in {seen:,} calls, which would hold less in reserve"):
        return quiet
    calls = sum(each.calls for each, _, _ in found)
    return Advice(
        title="Ask for fewer max_tokens",
        cause=f"{_plural(calls, 'call')} asked for more than twice what 99 of 100 answers need, with room to spare.",
        usd=held,
        means="held",
        calls=calls,
        assumes=(
            "nobody pays for what is not used: hard budgets reserved it, and rate limits of some providers counted it",
            "an answer that is longer than all but one in a hundred may be cut",
        ),
        parts=_parts(
            (f"{each.model}: {enough:,} would do", each.calls, usd, {"model": each.model})
            for each, enough, usd in found
        ),
        evidence={"enough": {each.model: enough for each, enough, _ in found}},
    )


def round_up(tokens: int) -> int:
    """Return a round figure that is not smaller: a multiple of 64, of 1,024 from there on."""
    step = 64 if tokens <= 1024 else 1024
    return max(-(-tokens // step) * step, 64)


def advise_batch(flows: Sequence[Flow], rate: RateOf, batch_rate: RateOf, spend_usd: Decimal) -> Verdict:
    """Say what a batch would save for calls that nobody waits for."""
    seen = sum(flow.calls for flow in flows)
    if thin := _thin(seen, "calls without a stream, a user and a session"):
        return thin
    found = []
    for flow in flows:
        now, then = (each(flow.provider, flow.model, flow.prompt_tokens) for each in (rate, batch_rate))
        if now is not None and then is not None and (usd := now.cost_usd(flow.usage) - then.cost_usd(flow.usage)) > 0:
            found.append((flow, usd))
    saved = sum((usd for _, usd in found), ZERO)
    if quiet := _little(saved, spend_usd, f"a batch for {seen:,} calls that nobody seems to wait for"):
        return quiet
    calls = sum(flow.calls for flow, _ in found)
    return Advice(
        title="Send in batches what nobody waits for",
        cause=f"{_plural(calls, 'call')} were not streamed and had neither user nor session; a batch costs less.",
        usd=saved,
        bound="at most",
        calls=calls,
        assumes=(
            "the answer may come hours later, within a day",
            "nobody waits for a call without a stream, a user and a session: look at the services below",
            "cached input is charged by the batch's own rates",
        ),
        parts=_parts(
            (f"{flow.feature or flow.service or 'no feature'}, {flow.asked}", flow.calls, usd,
             {"model": flow.asked, "service": flow.service or "", "feature": flow.feature or "", "user": "",
              "session": ""})
            for flow, usd in found
        ),
        filters={"user": "", "session": ""},
    )  # fmt: skip


def advise_prices(unpriced: Sequence[tuple[str, str, int]], version: str, age_days: int, spend_usd: Decimal) -> Verdict:
    """Say what the ledger cannot say: which responses have no price, and how old the prices are."""
    units = sum(count for _, _, count in unpriced)
    stale = age_days > PRICES_AGE_DAYS_MAX
    if not units and not stale:
        return Quiet(f"Every response has a price, and the prices of {version} are {_plural(age_days, 'day')} old.")
    told = []
    if units:
        told.append(f"{_plural(units, 'response')} of {_plural(len(unpriced), 'model')} have no price")
    if stale:
        told.append(f"the prices are {_plural(age_days, 'day')} old")
    return Advice(
        title="Mend the prices",
        cause=_sentence(" and ".join(told)),
        usd=None,
        means="unknown",
        calls=units,
        assumes=(
            f"beside the {show_usd(spend_usd)} that are known",
            "`tallystick prices update` fetches younger ones; TALLYSTICK_PRICES names a file of your own",
            "`tallystick reprice` then prices what is stored again",
        ),
        parts=_parts((model, count, None, {"model": model, "cost_status": "unknown"}) for _, model, count in unpriced),
        filters={"cost_status": "unknown"},
        evidence={"version": version, "age_days": age_days},
    )


def _thin(calls: int, what: str) -> Quiet | None:
    told = what.replace("calls", "call", 1) if calls == 1 else what
    return Quiet(f"{calls:,} {told}; {CALLS_MIN} are needed.") if calls < CALLS_MIN else None


def _little(usd: Decimal, spend_usd: Decimal, how: str) -> Quiet | None:
    if usd > 0 and usd >= spend_usd * SHARE_MIN:
        return None
    return Quiet(_sentence(f"{how} comes to {show_usd(max(usd, ZERO))}, less than 1 % of the spend"))


def _parts(found: Iterable[tuple[str, int, Decimal | None, Mapping[str, str]]]) -> tuple[Part, ...]:
    """Return the parts, those of the same calls as one, the dearest first."""
    made: dict[tuple[tuple[str, str], ...], Part] = {}
    for label, calls, usd, filters in found:
        key = tuple(filters.items())
        before = made.get(key)
        if before is not None:
            calls += before.calls
            usd = None if usd is None or before.usd is None else usd + before.usd
        made[key] = Part(label=label, calls=calls, usd=usd, filters=filters)
    return tuple(sorted(made.values(), key=lambda part: (-(part.usd or ZERO), -part.calls)))[:PARTS_MAX]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _plural(number: int, one: str) -> str:
    return f"{number:,} {one if number == 1 else one + 's'}"


def _prompt(template: str | None) -> str:
    return f"prompt {template}" if template else "prompts without a template"


def _kept(ttl_s: int) -> str:
    return {60: "1 min", 3600: "1 h", 86_400: "24 h"}[ttl_s]


def monthly(usd: Decimal | None, days: Decimal) -> Decimal | None:
    """Return ``usd`` of ``days`` for 30 days, to twelve digits; None when that would be a guess."""
    return None if usd is None or days < DAYS_MIN else round(usd * MONTH_DAYS / days, 12)
