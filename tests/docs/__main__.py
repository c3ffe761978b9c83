"""``python -m tests.docs [--check]``: write the generated pages, or name those that are out of step."""

from __future__ import annotations

import argparse
import sys

from tests.docs.pages import REFERENCE, differing, pages, stale


def main() -> int:
    """Returns 1 with ``--check`` when a page differs, is missing or is one too many."""
    parser = argparse.ArgumentParser(prog="scripts/docs", description="Write docs/reference from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing, name what is out of step")
    check = parser.parse_args().check
    wanted = pages()
    changed, left_over = differing(wanted), stale(wanted)
    for path in changed:
        sys.stdout.write(f"{REFERENCE / path}\n")
        if not check:
            (REFERENCE / path).parent.mkdir(parents=True, exist_ok=True)
            (REFERENCE / path).write_text(wanted[path], encoding="utf-8")
    for page in left_over:
        sys.stdout.write(f"{page} (no longer generated)\n")
        if not check:
            page.unlink()
    return 1 if check and (changed or left_over) else 0


if __name__ == "__main__":
    sys.exit(main())
