"""A forward proxy that notes what it is asked for; TLS before a plain server, with a CA of its own."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

__all__ = ["Authority", "Proxy", "proxy", "tls_front"]

SECONDS = 120
BLOCK = 65536
HOP_BY_HOP = frozenset({"connection", "proxy-connection", "keep-alive", "transfer-encoding", "te", "upgrade"})


class Proxy(ThreadingHTTPServer):
    """``asked`` holds (method, host:port or address) of every request, in order."""

    daemon_threads = True

    def __init__(self, host: str) -> None:
        self.asked: list[tuple[str, str]] = []
        super().__init__((host, 0), _Handler)
        self.url = f"http://{host}:{self.server_address[1]}"

    def asked_for(self, text: str) -> bool:
        """Whether any request's target holds ``text``."""
        return any(text in target for _, target in list(self.asked))

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no event."""


@contextlib.contextmanager
def proxy(host: str) -> Iterator[Proxy]:
    """A proxy on an address of this machine, until the end of the block."""
    server = Proxy(host)
    with _serving(server):
        yield server


@contextlib.contextmanager
def _serving(server: ThreadingHTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SECONDS
    server: Proxy

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
        """Quiet: it is in ``asked``."""

    def do_CONNECT(self) -> None:
        """Carry bytes to and fro until one side ends."""
        self.server.asked.append((self.command, self.path))
        host, _, port = self.path.rpartition(":")
        try:
            there = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
        except OSError:
            self.send_error(502)
            return
        self.send_response(200)
        self.end_headers()
        with there:
            _carry(self.connection, there)
        self.close_connection = True

    def _forward(self) -> None:
        self.server.asked.append((self.command, self.path))
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        target = parts._replace(scheme="", netloc="").geturl() or "/"
        origin = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=SECONDS)
        try:
            origin.request(self.command, target, body=body or None, headers=headers)
            answer = origin.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException):
            self.send_error(502)
            return
        finally:
            origin.close()
        self.send_response(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in {*HOP_BY_HOP, "content-length", "date", "server"}:
                self.send_header(name, value)
        self.send_header("Date", answer.getheader("Date") or self.date_time_string())
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        """Hand it on."""
        self._forward()

    def do_HEAD(self) -> None:
        """Hand it on."""
        self._forward()

    def do_POST(self) -> None:
        """Hand it on."""
        self._forward()

    def do_PUT(self) -> None:
        """Hand it on."""
        self._forward()

    def do_PATCH(self) -> None:
        """Hand it on."""
        self._forward()

    def do_DELETE(self) -> None:
        """Hand it on."""
        self._forward()


def _carry(one: socket.socket, other: socket.socket) -> None:
    pairs = {one: other, other: one}
    while True:
        ready, _, _ = select.select(list(pairs), [], [], SECONDS)
        if not ready:
            return
        for source in ready:
            try:
                data = source.recv(BLOCK)
                if not data:
                    return
                pairs[source].sendall(data)
            except OSError:
                return


class Authority:
    """A site's own CA: ``path`` holds its certificate in PEM form."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Site CA")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        made = self._builder(self._name, self._key.public_key()).add_extension(constraints, critical=True)
        self.path = folder / "site-ca.pem"
        self.path.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def context(self, address: str) -> ssl.SSLContext:
        """A server's context with a certificate for an IP address."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        made = self._builder(subject, key.public_key()).add_extension(names, critical=False)
        chain = self._folder / f"server-{address}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        chain.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM) + private)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        return context

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        made = x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
        made = made.serial_number(x509.random_serial_number())
        return made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
            now + datetime.timedelta(days=30)
        )


@contextlib.contextmanager
def tls_front(context: ssl.SSLContext, address: str, port: int) -> Iterator[str]:
    """TLS on ``address`` before the plain server on ``address``:``port``; gives its base URL."""
    with socket.create_server((address, 0)) as listener:
        listener.settimeout(0.2)
        ended = threading.Event()
        thread = threading.Thread(target=_accept, args=(listener, context, (address, port), ended))
        thread.start()
        try:
            yield f"https://{address}:{listener.getsockname()[1]}"
        finally:
            ended.set()
            thread.join(timeout=10)


def _accept(
    listener: socket.socket, context: ssl.SSLContext, target: tuple[str, int], ended: threading.Event
) -> None:
    while not ended.is_set():
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        threading.Thread(target=_serve, args=(connection, context, target), daemon=True).start()


def _serve(connection: socket.socket, context: ssl.SSLContext, target: tuple[str, int]) -> None:
    with contextlib.suppress(OSError):
        connection.settimeout(SECONDS)
        with (
            context.wrap_socket(connection, server_side=True) as client,
            socket.create_connection(target, timeout=10) as there,
        ):
            # What TLS has read already does not make the socket ready: one thread a direction.
            back = threading.Thread(target=_pump, args=(there, client), daemon=True)
            back.start()
            _pump(client, there)
            back.join(timeout=SECONDS)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(BLOCK):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
