"""Property tests of the pure core: no time limit for one example, whatever else the machine is doing."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("kufeed", parent=settings.get_profile(settings.get_current_profile_name()), deadline=None)
settings.load_profile("kufeed")
