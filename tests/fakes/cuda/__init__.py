"""A stand-in for CUDA's driver library: C, built on first use, driven by a scenario file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.fakes.libraries import compiled, seen_through

__all__ = ["SONAME", "build", "environment"]

SONAME = "libcuda.so.1"


def build(directory: Path) -> Path:
    """Compile the library into ``directory`` and return its path; a current one is left as it is."""
    return compiled(Path(__file__).with_name("cuda.c"), SONAME, directory)


def environment(library: Path, scenario: Path, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process that shall see ``scenario`` through the library."""
    return seen_through(library, base, CUDA_SCENARIO=scenario)
