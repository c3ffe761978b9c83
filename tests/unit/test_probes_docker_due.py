"""The note of what the Docker Engine still owes: it counts while that very process runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runnerctl.core.snapshot import DockerDue, Unavailable
from runnerctl.probes.docker_due import DUE_FILE, read_docker_due

OVER = DockerDue("restart", "slot a ran a job", over=True)


def host(root: Path, note: str | None, *, start: int | None = 4242) -> Path:
    """A root with a note, and a dockerd of process 77."""
    if note is not None:
        path = root / DUE_FILE.lstrip("/")
        path.parent.mkdir(parents=True)
        path.write_text(note)
    if start is not None:
        (root / "proc/77").mkdir(parents=True)
        fields = " ".join(["S", *["0"] * 18, str(start), "0"])
        (root / "proc/77/stat").write_text(f"77 (docker d) 1) {fields}\n")
    return root


def note(engine: str) -> str:
    """What the role writes."""
    return json.dumps({"act": "restart", "engine": engine, "reason": "slot a ran a job"})


def test_it_counts_while_that_engine_runs(tmp_path: Path) -> None:
    """As the role wrote it down."""
    assert read_docker_due(host(tmp_path, note("77:4242"))) == DockerDue("restart", "slot a ran a job")


@pytest.mark.parametrize("engine", ["77:4241", "78:4242", "", "77", "77:", "x:y", "77:4242:1"])
def test_another_engine_owes_nothing(tmp_path: Path, engine: str) -> None:
    """It was started with the settings as they are."""
    assert read_docker_due(host(tmp_path, note(engine))) == OVER


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"act": "restart"}', '{"act": 1, "engine": "", "reason": ""}']
)
def test_a_damaged_note_is_not_guessed_at(tmp_path: Path, text: str) -> None:
    """Nor is it taken for none."""
    assert isinstance(read_docker_due(host(tmp_path, text)), Unavailable)


def test_no_note_and_no_proc(tmp_path: Path) -> None:
    """Nothing to say."""
    assert read_docker_due(tmp_path) is None
    assert read_docker_due(host(tmp_path, note("77:4242"), start=None)) == OVER
