"""The pages: what was spent, what failed, which call it was, what is left of a budget.

They ask the collector over HTTP and know nothing else of it.
"""

from __future__ import annotations

from tallystick.dashboard.serve import run

__all__ = ["run"]
