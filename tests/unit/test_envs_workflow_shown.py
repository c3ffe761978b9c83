"""What the commands about environments read and print."""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runnerctl.cli import env_shown as shown
from runnerctl.cli.env_shown import Asked, Environment, Progress
from runnerctl.envs.layer import Layer
from runnerctl.errors import DataError, UsageError

READY: dict[str, Any] = {
    "schema": "runnerctl.env/1",
    "status": "hit",
    "key": "ab" * 10,
    "digest": "0123456789abcdef0123",
    "prefix": "/store/envs/0123456789abcdef0123",
    "duration_seconds": 0.0312,
    "activation": {
        "path": ["/store/envs/0123456789abcdef0123/bin"],
        "variables": {"TWO": "a\nb", "LD_LIBRARY_PATH": "/x"},
        "notes": ["a shell function is left out: conda"],
    },
    "python": "bin/python3.12",
    "python_version": "3.12.4",
    "scripts": ["pip"],
    "files": 29058,
    "size_bytes": 787_000_000,
}


class Terminal(io.StringIO):
    """Somebody watches."""

    def isatty(self) -> bool:
        return True


def environment(layer: bool = False) -> Environment:
    made = shown.prepare(READY, "none", {})
    if not layer:
        return made
    over = Layer("/tmp/env-01", "/tmp/env-01/bin", "/tmp/env-01/bin/python", True, 0.011, {})
    return made._replace(layer=over, path=(over.bin, *made.path))


def test_an_answer_reads_well() -> None:
    """Everything a person wants to know, in few lines of 80 columns."""
    text = shown.text_of(environment(layer=True), github=True)
    assert text.splitlines() == [
        "environment: 0123456789abcdef0123 (was there; 31 ms)",
        "prefix:      /store/envs/0123456789abcdef0123",
        "python:      3.12.4",
        "size:        751 MiB in 29,058 files",
        "layer:       /tmp/env-01 (made in 11 ms)",
        "active:      in the steps after this one",
    ]


def test_an_answer_as_json_begins_with_the_environment() -> None:
    """Its prefix comes before any other path; the list of scripts is nobody's business."""
    found = shown.answer(environment(layer=True), github=True, notes=["more"])
    assert found["schema"] == "runnerctl.env.ensure/1" and "scripts" not in found
    assert found["written"] == ["GITHUB_ENV", "GITHUB_PATH"]
    assert found["layer"] == {"path": "/tmp/env-01", "made": True, "duration_seconds": 0.011}
    assert found["notes"] == ["a shell function is left out: conda", "more"]
    assert found["activation"]["variables"]["CONDA_PREFIX"] == found["prefix"] == READY["prefix"]


def test_an_environment_without_python_has_no_layer() -> None:
    """And says so, when one was wanted."""
    bare = {**READY, "python": None, "scripts": []}
    assert shown.prepare(bare, "auto", {}).notes == tuple(READY["activation"]["notes"])
    made = shown.prepare(bare, "auto", {"RUNNER_TEMP": "/nonexistent"})
    assert made.layer is None and "no Python" in made.notes[-1] and "VIRTUAL_ENV" not in made.variables


