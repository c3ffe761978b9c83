"""A stand-in for the places downloads come from: runner releases, Miniforge, a wheelhouse."""

from __future__ import annotations

from tests.fakes.mirror.faults import Fault
from tests.fakes.mirror.miniforge import build as build_miniforge
from tests.fakes.mirror.server import Mirror, Published

__all__ = ["Fault", "Mirror", "Published", "build_miniforge"]
