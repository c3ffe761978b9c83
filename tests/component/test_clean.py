"""``runnerctl clean`` on a host's directories: budgets, running jobs, links that lead out of them."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System

from runnerctl.cli.clean_host import CleanHost
from runnerctl.cli.context import Context, Paths
from runnerctl.core.clean import Doomed

UID = 61234
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="files of other users are root's to make and remove"
)


def _host(root: Path, **settings: Any) -> Context:
    """A host with slots a and b."""
    spec = {"schema": "runnerctl.host/1", "host": "h", "runnerctl": settings}
    (root / "etc/runnerctl").mkdir(parents=True)
    (root / "etc/runnerctl/host.json").write_text(json.dumps(spec))
    (root / "var/lib/runnerctl/slots").mkdir(parents=True)
    (root / "run/runnerctl").mkdir(parents=True)
    for slot in ("a", "b"):
        (root / f"var/lib/runnerctl/slots/{slot}.json").write_text("{}")
        for name in ("_work", "home", "_diag"):
            (root / f"var/lib/gha-runner/{slot}/{name}").mkdir(parents=True)
    return Context(
        env={"DOCKER_HOST": "unix:///nonexistent"},
        stdout=io.StringIO(),
        stderr=io.StringIO(),
        paths=Paths(root),
        user_id=lambda: 0,
    )


@pytest.fixture(autouse=True)
def busy(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The units that run a job; other hosts may run on this machine, with slots of the same names."""
    units: set[str] = set()
    monkeypatch.setattr(System, "busy", lambda _self, unit: unit in units)
    return units


def _workspace(root: Path, slot: str, name: str) -> Path:
    folder = root / f"var/lib/gha-runner/{slot}/_work/{name}"
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(b"x" * 8192)
    for path in (folder / "data", folder, folder.parent):
        os.chown(path, UID, UID)
    return folder


def _shown(doomed: tuple[Doomed, ...] | list[Doomed]) -> list[tuple[str, str, str]]:
    return [(each.thing.slot, each.thing.kind, each.thing.name) for each in doomed]


def test_what_is_over_its_budget_goes_and_twice_is_once(tmp_path: Path) -> None:
    """Workspaces, tools, what root left and trash; the second time there is nothing to do."""
    context = _host(tmp_path, clean_work_gib=0, clean_tools_gib=0)
    work = _workspace(tmp_path, "a", "repository")
    _workspace(tmp_path, "a", "_tool/node")
    (tmp_path / "var/lib/gha-runner/a/home/left").mkdir()
    trash = tmp_path / "var/lib/gha-runner/a/.trash/x"
    trash.mkdir(parents=True)
    host = CleanHost(context, None)
    planned = host.plan()
    assert work.exists()
    assert _shown(planned) == [
        ("a", "trash", ".trash/x"),
        ("a", "leftover", "home/left"),
        ("a", "work", "_work/repository"),
        ("a", "tool", "_work/_tool/node"),
    ]
    assert sum(each.thing.size_bytes for each in planned) >= 16384
    assert _shown(host.remove(planned)) == _shown(planned)
    assert host.failed == []
    left = sorted(path.name for path in (tmp_path / "var/lib/gha-runner/a").rglob("*"))
    assert left == [".trash", "_diag", "_tool", "_work", "home"]
    assert CleanHost(context, None).plan() == ()


def test_a_running_job_keeps_everything_of_its_slot(tmp_path: Path, busy: set[str]) -> None:
    """Also one that has begun since the plan was made."""
    context = _host(tmp_path, clean_work_gib=0)
    for slot in ("a", "b"):
        _workspace(tmp_path, slot, "repository")
    busy.add("gha-runner@a.service")
    host = CleanHost(context, None)
    planned = host.plan()
    assert _shown(planned) == [("b", "work", "_work/repository")]
    assert host.skipped == {"a": "runs a job"}
    busy.add("gha-runner@b.service")
    assert host.remove(planned) == []
    assert set(host.skipped) == {"a", "b"}
    assert (tmp_path / "var/lib/gha-runner/b/_work/repository/data").exists()


def test_a_job_that_begins_between_two_steps_keeps_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slot with many workspaces takes a while."""
    context = _host(tmp_path, clean_work_gib=0)
    for name in ("one", "two", "three"):
        _workspace(tmp_path, "a", name)
    host = CleanHost(context, None)
    planned = host.plan()
    asked = iter([False, True, True])
    monkeypatch.setattr(System, "busy", lambda _self, _unit: next(asked))
    assert len(host.remove(planned)) == 1
    assert host.skipped == {"a": "runs a job"}


def test_links_lead_nowhere(tmp_path: Path) -> None:
    """A job that puts links where directories were expected makes root remove the links alone."""
    precious = tmp_path / "precious"
    (precious / "node").mkdir(parents=True)
    context = _host(tmp_path, clean_work_gib=0, clean_tools_gib=0)
    work = tmp_path / "var/lib/gha-runner/a/_work"
    (work / "_tool").symlink_to(precious)
    (work / "link").symlink_to(precious)
    for name in ("_tool", "link"):
        os.chown(work / name, UID, UID, follow_symlinks=False)
    host = CleanHost(context, None)
    host.remove(host.plan())
    assert (precious / "node").is_dir()
    assert sorted(path.name for path in work.iterdir()) == ["_tool"]