def test_later_steps_get_what_is_theirs(tmp_path: Path) -> None:
    """PATH in the runner's order, variables without those that reach further, a line of summary."""
    files = {name: str(tmp_path / name) for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")}
    notes = shown.to_github(environment(layer=True), files, "environment.yml")
    assert [note.split()[0] for note in notes] == ["LD_LIBRARY_PATH"]
    path = Path(files["GITHUB_PATH"]).read_text().splitlines()
    assert path == [f"{READY['prefix']}/bin", "/tmp/env-01/bin"]
    assert "LD_LIBRARY_PATH" not in Path(files["GITHUB_ENV"]).read_text()
    assert Path(files["GITHUB_STEP_SUMMARY"]).read_text().startswith("- environment.yml: 0123")
    with pytest.raises(UsageError, match="GITHUB_ENV"):
        shown.to_github(environment(), {}, "environment.yml")
    later = {**files, "VIRTUAL_ENV": "/tmp/env-01", "GITHUB_STEP_SUMMARY": "/nonexistent/summary"}
    shown.to_github(environment(), later, "environment.yml")
    assert re.search(r"VIRTUAL_ENV<<(\w+)\n\n\1\n", Path(files["GITHUB_ENV"]).read_text())


def test_a_shell_reads_the_activation() -> None:
    """Values of two lines, too; an unset PATH does not become the current directory."""
    lines = shown.shell_lines(environment())
    script = f'unset PATH\n{lines}\nprintf "%s|" "$TWO" "$PATH" "$PYTHONNOUSERSITE"'
    done = subprocess.run(["/bin/sh", "-uc", script], capture_output=True, text=True, timeout=10, check=True)
    assert done.stdout == f"a\nb|{READY['prefix']}/bin|1|"


def test_a_process_is_in_this_environment_only() -> None:
    """Another one's variables are gone, PATH holds each directory once."""
    bin_ = f"{READY['prefix']}/bin"
    given = {"PATH": f"/usr/bin:{bin_}", "VIRTUAL_ENV": "/v", "PYTHONHOME": "/h", "HOME": "/home/me"}
    found = shown.for_process(environment(), given)
    assert found["PATH"] == f"{bin_}:/usr/bin" and found["HOME"] == "/home/me"
    assert "VIRTUAL_ENV" not in found and "PYTHONHOME" not in found and found["LD_LIBRARY_PATH"] == "/x"


def test_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is not as usual goes along, and the files that the pip section names."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="not here"):
        shown.find_file(None)
    Path("environment.yaml").write_text("dependencies:\n  - pip:\n    - -r more.txt\n")
    Path("more.txt").write_text("tiny\n")
    Path("lock").write_text("l")
    name = shown.find_file(None)
    assert shown.request_of(Asked(name)) == {
        "text": Path(name).read_text(),
        "where": "environment.yaml",
        "files": {"more.txt": "tiny\n"},
    }
    asked = Asked(name, cuda="12.8", engine="conda", lock="lock", refresh_seconds=60)
    more = shown.request_of(asked)
    assert (more["cuda"], more["engine"], more["lock"], more["refresh_seconds"]) == ("12.8", "conda", "l", 60)
    for wrong in (Asked(name, cuda="new"), Asked(name, engine="pip")):
        with pytest.raises(UsageError, match=r"--(cuda|engine)"):
            shown.request_of(wrong)


def test_a_file_of_no_use_is_one_line(tmp_path: Path) -> None:
    """Missing, a directory, not text."""
    bad = tmp_path / "environment.yml"
    with pytest.raises(DataError, match=r"environment\.yml: cannot be read: no such file"):
        shown.read_text(str(bad))
    with pytest.raises(DataError, match="cannot be read: is a directory"):
        shown.read_text(str(tmp_path))
    bad.write_bytes(b"name: a\n# \xff\n")
    with pytest.raises(DataError, match=r"environment\.yml:2: is not UTF-8"):
        shown.read_text(str(bad))


def test_an_error_stands_beside_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a workflow only; the file is named from the repository's root."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/environment.yml").touch()
    monkeypatch.chdir(tmp_path / "sub")
    error = DataError("unknown key", where="environment.yml:3", remedy="drop it")
    assert shown.trouble(error, {}) is None
    environ = {"GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": str(tmp_path)}
    line = shown.trouble(error, environ)
    assert line == "::error file=sub/environment.yml,line=3,title=runnerctl env::unknown key; drop it"
    (tmp_path / "sub/deep").mkdir()
    (tmp_path / "sub/deep/more.txt").touch()
    included = shown.trouble(DataError("no", where="more.txt:1"), environ, "deep/environment.yml")
    assert included == "::error file=sub/deep/more.txt,line=1,title=runnerctl env::no"
    other = shown.trouble(DataError("down", where="/run/socket"), environ)
    assert other == "::error title=runnerctl env::/run/socket: down"


def test_progress_is_a_group_in_a_log() -> None:
    """Opened by the first event, one line a second of one step, no command of a package's making."""
    stream, now = io.StringIO(), iter([0.0, 0.1, 2.0, 2.1])
    progress = Progress(stream, {"GITHUB_ACTIONS": "true"}, "Environment of e.yml", clock=lambda: next(now))
    for done in (1, 2, 3):
        progress({"step": "fetch", "text": "\n::error::numpy", "done": done, "total": 9})
    progress({"step": "pip", "text": "::error::x"})
    progress.close()
    progress.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "::group::Environment of e.yml" and lines[-1] == "::endgroup::" and len(lines) == 5
    assert lines[2].startswith("fetching 3/9") and not any(line.startswith("::error") for line in lines)


def test_progress_is_one_line_on_a_terminal_and_nothing_elsewhere() -> None:
    """Nothing that a hit has to clean up; nothing in a file."""
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        progress = Progress(stream, {"TERM": "xterm"}, "Environment", clock=lambda: 0.0)
        progress.close()
        assert stream.getvalue() == ""
        progress({"step": "solve", "text": "environment.yml"})
        progress.close()
    assert terminal.getvalue() == "\rsolving environment.yml\x1b[K\r\x1b[K" and file.getvalue() == ""
