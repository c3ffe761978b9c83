"""A stand-in for GitHub's runner release: a tarball that unpacks, registers and runs jobs as the real one.

``build("2.336.0", "x64", directory)`` writes it; its bytes depend on its arguments only, so its SHA-256 can
be pinned. The faults a test can ask for are listed in ``standin/faults.py``.
"""

from __future__ import annotations

from tests.fakes.runner_dist.build import build, filename, sha256

__all__ = ["build", "filename", "sha256"]
