"""Solving and building in a child: whatever ends it is one clear error, and nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from runnerctl.envs.engine_child import ChildEngine, child_engine
from runnerctl.errors import BugError, ConfigError, DataError, RunnerctlError, TryAgainError
from tests.component.envs_engine_support import Heard, order, yml
from tests.fakes.conda_channel import build_channel

T = TypeVar("T")
PATCHED = """
import sys
from runnerctl.envs import build
class PanicException(BaseException): pass
class Engine:
    def solve(self, order, tell):
        print("noise of a library")
        {body}
build.local_engine = lambda name: Engine()
sys.exit(build.main())
"""


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_channel(tmp_path_factory.mktemp("channel") / "main", ())


def solve(tmp_path: Path, code: str, seconds: float = 30) -> None:
    engine = ChildEngine("rattler", command=(sys.executable, "-c", code), solve_seconds=seconds)
    engine.solve(order(tmp_path, yml("file:///unused", ["tiny"])), Heard())


def test_solved_and_built_in_a_child(channel: Path, tmp_path: Path) -> None:
    engine, heard = child_engine("rattler"), Heard()
    asked = order(tmp_path, yml(channel.as_uri(), ["tiny", "activated"]))
    solution = engine.solve(asked, heard)
    installed = engine.install(asked, solution.packages, tmp_path / "prefix", heard)
    assert [package.name for package in solution.packages] == ["activated", "tiny"]
    assert {event.step for event in heard} == {"solve", "fetch", "link"}
    assert installed.activation is not None
    assert installed.activation.variables["SAMPLE_HOME"] == f"{tmp_path}/prefix/share/activated"
    with pytest.raises(DataError, match=r"environment.yml:3: no channel has a package nope"):
        engine.solve(order(tmp_path, yml(channel.as_uri(), ["nope"])), heard)


ENDS: list[tuple[str, type[RunnerctlError], str]] = [
    ("import os; os.abort()", BugError, "ended with SIGABRT while solving"),
    (
        "import os, signal; os.kill(os.getpid(), 9)",
        TryAgainError,
        "for want of memory, or by somebody's hand",
    ),
    ("import sys; sys.exit('memory allocation of 9 bytes failed')", TryAgainError, "for want of memory"),
    ("raise SystemExit(3)", BugError, "ended with exit code 3 while solving: it said nothing"),
    ("print('hello')", BugError, "wrote something else than an answer"),
    (PATCHED.format(body="raise PanicException('at the disco')"), BugError, "PanicException: at the disco"),
    (PATCHED.format(body="raise MemoryError"), TryAgainError, "needs more than 16384 MiB of memory"),
    (PATCHED.format(body="raise OSError(28, 'No space left on device')"), TryAgainError, "is full"),
]


@pytest.mark.parametrize(("code", "kind", "what"), ENDS, ids=[case[2][:24] for case in ENDS])
def test_every_end_is_one_clear_error(
    tmp_path: Path, code: str, kind: type[RunnerctlError], what: str
) -> None:
    with pytest.raises(kind) as caught:
        solve(tmp_path, code)
    assert what in str(caught.value) and "Traceback" not in str(caught.value)


@pytest.mark.exhaustive
def test_a_deadline_and_a_panic_in_another_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    with pytest.raises(TryAgainError, match="solving took longer than 0 s, and was ended"):
        solve(tmp_path, "import time; time.sleep(60)", seconds=0.2)
    monkeypatch.setattr("runnerctl.envs.engine_child.PANIC_SECONDS", 0.1)
    code = "import sys, time; print(\"thread 'x' panicked at a.rs:1\\nwhy\", file=sys.stderr, flush=True); "
    with pytest.raises(BugError, match=r"panicked while solving: thread 'x' panicked at a.rs:1 why"):
        solve(tmp_path, code + "time.sleep(60)")
    assert time.monotonic() - began < 20


def test_an_engine_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no mamba on this host"):
        ChildEngine("mamba").solve(order(tmp_path, yml("conda-forge", ["tiny"])), Heard())


@pytest.mark.exhaustive
def test_a_child_goes_with_whoever_asked(tmp_path: Path) -> None:
    """Killed with SIGKILL, so that nothing of it can tidy up."""
    mark = tmp_path / "pid"
    body = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = PATCHED.format(body=body)
    parent = f"""
import sys
from pathlib import Path
sys.path.insert(0, {os.getcwd()!r})
from tests.component.test_envs_engine_child import solve
solve(Path({str(tmp_path)!r}), {code!r})
"""
    with subprocess.Popen([sys.executable, "-c", parent]) as process:
        try:
            _soon(lambda: mark.exists() and mark.read_text())
            child = int(mark.read_text())
        finally:
            process.send_signal(signal.SIGKILL)
    assert _soon(lambda: not _lives(child))


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # nobody has to wait for it in a container


def _soon(condition: Callable[[], T], seconds: float = 20) -> T:
    until = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < until
        time.sleep(0.02)
    return answer
