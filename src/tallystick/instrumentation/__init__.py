"""`instrument()`: calls of the SDKs become spans on the ledger, and the app does not feel it."""

from tallystick.instrumentation._install import flush, instrument, uninstrument
from tallystick.instrumentation._tags import tags

__all__ = ["flush", "instrument", "tags", "uninstrument"]
