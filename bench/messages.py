"""Draws each kind of Slack message as Slack shows it, for somebody to look at.

python bench/messages.py [FOLDER]        writes messages.html, messages.png and phone.png (default: artifacts)
"""

from __future__ import annotations

import html
import re
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tallystick.alerts import (
    Alert,
    Context,
    Contributor,
    DearestCall,
    Message,
    Refused,
    Spending,
    combined,
    digest_message,
    late,
    notice_message,
    repeated,
    resolved_message,
    slack_message,
    watch,
)
from tallystick.alerts.bot import buttons
from tallystick.alerts.picture import bars
from tallystick.model.budgets import Budget
from tallystick.model.windows import Window, window_at

NOW = datetime(2026, 11, 21, 15, 40, tzinfo=UTC)
CHAT = Budget(
    name="chat", limit_usd=Decimal(10), scope={"feature": "chat"}, timezone="Europe/Berlin", action="block"
)  # fmt: skip
TOKENS = Budget(
    name="each user", limit_tokens=200_000, scope={"user": "u-4711"}, window="rolling 24h"
)  # fmt: skip
CALL = DearestCall(id="9f86d081884c7d65", cost_usd=Decimal("0.8312"), model="claude-opus-4-1", at=NOW)
WHO = tuple(
    Contributor(dimension="user", value=name, spend_usd=Decimal(spent))
    for name, spent in (("ada@example.org", "4.31"), ("grace@example.org", "2.02"), ("", "1.10"))
)
CONTEXT = Context(
    at=NOW, dashboard_url="http://127.0.0.1:8501", pace_per_hour=Decimal("1.2"), contributors=WHO, dearest_call=CALL,
    unpriced_units=3, price_version="2026-11-20",
)  # fmt: skip
FAILING = Context(
    at=NOW, dashboard_url="http://127.0.0.1:8501",
    behind=(("It is about", "41 calls, $0.83"), ("Pace", "246 calls and $4.99 per hour")),
    contributors=tuple(
        Contributor(dimension="feature", value=name, spend_usd=Decimal(spent), calls=calls)
        for name, spent, calls in (("chat", "0.83", 1), ("search", "0", 31), ("digest", "0", 9))
    ), dearest_call=CALL,
)  # fmt: skip
REFUSED = Refused(calls=4, spent=Decimal("9.2"), reserved=Decimal("0.5"), needed=Decimal("0.41"))
SPENDING = Spending(
    window=Window(*(datetime(2026, 11, day, tzinfo=UTC) for day in (20, 21))), spent=Decimal("31.4"),
    before=Decimal("24.2"), calls=9120, failed=41,
    days=[(date(2026, 11, day), Decimal(day * 37 % 29)) for day in range(7, 21)],
)  # fmt: skip
STYLE = """
body { font: 15px/1.46 Lato, "Helvetica Neue", sans-serif;
       color: #1d1c1d; margin: 24px; display: grid; grid-template-columns: 1fr 1fr 1fr; gap: 16px; align-items: start }
article { border: 1px solid #ddd; border-radius: 8px; padding: 8px 16px; margin: 0 }
h6 { color: #888; margin: 0 0 4px; font-size: 11px } h3 { font-size: 18px; margin: 4px 0 8px } p { margin: 8px 0 }
.fields { display: grid; grid-template-columns: 1fr 1fr; gap: 8px } small { color: #616061; display: block }
code { color: #c01343; background: #f6f6f6; border: 1px solid #ddd; border-radius: 3px; padding: 0 3px }
button { border: 1px solid #bbb; border-radius: 4px; background: #fff; padding: 5px 12px; margin-right: 8px }
a { color: #1264a3 }
@media (max-width: 600px) { body { grid-template-columns: 1fr; margin: 8px } .fields { grid-template-columns: 1fr } }
"""


