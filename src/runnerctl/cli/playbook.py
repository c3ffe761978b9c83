"""Run one of the collection's playbooks for a command: Ansible reaches the hosts, we read its answers.

Each host's action writes one JSON file into a folder that the command gives it: results are read from there,
never from Ansible's output.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from runnerctl.cli.context import Context
from runnerctl.errors import ConfigError, UnavailableError

__all__ = ["Played", "ansible_playbook", "check_inventory", "no_hosts", "play", "steps"]

COLLECTION = "runnerctl.gpu_runner"
LAST_LINES = 3
LARGEST_BYTES = 64 * 1024 * 1024  # of one host's answer
STOP_SECONDS = 10.0
NO_HOSTS = "no hosts to target"  # of Ansible's line about a limit that leaves none


@dataclass(frozen=True)
class Played:
    """What became of a playbook: Ansible's exit status, each host's answer, and the lines that tell why."""

    status: int
    answers: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    reason: str = ""
    lines: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there was no host to play for: the inventory has none, or the limit leaves none."""
        return not self.answers and (not self.status or NO_HOSTS in self.reason)


def play(
    context: Context,
    playbook: str,
    *,
    inventory: str,
    limit: str | None = None,
    variables: Mapping[str, Any] | None = None,
    output_variable: str | None = None,
    arguments: tuple[str, ...] = (),
    seconds: float = 600.0,
    tell: Callable[[str], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Played:
    """Run ``runnerctl.gpu_runner.<playbook>`` over ``inventory``.

    ``output_variable`` names the playbook's variable for the folder of answers, one ``<host>.json`` each;
    ``tell`` gets each line that Ansible prints, without secrets; ``progress`` the number of answers so far.
    A playbook that fails is no error here: ``status`` says so. Raises ConfigError without ansible-core or
    inventory, UnavailableError after ``seconds``.
    """
    # In one word with its option: a value that begins with a dash is never read as another option.
    command = [ansible_playbook(), f"{COLLECTION}.{playbook}", f"--inventory={check_inventory(inventory)}"]
    command += [f"--limit={limit}"] if limit else []
    command += arguments
    with tempfile.TemporaryDirectory(prefix=f"runnerctl-{playbook}-") as folder:
        given = dict(variables or {})
        if output_variable:
            given[output_variable] = folder
        if given:
            command += ["--extra-vars", json.dumps(_literal(given))]
        status, lines = _run(context, command, seconds=seconds, tell=tell, watch=_counter(folder, progress))
        answers = {path.stem: _read(path) for path in sorted(Path(folder).glob("*.json"))}
    return Played(status, answers, _reason(lines) if status else "", tuple(lines))


def _literal(value: Any) -> Any:
    """The same, with texts marked that Ansible would take for templates: a reason may be from a ticket."""
    if isinstance(value, Mapping):
        return {name: _literal(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_literal(item) for item in value]
    return {"__ansible_unsafe": value} if isinstance(value, str) and "{" in value else value


def no_hosts(inventory: str, limit: str | None) -> ConfigError:
    """The error of a play that was for no host at all."""
    if not limit:
        remedy = "put hosts into the group runner_hosts"
        return ConfigError("has no runner hosts", where=inventory, remedy=remedy)
    remedy = f"`ansible-inventory -i {inventory} --graph` shows those there are"
    return ConfigError(f"has no runner hosts that match {limit!r}", where=inventory, remedy=remedy)


@contextlib.contextmanager
def steps(context: Context) -> Iterator[None]:
    """For a play that changes hosts step by step: who interrupts it is told how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        context.note("runnerctl: interrupted; no job is ended by that; run the same command again to go on")
        raise


def ansible_playbook() -> str:
    """``ansible-playbook`` of our own environment, or of the search path. Raises ConfigError."""
    beside = Path(sys.executable).with_name("ansible-playbook")
    command = str(beside) if os.access(beside, os.X_OK) else shutil.which("ansible-playbook")
    if command is None:
        raise ConfigError(
            "an inventory needs ansible-core, which is not installed",
            remedy="pip install 'runnerctl[controller]'",
        )
    return command


def check_inventory(given: str) -> str:
    """A path that exists, or a list of hosts with a comma, as Ansible has it. Raises ConfigError."""
    if "," not in given and not Path(given).exists():
        raise ConfigError("no such inventory", where=given, remedy="give a file or a directory")
    return given


def _counter(folder: str, progress: Callable[[int], None] | None) -> Callable[[], None] | None:
    if progress is None:
        return None
    return lambda: progress(sum(1 for _ in Path(folder).glob("*.json")))


def _run(
    context: Context,
    command: list[str],
    *,
    seconds: float,
    tell: Callable[[str], None] | None,
    watch: Callable[[], None] | None,
) -> tuple[int, list[str]]:
    environment = {**context.env, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_INVENTORY_UNPARSED_FAILED": "1"}
    environment.pop("ANSIBLE_FORCE_COLOR", None)
    lines: list[str] = []
    with _process(command, environment) as process:
        timer = threading.Timer(seconds, _stop, (process,))
        timer.start()
        try:
            for line in _lines(process):
                lines.append(line)
                if tell:
                    tell(line)
                if watch:
                    watch()
            status = process.wait()
        finally:
            ended = not timer.is_alive()
            timer.cancel()
    if ended and status < 0:
        raise UnavailableError(
            f"ansible-playbook did not end within {seconds:g} s", remedy="give it more time, or fewer hosts"
        )
    return status, lines


@contextlib.contextmanager
def _process(command: list[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process group of its own: whatever happens to us, its hosts' connections end with it."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=dict(environment),
        start_new_session=True,
    )
    try:
        with _ended_by_signals():
            yield process
    finally:
        _stop(process)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and a terminal that closes end us as Ctrl-C does: else Ansible would go on without us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # What somebody set stays, such as SIGHUP ignored by nohup.
    mine = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) == signal.SIG_DFL]
    for each in mine:
        signal.signal(each, _interrupt)
    try:
        yield
    finally:
        for each in mine:
            signal.signal(each, signal.SIG_DFL)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            process.wait(STOP_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    from runnerctl.redact import redact

    assert process.stdout is not None
    for line in process.stdout:
        yield redact(line.rstrip("\n"))


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            return {}
        data = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _reason(lines: list[str]) -> str:
    """The lines that tell: Ansible's errors, else the last ones."""
    kept = [line.strip() for line in lines if line.strip()]
    telling = [line for line in kept if line.startswith(("ERROR", "[ERROR]", "fatal:"))] or kept[-LAST_LINES:]
    return " ".join(telling[:LAST_LINES])[:600] or "no output"
