"""What a job does to the guard: it stays quick for others, takes nothing on trust, and does not fall."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.component.guard_support import UID, Host, running

pytestmark = pytest.mark.exhaustive
SLOW = 2.0  # seconds: far beyond what an answer takes


@pytest.fixture()
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host whose guard runs, with a job that has not asked yet."""
    with running(monkeypatch) as made:
        made.spec()
        made.start()
        made.job()
        yield made


def python(host: Host, code: str, *, seconds: float = 30.0) -> tuple[int | None, str]:
    """The job's own Python does that; ``s()`` is a connection to the guard."""
    path = host.root / "attack.py"
    path.write_text(
        "import os, socket, sys, time\n"
        "def s():\n"
        "    c = socket.socket(socket.AF_UNIX); c.settimeout(10)\n"
        f"    c.connect({str(host.socket)!r}); return c\n"
        "def got(c):\n"
        "    try: return c.recv(4096)\n"
        "    except OSError: return b''\n"
        f"{code}\n"
    )
    return host.run(f"python3 {path}", seconds=seconds)


def ask(host: Host, line: bytes) -> bytes:
    """What this process' own question is answered with."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(15)
        stream.connect(str(host.socket))
        with contextlib.suppress(ConnectionError):
            stream.sendall(line)
            return stream.recv(4096)
    return b""


def serves(host: Host) -> None:
    """It still answers, and soon."""
    started = time.monotonic()
    assert b"alive" in ask(host, b'{"schema":"runnerctl.guard/1","ask":"ping"}\n')
    assert time.monotonic() - started < SLOW


PING = """b'{"schema":"runnerctl.guard/1","ask":"ping"}'"""
LINES = {
    "nothing": "s().close()",
    "half a line": "c = s(); c.send(b'{\"schema\"'); time.sleep(0.2); c.close()",
    "half a line for long": "c = s(); c.send(b'x'); assert not got(c)",
    "a line without end": "c = s()\ntry:\n  [c.send(b'x' * 65536) for _ in range(100)]\nexcept OSError: pass",
    "deep nesting": "c = s(); c.send(b'[' * 1000 + b'\\n'); assert not got(c)",
    "no JSON": "c = s(); c.send(b'\\xff\\x00\\n'); assert not got(c)",
    "another version": f"c = s(); c.send({PING}.replace(b'/1', b'/9') + b'\\n'); assert not got(c)",
    "more than asked": f"c = s(); c.send({PING} + b'\\nmore'); assert not got(c)",
    "without waiting": f"[s().send({PING} + b'\\n') for _ in range(3)]; os._exit(0)",
}


@pytest.mark.parametrize("name", LINES)
def test_lines_that_are_none_end_in_nothing(host: Host, name: str) -> None:
    assert host.hook()[0] == 0
    assert python(host, LINES[name]) == (0, "")
    serves(host)
    assert host.hook("completed")[0] == 0
    assert "Error" not in host.log()


def test_no_more_than_a_few_connections_of_one_user(host: Host) -> None:
    assert host.hook()[0] == 0
    code = "cs = [s() for _ in range(50)]\ntime.sleep(0.3)\nkept = 0\nfor c in cs:\n  c.setblocking(False)\n"
    code += "  try: c.recv(1)\n  except BlockingIOError: kept += 1\n  except OSError: pass\nprint(kept)"
    assert python(host, code) == (0, "4\n")
    serves(host)


def test_a_flood_ends_its_job(host: Host) -> None:
    assert host.hook()[0] == 0
    started = time.monotonic()
    assert python(host, "while True:\n  try: s().close()\n  except OSError: pass", seconds=15)[0] is None
    assert time.monotonic() - started < 10
    serves(host)
    assert "flooded" in host.row(until="refused")["refused"]


def test_a_flood_of_the_job_before_ends_no_other(host: Host) -> None:
    """It stays below the bound, so that the next job's own hook is one too many."""
    assert host.hook()[0] == 0
    code = "for _ in range(396):\n  try: s().close()\n  except OSError: pass\n  time.sleep(0.002)"
    assert python(host, code)[0] == 0
    host.end()
    host.job()
    for _ in range(6):
        status, said = host.hook()
        assert status == 0, said
    assert "flooded" not in host.log()


def test_who_is_not_of_the_job_is_told_nothing(host: Host) -> None:
    assert host.hook()[0] == 0
    answer = ask(host, b'{"schema":"runnerctl.guard/1","ask":"completed"}\n')
    assert b"cannot tell which job" in answer, "not one of the job's processes"
    if os.geteuid() == 0:
        child = os.fork()
        if child == 0:
            os.setuid(UID + 1)
            heard = ask(host, b'{"schema":"runnerctl.guard/1","ask":"ping"}\n')
            os._exit(1 if heard else 0)
        assert os.waitpid(child, 0)[1] == 0, "who is no slot's user is not even heard"
    assert host.cleaned() == []


def test_a_program_that_asks_in_the_hooks_place_is_refused(host: Host) -> None:
    code = 'c = s(); c.send(b\'{"schema":"runnerctl.guard/1","ask":"started"}\\n\'); print(got(c))'
    python(host, code, seconds=6)
    assert "hook" in host.row(until="refused")["refused"]


EVENTS = {
    "a link": "ln -s /etc/passwd event.json",
    "a pipe": "mkfifo event.json",
    "a large file": "truncate -s 1G event.json",
    "a directory": "mkdir event.json",
    "a device": "ln -s /dev/zero event.json",
    "deep JSON": "head -c 1000000 /dev/zero | tr '\\0' '[' >event.json",
}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_that_is_none_is_not_known(host: Host, name: str) -> None:
    folder = host.root / "slots/main/_work"
    (folder / "event.json").unlink()
    subprocess.run(["sh", "-c", EVENTS[name]], cwd=folder, check=True)
    started = time.monotonic()
    status, text = host.hook()
    assert status == 1
    assert "whether this is one cannot be told" in text
    assert time.monotonic() - started < SLOW


@pytest.mark.parametrize("path", ["{root}/event.json", "{work}/../../../event.json", "event.json", ""])
def test_an_event_elsewhere_is_not_read(host: Host, path: str) -> None:
    (host.root / "event.json").write_text("{}")
    host.variables["GITHUB_EVENT_PATH"] = path.format(root=host.root, work=host.root / "slots/main/_work")
    status, text = host.hook()
    assert status == 1
    assert "cannot be told" in text


def test_what_runs_before_the_hook_is_ended(host: Host) -> None:
    """BASH_ENV runs before the hook's first line, and may keep it from ever asking."""
    (host.root / "env").write_text("sleep 30\n")
    host.variables["BASH_ENV"] = str(host.root / "env")
    started = time.monotonic()
    assert host.hook(seconds=15)[0] is None
    assert time.monotonic() - started < 10
    assert not host.worker_lives()
