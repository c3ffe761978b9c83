"""What an action tells the command that plays it: one JSON file a host, in a folder that the command gave."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail

__all__ = ["write_answer"]


def write_answer(directory: str | None, host: str, answer: Mapping[str, Any]) -> None:
    """Write ``<host>.json``, whole or not at all; nothing without a directory.

    Names of hosts may come from a cloud's tags: one that leads out of the directory is refused, by
    AnsibleActionFail.
    """
    if not directory:
        return
    if "/" in host or "\0" in host:
        raise AnsibleActionFail(f"{host!r}: a host's name may not hold a slash; rename it in the inventory")
    path = Path(directory) / f"{host}.json"
    partial = path.with_name(f"{host}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(answer))
        partial.replace(path)
    except OSError as error:
        raise AnsibleActionFail(f"{host}: its answer cannot be written: {error.strerror}") from None
