"""What is written for a workflow's later steps and into its log."""

from __future__ import annotations

from pathlib import Path

import pytest

from runnerctl.envs.workflow import (
    annotation,
    append,
    env_lines,
    exportable,
    file_from,
    group,
    harmless,
    path_lines,
    summary_line,
)
from runnerctl.errors import DataError, UnavailableError, UsageError


def as_runner(text: str) -> dict[str, str]:
    """Read the file as actions/runner does: name, delimiter, lines up to the delimiter."""
    values, lines = {}, iter(text.split("\n"))
    for line in lines:
        if line:
            name, _, mark = line.partition("<<")
            value = []
            while (each := next(lines)) != mark:
                value.append(each)
            values[name] = "\n".join(value)
    return values


def test_any_value_comes_out_as_it_went_in() -> None:
    """Lines, equals signs, empty ones, text that looks like another variable."""
    given = {"A": "1", "B": "x\ny=2\n", "C": "", "D": "E<<end\n1\nend", "F": " é\t"}
    assert as_runner(env_lines(given)) == given


def test_a_value_cannot_end_itself() -> None:
    """Delimiters are drawn anew for each value, and again when it holds one."""
    drawn = iter(["one", "two"])
    text = env_lines({"A": "one\nB=2", "C": "3"}, lambda: next(drawn))
    assert as_runner(text) == {"A": "one\nB=2", "C": "3"} and "A<<runnerctl_" in text


def test_what_would_reach_every_program_of_the_job_is_not_set() -> None:
    """Each is told of."""
    names = ["LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONHOME", "PYTHONPATH", "NODE_OPTIONS", "PATH"]
    names += ["GITHUB_TOKEN", "RUNNER_TEMP", "github_env", "ACTIONS_RUNTIME_URL"]
    kept, notes = exportable({"CONDA_PREFIX": "/e", **dict.fromkeys(names, "x")})
    assert kept == {"CONDA_PREFIX": "/e"}
    assert [note.split()[0] for note in notes] == names


@pytest.mark.parametrize("name", ["", "A-B", "1A", "A B", "A\nB", "A=B", "Ä"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    """It could smuggle a second variable in."""
    with pytest.raises(DataError, match="name"):
        exportable({name: "1"})
    with pytest.raises(DataError, match="null"):
        exportable({"A": "\0"})


def test_the_first_directory_is_written_last() -> None:
    """The runner puts each line in front of PATH."""
    assert path_lines(["/layer/bin", "/env/bin"]) == "/env/bin\n/layer/bin\n"


@pytest.mark.parametrize("directory", ["", "/a\n/b", "/a:/b", "/a\r/b"])
def test_a_directory_that_would_be_two_is_refused(directory: str) -> None:
    """The runner reads lines."""
    with pytest.raises(DataError, match="PATH"):
        path_lines([directory])


def test_text_is_put_at_the_end(tmp_path: Path) -> None:
    """After what others wrote, on a line of its own."""
    path = tmp_path / "env"
    append(str(path), "")
    assert not path.exists()
    append(str(path), "A\n")
    path.write_text(path.read_text() + "no end")
    append(str(path), "B\n")
    assert path.read_text() == "A\nno end\nB\n"
    with pytest.raises(UnavailableError, match="cannot be written"):
        append(str(tmp_path), "A\n")


def test_outside_a_workflow_there_is_no_such_file() -> None:
    """And the option is wrong, not the host."""
    assert file_from({"GITHUB_ENV": "/f"}, "GITHUB_ENV") == "/f"
    with pytest.raises(UsageError, match="GITHUB_ENV"):
        file_from({}, "GITHUB_ENV")


def test_commands_of_the_log_hold_any_text() -> None:
    """Escaped as the runner undoes it."""
    assert group("a\n::error::b%") == "::group::a%0A::error::b%25"
    line = annotation("error", "50%\nbad", file="a,b:c.yml", line=3, title="t")
    assert line == "::error file=a%2Cb%3Ac.yml,line=3,title=t::50%25%0Abad"
    assert annotation("notice", "x") == "::notice::x"


@pytest.mark.parametrize(
    "text", ["::set-env name=A::b", "  ::error::x", "a\n::stop-commands::b", "x ##[error]y"]
)
def test_foreign_text_holds_no_command(text: str) -> None:
    """A package's name must not steer the runner."""
    shown = harmless(text)
    assert not any(line.lstrip().startswith("::") for line in shown.split("\n")) and "##[" not in shown
    assert harmless("fetch numpy\n") == "fetch numpy"


def test_a_summary_is_one_plain_line() -> None:
    """No Markdown, no HTML."""
    assert summary_line("a_b\n<img>") == "- a\\_b \\<img\\>\n"
