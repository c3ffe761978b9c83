"""The command line as a process: exit codes, one-line errors, signals, closed and full streams, start-up."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.component.cli_support import Ran, host_json, spawn

URL = "https://github.com/acme"


def one_line(ran: Ran) -> str:
    """The only line on stderr."""
    assert ran.err.count("\n") == 1, ran.err
    assert "Traceback" not in ran.err
    return ran.err


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--bogus"], 64, "no such option: --bogus; see runnerctl --help"),
        (["lst"], 64, "Did you mean 'list'"),
        (["list", "--stat", "x"], 64, "see runnerctl list --help"),
        (["list", "--status", "sleeping"], 64, "'sleeping' is not one of"),
        (["list", "-o"], 64, "requires an argument"),
        (["list", "--url", "github.com/acme"], 64, "--url: 'github.com/acme' is not an http(s) URL"),
        (["logs"], 64, "missing argument 'SLOT'"),
        (["logs", "x", "extra"], 64, "unexpected extra argument"),
        (["logs", "x", "-n", "0"], 64, "greater than or equal to 1"),
        (["spec"], 64, "missing command"),
        (["spec", "show", "/nonexistent.json"], 64, "no such file"),
        (["spec", "validate", "-i", "/nonexistent"], 78, "no such inventory"),
        (["spec", "validate", "--limit", "x"], 64, "add -i INVENTORY"),
        (["health", "--bogus"], 3, "no such option: --bogus"),
        (["health", "--deadline", "soon"], 3, "--deadline"),
        (["health", "--from", "/nonexistent.json"], 3, "cannot be read"),
        (["-o", "json", "health", "--from", "/nonexistent.json"], 3, "cannot be read"),
        (["auth", "status"], 77, "set GH_TOKEN"),
        (["list", "--url", URL], 77, "there is no GitHub credential"),
        (["list", "--url", "https://github.com/a/b/c/d"], 64, "is no repository"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], code: int, text: str) -> None:
    """What, where, what to do, on one line; the exit code of the design; nothing on stdout."""
    ran = spawn(*arguments)
    assert ran.code == code, ran.err
    assert text in one_line(ran)
    assert ran.out == ""


def test_no_command_prints_the_help() -> None:
    """A newcomer sees the commands; a script sees a usage error."""
    ran = spawn()
    assert ran.code == 64 and "Commands:" in ran.err


def test_version_in_both_forms() -> None:
    """``--version`` is text or JSON."""
    from runnerctl import __version__

    assert spawn("--version").out == f"runnerctl {__version__}\n"
    assert spawn("-o", "json", "--version").json == {"schema": "runnerctl.version/1", "version": __version__}


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"schema": "runnerctl.host/1",\n "host": "gpu', "is cut short at line 2"),
        (b'{"schema": "runnerctl.host/99", "host": "gpu-1"}', "newer schema runnerctl.host/99"),
        (b'{"schema": "runnerctl.host/1", "host": "gpu-1", "gpuz": 1}', "unknown field 'gpuz'"),
        (b"", "is empty"),
    ],
)
def test_unusable_host_file_is_one_line_everywhere(tmp_path: Path, content: bytes, text: str) -> None:
    """list, spec show and spec validate name the file and the reason; health goes on and reports it."""
    path = tmp_path / "etc/runnerctl/host.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    for command in (["list"], ["spec", "show"], ["logs", "x"]):
        ran = spawn(*command, "--rootfs", str(tmp_path))
        assert (ran.code, ran.out) == (65, ""), ran.err
        assert text in one_line(ran) and str(path) in ran.err
    ran = spawn("spec", "validate", "--rootfs", str(tmp_path), "-o", "json")
    assert ran.code == 1
    (finding,) = ran.json["findings"]
    assert text in finding["message"] and finding["file"] == str(path)
    assert sorted(finding) == ["file", "fixable", "id", "line", "message", "severity"]


def test_spec_show_prints_what_was_written(tmp_path: Path) -> None:
    """As JSON it is the very host.json, schema first; as text one variable a line."""
    path = host_json(tmp_path, url=URL, slots=[{"name": "one", "labels": ["Big"]}], conda_manage=False)
    shown = spawn("spec", "show", str(path), "-o", "json")
    assert shown.json == json.loads(path.read_bytes())
    assert next(iter(shown.json)) == "schema"
    text = spawn("spec", "show", str(path)).out
    assert "conda_manage: false\n" in text and text.startswith("# gpu-1\n")
    assert spawn("spec", "validate", str(path)).out == "no problem found\n"


def test_spec_validate_finds_what_a_converge_would_refuse(tmp_path: Path) -> None:
    """A hand-edited file: each rule that it breaks is named, with its line."""
    path = host_json(tmp_path, url=URL, slots=[{"name": "one"}, {"name": "two"}])
    path.write_text(path.read_text().replace('"two"', '"one"').replace("github.com/acme", "github.com/a/b/c"))
    ran = spawn("spec", "validate", str(path))
    assert ran.code == 1
    assert "name 'one' is given twice" in ran.out and "is no repository" in ran.out
    assert re.search(rf"^{re.escape(str(path))}:\d+: github_runner_url", ran.out, re.MULTILINE)


def test_an_inventory_without_ansible_names_the_command(tmp_path: Path) -> None:
    """Where ansible-core is not installed, one line says what to install."""
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    code = (
        "import sys; sys.executable = sys.argv.pop(1); from runnerctl.cli.main import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(python), "spec", "show", "-i", "localhost,"],
        env={"PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    assert "pip install 'runnerctl[controller]'" in done.stderr and done.stderr.count("\n") == 1


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    """``runnerctl ... | head -1``: no word on stderr."""
    slots = [{"name": f"slot-{number}"} for number in range(2000)]
    host_json(tmp_path, url=URL, slots=slots)
    process = subprocess.Popen(
        [sys.executable, "-m", "runnerctl", "list", "-o", "json", "--rootfs", str(tmp_path)],
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.read(1) == b"{"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 141


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """An answer that cannot be written is no success."""
    with open("/dev/full", "w", encoding="utf-8") as full:
        ran = spawn("--version", stdout=full)
    assert ran.code == 69 and "No space left" in one_line(ran)
    with open("/dev/full", "w", encoding="utf-8") as full:
        ran = spawn("health", "--from", str(tmp_path / "none"), stdout=full)
    assert ran.code == 3


def test_closed_standard_output_is_survived() -> None:
    """``runnerctl --version >&-``."""
    command = ["/bin/sh", "-c", f"{sys.executable} -m runnerctl --version >&-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_locale_without_unicode_is_survived(tmp_path: Path) -> None:
    """ASCII streams show what they can."""
    host_json(tmp_path, url=URL, slots=[{"name": "one"}], github_runner_labels=["größe"])
    ran = spawn("list", "--rootfs", str(tmp_path), env={"PYTHONIOENCODING": "ascii"})
    assert ran.code == 0 and "gr\\xf6\\xdfe" in ran.out


def script(folder: Path, name: str, text: str) -> Path:
    """An executable on a search path of its own."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def test_interrupt_ends_with_130(tmp_path: Path) -> None:
    """Ctrl-C while a command waits: 130, no traceback, and what it started is gone."""
    root = tmp_path / "root"
    (root / "var/lib/gha-runner/one/_diag").mkdir(parents=True)
    (root / "var/lib/gha-runner/one/_diag/Worker_20260101-000000-utc.log").write_text("begin\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "runnerctl", "logs", "one", "--worker", "-f", "--rootfs", str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "begin\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_logs_come_masked_and_escaped(tmp_path: Path) -> None:
    """Tokens, keys over several lines and escape sequences in a job's log do not reach the terminal."""
    diag = tmp_path / "var/lib/gha-runner/one/_diag"
    diag.mkdir(parents=True)
    (diag / "Worker_20260101-000000-utc.log").write_text("older\n")
    key = "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\n"
    text = f"a\tb\n\x1b[31mred\ntoken ghp_abcdefghijklmnopqrst\n{key}end\n"
    (diag / "Worker_20260202-000000-utc.log").write_text(text)
    ran = spawn("logs", "one", "--worker", "--rootfs", str(tmp_path))
    assert ran.code == 0, ran.err
    assert ran.out.startswith("a\tb\n\\x1b[31mred\n") and ran.out.endswith("end\n")
    assert "abcdefghijkl" not in ran.out and "MIIE" not in ran.out
    ran = spawn("logs", "one", "--worker", "-n", "1", "-o", "json", "--rootfs", str(tmp_path))
    assert ran.json == {"schema": "runnerctl.logs/1", "slot": "one", "worker": True, "lines": ["end"]}


def test_logs_do_not_follow_a_link_of_a_job(tmp_path: Path) -> None:
    """A job owns that directory: a link there must not make root read another file."""
    diag = tmp_path / "var/lib/gha-runner/one/_diag"
    diag.mkdir(parents=True)
    (tmp_path / "secret").write_text("secret\n")
    (diag / "Worker_20260101-000000-utc.log").symlink_to(tmp_path / "secret")
    ran = spawn("logs", "one", "--worker", "--rootfs", str(tmp_path))
    assert ran.code == 77 and ran.out == "" and "cannot be read" in ran.err


def test_logs_reads_the_journal_of_the_unit(tmp_path: Path) -> None:
    """The journal is asked for that unit and that many lines; what it says passes the same masks."""
    folder = script(
        tmp_path, "journalctl", 'echo "args: $*"; printf "\\033[1mbold ghp_abcdefghijklmnopqrst\\n"'
    )
    (tmp_path / "root/var/lib/gha-runner/one").mkdir(parents=True)
    ran = spawn("logs", "one", "-n", "7", "--rootfs", str(tmp_path / "root"), path=[folder])
    assert ran.code == 0, ran.err
    assert "--lines=7" in ran.out and "--unit=gha-runner@one.service" in ran.out
    assert "\\x1b[1mbold ***" in ran.out


def test_an_unknown_slot_lists_those_that_exist(tmp_path: Path) -> None:
    """One line with the slots of the spec and those found on disk."""
    host_json(tmp_path, url=URL, slots=[{"name": "one"}, {"name": "two"}])
    (tmp_path / "var/lib/gha-runner/old").mkdir(parents=True)
    ran = spawn("logs", "three", "--rootfs", str(tmp_path))
    assert ran.code == 78 and "slots here: one, two, old" in one_line(ran)


def test_a_bug_is_one_line_and_a_traceback_on_request(tmp_path: Path) -> None:
    """An exception nobody foresaw: 70, one line that asks for a report; the traceback only when asked for."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'runnerctl.cli.listing':\n"
        "            raise RuntimeError('boom\\x1b[31m')\n"
        "sys.meta_path.insert(0, Broken())\n"
    )
    ran = spawn("list", env={"PYTHONPATH": str(tmp_path)})
    assert ran.code == 70
    assert "this is a bug in runnerctl (RuntimeError: boom\\x1b[31m)" in one_line(ran)
    ran = spawn("list", env={"PYTHONPATH": str(tmp_path), "RUNNERCTL_DEBUG": "1"})
    assert ran.code == 70 and "Traceback" in ran.err


def test_completion_knows_commands_and_options() -> None:
    """What a shell asks for while somebody types."""
    asked = {"_RUNNERCTL_COMPLETE": "complete_bash", "COMP_CWORD": "1", "COMP_WORDS": "runnerctl re"}
    assert spawn(env=asked).out.split() == ["register", "restart", "resume"]
    asked = {"_RUNNERCTL_COMPLETE": "complete_bash", "COMP_CWORD": "2", "COMP_WORDS": "runnerctl list --la"}
    assert spawn(env=asked).out.split() == ["--label"]


def imported(*arguments: str) -> set[str]:
    """The modules that a command line imports."""
    code = (
        "import sys; from runnerctl.cli.main import main\n"
        "main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


HEAVY = {"pydantic", "rich", "requests", "msgspec", "docker", "cryptography", "jwt", "ansible", "urllib3"}


def test_a_verdict_in_a_hurry_loads_no_pydantic(tmp_path: Path) -> None:
    """Typer loads it for options that are numbers; the deadline is one that matters."""
    argv = ["health", "--rootfs", str(tmp_path), "--no-network", "--deadline", "5", "-o", "json"]
    code = (
        "import sys; from runnerctl.cli.main import main\n"
        "main(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=60, check=False
    )
    assert not {"pydantic", "requests", "docker", "ansible"} & set(done.stderr.split())


def test_help_imports_nothing_heavy() -> None:
    """Start-up is part of every job."""
    modules = imported("--help")
    assert not modules & HEAVY
    assert not {name for name in modules if name.startswith("runnerctl.")} & {
        "runnerctl.cli.listing",
        "runnerctl.github",
    }


def test_list_of_a_host_imports_no_http(tmp_path: Path) -> None:
    """Without a credential nothing of GitHub's side is needed, and plain options need no pydantic."""
    host_json(tmp_path, url=URL, slots=[{"name": "one"}])
    modules = imported("list", "--rootfs", str(tmp_path), "--label", "linux", "-o", "text")
    assert not modules & (HEAVY - {"msgspec"})
