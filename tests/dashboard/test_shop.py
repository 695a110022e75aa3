"""A shop's two days in a real Chromium: every page looked over by axe, and the way from a spike to its call."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from fakes.browser import NEEDS_CHROMIUM, WAIT_MS, chromium, dashboard_process
from fakes.collector import Running, running_collector
from fakes.shop import BUDGETS, open_shop
from tallystick.errors import CollectorRefusedError

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = NEEDS_CHROMIUM

RULES = {
    "runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]},
    "resultTypes": ["violations"],
}
PAGES = ("/?range=7d", "/failures?range=7d", "/calls?range=7d", "/calls?range=7d&call={call}", "/budgets",
         "/budgets?edit=", "/advisor?range=7d", "/settings")  # fmt: skip
BACKGROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 22, 28)"}
WIDTHS = (1440, 390)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_collector(tmp_path_factory.mktemp("shop"), BUDGETS) as collector:
        open_shop(collector, time.time_ns(), 400)
        refused = {"id": secrets.token_hex(16), "dimensions": {"service": "batch", "model": "gpt-4.1"}, "usd": "0.1",
                   "tokens": 9000, "calls": 1}  # fmt: skip
        with pytest.raises(CollectorRefusedError):
            collector.client.order("reservations", refused)
        yield collector


@pytest.fixture(scope="module")
def page(shop: Running) -> Iterator[Page]:
    with dashboard_process(shop.url, shop.folder) as url, chromium() as browser:
        context = browser.new_context(base_url=url, timezone_id="Europe/Berlin")
        context.set_default_timeout(WAIT_MS)
        yield context.new_page()


@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing(page: Page, shop: Running, path: str) -> None:
    page.goto(path.format(call=shop.ask("calls", link="re_ask", limit=1)["rows"][0]["id"]))
    page.get_by_text("Times in").first.wait_for()
    found = []
    for theme, background in BACKGROUNDS.items():
        page.emulate_media(color_scheme=theme)
        page.wait_for_function("colour => getComputedStyle(document.querySelector('.stApp')).backgroundColor == colour",
                               arg=background)  # fmt: skip
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            found += [f"{theme}, {width} px: {violation}" for violation in violations(page)]
    assert found == []


def violations(page: Page) -> list[str]:
    """Return what axe finds, told so that it can be mended."""
    from axe_playwright_python.sync_playwright import Axe

    # A part that is being drawn anew is faded for a moment, which is no contrast to judge.
    page.add_style_tag(content="[data-stale] { opacity: 1 !important; transition: none !important }")
    told = Axe().run(page, options=RULES).response
    return [
        f"{each['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for each in told["violations"]
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("theme", BACKGROUNDS)
def test_two_clicks_lead_from_the_spike_over_its_cause_to_the_call(page: Page, theme: str) -> None:
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto("/?range=24h")
    cause = page.get_by_text("from feature report, model gpt-4.1, user u77")
    cause.first.wait_for()

    click_the_highest_bar(page)
    panel = page.get_by_test_id("stVerticalBlock").filter(has=page.get_by_role("button", name="Close")).last
    panel.get_by_test_id("stPageLink").nth(2).click()

    page.get_by_text("Receipt").first.wait_for()
    assert "chat gpt-4.1" in page.get_by_test_id("stMain").inner_text()
    page.go_back()
    page.get_by_role("button", name="Close").wait_for()
    assert "at=" in page.url
    pasted = page.url
    page.go_back()
    page.get_by_role("button", name="Close").wait_for(state="detached")
    page.goto(pasted)
    page.get_by_role("button", name="Close").wait_for()
    page.get_by_text("calls that made the rise").click()
    page.wait_for_url(re.compile(r"/calls\?start=.*&feature=report&model=gpt-4.1&user=u77"))
    page.get_by_text(" calls · $").wait_for()


def test_a_linked_call_opens_and_the_way_back_is_the_browsers(page: Page, shop: Running) -> None:
    again = shop.ask("calls", link="re_ask", limit=1)["rows"][0]
    page.set_viewport_size({"width": 1440, "height": 1800})
    page.goto(f"/calls?range=7d&call={again['id']}")
    page.get_by_text("Times in").first.wait_for()
    box = page.get_by_test_id("stDataFrame").nth(2).bounding_box()
    assert box is not None

    page.mouse.click(box["x"] + 60, box["y"] + 35 * 1.5)

    page.get_by_text(f"call {again['chain']}").wait_for()
    page.wait_for_timeout(1500)  # a click that went on working would lead back
    assert f"call={again['chain']}" in page.url
    page.go_back()
    page.get_by_text(f"call {again['id']}").wait_for()


def click_the_highest_bar(page: Page) -> None:
    """Click high up in the chart, from the newest hour to older ones, where only a spike reaches."""
    chart = page.get_by_test_id("stVegaLiteChart").first
    chart.locator("canvas, svg").first.wait_for()  # its place is there before its bars are
    box = chart.bounding_box()
    assert box is not None
    for step in range(60):
        page.mouse.click(box["x"] + box["width"] * (0.97 - step / 100), box["y"] + box["height"] * 0.45)
        page.wait_for_timeout(150)
        if "at=" in page.url:
            return
    page.wait_for_url(re.compile("at="))  # on a busy machine the answer to a hit comes after the last click
