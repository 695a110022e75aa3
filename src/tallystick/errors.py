"""Everything that is raised on purpose.

    TallystickError
    ├── SettingsError              a setting is wrong; names file, key, value and what is allowed
    ├── MissingExtraError          a command needs an extra that is not installed
    ├── BudgetExceededError        a hard budget would be passed; nothing was sent
    ├── RequestTooLargeError       a per-call limit would be passed; nothing was sent
    ├── RequestLoopError           the same request came too often within a minute; nothing was sent
    ├── UnknownPriceError          a price was demanded for a model that has none
    ├── MalformedBatchError        what arrived cannot be decoded
    ├── CollectorError             the collector could not be asked
    │   ├── CollectorUnreachableError
    │   ├── CollectorRefusedError
    │   └── UnknownCallError       no call has the id that was asked for
    ├── ProofError                 a budget could not be tried; says nothing about whether it holds
    ├── ReportError                a provider's own cost report cannot be had
    ├── ExportError                a row is not what the format demands; nothing was written
    ├── StoreError
    │   ├── StoreLockedError       another process holds the data folder
    │   └── StoreTooNewError       the file was written by a newer tallystick
    ├── PortTakenError             somebody else listens there
    └── DeliveryError
        ├── DeliveryRefusedError   useless to try again
        └── DeliveryDelayedError   try again, not before ``retry_after_s``

In an instrumented app only `BudgetExceededError`, `RequestTooLargeError` and `RequestLoopError` (asked for, and raised
before anything is sent) and `SettingsError` (at ``instrument()``) can ever surface.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

    from tallystick.model.windows import Window


class TallystickError(Exception):
    """The root of what tallystick raises on purpose; catch it to catch all."""


class SettingsError(TallystickError):
    """A setting is wrong; the text names where it stands, its value and what is allowed."""


class MissingExtraError(TallystickError):
    """A command needs a library that only an extra installs."""

    def __init__(self, doing: str, library: str, extra: str) -> None:
        super().__init__(f'{doing} needs {library}, which is not installed: pip install "tallystick[{extra}]"')
        self.doing = doing
        self.library = library
        self.extra = extra


class BudgetExceededError(TallystickError):
    """A hard budget would be passed; the call was not sent.

    Figures are in ``unit`` (``usd``, ``tokens`` or ``calls``).  A figure is None where it is not known: when the
    collector could not be asked, or when nothing bounds what the call can cost.
    """

    def __init__(
        self,
        message: str,
        *,
        budget: str = "",
        group: str = "",
        unit: str = "usd",
        window: Window | None = None,
        limit: Decimal | None = None,
        spent: Decimal | None = None,
        reserved: Decimal | None = None,
        needed: Decimal | None = None,
        resets_at: datetime | None = None,
    ) -> None:
        super().__init__(message)
        self.budget = budget
        self.group = group
        """Which of the budgets that ``group_by`` makes."""
        self.unit = unit
        self.window = window
        """None for a budget of `tallystick.budget`, which lasts as long as its block."""
        self.limit = limit
        self.spent = spent
        self.reserved = reserved
        """What is held for calls in flight."""
        self.needed = needed
        """The most that the call could have cost, its retries included."""
        self.resets_at = resets_at


class RequestTooLargeError(TallystickError):
    """A per-call limit would be passed; the call was not sent."""

    def __init__(
        self, message: str, *, setting: str = "", limit: Decimal | None = None, needed: Decimal | None = None
    ) -> None:
        super().__init__(message)
        self.setting = setting
        """The limit's name, as ``max_cost_usd``."""
        self.limit = limit
        self.needed = needed
        """What the call can come to; None when nothing bounds it."""


class RequestLoopError(TallystickError):
    """The very same request was made too often within a minute; this one was not sent."""

    def __init__(self, message: str, *, times: int = 0, limit: int = 0) -> None:
        super().__init__(message)
        self.times = times
        self.limit = limit


class UnknownPriceError(TallystickError):
    """A price was demanded for a model that the book does not list."""


class MalformedBatchError(TallystickError):
    """What arrived is not what its content type says; sending it again will not help."""


class CollectorError(TallystickError):
    """The collector could not be asked."""


class CollectorUnreachableError(CollectorError):
    """Nothing answers at the collector's address."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"no collector answers at {url} ({reason}); "
            "start one with `tallystick up`, or name another with --collector"
        )
        self.url = url
        self.reason = reason


class CollectorRefusedError(CollectorError):
    """The collector answered with an error."""

    def __init__(self, url: str, status: int, detail: str) -> None:
        super().__init__(f"the collector answered {status} to {url}: {detail}")
        self.url = url
        self.status = status
        self.detail = detail


class UnknownCallError(CollectorError):
    """No call has the id that was asked for."""

    def __init__(self, call: str, detail: str) -> None:
        super().__init__(
            f"no call has the id {call} ({detail}); the Calls page and GET /api/v1/calls list the ids that are there"
        )
        self.call = call


class ProofError(TallystickError):
    """A budget could not be tried against the loopback provider; says nothing about whether it holds."""


class ReportError(TallystickError):
    """A provider's own cost report cannot be had, or not be read."""


class ExportError(TallystickError):
    """A row is not what the format demands; the file was not written."""


class StoreError(TallystickError):
    """The store cannot do what was asked."""


class StoreLockedError(StoreError):
    """Another process holds the data folder; DuckDB lets one write."""

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(
            f"cannot open {path}: {holder} holds it. One collector owns a data folder; to look at the figures, "
            "ask that collector, or give this one another folder with --data"
        )
        self.path = path
        self.holder = holder


class StoreTooNewError(StoreError):
    """The store's file was written by a newer tallystick."""

    def __init__(self, path: str, found: int, known: int) -> None:
        super().__init__(
            f"{path} has schema {found}, this tallystick knows up to {known}; upgrade with pip install -U tallystick"
        )
        self.path = path
        self.found = found
        self.known = known


class PortTakenError(TallystickError):
    """Somebody else listens at the address that we were to listen at."""

    def __init__(self, host: str, port: int, option: str = "--port") -> None:
        super().__init__(
            f"cannot listen at {host}:{port}: the port is taken. Is another tallystick running? "
            f"Stop it, or choose another port with {option}"
        )
        self.host = host
        self.port = port


class DeliveryError(TallystickError):
    """A notification was not delivered."""


class DeliveryRefusedError(DeliveryError):
    """The receiver refuses for good: the URL is wrong, revoked or does not take this message."""

    def __init__(self, reason: str, *, word: str = "") -> None:
        super().__init__(reason)
        self.word = word
        """The receiver's own word for it, where it has one."""


class DeliveryDelayedError(DeliveryError):
    """The receiver is out for now; ``retry_after_s`` is what it asked for, in seconds, or None."""

    def __init__(self, reason: str, retry_after_s: float | None = None, *, ambiguous: bool = False) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.ambiguous = ambiguous
        """True when the message may have arrived although no answer did."""
