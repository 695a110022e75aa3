"""Which budgets may refuse a call: the collector's word, else the last copy of it, and what a file here says."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from tallystick.model.budgets import ALERT, UNITS, Budget

log = logging.getLogger("tallystick.budget")

LEASE_S = 60
RULES_BYTES_MAX = 1024 * 1024

Group = tuple[str, ...]
"""The values of a budget's ``group_by``."""
Key = tuple[tuple[str, Group], ...]
"""The budgets that cover a call, each with its group: calls of one key draw on the same money."""


@dataclass(frozen=True, slots=True)
class Rules:
    """All budgets that enforce, as of ``version``."""

    version: str = ""
    lease_s: int = LEASE_S
    budgets: tuple[Budget, ...] = ()

    def covering(self, dimensions: Mapping[str, str]) -> list[Budget]:
        """Return the budgets that cover a call."""
        return [budget for budget in self.budgets if budget.covers(dimensions)]


def key_of(budgets: Iterable[Budget], dimensions: Mapping[str, str]) -> Key:
    """Return what calls that draw on the same money have in common."""
    return tuple((budget.name, budget.group_of(dimensions)) for budget in budgets)


def read_rules(told: Mapping[str, Any]) -> Rules:
    """Return what ``GET /api/v1/guard`` says; a budget that cannot be read is passed by and logged."""
    found = []
    for entry in told.get("budgets") or ():
        try:
            found.append(_budget(entry))
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            log.warning("budget %r cannot be read (%r) and is not enforced here", entry, error)
    return Rules(str(told.get("version") or ""), int(told.get("lease_s") or LEASE_S), tuple(found))


def _budget(entry: Mapping[str, Any]) -> Budget:
    """Return a budget without its window: when it begins and ends is the collector's business."""
    unit, limit = entry["unit"], Decimal(entry["limit"])
    limits: dict[str, Any] = {f"limit_{unit}": limit if unit == "usd" else int(limit)}
    kept = ("name", "action", "fail", "on_unpriced", "on_unbounded", "clamp")
    return Budget(
        **limits,
        **{key: entry[key] for key in kept if key in entry},
        scope=entry.get("scope") or {},
        group_by=tuple(entry.get("group_by") or ()),
        wait=Decimal(str(entry.get("wait_s") or 0)),
    )


def rules_of_file(tables: Iterable[Mapping[str, Any]]) -> Rules:
    """Return what the ``[[budget]]`` tables of a tallystick.toml enforce: all that holds until a collector is heard."""
    told = []
    for table in tables:
        unit = next((unit for unit in UNITS if f"limit_{unit}" in table), "usd")
        if table.get("action", ALERT) != ALERT:
            told.append({**table, "unit": unit, "limit": str(table.get(f"limit_{unit}")), "wait_s": table.get("wait")})
    return read_rules({"budgets": told})


class Copy:
    """The last word of a collector, in a file beside the spool: a new process knows it before anybody answers."""

    def __init__(self, folder: Path, url: str) -> None:
        self.path = folder / f"guard-{hashlib.sha256(url.encode()).hexdigest()[:12]}.json"

    def read(self) -> Rules | None:
        """Return the copy, or None when there is none that can be read."""
        try:
            with self.path.open("rb") as file:
                return read_rules(json.loads(file.read(RULES_BYTES_MAX)))
        except (OSError, ValueError, AttributeError):
            return None

    def write(self, told: Mapping[str, Any]) -> None:
        """Keep what a collector said; whoever reads at the same time finds the old copy or the new one, whole."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd, name = tempfile.mkstemp(prefix=self.path.name, dir=self.path.parent)
            with os.fdopen(fd, "w") as file:
                json.dump(told, file)
            Path(name).replace(self.path)
        except OSError as error:
            log.debug("the rules of budgets cannot be kept in %s: %s", self.path, error)
