"""The layer over an environment: scripts, links, what is replaced and what is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runnerctl.envs import layer as module
from runnerctl.envs.layer import LAYER_MARK, Layer, layer_place, make_layer, rewritten
from runnerctl.errors import ConfigError, TryAgainError, UnavailableError, UsageError

PREFIX = "/store/envs/0123"
LONG = "/run/" + "x" * 130 + "/bin/python"


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """The skeleton of an environment: enough for a layer, nothing that could run."""
    root = tmp_path / "env"
    for folder in ("bin", "lib/python3.12", "share/proj", "share/man/man1", "share/jupyter/kernels/python3"):
        (root / folder).mkdir(parents=True)
    (root / "bin/python3.12").write_text("#!/bin/sh\n")
    (root / "bin/python3.12").chmod(0o755)
    (root / "bin/python").symlink_to("python3.12")
    (root / "lib/python3.12/os.py").touch()
    (root / "share/jupyter/kernels/python3/kernel.json").write_text("{}")
    for name in ("pytest", "pip"):
        (root / "bin" / name).write_text(f"#!{root}/bin/python3.12\nprint('{name}')\n")
    (root / "bin/tool").write_text("#!/bin/sh\nexit 0\n")
    return root


def over(prefix: Path, where: Path, scripts: list[str] | None = None) -> Layer:
    return make_layer(str(prefix), "bin/python3.12", scripts, str(where))


@pytest.mark.parametrize(
    "first",
    [
        f"#!{PREFIX}/bin/python\n",
        f"#! {PREFIX}/bin/python3.12\n",
        f"#!/bin/sh\n'''exec' {PREFIX}/bin/python \"$0\" \"$@\"\n' '''\n",
        f"#!/bin/sh\n'''exec' \"{PREFIX}/bin/python3\" \"$0\" \"$@\"\n' '''\n",
    ],
)
def test_a_script_of_the_environment_starts_the_layers_interpreter(first: str) -> None:
    """Whatever the installer wrote; the rest of the script stays as it is."""
    made = rewritten(first.encode() + b"import sys\n", PREFIX, "/run/layer/bin/python")
    assert made == b"#!/run/layer/bin/python\nimport sys\n"


def test_options_of_the_interpreter_stay() -> None:
    """They are part of what the script is."""
    made = rewritten(f"#!{PREFIX}/bin/python -Es\n1\n".encode(), PREFIX, "/l/bin/python")
    assert made == b"#!/l/bin/python -Es\n1\n"


@pytest.mark.parametrize(
    "first",
    ["#!/bin/sh\n", "#!/usr/bin/env python\n", f"#!{PREFIX}/bin/perl\n", "#!/usr/bin/python3\n", "\x7fELF"],
)
def test_other_programs_are_not_copied(first: str) -> None:
    """The environment's own are next in PATH."""
    assert rewritten(first.encode(), PREFIX, "/l/bin/python") is None


@pytest.mark.parametrize("python", [LONG, "/run/a b/bin/python"])
def test_a_path_that_no_first_line_can_hold_goes_through_sh(python: str, tmp_path: Path) -> None:
    """Kernels cut a first line off, and a blank ends the interpreter's name."""
    made = rewritten(f"#!{PREFIX}/bin/python\nimport sys\nsys.exit(3)\n".encode(), PREFIX, python)
    assert made is not None and made.startswith(b"#!/bin/sh\n")
    target = tmp_path / python.lstrip("/")
    target.parent.mkdir(parents=True)
    target.symlink_to(sys.executable)
    script = tmp_path / "script"
    script.write_bytes(made.replace(os.fsencode(python), os.fsencode(str(target))))
    assert subprocess.run(["/bin/sh", script], check=False, timeout=30).returncode == 3
    compile(made.decode(), "script", "exec")


def test_a_layer_has_what_a_virtual_environment_has(prefix: Path, tmp_path: Path) -> None:
    """Links to the interpreter, own scripts, a place to install to, data where packages look for it."""
    made = over(prefix, tmp_path / "layer")
    root = tmp_path / "layer"
    assert made.made and made.variables == {"VIRTUAL_ENV": str(root)}
    assert os.path.realpath(root / "bin/python3") == str(prefix / "bin/python3.12")
    assert sorted(os.listdir(root / "bin")) == ["pip", "pytest", "python", "python3", "python3.12"]
    assert (root / "bin/pytest").read_text() == f"#!{root}/bin/python\nprint('pytest')\n"
    assert os.access(root / "bin/pytest", os.X_OK)
    assert (root / "lib/python3.12/site-packages").is_dir()
    assert "include-system-site-packages = true" in (root / "pyvenv.cfg").read_text()
    assert (root / "share/proj").is_symlink() and not (root / "share/man").exists()
    assert (root / "share/jupyter/kernels/python3/kernel.json").exists()
    assert not (root / "share/jupyter/kernels").is_symlink()


def test_a_hundred_scripts_take_far_less_than_half_a_second(prefix: Path, tmp_path: Path) -> None:
    """Every job waits for it."""
    names = [f"command-{number}" for number in range(100)]
    for name in names:
        (prefix / "bin" / name).write_text(f"#!{prefix}/bin/python\n" + "x = 1\n" * 100)
    made = over(prefix, tmp_path / "layer", names)
    assert made.seconds < 0.5 and len(os.listdir(made.bin)) == 103


