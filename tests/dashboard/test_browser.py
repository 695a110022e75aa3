"""A real Chromium on the real dashboard process: what only a browser shows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from fakes.browser import NEEDS_CHROMIUM, WAIT_MS, chromium, dashboard_process
from fakes.collector import merged, otlp_call, running_collector
from fakes.collector_answers import HOSTILE, Answers, call, serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = NEEDS_CHROMIUM


@pytest.fixture
def answers() -> Answers:
    now = datetime.now(UTC)
    return Answers(
        calls=[call(number, now - timedelta(minutes=number), output_tokens=100 * number) for number in (1, 2, 3)]
    )


@pytest.fixture
def port(answers: Answers) -> int:
    """Return a port for the collector, so that it can go and come back."""
    with serving(answers) as url:
        return int(url.rpartition(":")[2])


@pytest.fixture
def dashboard(port: int, tmp_path: Path) -> Iterator[str]:
    with dashboard_process(f"http://127.0.0.1:{port}", tmp_path) as url:
        yield url


@pytest.fixture
def page(dashboard: str) -> Iterator[Page]:
    """A browser at the dashboard; the test fails when a page asked anybody but the dashboard, or opened a dialog."""
    strangers: list[str] = []
    with chromium() as browser:
        context = browser.new_context(
            viewport={"width": 1440, "height": 900}, timezone_id="Asia/Tokyo", base_url=dashboard
        )
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("dialog", lambda dialog: (strangers.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda asked: strangers.append(asked.url) if _is_strange(asked.url, dashboard) else None)
        page.goto("/")
        yield page
    assert strangers == []


def _is_strange(url: str, dashboard: str) -> bool:
    ours = dashboard.removeprefix("http://")
    return not re.match(rf"(https?|wss?)://{re.escape(ours)}/|data:|blob:", url)


def test_from_the_spend_tile_over_the_dearest_call_to_its_receipt(page: Page, answers: Answers, port: int) -> None:
    with serving(answers, port):
        tile = page.get_by_test_id("stMetric").filter(has_text=re.compile("^Spend")).get_by_test_id("stMetricValue")
        tile.wait_for()
        assert tile.inner_text() == "$0.020"  # 3 x 1,200 tokens in at $3, 600 out at $15 for a million

        assert page.title() == "Spend · Tallystick"
        page.get_by_test_id("stPageLink").filter(has_text="$").first.click()

        page.get_by_text("Total $0.0081").wait_for()
        assert "call=0000000000000003" in page.url
        page.go_back()
        page.get_by_text("Dearest calls").wait_for()


def test_a_bar_leads_over_its_cause_to_its_calls(page: Page, answers: Answers, port: int) -> None:
    with serving(answers, port):
        page.goto("/?range=1h")
        page.get_by_text("Dearest calls").wait_for()

        _over_the_bars(page, page.mouse.click, lambda: "at=" in page.url)
        page.get_by_text("All 1 call of this minute").click()

        page.wait_for_url(re.compile(r"/calls\?start=.*&end="))
        page.get_by_text("1 call ·").wait_for()


def _over_the_bars(page: Page, act: Callable[[float, float], None], done: Callable[[], bool]) -> None:
    """Act along the foot of the chart, from the newest bar to older ones, until it is done."""
    box = page.get_by_test_id("stVegaLiteChart").bounding_box()
    assert box is not None
    for step in range(80):
        act(box["x"] + box["width"] * (1 - step / 400), box["y"] + box["height"] * 0.7)
        page.wait_for_timeout(250)
        if done():
            return
    pytest.fail("no bar was hit")


def test_first_it_waits_then_the_first_call_shows_by_itself(page: Page, answers: Answers, port: int) -> None:
    first, answers.calls = answers.calls[:1], []
    page.get_by_text("No collector answers at").wait_for()
    with serving(answers, port):
        page.get_by_text("Waiting for the first call at").wait_for()
        answers.calls = first
        page.get_by_test_id("stMetricValue").first.wait_for()


def test_names_from_outside_are_letters(page: Page, answers: Answers, port: int) -> None:
    answers.calls = [
        call(
            1,
            datetime.now(UTC),
            feature=HOSTILE,
            user=HOSTILE,
            error_code=HOSTILE,
            exception=HOSTILE,
            outcome="refusal",
            tags={HOSTILE: HOSTILE},
        )
    ]
    with serving(answers, port):
        page.goto(f"/?{urlencode({'by': f'tag.{HOSTILE}', 'range': '1h'})}")
        page.get_by_text("Dearest calls").wait_for()
        tooltip = page.locator("#vg-tooltip-element.visible")
        _over_the_bars(page, page.mouse.move, lambda: tooltip.count() > 0)
        assert "<img" in tooltip.inner_text()
        assert tooltip.locator("img, a, b, strong").count() == 0
        page.get_by_test_id("stPageLink").first.click()
        page.get_by_text("Where it came from").wait_for()

        error = page.get_by_test_id("stAlert").inner_text().replace("\u2060", "")
        assert HOSTILE in error
        assert (
            page.locator("[data-testid=stAlert] a, [data-testid=stAlert] img, [data-testid=stAlert] strong").count()
            == 0
        )


def test_a_phone_shows_the_first_number_without_scrolling(page: Page, answers: Answers, port: int) -> None:
    with serving(answers, port):
        page.set_viewport_size({"width": 390, "height": 844})
        number = page.get_by_test_id("stMetricValue").first
        number.wait_for()
        box = number.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] < 844
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_view_goes_along_to_the_next_page(page: Page, answers: Answers, port: int) -> None:
    with serving(answers, port):
        page.get_by_test_id("stMetricValue").first.wait_for()
        page.get_by_text("7d", exact=True).click()
        page.wait_for_url(re.compile(r"range=7d"))

        page.get_by_role("link", name="Failures").click()

        page.wait_for_url(re.compile(r"/failures\?range=7d"))


def test_an_advice_leads_to_its_calls_and_back(page: Page, port: int, tmp_path: Path) -> None:
    at = time.time_ns() - 2 * 86_400 * 10**9
    nightly = {"service": "nightly", "usage": {"input_tokens": 2000, "output_tokens": 100}}
    with running_collector(tmp_path, port=port) as collector:
        collector.send(merged(*(otlp_call(started_ns=at + number * 10**9, **nightly) for number in range(120))))
        page.goto("/advisor?range=7d")
        page.get_by_text("Send in batches what nobody waits for.").wait_for()

        page.get_by_test_id("stPageLink").filter(has_text="120 calls · nightly").click()

        page.wait_for_url(re.compile(r"/calls\?.*service=nightly"))
        page.get_by_text("120 calls · $0.900").wait_for()
        page.go_back()
        page.get_by_text("Send in batches what nobody waits for.").wait_for()
        page.get_by_role("link", name="Settings").click()
        page.get_by_text("120 = 120 + 0 + 0: it adds up").wait_for()
