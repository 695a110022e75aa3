"""What a call costs, and why: usage on the wire in, receipt out.

    receipt = price("anthropic", "claude-sonnet-4-5", {"input_tokens": 1200, "output_tokens": 350}, api="messages")
    receipt.cost_usd  # Decimal("0.00885")

The standard library only, so that an instrumented app carries no price library.
"""

from __future__ import annotations

from tallystick.pricing._book import Book, load_book
from tallystick.pricing._bound import Bound, upper_bound
from tallystick.pricing._rates import Rates, rates_of, steps_of
from tallystick.pricing._receipts import Refusal, price, read_usage
from tallystick.pricing._shelf import Shelf

__all__ = [
    "Book", "Bound", "Rates", "Refusal", "Shelf", "load_book", "price", "rates_of", "read_usage", "steps_of",
    "upper_bound",
]  # fmt: skip