def test_a_layer_that_is_there_is_kept_with_all_that_was_installed(prefix: Path, tmp_path: Path) -> None:
    """A job asks in more than one step."""
    over(prefix, tmp_path / "layer")
    mine = tmp_path / "layer/lib/python3.12/site-packages/mine.py"
    mine.touch()
    assert not over(prefix, tmp_path / "layer").made
    assert mine.exists()


@pytest.mark.parametrize("cut", ["mark", "all but the configuration"])
def test_a_half_layer_is_replaced(cut: str, prefix: Path, tmp_path: Path) -> None:
    """It was killed while it made or removed one."""
    root = tmp_path / "layer"
    over(prefix, root)
    (root / LAYER_MARK).unlink()
    (root / "bin/pytest").unlink()
    if cut != "mark":
        (root / "bin/pip").unlink()
    assert over(prefix, root).made and (root / "bin/pytest").exists() and (root / LAYER_MARK).exists()


def test_a_layer_of_another_environment_is_replaced(prefix: Path, tmp_path: Path) -> None:
    """Nothing of the old one stays."""
    root = tmp_path / "layer"
    over(prefix, root)
    (root / "old").touch()
    other = prefix.rename(tmp_path / "other")
    for name in ("pytest", "pip"):
        (other / "bin" / name).write_text(f"#!{other}/bin/python\n")
    assert over(other, root).made and not (root / "old").exists()


@pytest.mark.parametrize("config", [None, "home = /usr/bin\n"])
def test_what_is_no_layer_is_left_alone(config: str | None, prefix: Path, tmp_path: Path) -> None:
    """Neither somebody's directory nor somebody's own virtual environment is emptied."""
    root = tmp_path / "home"
    root.mkdir()
    (root / "thesis").touch()
    if config:
        (root / "pyvenv.cfg").write_text(config)
    with pytest.raises(UsageError, match="no layer"):
        over(prefix, root)
    assert (root / "thesis").exists()


def test_what_stands_in_the_way_is_one_line(prefix: Path, tmp_path: Path) -> None:
    """No Python, no interpreter, a file where a directory is to be."""
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match="cannot make a layer"):
        over(prefix, tmp_path / "file")
    (prefix / "lib/python3.12/os.py").unlink()
    with pytest.raises(ConfigError, match="no Python"):
        over(prefix, tmp_path / "layer")
    (prefix / "bin/python3.12").unlink()
    with pytest.raises(ConfigError, match="not there"):
        over(prefix, tmp_path / "layer")


def test_names_that_lead_elsewhere_are_no_scripts(prefix: Path, tmp_path: Path) -> None:
    """The list comes from a file; nothing outside ``bin`` is written."""
    made = over(prefix, tmp_path / "layer", ["../bin/pytest", "missing", "pip", "tool", "python"])
    assert sorted(os.listdir(made.bin)) == ["pip", "python", "python3", "python3.12"]


def test_two_processes_make_one_layer(prefix: Path, tmp_path: Path) -> None:
    """The second waits and finds it complete."""
    made: list[Layer] = []
    threads = [
        threading.Thread(target=lambda: made.append(over(prefix, tmp_path / "layer"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(each.made for each in made) == [False, False, False, True]


def test_nobody_waits_for_ever(prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody stopped a process that held it."""
    monkeypatch.setattr(module, "LOCK_SECONDS", 0.05)
    (tmp_path / "layer").mkdir()
    began = time.monotonic()
    with module._locked(str(tmp_path / "layer")), pytest.raises(TryAgainError):
        over(prefix, tmp_path / "layer")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("choice", "temporary", "place"),
    [
        ("auto", "/run/tmp", "/run/tmp/env-0123"),
        ("auto", None, None),
        ("none", "/run/tmp", None),
        ("/my/layer", None, "/my/layer"),
    ],
)
def test_where_a_layer_goes(choice: str, temporary: str | None, place: str | None) -> None:
    """In a job to its own temporary directory; else only where somebody says."""
    assert layer_place(choice, "0123", temporary) == place
    with pytest.raises(UsageError):
        layer_place("", "0123", temporary)


def test_the_interpreter_takes_it_for_its_own(tmp_path: Path) -> None:
    """A real Python: ``sys.prefix`` is the layer, and so it is in a spawned child."""
    code = (
        "import multiprocessing, sys, site\n"
        "def ask(q):\n    q.put((sys.prefix, sys.executable))\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    queue = context.Queue()\n"
        "    child = context.Process(target=ask, args=(queue,))\n"
        "    child.start()\n"
        "    packages = site.getsitepackages()[0]\n"
        "    print(*queue.get(timeout=30), sys.prefix, sys.base_prefix, packages, sep='\\n')\n"
        "    child.join(30)\n"
    )
    (tmp_path / "ask.py").write_text(code)
    binary = os.path.join("bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")
    made = make_layer(sys.base_prefix, binary, [], str(tmp_path / "layer"))
    command = [made.python, str(tmp_path / "ask.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    child, executable, own, base, packages = done.stdout.split()
    assert child == own == str(tmp_path / "layer")
    assert (executable, base) == (made.python, sys.base_prefix)
    assert packages.startswith(own)
