import re
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.slack import complaint, running_slack
from tallystick.alerts import (
    Alert,
    Context,
    Contributor,
    DearestCall,
    Message,
    Refused,
    combined,
    late,
    repeated,
    slack_message,
)
from tallystick.alerts.deliver import Slack
from tallystick.model.budgets import Budget
from tallystick.model.money import show_amount
from tallystick.model.windows import window_at

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
CHAT = Budget(name="chat", limit_usd=Decimal(10), scope={"feature": "chat"}, timezone="Europe/Berlin")
CONTEXT = Context(at=NOON, dashboard_url="http://127.0.0.1:8501")
OUR_LINK = re.compile(r"<http://127\.0\.0\.1:8501/[^<>|\s]*\|[A-Za-z ]+>")
HOSTILE = [
    "<!channel>", "<!here|x>", "<@U123>", "<#C123>", "<https://evil.example|click>", "https://evil.example", "@channel",
    "&lt;!channel&gt;", "`code`", "```\nblock\n```", "*bold* _it_ ~no~", "> quote", ":tada:", "line\nbreak\r\nand\ttab",
    "\u202egnp.exe", "\x00\x07", "\ud800", "", " ", "x" * 5000, "<" * 5000, "&" * 149, "😀" * 5000,
]  # fmt: skip


def alert(spent_usd: str = "8.12", threshold: str = "0.8", budget: Budget = CHAT) -> Alert:
    return Alert(budget=budget, window=window_at(budget, NOON), threshold=Decimal(threshold), spent=Decimal(spent_usd))


def header(message: Message) -> str:
    return str(message.blocks[0]["text"]["text"])


def texts(value: Any) -> list[str]:
    """Return every text in ``value`` that Slack shows."""
    if isinstance(value, (list, tuple)):
        return [text for one in value for text in texts(one)]
    if isinstance(value, dict):
        return [one for key, one in value.items() if key == "text" and isinstance(one, str)] + texts(
            list(value.values())
        )
    return []


def seen(message: Message) -> str:
    return "\n".join(texts(message.blocks))


def field(message: Message, name: str) -> str | None:
    for text in texts(message.blocks):
        title, _, value = text.partition("\n")
        if title == f"*{name}*":
            return value
    return None


def links(message: Message) -> dict[str, str]:
    """Return the URLs of the links by label, as a browser would get them."""
    return {label: url.replace("&amp;", "&") for url, label in re.findall(r"<(http[^|>]*)\|([^>]*)>", seen(message))}


@pytest.mark.parametrize(
    ("spent_usd", "threshold", "says"),
    [
        pytest.param("5", "0.5", "🔔 chat: 50 % of $10.00 spent today", id="half"),
        pytest.param("8.12", "0.8", "⚠️ chat: 81 % of $10.00 spent today", id="warning"),
        pytest.param("9.999", "0.8", "⚠️ chat: 99 % of $10.00 spent today", id="almost-is-not-100"),
        pytest.param("10", "1.0", "🚨 chat: 100 % of $10.00 spent today", id="limit"),
        pytest.param("2345.6", "1.0", "🚨 chat: 23,456 % of $10.00 spent today", id="far-above"),
    ],
)
def test_the_header_says_who_spent_how_much_of_what(spent_usd: str, threshold: str, says: str) -> None:
    assert header(slack_message(alert(spent_usd, threshold), CONTEXT)) == says


@pytest.mark.parametrize(
    ("spent_usd", "threshold", "level"),
    [("5", "0.5", "Heads-up"), ("8", "0.8", "Warning"), ("11", "1.0", "Limit reached")],
)
def test_the_level_is_a_word_in_blocks_and_text(spent_usd: str, threshold: str, level: str) -> None:
    message = slack_message(alert(spent_usd, threshold), CONTEXT)

    assert f"*{level}:*" in seen(message)
    assert f"({level})" in message.text


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        pytest.param(replace(CHAT, window="hour"), "spent this hour", id="hour"),
        pytest.param(replace(CHAT, window="week"), "spent this week", id="week"),
        pytest.param(replace(CHAT, window="month"), "spent this month", id="month"),
        pytest.param(replace(CHAT, reset_at=time(6)), "spent since 06:00 CET", id="day-from-six"),
        pytest.param(replace(CHAT, reset_at=time(18)), "spent since Thu 19 Nov 18:00 CET", id="day-from-yesterday"),
    ],
)
def test_the_window_is_told_in_words(budget: Budget, says: str) -> None:
    assert header(slack_message(alert(budget=budget), CONTEXT)).endswith(says)


