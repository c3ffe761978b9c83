"""What activation comes to: scripts run once in a clean shell, and what cannot be carried over is said."""

from __future__ import annotations

import ctypes
import json
import os
import time
from pathlib import Path

import pytest

from runnerctl.envs.activation import find_activation
from runnerctl.errors import DataError

CREATE_RULESET, VERSION_FLAG = 444, 1  # asks the kernel for its version of Landlock
_ASKED = (CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(VERSION_FLAG))
LANDLOCK = ctypes.CDLL(None).syscall(*_ASKED) > 0


def script(prefix: Path, text: str, name: str = "a.sh") -> None:
    place = prefix / "etc/conda/activate.d" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def test_nothing_to_run(tmp_path: Path) -> None:
    (tmp_path / "conda-meta").mkdir()
    (tmp_path / "conda-meta/state").write_text(
        '{"env_vars": {"A": "1", "GONE": "***unset***", "PATH": "/x"}}'
    )
    found = find_activation(tmp_path)
    assert found.path == (f"{tmp_path}/bin",)
    assert found.variables == {
        "A": "1",
        "CONDA_PREFIX": str(tmp_path),
        "CONDA_DEFAULT_ENV": str(tmp_path),
        "PYTHONNOUSERSITE": "1",
    }
    assert found.notes == ()


def test_declared_variables_come_before_scripts(tmp_path: Path) -> None:
    folder = tmp_path / "etc/conda/env_vars.d"
    folder.mkdir(parents=True)
    (folder / "b.json").write_text(json.dumps({"B": "two", "LD_PRELOAD": "/x.so"}))
    (folder / "c.json").write_text("[no table")
    script(tmp_path, 'export C="$B in $CONDA_PREFIX"; unset B')
    found = find_activation(tmp_path)
    assert found.variables["C"] == f"two in {tmp_path}"
    assert [note.partition(":")[0] for note in found.notes] == ["c.json", "LD_PRELOAD", "B"]


def test_scripts_in_order_in_a_clean_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_BUILDER", "sesame")
    monkeypatch.setenv("BASH_ENV", "/nowhere")
    script(tmp_path, "export X=1 SEEN=${SECRET_OF_THE_BUILDER:-none}", "1.sh")
    script(tmp_path, "export X=$X,2; read -r line; export LINE=${line:-nothing}; alias ll=ls", "2.sh")
    script(tmp_path, "export NEVER=1", "3.csh")
    found = find_activation(tmp_path)
    assert (found.variables["X"], found.variables["SEEN"], found.variables["LINE"]) == (
        "1,2",
        "none",
        "nothing",
    )
    assert "NEVER" not in found.variables
    assert found.notes == ("ll: a shell alias, which cannot be carried over",)


def test_directories_of_path(tmp_path: Path) -> None:
    script(
        tmp_path, 'PATH="$CONDA_PREFIX/first:$PATH:/last:relative"; mkdir -p "$HOME/x"; PATH="$PATH:/usr/bin"'
    )
    found = find_activation(tmp_path)
    assert found.path == (f"{tmp_path}/first", f"{tmp_path}/bin", "/last")
    assert found.notes == ("PATH: /last comes first, not last",)


REFUSED = [
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "PYTHONHOME",
    "PYTHONPATH",
    "NODE_OPTIONS",
    "GITHUB_ENV",
    "RUNNER_TEMP",
]
REFUSED += ["BASH_ENV", "ENV", "SHELL", "GITHUB_TOKEN", "ACTIONS_CACHE_URL"]


def test_what_decides_later_steps_is_refused(tmp_path: Path) -> None:
    script(tmp_path, "".join(f"export {name}=/x\n" for name in REFUSED) + "export FINE=1 TMP_=$HOME\n")
    found = find_activation(tmp_path)
    assert set(found.variables) == {"FINE", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHONNOUSERSITE"}
    assert sorted(note.partition(":")[0] for note in found.notes) == sorted([*REFUSED, "TMP_"])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("exit 3", r"bad\.sh of activate\.d ended the shell"),
        ("sleep 60", r"bad\.sh of activate\.d did not end in 0 s"),
        ("export X=$(head -c 1200000 /dev/zero | tr '\\0' x)", "set more than a process can be given"),
    ],
)
def test_scripts_that_do_harm(tmp_path: Path, text: str, what: str) -> None:
    script(tmp_path, "export FINE=1", "a.sh")
    script(tmp_path, text, "bad.sh")
    with pytest.raises(DataError, match=what):
        find_activation(tmp_path, seconds=0.4 if "sleep" in text else 10)


def test_scripts_write_to_a_folder_of_their_own_only(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("as it was\n")
    script(
        tmp_path,
        'echo changed >"$CONDA_PREFIX/kept"; : >"$CONDA_PREFIX/new"; rm -f "$CONDA_PREFIX/kept"\n'
        'mv "$CONDA_PREFIX/kept" "$HOME/kept"; echo fine >"$HOME/own"; export SEEN=$(cat "$HOME/own")\n',
    )
    found = find_activation(tmp_path)
    assert found.variables["SEEN"] == "fine"
    if LANDLOCK:
        assert (tmp_path / "kept").read_text() == "as it was\n"
        assert not (tmp_path / "new").exists()


def test_nothing_stays_behind(tmp_path: Path) -> None:
    script(tmp_path, "(trap '' HUP; sleep 60) & export CHILD=$!; echo noise; echo noise >&2")
    pid = int(find_activation(tmp_path).variables["CHILD"])
    until = time.monotonic() + 5
    while _lives(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return os.path.exists(stat) and stat.read_text().rpartition(")")[2].split()[0] != "Z"
