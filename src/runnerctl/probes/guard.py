"""Whether root's guard is there: its units, and an answer."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any

import msgspec

from runnerctl.core.guard_readings import GuardState
from runnerctl.core.snapshot import Unavailable
from runnerctl.probes.bounded import Outcome, Report
from runnerctl.probes.unit_states import unit_states

__all__ = ["SOCKET", "parse_guard", "read_guard"]

SOCKET = "/run/runnerctl/guard.sock"
SCHEMA = "runnerctl.guard/1"
_UNITS = ("runnerctl-guard.service", "runnerctl-guard.socket")
_ANSWER_SECONDS = 3.0


def read_guard(
    report: Report, *, environ: Mapping[str, str], timeout_seconds: float, address: str = SOCKET
) -> dict[str, Any]:
    """The state of its units, and for root its answer to "are you there?". Raises OSError."""
    report.stage("systemctl show of the guard")
    service, listening = unit_states(_UNITS, environ=environ, timeout_seconds=timeout_seconds)
    failure = None
    if os.geteuid() == 0 and listening == "active":
        report.stage("the guard's answer")
        failure = _asked(address, min(_ANSWER_SECONDS, timeout_seconds * 0.6))
    answers = None if failure is None else not failure
    state: dict[str, Any] = msgspec.to_builtins(GuardState(service, listening, answers, failure or ""))
    return state


def _asked(address: str, seconds: float) -> str:
    """Why it did not answer; empty when it did."""
    try:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(seconds)
            stream.connect(address)
            stream.sendall(json.dumps({"schema": SCHEMA, "ask": "ping"}).encode() + b"\n")
            answer = json.loads(stream.recv(4096) or b"{}")
    except TimeoutError:
        return f"no answer within {seconds:.0f} s"
    except OSError as error:
        return error.strerror or type(error).__name__
    except ValueError:
        return "its answer cannot be read"
    return "" if isinstance(answer, dict) and answer.get("verdict") == "alive" else "it closed the connection"


def parse_guard(outcome: Outcome) -> GuardState | Unavailable:
    """The reading, or why there is none."""
    if outcome.failure is not None:
        return outcome.failure
    return msgspec.convert(outcome.value, GuardState)
