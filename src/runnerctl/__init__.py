"""GitHub Actions on your own GPU machines, as dependable as hosted runners."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__"]
