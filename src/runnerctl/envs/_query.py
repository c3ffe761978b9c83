"""Hand on what a confined interpreter says of itself to uv, unless it would steer uv into its own cache.

::

    python -I -S _query.py CACHE PREFIX PROGRAM [ARGUMENT]...

uv installs where an interpreter says, and may write to its cache of wheels, which environments share.
Standard library only, as it runs between uv and the interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

__all__ = ["is_steered", "main"]

MAX_BYTES = 4 << 20
SECONDS = 120


def _texts(value: object) -> Iterator[str]:
    """Every text of an answer."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)


def is_steered(answer: object, *, cache: str, prefix: str) -> bool:
    """Whether a path of the answer is in the cache, or one to install to is above it."""
    cache = os.path.realpath(cache)
    for text in _texts(answer):
        place = os.path.realpath(os.path.join(prefix, text[:4096].replace("\0", "")))
        if place == cache or place.startswith(cache + os.sep):
            return True
    scheme = answer.get("scheme") if isinstance(answer, dict) else None
    places = (os.path.realpath(os.path.join(prefix, text)) for text in _texts(scheme))
    return any(cache.startswith(place.rstrip(os.sep) + os.sep) for place in places)


def main(arguments: list[str]) -> int:
    """Run the interpreter; its exit code, or 1 when its answer is none."""
    cache, prefix, *command = arguments
    run = subprocess.run(command, stdout=subprocess.PIPE, timeout=SECONDS, check=False)
    try:
        steered = len(run.stdout) > MAX_BYTES or is_steered(
            json.loads(run.stdout or b"null"), cache=cache, prefix=prefix
        )
    except (ValueError, RecursionError):
        steered = run.returncode == 0
    if steered:
        sys.stderr.write("the environment's Python gives no answer that can be used\n")
        return 1
    sys.stdout.buffer.write(run.stdout)
    return run.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
