"""Static files over HTTP, with counts and faults."""

from __future__ import annotations

import html
import json
import mimetypes
import shutil
import socket
import sys
import threading
import time
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from tests.fakes.mirror import miniforge
from tests.fakes.mirror.faults import Fault, Faults
from tests.fakes.runner_dist import build as build_runner
from tests.fakes.runner_dist import sha256

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing itself from Python 3.11 on

_SEGMENT = 64 * 1024


class Published(NamedTuple):
    """A file on the mirror: its address, its SHA-256 and where it lies."""

    url: str
    sha256: str
    file: Path


class Mirror:
    """A mirror of ``root`` on ``host``:``port`` (0: any free one), served by threads until ``stop()``.

    Use it as a context manager, or call ``start()`` and ``stop()``. ``public_host`` is the name in the
    addresses it gives out, for clients that reach it by another one.
    """

    def __init__(self, root: Path, *, host: str = "127.0.0.1", port: int = 0, public_host: str = "") -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root.resolve()
        self.faults = Faults()
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = _Server((host, port), self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.url = f"http://{public_host or host}:{self._server.server_address[1]}"

    def start(self) -> None:
        """Serve from a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and free the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(timeout=10)
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def downloads(self) -> dict[str, int]:
        """How often each file's body was sent, in part or as a whole; HEAD does not count."""
        with self._lock:
            return dict(self._counts)

    def forget_downloads(self) -> None:
        """Count from zero again."""
        with self._lock:
            self._counts.clear()

    def count(self, path: str) -> None:
        """Note one download."""
        with self._lock:
            self._counts[path] += 1

    def fault(
        self, name: str, path: str = "*", *, times: int | None = None, bytes_per_second: int = 65536
    ) -> None:
        """Put a fault in force; see ``faults.py``."""
        self.faults.add(Fault(name, path, times, bytes_per_second))

    def add_runner(self, version: str, architecture: str = "x64", *, payload_mib: int = 0) -> Published:
        """Publish a runner release under the path it has on GitHub."""
        directory = self.root / "actions" / "runner" / "releases" / "download" / f"v{version}"
        return self._published(build_runner(version, architecture, directory, payload_mib=payload_mib))

    def add_miniforge(self, version: str = miniforge.VERSION, machine: str = "x86_64") -> Published:
        """Publish a Miniforge installer, its checksum, and the unversioned copy, which has none."""
        releases = self.root / "conda-forge" / "miniforge" / "releases"
        installer = miniforge.build(version, machine, releases / "download" / version)
        latest = releases / "latest" / "download"
        latest.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(installer, latest / f"Miniforge3-Linux-{machine}.sh")
        return self._published(installer)

    def add_wheels(self, directory: Path) -> str:
        """Publish a directory of wheels; returns the address for ``pip --no-index --find-links``."""
        target = self.root / "wheels"
        target.mkdir(exist_ok=True)
        for wheel in directory.glob("*.whl"):
            shutil.copyfile(wheel, target / wheel.name)
        return f"{self.url}/wheels/"

    def _published(self, file: Path) -> Published:
        return Published(f"{self.url}/{quote(file.relative_to(self.root).as_posix())}", sha256(file), file)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], mirror: Mirror) -> None:
        self.mirror = mirror
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no event; anything else is shown as ever."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    # A reader that stops reading must not keep a thread for ever.
    timeout = 60

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
        """Quiet: what happened is in the counts."""

    def do_HEAD(self) -> None:
        """As GET, without the body."""
        self._serve(with_body=False)

    def do_GET(self) -> None:
        """A file, a directory's list of links, or a control page."""
        control = self._control_path()
        if control is None:
            self._serve(with_body=True)
        elif control == "downloads":
            self._json(200, {"downloads": self.server.mirror.downloads()})
        elif control == "faults":
            self._json(200, {"faults": self.server.mirror.faults.describe()})
        else:
            self._json(404, {"message": "no such control"})

    def do_POST(self) -> None:
        """``POST /_control/faults`` with ``{"name", "path", "times", "bytes_per_second"}``."""
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        if self._control_path() != "faults":
            self._json(404, {"message": "no such control"})
            return
        try:
            self.server.mirror.faults.add(Fault(**json.loads(raw or b"{}")))
        except (ValueError, TypeError) as error:
            self._json(422, {"message": str(error)})
            return
        self._json(201, {"faults": self.server.mirror.faults.describe()})

    def do_DELETE(self) -> None:
        """``DELETE /_control/faults`` ends all faults, ``/_control/downloads`` counts from zero."""
        actions = {
            "faults": self.server.mirror.faults.clear,
            "downloads": self.server.mirror.forget_downloads,
        }
        action = actions.get(self._control_path() or "")
        if action is None:
            self._json(404, {"message": "no such control"})
            return
        action()
        self._json(200, {})

    def _control_path(self) -> str | None:
        path = urlsplit(self.path).path
        return path.removeprefix("/_control/") if path.startswith("/_control/") else None

    def _serve(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        root = self.server.mirror.root
        target = (root / path.lstrip("/")).resolve()
        if not target.is_relative_to(root) or not target.exists():
            self._plain(404, "not found\n")
        elif target.is_dir():
            self._index(target, path)
        else:
            self._file(target, path, with_body=with_body)

    def _index(self, directory: Path, path: str) -> None:
        if not path.endswith("/"):
            self.send_response(301)
            self.send_header("Location", quote(path) + "/")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in directory.iterdir())
        links = "\n".join(f'<a href="{quote(name)}">{html.escape(name)}</a><br>' for name in names)
        self._plain(200, f"<!DOCTYPE html>\n<html><body>\n{links}\n</body></html>\n", kind="text/html")

    def _file(self, file: Path, path: str, *, with_body: bool) -> None:
        fault = self.server.mirror.faults.take(path) if with_body else None
        name = fault.name if fault else ""
        if name in ("404", "500"):
            self._plain(int(name), "not found\n" if name == "404" else "<html>Internal Server Error</html>\n")
            return
        body = file.read_bytes()
        half = len(body) // 2
        if name == "corrupt" and body:
            body = body[:half] + bytes([body[half] ^ 0xFF]) + body[half + 1 :]
        if name == "truncate":
            body = body[:half]
        self.send_response(200)
        self.send_header("Content-Type", mimetypes.guess_type(file.name)[0] or "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", formatdate(file.stat().st_mtime, usegmt=True))
        self.end_headers()
        if with_body:
            self.server.mirror.count(path)
            self._body(body[:half] if name == "drop" else body, fault)
        if name == "drop":
            self._hang_up()

    def _body(self, body: bytes, fault: Fault | None) -> None:
        step = fault.bytes_per_second // 10 or 1 if fault and fault.name == "slow" else _SEGMENT
        try:
            for start in range(0, len(body), step):
                self.wfile.write(body[start : start + step])
                if step != _SEGMENT:
                    time.sleep(0.1)
        except OSError:
            self.close_connection = True

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _json(self, status: int, value: object) -> None:
        self._plain(status, json.dumps(value) + "\n", kind="application/json")

    def _plain(self, status: int, text: str, *, kind: str = "text/plain") -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
