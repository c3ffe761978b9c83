"""A job keeps what it began with while its unit's files change, and the next one does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_spare import (
    SPARED,
    forget_runtime,
    spare,
    spared_path,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System

from runnerctl.core import device_nodes
from runnerctl.probes.device_nodes import end_sparing

UNIT = "gha-runner@one.service"
BEFORE = {"DevicePolicy": "auto", "MemoryMax": "infinity", "TasksMax": "28909"}
OPEN = ["DevicePolicy=auto", "DeviceAllow=", "ProtectClock=no"]


class _Systemd(System):
    def __init__(self, now: dict[str, str], *, busy: bool = True) -> None:
        self.now, self.runs_job = now, busy

    def busy(self, unit: str) -> bool:
        return self.runs_job and unit == UNIT

    def properties(self, unit: str, names: list[str]) -> dict[str, str]:
        assert unit == UNIT
        return {name: self.now[name] for name in names if name in self.now}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A host with the CLI."""
    cli = tmp_path / "opt/runnerctl/bin/runnerctl"
    cli.parent.mkdir(parents=True)
    cli.touch()
    return Layout(tmp_path)


def _lines(layout: Layout) -> list[str]:
    return layout.path(spared_path(UNIT)).read_text().splitlines()


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        (BEFORE, ["MemoryMax=infinity", "TasksMax=28909", *OPEN]),
        (BEFORE | {"DevicePolicy": "closed"}, ["MemoryMax=infinity", "TasksMax=28909"]),
        (BEFORE | {"DeviceAllow": "/dev/fuse rw"}, ["MemoryMax=infinity", "TasksMax=28909"]),
    ],
    ids=["everything was open", "it was closed", "somebody named what is open"],
)
def test_a_running_job_keeps_what_it_has(layout: Layout, now: dict[str, str], kept: list[str]) -> None:
    """And no start is possible that does not look the devices up first."""
    spare(layout, _Systemd(now), "one", UNIT)
    lines = _lines(layout)
    assert lines[lines.index("[Service]") + 1 :] == kept
    assert "Requires=gha-devices@one.service" in lines


def test_nothing_is_kept_open_for_nobody(layout: Layout) -> None:
    """Neither for an idle slot, nor where nothing could close it, nor where systemd says nothing."""
    spare(layout, _Systemd(BEFORE, busy=False), "one", UNIT)
    spare(layout, _Systemd({}), "one", UNIT)
    layout.path("/opt/runnerctl/bin/runnerctl").unlink()
    spare(layout, _Systemd(BEFORE), "one", UNIT)
    assert not layout.path("/run").exists()


@pytest.mark.parametrize(("pid", "stays"), [("0", False), ("4711", True)])
def test_the_next_start_ends_it(layout: Layout, tmp_path: Path, pid: str, stays: bool) -> None:
    """While the unit runs it stays, whoever asks."""
    spare(layout, _Systemd(BEFORE), "one", UNIT)
    programs = tmp_path / "bin"
    programs.mkdir()
    systemctl = programs / "systemctl"
    systemctl.write_text(f'#!/bin/sh\necho "$1" >>{tmp_path}/said\n[ "$1" != show ] || echo MainPID={pid}\n')
    systemctl.chmod(0o755)
    path = layout.path(spared_path(UNIT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{programs}:/usr/bin:/bin")
        end_sparing(UNIT, {"PATH": f"{programs}:/usr/bin:/bin"}, rootfs=tmp_path)
    assert path.exists() is stays
    said = (tmp_path / "said").read_text().split()
    assert said == (["show"] if stays else ["show", "daemon-reload"])


def test_nothing_of_it_outlives_the_slot(layout: Layout) -> None:
    """Neither ours nor what systemd was told by set-property; a slot with a longer name keeps its own."""
    spare(layout, _Systemd(BEFORE), "one", UNIT)
    folders = [
        layout.path(f"/run/systemd/system.control/gha-runner@{name}.service.d") for name in ("one", "one-b")
    ]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "50-DeviceAllow.conf").touch()
    forget_runtime(layout, "one")
    assert not layout.path(spared_path(UNIT)).parent.exists()
    assert [folder.exists() for folder in folders] == [False, True]


def test_both_halves_mean_the_same_file() -> None:
    """The pure half does not import the collection's."""
    assert device_nodes.SPARED == SPARED
