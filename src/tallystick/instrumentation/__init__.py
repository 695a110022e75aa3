"""`instrument()`: calls of the SDKs become spans on the ledger, and the app does not feel it."""

from tallystick.instrumentation._install import flush, instrument, uninstrument
from tallystick.instrumentation._limits import budget
from tallystick.instrumentation._markers import bad_output, cache_hit, degraded
from tallystick.instrumentation._tags import tags

__all__ = ["bad_output", "budget", "cache_hit", "degraded", "flush", "instrument", "tags", "uninstrument"]
