"""The mirror stand-in: files, counts, faults; and the Miniforge installer it publishes, run for real."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.fakes.mirror import Mirror, build_miniforge
from tests.fakes.mirror.miniforge import VERSION

pytestmark = pytest.mark.exhaustive  # one thing in each of its ways

MACHINE = "aarch64" if platform.machine() == "aarch64" else "x86_64"


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    """A running mirror with one small file."""
    with Mirror(tmp_path / "root") as mirror:
        (mirror.root / "file.bin").write_bytes(bytes(range(256)) * 64)
        yield mirror


def test_a_client_that_resets_its_connection_is_no_event(
    mirror: Mirror, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing is printed, and the next one is served."""
    address = urlsplit(mirror.url)
    threads = threading.active_count()
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=5) as client:
        client.sendall(b"GET /file.bin HTTP/1.1\r\n")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end = time.monotonic() + 5
    while threading.active_count() > threads and time.monotonic() < end:
        time.sleep(0.01)
    assert get(mirror, "/file.bin").status_code == 200
    assert capfd.readouterr().err == ""


def get(mirror: Mirror, path: str) -> requests.Response:
    """GET from the mirror."""
    return requests.get(f"{mirror.url}{path}", timeout=10)


def install(installer: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run an installer as a role does."""
    return subprocess.run(
        ["/bin/sh", str(installer), *words],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def conda(prefix: Path, *words: str, program: str = "conda") -> str:
    """Output of a command of the installed conda."""
    done = subprocess.run(
        [str(prefix / "bin" / program), *words],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return done.stdout


# -- files, counts, faults


def test_downloads_are_counted_and_heads_are_not(mirror: Mirror) -> None:
    """What a host fetched can be told per path."""
    for _ in range(2):
        assert len(get(mirror, "/file.bin").content) == 16384
    assert requests.head(f"{mirror.url}/file.bin", timeout=10).headers["Content-Length"] == "16384"
    assert get(mirror, "/absent").status_code == 404
    assert get(mirror, "/_control/downloads").json() == {"downloads": {"/file.bin": 2}}
    requests.delete(f"{mirror.url}/_control/downloads", timeout=10)
    assert mirror.downloads() == {}


def test_nothing_outside_the_root_is_served(mirror: Mirror) -> None:
    """Neither by dots nor by a link."""
    (mirror.root / "link").symlink_to("/etc/passwd")
    (mirror.root.parent / "secret").write_text("no")
    assert get(mirror, "/%2e%2e/secret").status_code == 404
    assert get(mirror, "/link").status_code == 404


def test_each_fault(mirror: Mirror) -> None:
    """A fault hits the paths it names, as often as it says, and then no more."""
    whole = get(mirror, "/file.bin").content
    mirror.fault("truncate", "*.bin", times=1)
    assert get(mirror, "/file.bin").content == whole[:8192]
    mirror.fault("corrupt", times=1)
    broken = get(mirror, "/file.bin").content
    assert (len(broken), sum(a != b for a, b in zip(broken, whole, strict=True))) == (16384, 1)
    mirror.fault("drop", times=1)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        get(mirror, "/file.bin")
    answer = requests.post(
        f"{mirror.url}/_control/faults", json={"name": "500", "path": "/file.bin", "times": 2}, timeout=10
    )
    assert answer.status_code == 201
    assert [get(mirror, "/file.bin").status_code for _ in range(3)] == [500, 500, 200]
    mirror.fault("404", "/other")
    assert get(mirror, "/file.bin").content == whole
    requests.delete(f"{mirror.url}/_control/faults", timeout=10)
    assert get(mirror, "/_control/faults").json() == {"faults": []}


@pytest.mark.exhaustive
def test_a_slow_download_takes_its_time(mirror: Mirror) -> None:
    """64 KiB a second, in tenths."""
    mirror.fault("slow")
    assert get(mirror, "/file.bin").elapsed.total_seconds() < 5
    assert len(get(mirror, "/file.bin").content) == 16384


def test_an_unknown_fault_is_refused(mirror: Mirror) -> None:
    """A misspelt fault is an answer that names the known ones."""
    answer = requests.post(f"{mirror.url}/_control/faults", json={"name": "explode"}, timeout=10)
    assert answer.status_code == 422
    assert "known: truncate" in answer.json()["message"]


@pytest.mark.exhaustive
def test_a_directory_is_an_index_that_pip_reads(mirror: Mirror, tmp_path: Path) -> None:
    """A wheelhouse works with --no-index --find-links."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    info = "tiny-1.0.dist-info"
    with zipfile.ZipFile(wheels / "tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    words = [sys.executable, "-m", "pip", "download", "--isolated", "--no-index", "--no-deps", "tiny"]
    words += ["--disable-pip-version-check", "--dest", str(tmp_path / "got")]
    subprocess.run([*words, "--find-links", mirror.add_wheels(wheels)], check=True, timeout=60)
    assert (tmp_path / "got" / "tiny-1.0-py3-none-any.whl").exists()
    assert mirror.downloads() == {"/wheels/tiny-1.0-py3-none-any.whl": 1}


def test_a_runner_release_lies_where_it_lies_on_github(mirror: Mirror) -> None:
    """Same path, stated checksum."""
    published = mirror.add_runner("2.336.0")
    assert (
        "/actions/runner/releases/download/v2.336.0/actions-runner-linux-x64-2.336.0.tar.gz" in published.url
    )
    body = requests.get(published.url, timeout=10).content
    assert hashlib.sha256(body).hexdigest() == published.sha256


# -- Miniforge


def test_only_the_versioned_installer_has_a_checksum(mirror: Mirror) -> None:
    """Its line names ./Miniforge3-..., as on the release page."""
    published = mirror.add_miniforge(machine=MACHINE)
    line = requests.get(f"{published.url}.sha256", timeout=10).text
    assert line == f"{published.sha256}  ./Miniforge3-{VERSION}-Linux-{MACHINE}.sh\n"
    latest = f"/conda-forge/miniforge/releases/latest/download/Miniforge3-Linux-{MACHINE}.sh"
    assert hashlib.sha256(get(mirror, latest).content).hexdigest() == published.sha256
    assert get(mirror, f"{latest}.sha256").status_code == 404


def test_the_installer_installs_refuses_and_updates(tmp_path: Path) -> None:
    """-b -p installs; an existing prefix needs -u or -f; -u changes the version and keeps what users made."""
    prefix = tmp_path / "miniforge3"
    old = build_miniforge("25.11.0-1", MACHINE, tmp_path)
    assert install(old, "-b", "-p", str(prefix)).returncode == 0
    assert conda(prefix, "--version") == "conda 25.11.0\n"
    (prefix / "envs" / "mine").mkdir(parents=True)
    new = build_miniforge(VERSION, MACHINE, tmp_path)
    refused = install(new, "-b", "-p", str(prefix))
    assert (refused.returncode, "already exists" in refused.stderr) == (1, True)
    updated = install(new, "-b", "-u", "-p", str(prefix))
    assert updated.returncode == 0, updated.stderr
    assert conda(prefix, "--version") == "conda 26.3.2\n"
    assert (prefix / "envs" / "mine").is_dir()
    assert [file.name.split("-")[1] for file in (prefix / "conda-meta").glob("conda-*.json")] == ["26.3.2"]
    assert (prefix / "conda-meta" / "history").read_text().count("constructor") == 2


def test_the_installed_conda_answers(tmp_path: Path) -> None:
    """info, config, list and mamba; the only channel is conda-forge; -k keeps the packages."""
    prefix = tmp_path / "miniforge3"
    assert install(build_miniforge(VERSION, MACHINE, tmp_path), "-bkp", str(prefix)).returncode == 0
    facts = json.loads(conda(prefix, "info", "--json"))
    assert (facts["conda_version"], facts["root_prefix"]) == ("26.3.2", str(prefix))
    assert "conda-forge" in facts["channels"]
    assert f"==> {prefix}/.condarc <==" in conda(prefix, "config", "--show-sources")
    assert {record["name"] for record in json.loads(conda(prefix, "list", "--json"))} >= {"conda", "mamba"}
    assert conda(prefix, "--version", program="mamba") == "2.5.0\n"
    assert conda(prefix, "--version", program="python").startswith("Python 3")
    assert (prefix / "condabin" / "conda").exists()
    assert list((prefix / "pkgs").glob("*.conda"))


def test_the_installer_notices_damage_and_bad_prefixes(tmp_path: Path) -> None:
    """A short file, a changed byte, a prefix with a space: an error, and no half of an installation."""
    installer = build_miniforge(VERSION, MACHINE, tmp_path)
    data = installer.read_bytes()
    spaced = install(installer, "-b", "-p", str(tmp_path / "a b"))
    assert "directories with spaces" in spaced.stderr
    installer.write_bytes(data[:-10])
    short = install(installer, "-b", "-p", str(tmp_path / "short"))
    assert (short.returncode, "bytes" in short.stderr) == (1, True)
    installer.write_bytes(data[:-10] + b"0123456789")
    changed = install(installer, "-b", "-p", str(tmp_path / "changed"))
    assert (changed.returncode, "checksum" in changed.stderr) == (1, True)
    assert not (tmp_path / "short").exists()
