"""Health tools, asked the same question: runnerctl, and what else PyPI has for this."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults import Case, FaultHost

__all__ = ["DEADLINE_SECONDS", "LIMIT_SECONDS", "PEERS", "RUNNERCTL", "Answer", "Tool", "install", "peers"]

DEADLINE_SECONDS = 2.0  # runnerctl's own, given as --deadline
LIMIT_SECONDS = 5.0  # when a tool without a deadline counts as hanging
PEERS = ("gpumedic", "brokkr-diagnostics", "nvsonar", "gpustat", "nvitop")


@dataclass(frozen=True)
class Answer:
    """What a tool made of a case. ``alarm``: it says that something is wrong; ``named``: what."""

    rc: int | None  # None: no answer within the limit
    seconds: float
    alarm: bool
    named: bool
    detail: str = ""

    @property
    def crashed(self) -> bool:
        """It ended by a signal, or with a traceback."""
        return self.rc is not None and (self.rc < 0 or (self.rc > 0 and self.detail == "traceback"))


@dataclass(frozen=True)
class Tool:
    """One tool: its command line, and how its answer is read (by exit code, or by what it prints)."""

    name: str
    argv: Callable[[FaultHost], Sequence[str]]
    alarms: Callable[[int, str], bool]

    def ask(self, host: FaultHost, library: Path) -> Answer:
        """Run it on the host, and kill it at the limit."""
        begin = time.perf_counter()
        process = subprocess.Popen(
            self.argv(host),
            env=host.environment(library),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            out, _ = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            _end(process)
            return Answer(None, time.perf_counter() - begin, alarm=False, named=False, detail="hangs")
        seconds = time.perf_counter() - begin
        return self._answer(host.case, process.returncode, out.decode("utf-8", "replace"), seconds)

    def _answer(self, case: Case, rc: int, text: str, seconds: float) -> Answer:
        if self.name == RUNNERCTL:
            return _verdict(case, rc, text, seconds)
        alarm = self.alarms(rc, text)
        named = alarm and bool(case.words and re.search(case.words, text, re.IGNORECASE))
        return Answer(rc, seconds, alarm, named, "traceback" if "Traceback" in text else "")


def _verdict(case: Case, rc: int, text: str, seconds: float) -> Answer:
    """runnerctl is held to more: the right status, the right finding, and nothing beside it."""
    try:
        verdict = json.loads(text)
    except ValueError:
        return Answer(rc, seconds, alarm=bool(rc), named=False, detail=f"no verdict: {text.strip()[-200:]}")
    found = {each["id"]: each["status"] for each in verdict["findings"] if each["status"] != "OK"}
    beside = sorted(set(found) - set(case.checks))
    named = not case.checks or any(found.get(check) == case.status for check in case.checks)
    detail = "" if verdict["status"] == case.status else f"is {verdict['status']}"
    if beside:
        detail = f"{detail}; besides: {', '.join(beside)}".lstrip("; ")
    return Answer(rc, seconds, alarm=verdict["status"] != "OK", named=named, detail=detail)


RUNNERCTL = "runnerctl health"


def runnerctl() -> Tool:
    """Ours, on the host's files."""

    def argv(host: FaultHost) -> list[str]:
        python = [sys.executable, "-m", "runnerctl", "health", "-o", "json", "--no-network"]
        return [*python, "--rootfs", str(host.root), "--deadline", str(DEADLINE_SECONDS)]

    return Tool(RUNNERCTL, argv, lambda rc, _text: rc != 0)


def install(venv: Path) -> Path:
    """A virtual environment with the peers, made once; returns its bin directory."""
    marker = venv / "complete"
    if not marker.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True, timeout=120)
        pip = [str(venv / "bin" / "pip"), "install", "--quiet", *PEERS]
        subprocess.run(pip, check=True, timeout=600)
        marker.touch()
    return venv / "bin"


def peers(programs: Path) -> list[Tool]:
    """The others, each asked in the way that its own documentation gives for a check."""

    def of(name: str, *arguments: str) -> Callable[[FaultHost], Sequence[str]]:
        return lambda _host: [str(programs / name), *arguments]

    def by_code(rc: int, _text: str) -> bool:
        return rc != 0

    return [
        Tool("gpumedic scan", of("gpumedic", "scan"), by_code),
        Tool("brokkr-diagnostics", of("brokkr-diagnostics", "--run", "health"), _brokkr_alarms),
        Tool("nvsonar report", of("nvsonar", "report"), _nvsonar_alarms),
        Tool(
            "gpustat",
            of(
                "gpustat",
            ),
            by_code,
        ),
        Tool("nvitop -1", of("nvitop", "-1"), by_code),
    ]


def _brokkr_alarms(rc: int, text: str) -> bool:
    """It always exits with 0: its word counts. Peer-to-peer copies need CUDA, and are left out."""
    try:
        verdict = json.loads(text[text.index("{") :])
    except ValueError:
        return rc != 0
    bad = [each for each in verdict.get("categories", ()) if each["status"] != "pass"]
    judged = [each for each in bad if each["category"] != "p2p_communication"]
    return bool(judged or verdict.get("errors"))


def _nvsonar_alarms(rc: int, text: str) -> bool:
    """It exits with 0 whatever it finds: a grade below A counts."""
    return rc != 0 or bool(re.search(r"Health: [B-F] ", text))


def _end(process: subprocess.Popen[bytes]) -> None:
    """The whole group: what hangs may have children that hang."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=10)
