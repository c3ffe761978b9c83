"""What can go wrong with a download, on request.

=========  =====================================================================
truncate   half of the body, announced as if that were all
corrupt    one byte in the middle is another one
drop       half of the body, then the connection breaks
slow       ``bytes_per_second`` (default 65536)
404        as if the file were not there
500        an error page of the server
=========  =====================================================================
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase

NAMES = ("truncate", "corrupt", "drop", "slow", "404", "500")


@dataclass
class Fault:
    """One fault for every path that matches ``path`` (a shell pattern), ``times`` times or for ever."""

    name: str
    path: str = "*"
    times: int | None = None
    bytes_per_second: int = 65536

    def __post_init__(self) -> None:
        """Raises ValueError for a name that is no fault and for a rate that would never end."""
        if self.name not in NAMES:
            raise ValueError(f"{self.name!r} is no fault; known: {', '.join(NAMES)}")
        if self.bytes_per_second < 1:
            raise ValueError("bytes_per_second must be at least 1")


class Faults:
    """The faults in force. Safe to use from several threads."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Put a fault in force."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """End all of them."""
        with self._lock:
            self._faults.clear()

    def describe(self) -> list[dict[str, object]]:
        """All faults, with the times they have left."""
        with self._lock:
            return [asdict(fault) for fault in self._faults]

    def take(self, path: str) -> Fault | None:
        """The first fault for this path; one of its times is used up."""
        with self._lock:
            for fault in self._faults:
                if fnmatchcase(path, fault.path) and fault.times != 0:
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None
