"""Old runner releases go, but none that somebody may need."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.releases import prune, versions


def _releases(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name / "bin").mkdir(parents=True)
    return folder


def _process(proc: Path, pid: int, comm: str, version: str) -> None:
    entry = proc / str(pid)
    entry.mkdir(parents=True)
    (entry / "comm").write_text(f"{comm}\n")
    root = f"/opt/actions-runner/{version}/bin"
    (entry / "mountinfo").write_text(
        f"600 599 8:1 {root} /var/lib/gha-runner/a/bin ro,nosuid - ext4 /dev/sda1 rw\n"
    )


def test_versions_are_ordered_as_numbers_and_partials_are_none(tmp_path: Path) -> None:
    """2.9 is older than 2.10; what is being unpacked does not count."""
    folder = _releases(tmp_path, "2.10.0", "2.9.0", ".2.11.0.x.partial", "notes")
    assert versions(folder) == ["2.9.0", "2.10.0"]


def test_the_wanted_and_the_one_before_stay(tmp_path: Path) -> None:
    """One step back must always be possible."""
    folder = _releases(tmp_path / "r", "2.1.0", "2.2.0", "2.3.0", "2.4.0")
    (tmp_path / "proc").mkdir()
    assert prune(folder, wanted="2.4.0", proc=tmp_path / "proc") == ["2.1.0", "2.2.0"]
    assert sorted(path.name for path in folder.iterdir()) == ["2.3.0", "2.4.0"]


def test_what_a_busy_runner_uses_stays(tmp_path: Path) -> None:
    """A listener that was not restarted yet keeps its code; another program's mounts do not count."""
    folder = _releases(tmp_path / "r", "2.1.0", "2.2.0", "2.3.0", "2.4.0")
    _process(tmp_path / "proc", 10, "Runner.Listener", "2.1.0")
    _process(tmp_path / "proc", 11, "bash", "2.2.0")
    assert prune(folder, wanted="2.4.0", proc=tmp_path / "proc") == ["2.2.0"]
    assert "2.1.0" in versions(folder)


def test_a_host_without_releases_is_fine(tmp_path: Path) -> None:
    """The first installation."""
    assert versions(tmp_path / "none") == []


def test_a_name_that_is_no_text_stops_nothing(tmp_path: Path) -> None:
    """Any process may have any bytes in its name."""
    folder = _releases(tmp_path / "r", "2.1.0", "2.2.0", "2.3.0")
    _process(tmp_path / "proc", 7, "x", "2.1.0")
    (tmp_path / "proc/7/comm").write_bytes(b"\xff\xfe\n")
    assert prune(folder, wanted="2.3.0", proc=tmp_path / "proc") == ["2.1.0"]
