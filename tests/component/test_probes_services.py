"""Docker and systemd, each through the door that users have: DOCKER_HOST and PATH."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from runnerctl.core.snapshot import Docker, LogLine, Unavailable
from runnerctl.probes import engine, units
from runnerctl.probes.bounded import Task, run_all
from tests.component.engine_support import serving_engine

ENGINE = {
    "/_ping": "OK",
    "/version": {"Version": "29.1.0", "ApiVersion": "1.52"},
    "/info": {"Runtimes": {"runc": {}, "nvidia": {}}},
}


@pytest.fixture
def docker_host() -> Iterator[str]:
    """An Engine that answers the three questions."""
    with serving_engine(ENGINE.get) as address:
        yield address


def _docker(host: str) -> Docker | Unavailable:
    call = partial(engine.read_docker, environ={"DOCKER_HOST": host}, timeout_seconds=3)
    return engine.parse_docker(run_all({"docker": Task(call, 10)})["docker"])


def test_an_engine_that_answers(docker_host: str) -> None:
    """Version and runtimes, for a later check of the NVIDIA runtime."""
    assert _docker(docker_host) == Docker(None, "29.1.0", "1.52", ("nvidia", "runc"))


def test_an_engine_that_is_not_there(tmp_path: Path) -> None:
    """A fact about the host, and in words that a person understands."""
    found = _docker(f"unix://{tmp_path}/docker.sock")
    assert found == Docker(failure="ping: no such file or directory at its socket")


def _tool(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def _tools(folder: Path, *slots: str, seconds: float = 5) -> units.Tools:
    return units.Tools(slots, {"PATH": f"{folder}:{os.environ['PATH']}"}, seconds, root=True)


def test_all_units_are_asked_at_once(tmp_path: Path) -> None:
    """One call, whatever the number of slots."""
    _tool(
        tmp_path,
        "systemctl",
        f'echo "$@" >> {tmp_path}/calls; echo Id=gha-runner@a.service; echo ActiveState=active',
    )
    outcome = run_all({"units": Task(partial(units.read_units, tools=_tools(tmp_path, "a", "b")), 5)})[
        "units"
    ]
    assert outcome.failure is None
    assert units.parse_units(outcome.value)["a"].active_state == "active"
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.endswith("gha-runner@a.service gha-runner@b.service")


def test_a_slot_that_the_others_drown_out_is_asked_again(tmp_path: Path) -> None:
    """The last lines of all may be those of a busy one only."""
    stamp = "1790000000000000"
    row = f'{{"MESSAGE":"of %s","_SYSTEMD_UNIT":"gha-runner@%s.service","__REALTIME_TIMESTAMP":"{stamp}"}}'
    script = f"""
echo "$@" >> {tmp_path}/calls
case "$*" in *@busy*) name=busy;; *) name=quiet;; esac
printf '{row}\\n' $name $name"""
    _tool(tmp_path, "journalctl", script)
    tools = _tools(tmp_path, "busy", "quiet")
    outcome = run_all({"journal": Task(partial(units.read_journal, tools=tools), 5)})["journal"]
    assert outcome.failure is None
    found = units.parse_journal(outcome.value, {})
    assert {slot: [line.message for line in lines] for slot, lines in found.items()} == {
        "busy": ["of busy"],
        "quiet": ["of quiet"],
    }
    assert isinstance(found["quiet"][0], LogLine)
    assert len((tmp_path / "calls").read_text().splitlines()) == 2


def test_a_tool_that_fails_or_hangs_is_unavailable(tmp_path: Path) -> None:
    """Its own words; and the deadline when it has none."""
    _tool(tmp_path, "systemctl", "echo Failed to connect to bus >&2; exit 1")
    _tool(tmp_path, "journalctl", "exec sleep 60")
    tasks = {
        "units": Task(partial(units.read_units, tools=_tools(tmp_path, "a")), 5),
        "journal": Task(partial(units.read_journal, tools=_tools(tmp_path, "a", seconds=60)), 0.5),
    }
    outcomes = run_all(tasks)
    said = units.outcome_text(outcomes["units"])
    assert isinstance(said, Unavailable)
    assert "Failed to connect to bus" in said.reason
    hung = units.outcome_text(outcomes["journal"])
    assert isinstance(hung, Unavailable)
    assert hung.kind == "timeout"