def test_the_figures_are_spent_left_pace_and_reset() -> None:
    message = slack_message(alert(), replace(CONTEXT, pace_per_hour=Decimal("0.94")))

    assert field(message, "Spent") == "$8.12 of $10.00 (81 %)"
    assert field(message, "Left") == "$1.88"
    assert field(message, "Pace") == "$0.94 per hour; would pass 100 % at 15:00 CET"
    assert field(message, "Resets in") == "11 h (Sat 21 Nov 00:00 CET)"


@pytest.mark.parametrize(
    ("spent_usd", "pace", "says"),
    [
        pytest.param("8", None, "not known yet", id="unknown"),
        pytest.param("8", "0", "$0 per hour; at that pace it stays within the limit", id="nothing"),
        pytest.param("8", "0.18", "$0.18 per hour; at that pace it stays within the limit", id="slow"),
        pytest.param("8", "1e-12", "$0.000000000001 per hour; at that pace it stays within the limit", id="minute"),
        pytest.param("8", "1e9", "$1,000,000,000 per hour; would pass 100 % at 13:00 CET", id="at-once"),
        pytest.param("10", "4", "$4.00 per hour", id="already-passed"),
    ],
)
def test_the_pace_says_when_the_limit_would_be_passed(spent_usd: str, pace: str | None, says: str) -> None:
    context = replace(CONTEXT, pace_per_hour=None if pace is None else Decimal(pace))

    assert field(slack_message(alert(spent_usd), context), "Pace") == says


def test_what_is_over_the_limit_is_not_shown_as_a_negative_rest() -> None:
    message = slack_message(alert("12.5", "1.0"), CONTEXT)

    assert field(message, "Over by") == "$2.50"
    assert field(message, "Left") is None


@pytest.mark.parametrize(
    ("before_end", "says"),
    [
        (timedelta(seconds=59), "less than a minute"),
        (timedelta(minutes=59, seconds=59), "59 min"),
        (timedelta(hours=1), "1 h"),
        (timedelta(hours=23, minutes=59), "23 h 59 min"),
        (timedelta(days=2, hours=3, minutes=59), "2 d 3 h"),
    ],
)
def test_the_time_to_the_reset_is_rounded_down(before_end: timedelta, says: str) -> None:
    monthly = alert(budget=replace(CHAT, window="month"))

    shown = field(slack_message(monthly, replace(CONTEXT, at=monthly.window.end - before_end)), "Resets in")

    assert shown is not None
    assert shown.startswith(f"{says} (")


def test_why_names_the_three_dearest_and_the_dearest_call() -> None:
    spenders = [Contributor(dimension="model", value=f"m{n}", spend_usd=Decimal(4 - n)) for n in range(5)]
    call = DearestCall(id="00f067aa0ba902b7", cost_usd=Decimal("0.42"), model="gpt-5", at=NOON - timedelta(minutes=90))

    message = slack_message(alert("8"), replace(CONTEXT, contributors=tuple(spenders), dearest_call=call))

    assert field(message, "Where it went") == (
        "1. model `m0`: $4.00 (50 %)\n2. model `m1`: $3.00 (37 %)\n3. model `m2`: $2.00 (25 %)\n… and 2 more\n"
        "Dearest call: $0.420, `gpt-5`, 11:30 CET, `00f067aa0ba902b7`"
    )


def test_a_contributor_without_a_name_is_told_as_such() -> None:
    nobody = Contributor(dimension="user", value="", spend_usd=Decimal(8))

    assert "1. no user: $8.00 (100 %)" in seen(slack_message(alert("8"), replace(CONTEXT, contributors=(nobody,))))


def test_nothing_known_about_the_why_leaves_it_out() -> None:
    assert "Where it went" not in seen(slack_message(alert(), CONTEXT))


def test_it_says_that_it_only_warns_and_when_the_next_message_comes() -> None:
    assert (
        "*What happens at 100 %:* this budget only warns; no call is refused. The next message comes at 80 %."
        in seen(slack_message(alert("5", "0.5"), CONTEXT))
    )
    assert "What happens now:* this budget only warns; no call is refused. This was the last message" in seen(
        slack_message(alert("12", "1.0"), CONTEXT)
    )


@pytest.mark.parametrize(
    ("scope", "says"),
    [
        ({}, "It counts every call."),
        ({"feature": "chat"}, "It counts the calls with feature `chat`."),
        ({"feature": "", "tag.tenant": "acme"}, "It counts the calls with no feature, tag.tenant `acme`."),
        ({"user": "u", "model": "m", "key": "k", "prompt": "p"}, "user `u`, model `m`, key `k` and 1 more."),
    ],
)
def test_it_says_which_calls_count(scope: dict[str, str], says: str) -> None:
    assert says in seen(slack_message(alert(budget=replace(CHAT, scope=scope)), CONTEXT))


