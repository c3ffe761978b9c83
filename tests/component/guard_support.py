"""A guard in a process of its own, and a slot with a listener and a worker that do what a test says."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import Holds
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_hooks import hook_files
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System, UnitState

from runnerctl.guard import work
from runnerctl.guard.daemon import Daemon
from runnerctl.guard.ledger import JobLedger
from runnerctl.guard.meter import GpuLook
from runnerctl.guard.parts import Parts, Paths
from runnerctl.guard.ports import GpuUse, Residue, SlotPlace
from runnerctl.guard.procs import Kernel
from runnerctl.guard.watch import WORKER

__all__ = ["GPU", "GROUP", "JOB", "UID", "UNIT", "Host", "running"]

GPU = "GPU-6f1a0c3e-2d4b-4c5a-9e8f-0a1b2c3d4e5f"
UID = 54321 if os.geteuid() == 0 else os.getuid()
PYTHON = os.path.realpath(shutil.which("python3", path="/usr/bin:/bin") or sys.executable)
UNIT = "gha-runner@main.service"
GROUP = f"/system.slice/system-gha\\x2drunner.slice/{UNIT}"
JOB = {
    "GITHUB_REPOSITORY": "acme/widgets",
    "GITHUB_WORKFLOW_REF": "acme/widgets/.github/workflows/ci.yml@refs/heads/main",
    "GITHUB_EVENT_NAME": "push",
    "GITHUB_RUN_ID": "7",
    "GITHUB_ACTOR": "mona",
}
# A worker that runs the lines it is given; its name is what the kernel takes from the script's.
_WORKER = '#!/bin/bash\nwhile IFS= read -r line; do eval "$line"; done\n'


class TreeKernel(Kernel):
    """Control groups as a process tree has them: what descends from the listener is in the unit's."""

    def __init__(self, root: Path, listener: int) -> None:
        super().__init__(Path("/"))
        self.root, self.listener = root, listener

    def group(self, pid: int) -> str:
        """The unit's for the listener's descendants, and for what the test says escaped."""
        if any(process.pid == self.listener for process in self.ancestors(pid)):
            return GROUP
        return GROUP if pid in self._escaped() else "/user.slice"

    def place(self, group: str) -> str:
        """Any text will do."""
        return group if group == GROUP else ""

    def members(self, place: str) -> list[int]:
        """All processes of the group."""
        del place
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [pid for pid in pids if self.group(pid) == GROUP]

    def _escaped(self) -> list[int]:
        path = self.root / "escaped"
        return [int(word) for word in path.read_text().split()] if path.exists() else []


@dataclass
class StandInMeter:
    """GPUs as a file says."""

    root: Path

    def warm(self) -> None: ...

    def tend(self) -> None: ...

    def start(self, slot: str, gpus: tuple[str, ...], *, ran_seconds: float = 0.0) -> None: ...

    def close(self) -> None: ...

    def read(self, slot: str) -> tuple[GpuUse, ...]:
        del slot
        return (GpuUse(uuid=GPU, name="NVIDIA L4", seconds=1.0),)

    stop = read

    def look(self, gpus: tuple[str, ...], *, seconds: float) -> dict[str, GpuLook]:
        path = self.root / "look"
        if not path.exists():
            return {uuid: GpuLook("healthy") for uuid in gpus}
        verdict = path.read_text()
        if verdict == "unknown":
            time.sleep(seconds)
        return {uuid: msgspec.convert({"verdict": verdict, "reason": "as told"}, GpuLook) for uuid in gpus}


@dataclass
class StandInCleaner:
    """Writes down what it was asked for."""

    root: Path

    def during(self, place: SlotPlace, *, spare: Any) -> Residue:
        self._note(["during", place.name, sorted(spare)])
        if (self.root / "clean-hangs").exists():
            time.sleep(60)
        return Residue(removed=("a file",))

    def after(self, place: SlotPlace, *, listener: int, before: float, alone: bool = False) -> Residue:
        del alone
        if (self.root / "clean-takes").exists():
            time.sleep(2)
        kernel = Kernel()
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        found = (kernel.process(pid) for pid in pids)
        next_ones = [each for each in found if each and each.parent == listener and each.comm == WORKER]
        self._note(["after", place.name, listener, before, *map(kernel.began_at, next_ones), 0.0])
        return Residue()

    def fresh(self, place: SlotPlace) -> Residue:
        raise NotImplementedError(place.name)

    def _note(self, what: list[Any]) -> None:
        with (self.root / "cleaned").open("a") as stream:
            stream.write(json.dumps(what) + "\n")


