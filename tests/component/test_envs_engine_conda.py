"""The engine by conda or mamba, against a program that answers as conda is documented to.

conda itself is not to be had in tests: this shows what is asked, and what is made of answers.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from runnerctl.envs.engine_conda import Conda
from runnerctl.errors import ConfigError, DataError, RunnerctlError, TryAgainError, UnavailableError
from tests.component.envs_engine_support import Heard, facts, order, yml

URL = "https://conda.example.org/main"
SHA = "ab" * 32
LINK = [
    {"name": "tiny", "version": "2.0", "build_string": "0", "dist_name": "tiny-2.0-0", "platform": "noarch"},
    {"name": "abc", "version": "1", "build_string": "h_0", "dist_name": "abc-1-h_0", "platform": "linux-64"},
]
FETCH = [
    {**one, "url": f"{URL}/{one['platform']}/{one['dist_name']}.conda", "sha256": SHA, "size": 10}
    for one in LINK
]
BARE = [{**one, "base_url": URL} for one in LINK]
MISSING = {"success": False, "exception_name": "PackagesNotFoundError", "message": "not found: - abc"}
OFFLINE = {"success": False, "exception_name": "CondaHTTPError", "message": "x"}
SOLVED = {"success": True, "actions": {"LINK": LINK, "FETCH": FETCH}}


def program(folder: Path, answer: Any, *, code: int = 0, body: str = "") -> Conda:
    place = folder / "conda"
    text = answer if isinstance(answer, str) else json.dumps(answer)
    (folder / "answer").write_text(text)
    place.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >{folder}/asked\nenv >{folder}/env\n'
        f'for last; do :; done; [ -f "$last" ] && cp "$last" {folder}/list\n'
        f"{body}\ncat {folder}/answer\nexit {code}\n"
    )
    place.chmod(place.stat().st_mode | stat.S_IXUSR)
    return Conda("conda", program=str(place))


def test_what_is_asked_and_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_CHANNELS", "other")
    monkeypatch.setenv("GH_TOKEN", "sesame")
    asked = order(tmp_path, yml(URL, ["tiny >=2", "abc"]), facts=facts(cuda="12.8"))
    solution = program(tmp_path, SOLVED).solve(asked, Heard())
    assert [(one.name, one.build, one.sha256, one.noarch) for one in solution.packages] == [
        ("abc", "h_0", SHA, False),
        ("tiny", "0", SHA, True),
    ]
    said = (tmp_path / "asked").read_text().split("\n")
    assert said[:4] == ["create", "--dry-run", "--yes", "--json"]
    assert said[-6:] == ["--channel", URL, "--", "tiny >=2", "abc", ""]
    environment = dict(line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines())
    assert (environment["CONDA_OVERRIDE_CUDA"], environment["CONDA_OVERRIDE_GLIBC"]) == ("12.8", "2.36")
    assert environment["CONDARC"] == "/dev/null"
    assert not {"CONDA_CHANNELS", "GH_TOKEN"} & set(environment)


def test_its_lock_and_what_it_installs(tmp_path: Path) -> None:
    text = yml(URL, ["tiny", "abc"])
    engine = program(tmp_path, SOLVED)
    lock = engine.solve(order(tmp_path, text), Heard()).lock
    locked = engine.solve(order(tmp_path, text, lock=lock), Heard())
    assert [(one.name, one.version, one.url) for one in locked.packages] == [
        ("abc", "1", f"{URL}/linux-64/abc-1-h_0.conda"),
        ("tiny", "2.0", f"{URL}/noarch/tiny-2.0-0.conda"),
    ]
    installed = program(tmp_path, {"success": True}).install(
        order(tmp_path, text), locked.packages, tmp_path / "prefix", Heard()
    )
    assert installed.python is None
    lines = [f"{one.url}#sha256:{SHA}" for one in locked.packages]
    assert (tmp_path / "list").read_text().splitlines() == ["@EXPLICIT", *lines]
    foreign = lock.replace(URL, "https://elsewhere.example.org/x")
    with pytest.raises(DataError, match="comes from no channel of the file"):
        engine.solve(order(tmp_path, text, lock=foreign), Heard())


ANSWERS: list[tuple[Any, type[RunnerctlError], str]] = [
    ("Traceback ...", UnavailableError, "gave no answer: Traceback"),
    (MISSING, DataError, ":4: "),
    (OFFLINE, UnavailableError, "did not answer"),
    ({"success": False, "message": "[Errno 28] No space left on device"}, TryAgainError, "is full"),
    ({"success": True, "actions": {"LINK": BARE}}, UnavailableError, "has no sha256 of abc, tiny"),
    ({"success": True, "actions": {"LINK": [{"name": "x"}]}}, UnavailableError, "without 'base_url'"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "kind", "what"), ANSWERS, ids=[case[2][:20] for case in ANSWERS])
def test_answers_that_are_none(tmp_path: Path, answer: Any, kind: type[RunnerctlError], what: str) -> None:
    with pytest.raises(kind) as caught:
        program(tmp_path, answer, code=1).solve(order(tmp_path, yml(URL, ["tiny", "abc"])), Heard())
    assert what in str(caught.value)


def test_what_it_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = yml(URL, ["tiny"])
    with pytest.raises(ConfigError, match="cannot use channels that want a credential"):
        program(tmp_path, SOLVED).solve(order(tmp_path, text, credentials=tmp_path / "x"), Heard())
    monkeypatch.setattr("runnerctl.envs.engine_conda.SOLVE_SECONDS", 0.2)
    with pytest.raises(TryAgainError, match="conda took longer than 0 s"):
        program(tmp_path, SOLVED, body="exec sleep 30").solve(order(tmp_path, text), Heard())
    with pytest.raises(UnavailableError, match="could not be installed"):
        program(tmp_path, {"success": False}).install(order(tmp_path, text), (), tmp_path / "p", Heard())
