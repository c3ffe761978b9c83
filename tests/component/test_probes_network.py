"""The network probe against real sockets: each stage that can fail, and the clock."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from runnerctl.core.snapshot import Api, Unavailable
from runnerctl.probes import network
from runnerctl.probes.bounded import Task, run_all

ANSWER = b"HTTP/1.1 401 Unauthorized\r\nDate: Sun, 22 Nov 2026 09:00:00 GMT\r\nContent-Length: 0\r\n\r\n"
Handler = Callable[[socket.socket], None]


@contextlib.contextmanager
def _server(handler: Handler) -> Iterator[int]:
    """A TCP server on a port of its own; every connection goes to ``handler``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    handler(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield port
        listener.shutdown(socket.SHUT_RDWR)


def _says(answer: bytes) -> Handler:
    def handler(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)

    return handler


def _hangs(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def _ask(url: str, *, environ: dict[str, str] | None = None, seconds: float = 3.0) -> Api:
    call = partial(network.read_api, url=url, environ=environ or {}, timeout_seconds=seconds)
    return network.parse_api(url, run_all({"api": Task(call, seconds)})["api"])


def test_any_answer_is_an_answer() -> None:
    """401 proves name, route and TLS; its date tells the time."""
    with _server(_says(ANSWER)) as port:
        api = _ask(f"http://127.0.0.1:{port}")
    assert (api.status, api.failed_stage) == (401, None)
    assert [stage.name for stage in api.stages] == ["dns", "tcp", "http"]
    clock = network.clock_of((api,))
    assert not isinstance(clock, Unavailable)
    assert clock.source == "127.0.0.1"


def test_the_path_of_an_enterprise_server_is_kept() -> None:
    """GHES has its API below /api/v3."""
    seen: list[bytes] = []

    def handler(connection: socket.socket) -> None:
        seen.append(connection.recv(65536))
        connection.sendall(ANSWER)

    with _server(handler) as port:
        _ask(f"http://127.0.0.1:{port}/api/v3")
    assert seen[0].startswith(b"GET /api/v3/meta HTTP/1.1\r\n")
    assert b"Authorization" not in seen[0]


def test_a_name_that_does_not_exist() -> None:
    """The stage is dns, and nothing was timed."""
    api = _ask("https://nowhere.invalid")
    assert (api.failed_stage, api.stages) == ("dns", ())
    assert "Errno" not in api.message


def test_a_closed_port() -> None:
    """The stage is tcp."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    api = _ask(f"http://127.0.0.1:{port}")
    assert (api.failed_stage, api.message) == ("tcp", "Connection refused")


@pytest.mark.parametrize(("scheme", "stage"), [("http", "http"), ("https", "tls")])
def test_a_server_that_never_answers(scheme: str, stage: str) -> None:
    """The deadline ends it, and the stage is named."""
    with _server(_hangs) as port:
        api = _ask(f"{scheme}://127.0.0.1:{port}", seconds=0.5)
    assert api.failed_stage == stage


def test_something_else_than_http() -> None:
    """A captive portal or a wrong port."""
    with _server(_says(b"SSH-2.0-x\r\n")) as port:
        api = _ask(f"http://127.0.0.1:{port}")
    assert api.failed_stage == "http"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that nobody signed, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + built.public_bytes(pem))
    return file


def _tls(certificate: Path) -> Handler:
    def handler(connection: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with context.wrap_socket(connection, server_side=True) as inner:
            _says(ANSWER)(inner)

    return handler


def test_a_certificate_nobody_trusts(certificate: Path) -> None:
    """The stage is tls; with the bundle of the site it passes."""
    with _server(_tls(certificate)) as port:
        refused = _ask(f"https://localhost:{port}")
        trusted = _ask(f"https://localhost:{port}", environ={"SSL_CERT_FILE": str(certificate)})
    assert refused.failed_stage == "tls"
    assert "certificate verify failed" in refused.message
    assert (trusted.status, trusted.failed_stage) == (401, None)
    assert [stage.name for stage in trusted.stages] == ["dns", "tcp", "tls", "http"]


def test_through_a_proxy(certificate: Path) -> None:
    """The proxy resolves the name: it need not be known here."""

    def proxy(connection: socket.socket) -> None:
        asked = connection.recv(65536)
        assert asked.startswith(b"CONNECT localhost:443 ")
        assert b"\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n" in asked
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        _tls(certificate)(connection)

    with _server(proxy) as port:
        environ = {"https_proxy": f"http://user:p%40ss@127.0.0.1:{port}", "SSL_CERT_FILE": str(certificate)}
        api = _ask("https://localhost", environ=environ)
    assert (api.status, api.proxy, api.failed_stage) == (401, True, None)
    assert [stage.name for stage in api.stages] == ["dns", "tcp", "proxy", "tls", "http"]


def test_a_proxy_that_refuses() -> None:
    """It is the proxy's fault, not GitHub's."""
    with _server(_says(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")) as port:
        api = _ask("https://api.github.com", environ={"https_proxy": f"127.0.0.1:{port}"})
    assert api.failed_stage == "proxy"
    assert "407" in api.message
