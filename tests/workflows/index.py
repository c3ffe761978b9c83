"""A package index with our own wheel in it, for the pip section of an environment that is built offline."""

from __future__ import annotations

import re
import shutil
from importlib import metadata
from pathlib import Path

from runnerctl.wheel import controller_wheel
from tests.fakes.conda_channel.tools import wheels

__all__ = ["make_index"]


def make_index(folder: Path) -> Path:
    """Make a simple index (PEP 503) in ``folder``: runnerctl as it is here, and what it depends on."""
    needed = [line for line in metadata.requires("runnerctl") or [] if "extra ==" not in line]
    for wheel in [controller_wheel(folder / "cache").path, *wheels(needed)]:
        project = re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()
        place = folder / "simple" / project
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(wheel, place)
        names = sorted(path.name for path in place.glob("*.whl"))
        links = "".join(f'<a href="{name}">{name}</a>\n' for name in names)
        (place / "index.html").write_text(f"<!DOCTYPE html><html><body>\n{links}</body></html>\n")
    return folder / "simple"