def messages() -> dict[str, Message]:
    """Return each kind of message, by what it is."""
    day, hour = window_at(CHAT, NOW), timedelta(hours=1)

    def alert(spent: str, threshold: str, **more: Any) -> Alert:
        return Alert(budget=CHAT, window=day, spent=Decimal(spent), threshold=Decimal(threshold), **more)

    last_day, group = window_at(TOKENS, NOW), ("u-4711",)
    user = Alert(budget=TOKENS, window=last_day, spent=Decimal(161_000), threshold=Decimal("0.8"), group=group)
    warning = slack_message(alert("8.12", "0.8"), CONTEXT)
    notices = {
        "auth": watch.failing_key("openai", 7, "shop", NOW),
        "failures": watch.failing_provider("anthropic", 41, 30, "overloaded", NOW),
        "unpriced": watch.unpriced_model("mistral", "magistral-large-9", 12),
        "prices": watch.old_prices("2026-10-01", 51, NOW),
        "silent": watch.silent_service("worker", 900, 20 * timedelta(minutes=1), NOW - 3 * hour, NOW),
        "dropped": watch.dropped_records("spool_full", 0, 1200, NOW),
        "anomaly": watch.odd_hour(NOW - hour, Decimal(31), [Decimal(4 + number % 3) for number in range(12)]),
        "forecast": watch.forecast(CHAT, day, Decimal("6.1"), Decimal("1.4"), NOW),
        "burn_rate": watch.burn_rate(CHAT, day, Decimal("3.2"), Decimal("5.1")),
    }
    about = {kind: CONTEXT if kind in {"anomaly", "forecast", "burn_rate"} else FAILING for kind in notices}
    about["prices"] = about["dropped"] = Context(at=NOW, dashboard_url="http://127.0.0.1:8501")
    told = {kind: notice_message(notice, about[kind]) for kind, notice in notices.items() if notice is not None}
    reached = slack_message(alert("10.02", "1"), CONTEXT)
    return {
        "threshold, half": slack_message(alert("5.1", "0.5"), CONTEXT), "threshold, warning": warning,
        "threshold, reached": reached,
        "threshold, refusing (bot)": slack_message(alert("9.2", "1", refused=REFUSED), CONTEXT),
        "threshold, tokens of a group": slack_message(user, CONTEXT),
        "resolved": resolved_message(alert("9.2", "1"), Context(at=day.end, dashboard_url="http://127.0.0.1:8501")),
        "late and repeated": repeated(late(warning, NOW, NOW + 2 * hour)), **told,
        "digest, daily": digest_message(SPENDING, CONTEXT),
        "many at once": combined([warning, reached, *told.values()], "http://127.0.0.1:8501"),
    }  # fmt: skip


def drawn(name: str, message: Message) -> str:
    """Return a message as HTML."""
    blocks = [*message.blocks, *([buttons("a1")] if "bot" in name else [])]
    return f"<article><h6>{html.escape(name)}</h6>{''.join(map(block, blocks))}</article>"


def block(one: dict[str, Any]) -> str:
    if one["type"] == "header":
        return f"<h3>{html.escape(one['text']['text'])}</h3>"
    if one["type"] == "actions":
        return "<p>" + "".join(f"<button>{element['text']['text']}</button>" for element in one["elements"]) + "</p>"
    if one["type"] == "context":
        return "".join(f"<small>{marked(element['text'])}</small>" for element in one["elements"])
    if "fields" in one:
        return (
            "<div class=fields>" + "".join(f"<div>{marked(field['text'])}</div>" for field in one["fields"]) + "</div>"
        )
    return f"<p>{marked(one['text']['text'])}</p>"


def marked(text: str) -> str:
    """Return mrkdwn as HTML; its & < > are escaped already."""
    text = re.sub(r"<(http[^|>]*)\|([^>]*)>", r'<a href="\1">\2</a>', text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*([^*\n]+)\*", r"<b>\1</b>", text).replace("\n", "<br>")


def main() -> None:
    """Draw them all."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "artifacts")
    folder.mkdir(parents=True, exist_ok=True)
    found = messages()
    page = f"<meta charset=utf-8><style>{STYLE}</style>" + "".join(drawn(*one) for one in found.items())
    (folder / "digest.png").write_bytes(bars("Spend by day", found["digest, daily"].chart) or b"")
    (folder / "messages.html").write_text(page, encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium")
        shot = browser.new_page(viewport={"width": 1400, "height": 900})
        shot.goto((folder / "messages.html").absolute().as_uri())
        shot.screenshot(path=folder / "messages.png", full_page=True)
        shot.set_viewport_size({"width": 390, "height": 844})
        shot.screenshot(path=folder / "phone.png", full_page=True)
        browser.close()
    print(f"{len(found)} messages in {folder}/messages.html and .png, and as on a phone in phone.png")


if __name__ == "__main__":
    main()