def test_the_footing_tells_zone_prices_and_what_has_no_price() -> None:
    message = slack_message(alert(), replace(CONTEXT, price_version="2026-11-20", unpriced_units=1234))

    assert texts(message.blocks)[-1] == (
        "Times in Europe/Berlin  ·  prices of 2026-11-20  ·  1,234 answers without a price, in no sum here"
    )


def test_links_open_the_dashboard_with_what_the_budget_counts() -> None:
    scope = {"feature": "a&b <c>|d", "tag.tenant": "é"}
    call = DearestCall(id="00f067aa0ba902b7", cost_usd=Decimal(1), model="m", at=NOON)

    found = links(slack_message(alert(budget=replace(CHAT, scope=scope)), replace(CONTEXT, dearest_call=call)))

    calls = urlsplit(found["Open these calls"])
    assert (calls.netloc, calls.path) == ("127.0.0.1:8501", "/calls")
    assert parse_qs(calls.query) == {
        "feature": ["a&b <c>|d"],
        "tag.tenant": ["é"],
        "start": ["2026-11-19T23:00:00Z"],
        "end": ["2026-11-20T23:00:00Z"],
        "tz": ["Europe/Berlin"],
        "order": ["-cost_usd"],
    }
    assert parse_qs(urlsplit(found["Open the dearest call"]).query)["call"] == ["00f067aa0ba902b7"]
    assert found["Budgets"] == "http://127.0.0.1:8501/budgets"


def test_a_filter_for_calls_without_a_feature_is_in_the_link() -> None:
    found = links(slack_message(alert(budget=replace(CHAT, scope={"feature": ""})), CONTEXT))

    assert parse_qs(urlsplit(found["Open these calls"]).query, keep_blank_values=True)["feature"] == [""]


def test_a_link_that_would_be_cut_is_left_out() -> None:
    found = links(slack_message(alert(budget=replace(CHAT, scope={"feature": "x" * 5000})), CONTEXT))

    assert list(found) == ["Budgets"]


@pytest.mark.parametrize(
    "url", [None, "", "javascript:alert(1)", "ftp://x", "http://x/ y", "http://x/>", "http://x/|y"]
)
def test_without_a_usable_dashboard_url_there_are_no_links(url: str | None) -> None:
    message = slack_message(alert(), replace(CONTEXT, dashboard_url=url))

    assert "Budgets" not in seen(message)
    assert complaint({"text": message.text, "blocks": list(message.blocks)}) is None


def test_a_message_that_comes_after_its_window_says_so() -> None:
    message = slack_message(alert(), replace(CONTEXT, at=NOON + timedelta(days=1), pace_per_hour=Decimal(1)))

    assert header(message) == "⚠️ chat: 81 % of $10.00 spent on Fri 20 Nov"
    assert field(message, "Window") == "over since 00:00 CET"
    assert field(message, "Resets in") is None
    assert field(message, "Pace") is None, "the pace of today says nothing about yesterday"
    assert "could not be delivered before" in seen(message)


def test_a_late_message_about_another_window_says_where_it_began() -> None:
    hourly = alert(budget=replace(CHAT, window="hour"))

    message = slack_message(hourly, replace(CONTEXT, at=hourly.window.end))

    assert header(message).endswith("spent in the hour from 13:00 CET")


def test_a_repeated_message_is_marked_once() -> None:
    message = slack_message(alert(), CONTEXT)

    marked = repeated(message)

    assert marked.text == f"{message.text} (repeated: the first answer was lost)"
    assert texts(marked.blocks)[-1] == "(repeated: the first answer was lost)"
    assert marked.blocks[: len(message.blocks)] == message.blocks
    assert repeated(marked) == marked


def test_a_message_that_had_to_wait_says_since_when() -> None:
    message = slack_message(alert(), CONTEXT)

    waited = late(message, NOON, NOON + timedelta(hours=26, minutes=5))

    note = "(late: written Fri 20 Nov 12:00 UTC, 1 d 2 h ago)"
    assert texts(waited.blocks)[:2] == [header(message), note]
    assert waited.text == f"{note} {message.text}"
    assert waited.blocks[2:] == message.blocks[1:]
    assert complaint({"text": waited.text, "blocks": list(waited.blocks)}) is None


def test_a_message_that_waited_for_a_moment_is_not_called_late() -> None:
    message = slack_message(alert(), CONTEXT)

    assert late(message, NOON, NOON + timedelta(minutes=4, seconds=59)) is message


