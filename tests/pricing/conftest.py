from __future__ import annotations

from hypothesis import settings

# A busy two-core machine is slower than Hypothesis' deadline now and then; speed is bench/pricing.py's business.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