class QuietSystem(System):
    """No systemd."""

    def unit_states(self, units: list[str]) -> dict[str, UnitState]:
        return dict.fromkeys(units, UnitState(active="inactive"))


@dataclass
class Host:
    """One host with one slot."""

    root: Path
    listener: subprocess.Popen[bytes]
    guard: int = 0
    worker_in: Any = None
    variables: dict[str, str] = field(default_factory=dict)

    # -- what the host is

    def spec(self, *, gpus: tuple[str, ...] = (), timer: bool = True, **runner: Any) -> None:
        """Write host.json."""
        slots = [{"name": "main", "gpus": list(gpus)}]
        data = {
            "schema": "runnerctl.host/1",
            "host": "gpu-1",
            "runnerctl": {"health_timer": timer},
            "github_runner": {"slots": slots, "url": "https://github.com/acme", **runner},
        }
        path = self.root / "etc/runnerctl/host.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data))

    def start(self) -> None:
        """Start the guard; it is there when this returns."""
        self.guard = os.fork()
        if self.guard == 0:
            self._be_the_guard()
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as stream:
                stream.settimeout(5)
                stream.connect(str(self.socket))
                stream.sendall(b'{"schema":"runnerctl.guard/1","ask":"ping"}\n')
                if b"alive" in stream.recv(4096):
                    return
            time.sleep(0.02)
        raise AssertionError((self.root / "guard.log").read_text())

    def _be_the_guard(self) -> None:
        try:
            log = os.open(self.root / "guard.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 2)
            root = self.root
            parts = Parts(
                paths=Paths(root),
                meter=StandInMeter(root),
                cleaner=lambda: StandInCleaner(root),
                ledger=lambda: JobLedger(root / "jobs.db"),
                holds=lambda: Holds(Layout(root), QuietSystem()),
                text=lambda report: f"report of {report.claims.repository}",
                summary=lambda _report: "| a | table |",
                python=PYTHON,
            )
            Daemon(parts, self._listening(), kernel=TreeKernel(root, self.listener.pid)).run()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            import traceback

            traceback.print_exc()
        finally:
            os._exit(0)

    def _listening(self) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            self.socket.unlink()
        stream = socket.socket(socket.AF_UNIX)
        stream.bind(str(self.socket))
        self.socket.chmod(0o666)
        stream.listen(64)
        return stream

    @property
    def socket(self) -> Path:
        """Where the guard listens."""
        return self.root / "run/runnerctl/guard.sock"

    def stop(self, number: int = signal.SIGKILL) -> None:
        """End the guard."""
        if self.guard:
            os.kill(self.guard, number)
            os.waitpid(self.guard, 0)
            self.guard = 0

    # -- the job

    def job(self, **variables: str) -> None:
        """A worker begins; its hooks get these variables."""
        self.variables = {**JOB, "GITHUB_EVENT_PATH": str(self.event({})), **variables}
        (self.root / "fifo").unlink(missing_ok=True)
        os.mkfifo(self.root / "fifo")
        (self.root / "fifo").chmod(0o666)
        (self.root / "worker.pid").unlink(missing_ok=True)
        self._tell_listener("begin")
        self.worker_in = (self.root / "fifo").open("w")
        end = time.monotonic() + 10
        while not self.worker_lives() and time.monotonic() < end:
            time.sleep(0.01)

    def event(self, payload: Any, name: str = "event.json") -> Path:
        """The event's payload."""
        path = self.root / "slots/main/_work" / name
        path.write_text(json.dumps(payload))
        return path

    def _tell_listener(self, line: str) -> None:
        assert self.listener.stdin is not None
        self.listener.stdin.write(line.encode() + b"\n")
        self.listener.stdin.flush()

    def run(self, line: str, *, seconds: float = 20.0) -> tuple[int | None, str]:
        """The worker runs a line of shell; its status and output. None: it never ended."""
        out, done = self.root / "out", self.root / "done"
        for path in (out, done):
            path.unlink(missing_ok=True)
        with contextlib.suppress(BrokenPipeError):
            print(f"{{ {line}; }} >{out} 2>&1; echo $? >{done}", file=self.worker_in)
            self.worker_in.flush()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if done.exists() and done.read_text().endswith("\n"):
                return int(done.read_text()), out.read_text()
            if not self.worker_lives():
                break
            time.sleep(0.01)
        return None, out.read_text() if out.exists() else ""

    def hook(self, kind: str = "started", *, seconds: float = 20.0) -> tuple[int | None, str]:
        """The worker runs a hook as the runner does."""
        words = " ".join(f"{name}='{value}'" for name, value in self.variables.items())
        path = self.root / f"opt/runnerctl/hooks/job-{kind}.sh"
        return self.run(f"env {words} bash -e {path}", seconds=seconds)

    def worker_lives(self) -> bool:
        """Whether it is still there."""
        path = self.root / "worker.pid"
        pid = path.read_text().strip() if path.exists() else ""
        return pid.isdigit() and Kernel().process(int(pid)) is not None

    def end(self) -> None:
        """The worker ends by itself."""
        with contextlib.suppress(BrokenPipeError):
            self.worker_in.close()

    # -- what became of it

    def row(self, *, until: str, seconds: float = 15.0) -> dict[str, Any]:
        """The last job in the ledger, once that field is filled in."""
        import sqlite3

        end, row = time.monotonic() + seconds, {}
        while time.monotonic() < end:
            with contextlib.suppress(sqlite3.Error):
                with contextlib.closing(sqlite3.connect(self.root / "jobs.db")) as connection:
                    connection.row_factory = sqlite3.Row
                    rows = connection.execute("select * from jobs order by rowid").fetchall()
                row = dict(rows[-1]) if rows else {}
                if row.get(until) is not None:
                    return row
            time.sleep(0.05)
        raise AssertionError(f"no {until} in {row}; {self.log()}")

    def log(self) -> str:
        """What the guard said."""
        return (self.root / "guard.log").read_text()

    def cleaned(self) -> list[list[Any]]:
        """What the cleaner was asked for."""
        path = self.root / "cleaned"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _named_after(root: Path) -> list[int]:
    """The jobs' processes that outlive their worker here: no control group holds them together."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.parent.stat().st_uid == UID and str(root).encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return [pid for pid in found if pid != os.getpid()]


def _install_hooks(root: Path) -> None:
    folders = ("/etc/systemd/system/", "/opt/runnerctl/hooks/", "/run/runnerctl/", "/var/lib/runnerctl/")
    places = {"/opt/runnerctl/bin/python": PYTHON, **{folder: f"{root}{folder}" for folder in folders}}
    places["AGAIN_SECONDS = 15.0"] = "AGAIN_SECONDS = 2.0"
    for path, (text, mode) in hook_files().items():
        for old, new in places.items():
            text = text.replace(old, new)
        here = root / path.lstrip("/")
        here.parent.mkdir(parents=True, exist_ok=True)
        here.write_text(text)
        here.chmod(mode)


@contextlib.contextmanager
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host whose listener runs; the guard is started by the test."""
    root = Path(tempfile.mkdtemp(prefix="guard-"))
    root.chmod(0o777)
    for name in ("etc/systemd/system", "run/runnerctl", "var/lib/runnerctl", "slots/main/_work"):
        (root / name).mkdir(parents=True)
    (root / "slots/main/_work").chmod(0o777)
    (root / "etc/systemd/system/runnerctl-guard.socket").touch()
    _install_hooks(root)
    worker = root / "Runner.Worker"
    worker.write_text(_WORKER)
    worker.chmod(0o755)
    # As the kernel shows it the worker is the listener's own child, and knows nothing of its pipe.
    script = f"while read -r _; do {worker} <{root}/fifo & echo $! >{root}/worker.pid; wait $!; done"
    more: dict[str, Any] = {"user": UID, "group": UID} if os.geteuid() == 0 else {}
    listener = subprocess.Popen(["bash", "-c", script], stdin=subprocess.PIPE, **more)
    host = Host(root, listener)
    monkeypatch.setattr(work, "users", lambda _report, names: dict.fromkeys(names, (UID, UID)))
    monkeypatch.setattr("runnerctl.guard.places.Path", lambda _: root / "slots")
    shown = {UNIT: (listener.pid, GROUP)}
    monkeypatch.setattr(work, "show_units", lambda _report, units: {unit: shown[unit] for unit in units})
    monkeypatch.setattr(work, "result", lambda _report, **_: "Succeeded")
    try:
        yield host
    finally:
        host.stop()
        for pid in {*TreeKernel(root, listener.pid).members(GROUP), *_named_after(root)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        listener.wait()
        shutil.rmtree(root)
