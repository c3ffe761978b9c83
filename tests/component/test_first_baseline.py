"""The baseline that a provision saves: once, where GPUs are expected, answer, and nothing is odd."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import first_baseline
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.atomic import Change
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.first_baseline import (
    ACTION,
    FILE,
    FirstBaseline,
)

pytestmark = pytest.mark.exhaustive  # one thing in each of its ways

WITH_GPUS = json.dumps({"nvidia_driver": {"gpu_count": 2}, "github_runner": {"slots": [{"name": "a"}]}})
CLAIMED = json.dumps({"github_runner": {"slots": [{"name": "a", "gpus": ["GPU-1"]}]}})
WITHOUT = json.dumps({"nvidia_driver": {}, "github_runner": {"slots": [{"name": "a"}]}})
WELL = {"gpus": 2, "differences": [], "oddities": []}


@dataclass
class Place:
    """A host in a directory, whose runnerctl is a script that says what it is told to."""

    root: Path
    actions: list[str] = field(default_factory=list)

    @property
    def command(self) -> Path:
        return self.root / "runnerctl"

    @property
    def calls(self) -> list[str]:
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def says(self, answer: dict[str, object] | str, *, code: int = 0, seconds: float = 0) -> None:
        text = answer if isinstance(answer, str) else json.dumps({**answer, "saved": True})
        (self.root / "answer").write_text(text)
        self.command.write_text(
            f'#!/bin/sh\necho "$@" >>{self.root}/calls\n'
            f"sleep {seconds}\ncat {self.root}/answer\nexit {code}\n"
        )
        self.command.chmod(0o755)

    def run(self, spec: str = WITH_GPUS, *, check: bool = False, installed: bool = True) -> list[str]:
        self.actions.clear()
        self.maker().converge(spec, str(self.command), check=check, installed=installed)
        return list(self.actions)

    def maker(self) -> FirstBaseline:
        return FirstBaseline(str(self.root), self.note)

    def note(self, action: str, change: Change) -> None:
        assert change.changed
        self.actions.append(action)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A booted host."""
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    made = Place(tmp_path)
    made.says(WELL)
    return made


def test_it_is_saved_where_gpus_are_expected(place: Place) -> None:
    """By their number, by a slot's claim, or because the driver lists them."""
    assert place.run() == [ACTION]
    assert place.calls == ["baseline save --dry-run -o json", "baseline save -o json"]
    assert place.run(CLAIMED) == [ACTION]
    assert place.run(WITHOUT) == []
    (place.root / "proc/driver/nvidia/gpus").mkdir(parents=True)
    assert place.run(WITHOUT) == []
    (place.root / "proc/driver/nvidia/gpus/0000:11:00.0").mkdir()
    assert place.run(WITHOUT) == [ACTION]


def test_it_is_never_saved_again_nor_into_an_image(place: Place) -> None:
    """And costs nothing then."""
    path = place.root / FILE.lstrip("/")
    path.parent.mkdir(parents=True)
    path.write_text("damaged")
    assert place.run() == []
    path.unlink()
    (place.root / "run/systemd/system").rmdir()
    assert place.run() == []
    assert place.calls == []


@pytest.mark.parametrize(
    "answer",
    [{**WELL, "gpus": 1}, {**WELL, "oddities": ["GPU 0: the link is x4"]}, "no JSON", "[]", ""],
    ids=["too few", "odd", "no JSON", "no object", "nothing"],
)
def test_what_is_odd_is_left_to_a_human(place: Place, answer: dict[str, object] | str) -> None:
    """Nothing is saved, and nothing fails."""
    place.says(answer)
    assert place.run() == []
    assert place.calls == ["baseline save --dry-run -o json"]


@pytest.mark.exhaustive
def test_gpus_that_do_not_answer_are_asked_once_in_a_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a failure, nor a hang, nor a missing command stops the converge."""
    place.says("", code=69)
    maker = place.maker()
    for check in (True, False):
        maker.converge(WITH_GPUS, str(place.command), check=check, installed=True)
    assert len(place.calls) == 1
    monkeypatch.setattr(first_baseline, "SECONDS", 0.2)
    place.says(WELL, seconds=20)
    assert place.run() == []
    place.command.unlink()
    assert place.run() == []


def test_check_mode_predicts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """By asking the GPUs; before the first install by the driver's library."""
    assert place.run(check=True) == [ACTION]
    assert place.calls == ["baseline save --dry-run -o json"]
    for library, expected in ((None, []), ("libnvidia-ml.so.1", [ACTION])):
        monkeypatch.setattr("ctypes.util.find_library", lambda _, found=library: found)
        assert place.run(check=True, installed=False) == expected
