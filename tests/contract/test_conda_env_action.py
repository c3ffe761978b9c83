"""The action's own steps, run as a runner runs them; conda and runnerctl only note their calls."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from runnerctl.core.spec import Conda

ROOT = Path(__file__).parents[2]
ACTION = ROOT / ".github" / "actions" / "conda-env" / "action.yml"
FILE = "name: demo\ndependencies: [python=3.12]\n"

CONDA = """#!/bin/bash
echo "$CONDA_OVERRIDE_CUDA|$*" >>"$CALLS"
if [ "$*" = "info --base" ]; then echo "$BASE"; exit; fi
for last; do :; done
mkdir -p "$last/bin" "$last/conda-meta" "$last/etc/conda/activate.d"
echo '{"version": 1, "env_vars": {"DEMO": "two\\nlines", "GONE": "***unset***"}}' >"$last/conda-meta/state"
printf '#!/bin/sh\\necho "pip|$*" >>"$CALLS"\\n' >"$last/bin/python"
chmod +x "$last/bin/python"
printf '%s\\n' 'export LD_LIBRARY_PATH=/lib1' 'export FROM_SCRIPT="$CONDA_PREFIX"' 'unset BASH_ENV' \
  >"$last/etc/conda/activate.d/demo.sh"
"""
RUNNERCTL = """#!/bin/bash
echo "$*" >>"$CALLS"
echo '{"schema": "runnerctl.env/1", "status": "hit", "prefix": "/store/envs/abc", "duration_seconds": 0.0389}'
"""


@dataclass
class Machine:
    """A runner: its folders, and what the action's steps told it."""

    root: Path
    kind: str
    inputs: dict[str, str] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    steps: dict[str, dict[str, str]] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    log: str = ""

    def value(self, text: str) -> str:
        """``${{ ... }}`` in a text, as far as the action goes."""
        return re.sub(r"\$\{\{(.*?)\}\}", lambda match: self._expression(match[1].strip()), text)

    def _expression(self, text: str) -> str:
        for part in (part.strip() for part in text.split("||")):
            found = self._term(part)
            if found:
                return found
        return ""

    def _term(self, text: str) -> str:
        if text.startswith("'"):
            return text.strip("'")
        if text.startswith("inputs."):
            return self.inputs[text.removeprefix("inputs.")]
        if text == "runner.environment":
            return self.kind
        if match := re.fullmatch(r"steps\.(\w+)\.outputs\.([\w-]+)", text):
            return self.steps.get(match[1], {}).get(match[2], "")
        return {"runner.temp": str(self.root / "temp")}.get(text, f"<{text}>")

    def holds(self, condition: str) -> bool:
        """An ``if:`` of terms that are compared, and all of which must hold."""
        for term in condition.split("&&"):
            left, operator, right = re.split(r"\s*(==|!=)\s*", term.strip())
            if (self._term(left) == self._term(right)) is not (operator == "=="):
                return False
        return True

    def run(self) -> int:
        """Every step in its order; the exit status of the one that failed."""
        action = yaml.safe_load(ACTION.read_text())
        self.inputs = {
            name: given.get("default", "") for name, given in action["inputs"].items()
        } | self.inputs
        for step in action["runs"]["steps"]:
            if not self.holds(step.get("if", "'' == ''")):
                continue
            if "uses" in step:
                self.used.append(step["uses"].split("@")[0])
                if "setup-miniconda" in step["uses"]:
                    self.environ["CONDA"] = str(self.root / "miniforge")
                continue
            status = self._bash(step)
            if status:
                return status
        return 0

    def _bash(self, step: dict[str, Any]) -> int:
        output = self.root / "output"
        output.write_text("")
        env = self.environ | {name: self.value(text) for name, text in step["env"].items()}
        command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]]
        env |= {"GITHUB_OUTPUT": str(output)}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)
        self.log += done.stdout + done.stderr
        lines = (line.partition("=") for line in output.read_text().splitlines())
        self.steps[step.get("id", "")] = {name: value for name, _, value in lines}
        return done.returncode

    @property
    def calls(self) -> list[str]:
        """What conda or runnerctl was called with, ``info`` left out."""
        path = self.root / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if not line.endswith("info --base")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A hosted runner with a checkout."""
    for name in ("work", "temp", "home", "bin", "miniforge/bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "work" / "environment.yml").write_text(FILE)
    (tmp_path / "miniforge" / "bin" / "conda").write_text(CONDA)
    (tmp_path / "miniforge" / "bin" / "conda").chmod(0o755)
    python = tmp_path / "miniforge" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    environ = {
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "HOME": str(tmp_path / "home"),
        "RUNNER_TEMP": str(tmp_path / "temp"),
        "GITHUB_WORKSPACE": str(tmp_path / "work"),
        "GITHUB_ENV": str(tmp_path / "env"),
        "GITHUB_PATH": str(tmp_path / "path"),
        "CALLS": str(tmp_path / "calls"),
        "BASE": str(tmp_path / "miniforge"),
    }
    return Machine(tmp_path, "github-hosted", environ=environ)


def _exported(machine: Machine) -> dict[str, str]:
    """GITHUB_ENV, read as the runner reads it."""
    found: dict[str, str] = {}
    lines = iter((machine.root / "env").read_text().splitlines())
    for line in lines:
        name, _, end = line.partition("<<")
        value: list[str] = []
        for each in lines:
            if each == end:
                break
            value.append(each)
        found[name] = "\n".join(value)
    return found


def test_a_hosted_runner_makes_keeps_and_activates(machine: Machine) -> None:
    """One environment, made once, kept before any later step can change it, active without a login shell."""
    assert machine.run() == 0, machine.log
    prefix = str(machine.root / "home/.cache/conda-env/prefix")
    assert machine.steps["place"]["prefix"] == prefix
    assert machine.calls == [f"|env create --yes --quiet --file environment.yml --prefix {prefix}"]
    order = ["actions/cache/restore", "conda-incubator/setup-miniconda", "actions/cache/save"]
    assert machine.used == order
    exported = _exported(machine)
    assert exported == {
        "CONDA_PREFIX": prefix,
        "CONDA_DEFAULT_ENV": prefix,
        "PYTHONNOUSERSITE": "1",
        "DEMO": "two\nlines",
        "FROM_SCRIPT": prefix,
    }
    assert (machine.root / "path").read_text() == f"{prefix}/bin\n"
    assert "LD_LIBRARY_PATH is not set for later steps" in machine.log


def test_a_key_changes_with_what_decides_the_packages(machine: Machine) -> None:
    """CUDA and files that pip's section names are in the key; the file's own hash is there by hashFiles."""
    work = machine.root / "work"
    (work / "environment.yml").write_text("dependencies:\n- pip:\n  - -r more.txt\n")
    seen = []
    for cuda, more in (("auto", "a"), ("auto", "a"), ("12.8", "a"), ("auto", "b")):
        (work / "more.txt").write_text(more)
        machine.inputs = {"cuda": cuda}
        assert machine.run() == 0, machine.log
        seen.append(machine.steps["place"]["facts"])
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3
    assert machine.calls[2].startswith("12.8|env create")


def test_our_host_gets_it_from_its_store(machine: Machine) -> None:
    """One call; nothing is downloaded, made or cached."""
    machine.kind = "self-hosted"
    machine.environ["RUNNERCTL_ENV_STORE"] = str(machine.root / "store")
    (machine.root / "bin" / "runnerctl").write_text(RUNNERCTL)
    (machine.root / "bin" / "runnerctl").chmod(0o755)
    assert machine.run() == 0, machine.log
    assert machine.calls == ["env ensure environment.yml --cuda auto --layer auto --github -o json"]
    assert machine.used == []
    assert machine.steps["store"] == {"prefix": "/store/envs/abc", "cache-hit": "true"}
    outputs = yaml.safe_load(ACTION.read_text())["outputs"]
    told = {name: machine.value(output["value"]) for name, output in outputs.items()}
    assert told == {"prefix": "/store/envs/abc", "cache-hit": "true", "mode": "store"}
    assert machine.log == "conda-env: hit in 0.04 s, in this host's store: /store/envs/abc\n"


def test_another_machine_keeps_nothing(machine: Machine) -> None:
    """Without a store: for this job alone, by the conda that is there, and HOME is untouched."""
    machine.kind = "self-hosted"
    machine.environ["CONDA_EXE"] = str(machine.root / "miniforge/bin/conda")
    assert machine.run() == 0, machine.log
    assert machine.used == []
    assert machine.steps["place"]["prefix"].startswith(str(machine.root / "temp"))
    assert list((machine.root / "home").iterdir()) == []
    assert "::notice title=conda-env::this runner has no store" in machine.log


def test_windows_is_refused(machine: Machine) -> None:
    """In the first step, with what to do."""
    machine.environ["RUNNER_OS"] = "Windows"
    assert machine.run() == 1
    assert machine.log == "::error title=conda-env::Windows is not supported: runs-on a Linux runner\n"


def test_the_key_follows_files_that_files_include(machine: Machine) -> None:
    """Also those that a requirements file names, and a circle of them ends."""
    work = machine.root / "work"
    (work / "environment.yml").write_text("dependencies:\n  - pip:\n      - -r requirements.txt\n")
    (work / "requirements.txt").write_text("-rmore/base.txt\n-r requirements.txt\n")
    (work / "more").mkdir()
    found = set()
    for version in ("1", "2"):
        (work / "more" / "base.txt").write_text(f"six=={version}\n")
        assert machine.run() == 0, machine.log
        found.add(machine.steps["place"]["facts"])
    assert len(found) == 2


def test_a_lock_decides_every_package(machine: Machine) -> None:
    """Conda reads the list of addresses; variables and pip's section still come from the file."""
    work = machine.root / "work"
    (work / "env.lock").write_text("# runnerctl environment lock 1\n# pip: six==1.17.0\nversion: 7\n")
    machine.inputs = {"lock": "env.lock"}
    assert machine.run() == 1
    assert "conda needs env.lock.explicit.txt" in machine.log
    (work / "env.lock.explicit.txt").write_text("@EXPLICIT\n")
    (work / "environment.yml").write_text("dependencies: [python, pip: [six]]\nvariables: {COLOUR: red}\n")
    assert machine.run() == 0, machine.log
    assert machine.calls[0].startswith("|create --yes --quiet --file env.lock.explicit.txt --prefix ")
    assert _exported(machine)["COLOUR"] == "red"
    prefix = machine.steps["place"]["prefix"]
    pins = f"{prefix}/conda-meta/pip-pins.txt"
    pip = f"-m pip install --quiet --requirement ./.conda-env-pip.txt --constraint {pins}"
    assert machine.calls[1] == f"pip|{pip}"
    assert Path(pins).read_text() == "six==1.17.0\n"
    assert sorted(each.name for each in work.iterdir()) == [
        "env.lock",
        "env.lock.explicit.txt",
        "environment.yml",
    ]


