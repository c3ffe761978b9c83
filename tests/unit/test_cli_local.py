"""The slots of a host, from its files, its process table and systemd."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from runnerctl.cli.context import Context, Paths
from runnerctl.cli.local import busy_units, local_slots, require_slot, slot_names, unit_properties
from runnerctl.core.spec import HostSpec, host_spec
from runnerctl.errors import ConfigError

UNIT = "gha-runner@one.service"


def process(root: Path, pid: int, comm: str, cgroup: str) -> None:
    """One entry of a process table."""
    folder = root / f"proc/{pid}"
    folder.mkdir(parents=True)
    (folder / "comm").write_text(f"{comm}\n")
    (folder / "cgroup").write_text(f"0::{cgroup}\n")


def spec() -> HostSpec:
    """Two slots, one with a GPU."""
    slots = [{"name": "one", "gpus": ["GPU-12345678"]}, {"name": "two"}]
    built, problems = host_spec(
        "gpu-1", {"github_runner_url": "https://github.com/acme", "github_runner_slots": slots}
    )
    assert built is not None, problems
    return built


def context(env: dict[str, str] | None = None) -> Context:
    """Streams of our own."""
    return Context(env=env or {}, stdout=io.StringIO(), stderr=io.StringIO())


def test_busy_is_a_worker_in_the_units_control_group(tmp_path: Path) -> None:
    """A worker below the unit's group counts, a listener does not, nor a worker elsewhere."""
    process(tmp_path, 10, "Runner.Listener", f"/system.slice/system-gha.slice/{UNIT}")
    process(tmp_path, 11, "Runner.Worker", "/user.slice/session-1.scope")
    assert UNIT not in (busy_units(Paths(tmp_path), {}) or ())
    process(tmp_path, 12, "Runner.Worker", f"/system.slice/{UNIT}/job")
    assert UNIT in (busy_units(Paths(tmp_path), {}) or ())


def test_a_leftover_that_bears_the_workers_name_is_no_job(tmp_path: Path) -> None:
    """Only what the listener itself started is a job; its parent tells."""
    units = {UNIT: {"MainPID": "10"}}
    process(tmp_path, 12, "Runner.Worker", f"/system.slice/{UNIT}")
    stat = tmp_path / "proc" / "12" / "stat"
    stat.write_text("12 (Runner) Worker) S 1 12 12 0")
    assert UNIT not in (busy_units(Paths(tmp_path), units) or ())
    stat.write_text("12 (Runner.Worker) S 10 12 12 0")
    assert UNIT in (busy_units(Paths(tmp_path), units) or ())


def test_without_a_process_table_busy_is_not_known(tmp_path: Path) -> None:
    """A mounted file system without /proc says nothing about jobs."""
    assert busy_units(Paths(tmp_path), {}) is None
    assert [slot.busy for slot in local_slots(context(), Paths(tmp_path), spec())] == [None, None]


def test_a_slot_is_what_spec_and_state_say(tmp_path: Path) -> None:
    """Slots of the spec first, then those that left traces; state beats spec, broken state is nothing."""
    paths = Paths(tmp_path)
    for folder in ("slots", "hold", "pending"):
        (paths.state / folder).mkdir(parents=True)
    (paths.slots / "old").mkdir(parents=True)
    (paths.state / "slots/one.json").write_text(json.dumps({"agent_id": 7, "version": "2.336.0"}))
    (paths.state / "slots/two.json").write_text("{")
    (paths.state / "hold/two").write_text("GPU 0 fell off the bus\n")
    (paths.state / "pending/one").touch()
    process(tmp_path, 12, "Runner.Worker", f"/system.slice/{UNIT}")
    one, two, old = local_slots(context(), paths, spec())
    assert (one.agent_id, one.version, one.busy, one.restart_pending) == (7, "2.336.0", True, True)
    assert one.labels == ("self-hosted", "linux", "gpu") and one.gpus == ("GPU-12345678",)
    assert (two.hold_reason, two.version, two.busy) == ("GPU 0 fell off the bus", None, False)
    assert (old.in_spec, old.runner_name, old.url) == (False, None, None)
    assert slot_names(paths, None) == ["old", "one", "two"]


def test_systemd_is_asked_once_for_all_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call; an unknown unit is absent; without systemctl nothing is known."""
    tool = tmp_path / "systemctl"
    tool.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >>{tmp_path}/asked\n'
        "printf 'Id=gha-runner@one.service\\nLoadState=loaded\\nActiveState=active\\n\\n'\n"
        "printf 'Id=gha-runner@two.service\\nLoadState=not-found\\nActiveState=inactive\\n'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    states = unit_properties(context(), ["one", "two"])
    assert states[UNIT]["ActiveState"] == "active"
    assert states["gha-runner@two.service"]["LoadState"] == "not-found"
    assert len((tmp_path / "asked").read_text().splitlines()) == 1
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert unit_properties(context(), ["one"]) == {}


def test_an_unknown_slot_is_an_error_with_the_known_ones(tmp_path: Path) -> None:
    """What, where, what to do."""
    with pytest.raises(ConfigError, match="slots here: one, two"):
        require_slot(Paths(tmp_path), spec(), "three")
    with pytest.raises(ConfigError, match="slots here: none"):
        require_slot(Paths(tmp_path), None, "three")
