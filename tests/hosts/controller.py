"""The controller's half of a test: an inventory of test hosts, and playbooks run against it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hosts.host import Host
from tests.hosts.keys import Keys
from tests.hosts.machine import ROOT, HostsError

__all__ = ["Controller", "Outcome", "Recap", "Result", "Run"]

PLAY_SECONDS = 600
# What the person who runs the tests has set must not reach a play: credentials above all.
NOT_INHERITED = ("ANSIBLE_", "GH_", "GITHUB_", "RUNNERCTL_", "ACTIONS_", "SSH_AUTH_SOCK")


@dataclass(frozen=True)
class Recap:
    """What the play counted for one host."""

    ok: int
    changed: int
    unreachable: int
    failed: int
    skipped: int
    rescued: int
    ignored: int


@dataclass(frozen=True)
class Result:
    """One task on one host. ``status``: ok, changed, failed, unreachable or skipped."""

    task: str
    host: str
    status: str
    msg: str
    ignored: bool
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A play that ended. ``output`` is what a person would have seen, stdout and stderr together."""

    rc: int
    output: str
    duration_seconds: float
    recap: Mapping[str, Recap]
    results: tuple[Result, ...] = field(repr=False)

    def changed(self, host: str | None = None) -> list[str]:
        """The names of the tasks that changed something."""
        return [r.task for r in self.results if r.status == "changed" and host in (None, r.host)]

    def failures(self) -> list[Result]:
        """The failed and unreachable results that were not ignored."""
        return [r for r in self.results if r.status in ("failed", "unreachable") and not r.ignored]

    def result(self, task: str, host: str | None = None) -> Result:
        """The last result of the task of that name (or whose name ends with it). Raises LookupError."""
        found = [r for r in self.results if r.task.endswith(task) and host in (None, r.host)]
        if not found:
            raise LookupError(f"no task {task!r} ran; there were: {', '.join(r.task for r in self.results)}")
        return found[-1]


class Run:
    """A play under way."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, events: Path) -> None:
        self.process = process
        self.output = output
        self.events = events
        self._begin = time.monotonic()

    def follow(self) -> Iterator[dict[str, Any]]:
        """Events as they happen, to the end of the play."""
        with self.events.open() as file:
            partial = ""
            while True:
                ended = self.process.poll() is not None
                for line in file:
                    partial += line
                    if partial.endswith("\n"):
                        yield json.loads(partial)
                        partial = ""
                if ended:
                    return
                time.sleep(0.05)

    def wait_for(self, task: str, *, seconds: float = PLAY_SECONDS) -> None:
        """Wait until the task of that name begins. Raises HostsError when the play ends before."""
        deadline = time.monotonic() + seconds
        for event in self.follow():
            if event["event"] == "task" and event["name"].endswith(task):
                return
            if time.monotonic() > deadline:
                break
        raise HostsError(f"the play did not come to the task {task!r}:\n{self.output.read_text()[-3000:]}")

    def kill(self) -> None:
        """SIGKILL the play and its workers, as a machine that loses power would.

        Workers have sessions of their own: one that lived on would try its task again.
        """
        for pid in [self.process.pid, *_descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def wait(self, *, seconds: float = PLAY_SECONDS) -> Outcome:
        """Wait for the end. Raises HostsError when it does not come in time."""
        try:
            rc = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            tail = self.output.read_text(errors="replace")[-3000:]
            raise HostsError(f"the play did not end within {seconds:.0f} s:\n{tail}") from None
        results, recap = _read(self.events)
        output = self.output.read_text(errors="replace")
        return Outcome(rc, output, time.monotonic() - self._begin, recap, results)


class Controller:
    """A directory with an inventory, and `ansible-playbook` run from the checkout with its ansible.cfg."""

    def __init__(self, directory: Path, keys: Keys, *, environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.keys = keys
        self.environment = dict(environment or {})
        self._count = 0
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def inventory(self) -> Path:
        """The inventory file (JSON is YAML)."""
        return self.directory / "inventory.yml"

    def write_inventory(
        self, hosts: Sequence[Host], variables: Mapping[str, Any] | None = None, *, per_host: Any = None
    ) -> Path:
        """Group runner_hosts with ``variables``; ``per_host``: name -> more variables of that host."""
        per_host = per_host or {}
        entries = {host.name: {**connection(host), **per_host.get(host.name, {})} for host in hosts}
        group = {"hosts": entries, "vars": dict(variables or {})}
        self.inventory.write_text(json.dumps({"all": {"children": {"runner_hosts": group}}}, indent=2))
        return self.inventory

    def start(
        self,
        playbook: str | Path,
        *options: str,
        extra: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        inventory: Path | None = None,
    ) -> Run:
        """Start a playbook (a path from the checkout, or a collection's name). ``options`` are passed on."""
        self._count += 1
        output = self.directory / f"play-{self._count}.log"
        events = self.directory / f"play-{self._count}.jsonl"
        events.touch()
        program = Path(sys.executable).parent / "ansible-playbook"
        command = [str(program), "-i", str(inventory or self.inventory), str(playbook), *options]
        if extra:
            file = self.directory / f"extra-{self._count}.json"
            file.write_text(json.dumps(extra))
            command += ["-e", f"@{file}"]
        with output.open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self._env(events, environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Run(process, output, events)

    def run(
        self, playbook: str | Path, *options: str, seconds: float = PLAY_SECONDS, **settings: Any
    ) -> Outcome:
        """`start` and wait for the end."""
        return self.start(playbook, *options, **settings).wait(seconds=seconds)

    def _env(self, events: Path, more: Mapping[str, str]) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(NOT_INHERITED)}
        return {
            **inherited,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.keys.control_path),
            "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "tests/hosts/callbacks"),
            "ANSIBLE_CALLBACKS_ENABLED": "events",
            "ANSIBLE_LOCALHOST_WARNING": "0",
            "RUNNERCTL_EVENTS": str(events),
            "RUNNERCTL_CACHE_DIR": str(self.directory / "cache"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
            "PYTHONUNBUFFERED": "1",
            **self.environment,
            **more,
        }


def _descendants(pid: int) -> list[int]:
    """Every process below one, now."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = parents.get(pid, [])
    for child in found:  # grows while it is walked
        found += parents.get(child, [])
    return found


def connection(host: Host) -> dict[str, Any]:
    """How Ansible reaches a host."""
    variables: dict[str, Any] = {
        "ansible_host": host.ip,
        "ansible_user": host.user,
        "ansible_ssh_private_key_file": str(host.keys.private_key),
        "ansible_ssh_common_args": shlex.join(["-F/dev/null", *host.keys.options()]),
    }
    if host.user != "root":
        variables["ansible_become"] = True
    return variables


def _read(events: Path) -> tuple[tuple[Result, ...], dict[str, Recap]]:
    results = []
    recap: dict[str, Recap] = {}
    for line in events.read_text().splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # the last line of a play that was killed
            continue
        if event["event"] == "result":
            data = event["data"]
            results.append(
                Result(event["task"], event["host"], event["status"], event["msg"], event["ignored"], data)
            )
        elif event["event"] == "recap":
            recap = {host: _recap(counts) for host, counts in event["hosts"].items()}
    return tuple(results), recap


def _recap(counts: dict[str, int]) -> Recap:
    return Recap(
        failed=counts["failures"], **{key: value for key, value in counts.items() if key != "failures"}
    )
