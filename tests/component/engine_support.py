"""A Docker Engine that answers by HTTP on this machine."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["serving_engine"]


@contextmanager
def serving_engine(answer: Callable[[str], Any]) -> Iterator[str]:
    """Serve what ``answer`` says of a path (None: 404); yields the address for ``DOCKER_HOST``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = answer(self.path.partition("?")[0].removeprefix("/v1.52"))
            content = {"message": "not found"} if said is None else said
            body = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(404 if said is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"tcp://127.0.0.1:{server.server_port}"
        server.shutdown()
