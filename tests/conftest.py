"""Settings that all tests share."""

from __future__ import annotations

from hypothesis import settings

# A slow machine is not a fault of the program: nothing is judged by real time.
settings.register_profile("bulkcert", deadline=None)
settings.load_profile("bulkcert")
