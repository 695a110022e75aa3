from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import tallystick.dashboard
from fakes.collector_answers import BUDGETS, Answers, realistic, serving

APP = Path(tallystick.dashboard.__file__).with_name("app.py")
Open = Callable[..., AppTest]


@pytest.fixture
def answers() -> Answers:
    """A collector that has a day and a half of calls and three budgets."""
    return Answers(calls=realistic(datetime.now(UTC)), budgets=BUDGETS)


@pytest.fixture
def collector(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serving(answers) as url:
        monkeypatch.setenv("TALLYSTICK_COLLECTOR", url)
        yield url


@pytest.fixture
def open_page(collector: str) -> Open:
    """Open a page as a browser in Berlin does, with the query given as keywords."""
    return _open


@pytest.fixture
def open_page_of_any_collector() -> Open:
    """Open a page; the test says in TALLYSTICK_COLLECTOR which collector is asked, if any."""
    return _open


def _open(page: str = "", **query: Any) -> AppTest:
    test = AppTest.from_file(str(APP), default_timeout=120)
    test.context["timezone"] = "Europe/Berlin"
    if page:
        test.run()
        # AppTest opens pages by their file; ours are functions, so it is told the page's own name.
        [test._page_hash] = [key for key, info in test._registered_pages.items() if info["url_pathname"] == page]
    for name, value in query.items():
        test.query_params[name.replace("__", ".")] = value
    test.run()
    assert not test.exception, test.exception[0].value
    return test
