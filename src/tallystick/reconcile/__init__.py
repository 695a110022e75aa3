"""Compares the ledger with what a provider says that it charges, and names the cause of each difference."""

from __future__ import annotations

from tallystick.reconcile.compare import Charge, Difference, compare
from tallystick.reconcile.run import run

__all__ = ["Charge", "Difference", "compare", "run"]
