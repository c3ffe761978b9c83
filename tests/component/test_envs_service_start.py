"""The short way in: the same words, files and exit codes as the long way, without what that loads."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runnerctl.cli import start
from runnerctl.cli.context import Context, Paths
from runnerctl.cli.main import run
from tests.component.envs_service_support import FILE, Bench, serving

Way = Callable[..., "Ran"]
HEAVY = ("typer", "msgspec", "yaml", "rattler", "pydantic", "requests", "asyncio", "dataclasses", "inspect")


@dataclass
class Ran:
    """What a command line came to. Times are left out: they are never the same."""

    code: int
    out: str
    err: str
    files: dict[str, str]


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """A service behind the path that a host has under a root of its own."""
    with serving() as bench:
        place = bench.place / "run/runnerctl"
        place.mkdir(parents=True)
        (place / "env.sock").symlink_to(bench.path)
        bench.desk.hits[FILE] = None
        yield bench


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a step, with its files."""
    monkeypatch.chdir(tmp_path)
    for name in ("RUNNER_TEMP", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "RUNNERCTL_ENV_STORE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("GITHUB_ENV", "GITHUB_PATH"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "environment.yml").write_text(FILE)
    (tmp_path / "bad.yml").write_text("look: dies")
    (tmp_path / "odd.yml").write_bytes(b"\xff")
    return tmp_path


def both(argv: list[str], bench: Bench, job: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Ran, Ran]:
    """The same command line, the short way and the long way."""
    assert start.plain(argv) is not None
    code = start.main(argv, socket_path=str(bench.place / "run/runnerctl/env.sock"))
    said = capsys.readouterr()
    short = Ran(code, said.out, said.err, _files(job))
    out, err = io.StringIO(), io.StringIO()
    context = Context(env=os.environ, stdout=out, stderr=err, paths=Paths(bench.place))
    code = run(argv, context)
    return _timeless(short), _timeless(Ran(code, out.getvalue(), err.getvalue(), _files(job)))


def _files(job: Path) -> dict[str, str]:
    found = {name: job / name for name in ("GITHUB_ENV", "GITHUB_PATH")}
    texts = {name: path.read_text() for name, path in found.items() if path.exists()}
    for path in found.values():
        path.unlink(missing_ok=True)
    return texts


def _timeless(ran: Ran) -> Ran:
    texts = [re.sub(r"runnerctl_[0-9a-f]{32}", "MARK", text) for text in ran.files.values()]
    return Ran(ran.code, ran.out, ran.err, dict(zip(ran.files, texts, strict=True)))


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["env", "ensure"], 0),
        (["env", "ensure", "environment.yml", "-o", "json", "--cuda", "12.8"], 0),
        (["env", "ensure", "--github", "--cuda=none", "--layer", "none", "--engine", "conda"], 0),
        (["env", "ensure", "--lock", "absent.lock"], 65),
        (["env", "ensure", "absent.yml"], 65),
        (["env", "ensure", "odd.yml", "-o", "json"], 65),
        (["env", "ensure", "bad.yml"], 69),
        (["env", "ensure", "--cuda", "twelve"], 64),
        (["env", "exec", "bad.yml", "--", "true"], 69),
        (["env", "exec", "--", "no-such-command-here", "-x"], 64),
    ],
)
def test_both_ways_say_the_same(
    argv: list[str], code: int, bench: Bench, job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Output, log, files for later steps and exit code."""
    short, long = both(argv, bench, job, capsys)
    assert short == long
    assert short.code == code
    assert "Traceback" not in short.err
    assert ("GITHUB_PATH" in short.files) == ("--github" in argv)


def test_in_a_workflow_both_annotate_the_same_line(
    bench: Bench, job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error stands beside the file it is about."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    short, long = both(["env", "ensure", "bad.yml"], bench, job, capsys)
    assert short == long
    assert "::error" in short.err


def test_outside_a_job_both_refuse_to_write_for_later_steps(
    bench: Bench, job: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is built."""
    monkeypatch.delenv("GITHUB_PATH")
    short, long = both(["env", "ensure", "--github"], bench, job, capsys)
    assert short == long
    assert short.code == 64


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["health"],
        ["env"],
        ["env", "list"],
        ["env", "ensure", "--help"],
        ["env", "ensure", "--store", "user"],
        ["env", "ensure", "--refresh", "7"],
        ["env", "ensure", "--engine", "pip"],
        ["env", "ensure", "a.yml", "b.yml"],
        ["env", "ensure", "--cuda"],
        ["env", "ensure", "--cuda", "--github"],
        ["env", "ensure", "-o", "yaml"],
        ["env", "ensure", "--nonsense"],
        ["env", "exec"],
        ["env", "exec", "--github", "--", "true"],
        ["-o", "json", "env", "ensure"],
    ],
)
def test_what_is_not_plain_goes_the_long_way(argv: list[str]) -> None:
    """Right or wrong: that way knows all options and all complaints."""
    assert start.plain(argv) is None


def test_the_short_way_loads_nothing_heavy(bench: Bench, job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither Typer nor msgspec, YAML or the engine; the command takes the process's place."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # counting loads modules of its own
    code = (
        "import sys\nfrom runnerctl.cli.start import main\n"
        f"code = main(['env', 'ensure', '--github'], socket_path={bench.path!r})\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, cwd=job)
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr
    code = (
        "from runnerctl.cli.start import main\n"
        f"main(['env', 'exec', '--', 'sh', '-c', 'echo $CONDA_PREFIX; exit 7'], socket_path={bench.path!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, cwd=job)
    assert (done.returncode, done.stdout) == (7, "/e\n")
