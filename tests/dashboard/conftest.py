from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
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
    with ExitStack() as stack:
        url = stack.enter_context(serving(answers))
        monkeypatch.setenv("TALLYSTICK_COLLECTOR", url)
        yield url


@pytest.fixture
def open_page(collector: str) -> Open:
    """Open a page as a browser in Berlin does, with the query given as keywords."""

    def opened(page: str = "", **query: Any) -> AppTest:
        test = AppTest.from_file(str(APP), default_timeout=60)
        test.context["timezone"] = "Europe/Berlin"
        test.run()
        if page:
            test.switch_page(page)
        for name, value in query.items():
            test.query_params[name.replace("__", ".")] = value
        return test.run()

    return opened