@pytest.mark.parametrize(
    "name,value,words",
    [
        ("environment-file", "../other/environment.yml", "outside the workspace"),
        ("environment-file", "missing.yml", "check out first"),
        ("environment-file", "a\n::stop-commands::x", "outside the workspace"),
        ("cuda", "12.8; id", "neither auto, none nor a version"),
        ("layer", "/etc", "neither auto nor none"),
    ],
)
def test_a_bad_input_is_one_clear_line(machine: Machine, name: str, value: str, words: str) -> None:
    """What, and what to do; nothing was started, and the text cannot hold a command of its own."""
    machine.inputs = {name: value}
    assert machine.run() == 1
    assert machine.log.startswith("::error title=conda-env::")
    assert words in machine.log
    assert machine.log.count("\n") == 1
    assert machine.calls == machine.used == []


def test_it_uses_the_conda_that_hosts_get_and_edits_no_profile() -> None:
    """One Miniforge version; no second environment, no start-up file, no settings of a user changed."""
    action = yaml.safe_load(ACTION.read_text())
    installs = [step for step in action["runs"]["steps"] if "miniconda" in step.get("uses", "")]
    for step in installs:
        given = step["with"]
        assert given["miniforge-version"] == Conda().version
        assert not {"environment-file", "auto-update-conda", "python-version"} & set(given)
        edits = ("auto-activate", "remove-profiles", "run-init", "run-post")
        assert {given[name] for name in edits} == {"false"}
    assert installs[1]["env"]["HOME"] == "${{ runner.temp }}"
    assert (
        Conda().version in next(s for s in action["runs"]["steps"] if s.get("id") == "cache")["with"]["key"]
    )


def test_its_key_is_the_files_hash_and_no_stale_one_is_revived() -> None:
    """And the scripts see inputs as variables, never as text of their own."""
    action = yaml.safe_load(ACTION.read_text())
    cache = next(step for step in action["runs"]["steps"] if step.get("id") == "cache")["with"]
    assert "hashFiles(inputs.environment-file)" in cache["key"]
    assert "restore-keys" not in cache
    assert not [step["name"] for step in action["runs"]["steps"] if "${{" in step.get("run", "")]


def test_its_scripts_are_sound(tmp_path: Path) -> None:
    """Shellcheck finds nothing in any step."""
    steps = yaml.safe_load(ACTION.read_text())["runs"]["steps"]
    scripts = []
    for number, step in enumerate(step for step in steps if "run" in step):
        scripts.append(tmp_path / f"{number}.sh")
        scripts[-1].write_text(
            "#!/bin/bash\n" + "".join(f"export {name}\n" for name in step["env"]) + step["run"]
        )
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, timeout=30)
    assert done.stdout == ""