def hostile_message(name: str) -> Message:
    budget = replace(
        CHAT, name=name if name.strip() else "x", scope=dict.fromkeys(("feature", "user", "tag." + name + "x"), name)
    )
    context = Context(
        at=NOON,
        dashboard_url="http://127.0.0.1:8501",
        contributors=tuple(Contributor(dimension=f"tag.{name}", value=name, spend_usd=Decimal(1)) for _ in range(200)),
        dearest_call=DearestCall(id=name, cost_usd=Decimal(1), model=name, at=NOON),
        unpriced_units=10**18,
        price_version=name,
    )
    huge = replace(budget, limit_usd=Decimal("0.01"))
    return repeated(slack_message(alert("1000000", "1.0", budget=huge), context))


def check_inert(message: Message) -> None:
    assert complaint({"text": message.text, "blocks": list(message.blocks)}) is None
    for text in [*texts(message.blocks), message.text]:
        rest = OUR_LINK.sub("", text)
        assert "<" not in rest
        assert ">" not in rest
        assert not re.search(r"&(?!amp;|lt;|gt;)", rest)
        assert not re.search(r"[^\S\n ]|\u202e|\x00", rest), "no control characters, no tabs"
        assert rest.count("`") % 2 == 0, "no name opens or closes code"
    for text in texts(message.blocks[1:]):
        markup = re.sub(r"`[^`]*`", "", OUR_LINK.sub("", text))
        assert not re.search(r"evil|@channel|:tada:|~no~|_it_", markup), "what a name brings along is code"


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_from_anybody_stay_names(name: str) -> None:
    check_inert(hostile_message(name))


@settings(deadline=None)  # a slow machine is no fault
@given(st.text(max_size=200))
def test_any_name_keeps_the_message_whole_and_inert(name: str) -> None:
    check_inert(hostile_message(name))


def test_slack_takes_the_message_with_the_worst_names() -> None:
    with running_slack() as slack:
        for name in HOSTILE:
            Slack(slack.url).deliver(hostile_message(name))

    assert len(slack.messages) == len(HOSTILE)


def test_a_long_name_is_shortened_with_an_ellipsis() -> None:
    message = slack_message(alert(budget=replace(CHAT, name="n" * 5000)), CONTEXT)

    assert header(message) == f"⚠️ {'n' * 59}…: 81 % of $10.00 spent today"


def test_text_that_slack_would_read_as_a_link_is_left_as_text() -> None:
    for block in slack_message(alert(), CONTEXT).blocks:
        for text in [block.get("text"), *block.get("fields", []), *block.get("elements", [])]:
            assert text is None or text["type"] == "plain_text" or text["verbatim"] is True


def test_amounts_have_the_digits_of_the_limit_that_they_stand_beside() -> None:
    assert field(slack_message(alert("9.2"), CONTEXT), "Left") == "$0.80"
    assert field(slack_message(alert("10.02"), CONTEXT), "Over by") == "$0.02"


def test_the_sum_of_a_refusal_can_be_checked_to_the_last_digit_that_is_shown() -> None:
    refused = Refused(calls=1, spent=Decimal("9.204"), reserved=Decimal("0.504"), needed=Decimal("0.414"))

    told = str(slack_message(replace(alert("9.2", threshold="1"), refused=refused), CONTEXT).blocks[1])

    assert "refused 1 call that had" in told
    assert "$9.204 spent + $0.504 reserved + $0.414 at most = $10.122 of $10.00." in told


def test_a_group_is_named_before_anything_else() -> None:
    budget = replace(CHAT, name="each user", scope={"service": "shop", "user": ""})

    message = slack_message(replace(alert(budget=budget), group=("",)), CONTEXT)

    assert message.blocks[0]["text"]["text"] == "⚠️ each user (no user): 81 % of $10.00 spent today"


def test_one_token_an_hour_is_no_tokens() -> None:
    assert show_amount(Decimal("1.2"), "tokens") == "1 token"
    assert show_amount(Decimal("1.6"), "calls") == "2 calls"


def test_one_message_for_many_names_each_of_them_within_slacks_limits() -> None:
    many = [slack_message(replace(alert(), group=(f"user-{number:03}" + "x" * 99,)), CONTEXT) for number in range(140)]

    message = combined(many, "http://127.0.0.1:8501")

    assert all(f"user-{number:03}" in seen(message) for number in range(140))
    assert complaint({"text": message.text, "blocks": list(message.blocks)}) is None
    assert "and 60 more" in seen(combined([*many, *many[:70]], None))
