"""Serves a channel's folder, openly or to those with the right credential, with faults on request."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["Served", "serve"]


@dataclass
class Served:
    """A channel that answers. ``url``: its address. ``seen``: paths asked for, with the answers' codes.

    ``faults``: shell pattern of a path -> code to answer instead. ``wanted``: the Authorization header that
    everybody must send, None for an open channel.
    """

    url: str
    wanted: str | None = None
    seen: list[tuple[str, int]] = field(default_factory=list)
    faults: dict[str, int] = field(default_factory=dict)


@contextlib.contextmanager
def serve(
    folder: Path,
    *,
    address: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    basic: tuple[str, str] | None = None,
) -> Iterator[Served]:
    """Serve a channel while in the block; ``token`` or ``basic`` (user, password) make it a private one."""
    wanted = f"Bearer {token}" if token else None
    if basic:
        wanted = "Basic " + base64.b64encode(":".join(basic).encode()).decode()
    served = Served("", wanted)
    with ThreadingHTTPServer((address, port), partial(_Handler, served, directory=str(folder))) as server:
        served.url = f"http://{address}:{server.server_address[1]}"
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05), daemon=True)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join(10)


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def __init__(self, served: Served, *rest: object, directory: str) -> None:
        self.served = served
        super().__init__(*rest, directory=directory)  # type: ignore[arg-type]  # as the server calls it

    def do_GET(self) -> None:
        """Answer a request for a file, unless a fault or a missing credential comes first."""
        if not self._refused():
            super().do_GET()

    def do_HEAD(self) -> None:
        """As do_GET, without the body."""
        if not self._refused():
            super().do_HEAD()

    def _refused(self) -> bool:
        path = self.path.partition("?")[0]
        code = next((code for shape, code in self.served.faults.items() if fnmatchcase(path, shape)), None)
        if code is None and self.served.wanted and self.headers.get("Authorization") != self.served.wanted:
            code = 401
        if code is None:
            return False
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who has the code may hang up
            self.send_error(code)
        return True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep what was asked for; nothing is printed."""
        del size
        self.served.seen.append((self.path, int(getattr(code, "value", code))))

    def log_error(self, *arguments: object) -> None:
        """Print nothing."""
