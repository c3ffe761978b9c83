"""Downloads and archives: the whole verified thing under its final name, or nothing."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.download import (
    DownloadError,
    Timeouts,
    fetch,
    fetch_text,
    working_directory,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.unpack import verified_unpack

DATA = b"the whole file\n" * 1000
SHA = hashlib.sha256(DATA).hexdigest()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves one file well and in several broken ways; remembers the headers it was sent."""

    seen: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        type(self).seen.append((self.path, self.headers.get("Authorization")))
        path = self.path.split("?")[0]
        if path == "/missing":
            return self.send_error(404)
        if path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/file")
            self.end_headers()
            return None
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.end_headers()
        if path == "/short":
            self.wfile.write(DATA[:100])
        elif path == "/slow":
            for _ in range(20):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self.wfile.write(DATA)
        return None

    def log_message(self, *_: object) -> None:
        """Quiet."""


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that has enough of a slow answer is no event."""


@pytest.fixture()
def server() -> Iterator[str]:
    _Handler.seen = []
    with _Server(("127.0.0.1", 0), _Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


def test_fetch_brings_the_file_once(server: str, tmp_path: Path) -> None:
    dest = tmp_path / "file"
    assert fetch(f"{server}/file", dest, SHA) is True
    assert dest.read_bytes() == DATA
    assert fetch(f"{server}/file", dest, SHA.upper()) is False
    assert len(_Handler.seen) == 1, "a file that is already right is not fetched again"
    assert os.listdir(tmp_path) == ["file"]


def test_fetch_reads_plain_paths_and_file_urls(tmp_path: Path) -> None:
    source = tmp_path / "source file"
    source.write_bytes(DATA)
    assert fetch(str(source), tmp_path / "a", SHA)
    assert fetch(source.as_uri(), tmp_path / "b", SHA)
    assert (tmp_path / "b").read_bytes() == DATA


def test_a_wrong_checksum_names_both_and_leaves_the_old_file(server: str, tmp_path: Path) -> None:
    dest = tmp_path / "file"
    dest.write_text("old")
    with pytest.raises(DownloadError) as error:
        fetch(f"{server}/file", dest, "0" * 64)
    assert SHA in str(error.value)
    assert "0" * 64 in str(error.value)
    assert dest.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_failures_are_one_line_and_leave_nothing(server: str, tmp_path: Path) -> None:
    for path, expected in (("/missing", "answered 404"), ("/short", "broke off"), ("/slow", "in time")):
        with pytest.raises(DownloadError) as error:
            fetch(
                f"{server}{path}?token=hidden", tmp_path / "file", SHA, timeouts=Timeouts(idle=5, total=0.3)
            )
        assert expected in str(error.value)
        assert "\n" not in str(error.value)
        assert "hidden" not in str(error.value)
        assert os.listdir(tmp_path) == []
    with pytest.raises(DownloadError, match="refused"):
        fetch("http://127.0.0.1:1/x", tmp_path / "file", SHA)
    with pytest.raises(DownloadError, match="No such file"):
        fetch(str(tmp_path / "nowhere"), tmp_path / "file", SHA)
    with pytest.raises(DownloadError, match="no http, https or file address"):
        fetch("ftp://example.org/x", tmp_path / "file", SHA)


def test_private_headers_stay_with_the_first_server(server: str, tmp_path: Path) -> None:
    fetch(f"{server}/moved", tmp_path / "file", SHA, headers={"Authorization": "Bearer x"})
    assert _Handler.seen == [("/moved", "Bearer x"), ("/file", None)]


def test_fetch_text_has_a_limit(server: str) -> None:
    assert fetch_text(f"{server}/file").startswith("the whole file")
    with pytest.raises(DownloadError, match="more than 10 bytes"):
        fetch_text(f"{server}/file", limit_bytes=10)


def test_fetch_text_has_a_deadline(server: str) -> None:
    """A server that sends a byte now and then never falls silent."""
    started = time.monotonic()
    with pytest.raises(DownloadError, match="in time"):
        fetch_text(f"{server}/slow", timeouts=Timeouts(idle=5, total=0.2))
    assert time.monotonic() - started < 0.9, "the whole answer takes a second"


def test_no_message_holds_what_an_address_hides(server: str, tmp_path: Path) -> None:
    """A query or a user may be a token."""
    with pytest.raises(DownloadError, match="SHA-256 is") as wrong:
        fetch(f"{server}/file?token=hidden", tmp_path / "file", "0" * 64)
    with pytest.raises(DownloadError, match="more than 10 bytes") as large:
        fetch_text(f"{server}/file?token=hidden", limit_bytes=10)
    with pytest.raises(DownloadError, match="no http") as scheme:
        fetch("ftp://hidden@example.org/x", tmp_path / "file", "0" * 64)
    assert not [error for error in (wrong, large, scheme) if "hidden" in str(error.value)]


def test_too_little_space_is_said_before_anything_is_written(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 5, 5))
    with pytest.raises(DownloadError, match="no space for file"):
        fetch(f"{server}/file", tmp_path / "file", SHA)


def test_what_a_killed_run_left_is_removed_and_a_live_one_is_not(server: str, tmp_path: Path) -> None:
    stale_file, stale_tree = tmp_path / ".file.abc.partial", tmp_path / ".file.xyz.partial"
    stale_file.write_text("half")
    stale_tree.mkdir()
    with working_directory(str(tmp_path / "file")) as live:
        assert not stale_file.exists()
        assert not stale_tree.exists()
        fetch(f"{server}/file", tmp_path / "file", SHA)
        assert os.path.isdir(live)
    assert not os.path.exists(live)


def _archive(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> str:
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _member(
    name: str, *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = ""
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname, info.uid = kind, mode, link, 1000
    return info


def test_unpack_makes_a_tree_that_only_its_owner_can_write(tmp_path: Path) -> None:
    members = [
        (_member("./bin", kind=tarfile.DIRTYPE, mode=0o777), b""),
        (_member("./bin/tool", mode=0o6777), b"#!/bin/sh\n"),
        (_member("./deep/er/file", mode=0o666), b"text"),
        (_member("./bin/alias", kind=tarfile.SYMTYPE, link="tool"), b""),
        (_member("./bin/hard", kind=tarfile.LNKTYPE, link="./bin/tool"), b""),
    ]
    archive = tmp_path / "a.tar.gz"
    sha256 = _archive(archive, members)
    dest = tmp_path / "tree"
    assert verified_unpack(archive, dest, sha256=sha256) is True
    assert verified_unpack(archive, dest, sha256=sha256) is False
    assert os.stat(dest / "bin" / "tool").st_mode & 0o7777 == 0o755
    assert os.stat(dest / "bin").st_mode & 0o7777 == 0o755
    assert os.stat(dest / "deep/er/file").st_mode & 0o7777 == 0o644
    assert os.stat(dest / "deep/er/file").st_uid == os.geteuid()
    assert os.readlink(dest / "bin" / "alias") == "tool"
    assert (dest / "bin" / "hard").read_bytes() == b"#!/bin/sh\n"
    assert sorted(os.listdir(tmp_path)) == ["a.tar.gz", "tree"]


@pytest.mark.parametrize(
    "members",
    [
        [_member("../evil")],
        [_member("/etc/evil")],
        [_member("a/../../evil")],
        [_member("link", kind=tarfile.SYMTYPE, link="/etc")],
        [_member("link", kind=tarfile.SYMTYPE, link="../..")],
        [
            _member("a/b/c/up", kind=tarfile.SYMTYPE, link="../../.."),
            _member("x", kind=tarfile.SYMTYPE, link="a/b/c/up/.."),
        ],
        [_member("link", kind=tarfile.SYMTYPE, link="/tmp"), _member("link/evil")],
        [_member("hard", kind=tarfile.LNKTYPE, link="../outside")],
        [_member("pipe", kind=tarfile.FIFOTYPE)],
        [_member("device", kind=tarfile.CHRTYPE)],
        [_member("twice"), _member("twice")],
    ],
)
def test_a_hostile_archive_leaves_nothing(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    archive = tmp_path / "a.tar.gz"
    sha256 = _archive(archive, [(member, b"") for member in members])
    with pytest.raises(DownloadError):
        verified_unpack(archive, tmp_path / "tree", sha256=sha256)
    assert os.listdir(tmp_path) == ["a.tar.gz"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_every_user_can_enter_what_was_unpacked(tmp_path: Path, mask: int) -> None:
    """Root's umask is 027 or 077 on a hardened host; the runner's user must reach its listener."""
    archive = tmp_path / "a.tar.gz"
    sha256 = _archive(archive, [(_member("bin/Runner.Listener", mode=0o755), b"x")])
    before = os.umask(mask)
    try:
        verified_unpack(archive, tmp_path / "tree", sha256=sha256)
    finally:
        os.umask(before)
    for name in (".", "bin", "bin/Runner.Listener"):
        assert os.stat(tmp_path / "tree" / name).st_mode & 0o7777 == 0o755, name


def test_a_damaged_archive_leaves_nothing(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    _archive(archive, [(_member("file"), os.urandom(100_000))])
    archive.write_bytes(archive.read_bytes()[:50_000])
    with pytest.raises(DownloadError, match="expected"):
        verified_unpack(archive, tmp_path / "tree", sha256="0" * 64)
    with pytest.raises(DownloadError):
        verified_unpack(archive, tmp_path / "tree", sha256=hashlib.sha256(archive.read_bytes()).hexdigest())
    assert os.listdir(tmp_path) == ["a.tar.gz"]
