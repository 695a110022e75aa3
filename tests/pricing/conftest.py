from __future__ import annotations

import pytest
from hypothesis import settings

from tallystick.pricing._book import USER_FILE

# A busy two-core machine is slower than Hypothesis' deadline now and then; speed is bench/pricing.py's business.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def shipped_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the test away from prices of the user's own."""
    monkeypatch.delenv(USER_FILE, raising=False)
