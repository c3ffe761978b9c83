"""Fleets at GitHub: ``python -m benchmarks.github [--quick] [--only SECTION]``.

Each section is a module of its own, ``benchmarks/github_<section>.py``, with one function::

    def run(*, quick: bool) -> list[str]: ...

It measures, and returns its Markdown: one item a block (a paragraph, or a `benchmarks.report.table`),
without a heading. ``quick`` asks for a sample of seconds that shows that the section works. A section cleans
up what it starts, writes its progress to stderr, and asserts nothing: a figure is a figure. Its block in
docs/benchmarks.md stands between ``<!-- figures: written by benchmarks/github.py SECTION -->`` and
``<!-- end of figures -->``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.report import put

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
# Section -> heading in what is printed; the page has headings of its own.
SECTIONS = {
    "list": "10,000 runners: `runnerctl list` and `gh api --paginate`",
    "faults": "Registrations under the faults of a bad day",
    "prune": "Ghost rules over random fleets",
    "upgrade": "Drains and upgrades while jobs run",
}


def main() -> int:
    """Measure, print, and keep what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.github", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small samples; the page is not written")
    parser.add_argument("--only", choices=sorted(SECTIONS), help="measure this section, keep the others")
    given = parser.parse_args()
    for name in [given.only] if given.only else SECTIONS:
        section = importlib.import_module(f"benchmarks.github_{name}")
        blocks = [_circumstances(), *section.run(quick=given.quick)]
        text = "\n\n".join(blocks) + "\n"
        print(f"## {SECTIONS[name]}\n\n{text}", flush=True)
        if not given.quick:
            put(PAGE, f"benchmarks/github.py {name}", text)
    return 0


def _circumstances() -> str:
    now = datetime.now(timezone.utc)
    return (
        f"Measured on {now:%Y-%m-%d}: {os.cpu_count()} cores, Linux {platform.release()}, Python "
        f"{platform.python_version()}, load average at the start {os.getloadavg()[0]:.1f}."
    )


if __name__ == "__main__":
    sys.exit(main())
