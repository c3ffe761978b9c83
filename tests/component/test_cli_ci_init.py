"""``runnerctl ci init`` in repositories of every kind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.component.cli_support import call

ROOT = Path(__file__).parents[2]
CI = ".github/workflows/ci.yml"
ACTION = ".github/actions/conda-env/action.yml"
ENVIRONMENT = """\
name: widgets
channels:
  - conda-forge
dependencies:
  - python=3.12
  - cuda-version=12.8   # what the drivers know
  # tests
  - pytest
"""
PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "widgets"
version = "1"
"""


def _repository(path: Path, **files: str) -> Path:
    """A git repository with a package and tests; ``files`` by path."""
    content = {
        "environment.yml": ENVIRONMENT,
        "pyproject.toml": PYPROJECT,
        "src/widgets/__init__.py": "",
        "tests/test_gpu.py": "import pytest\n\n\n@pytest.mark.gpu\ndef test_it() -> None: ...\n",
        "tests/test_async_communication.py": "def test_it() -> None: ...\n",
        **files,
    }
    for name, text in content.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    (path / ".git").mkdir()
    return path


def _files(path: Path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def _actions(repository: Path, *arguments: str, code: int = 0) -> dict[str, str]:
    ran = call("ci", "init", str(repository), "-o", "json", *arguments)
    assert ran.code == code, ran.err
    return {each["path"]: each["action"] for each in ran.json["files"]}


def test_a_first_run_writes_and_a_second_changes_nothing(tmp_path: Path) -> None:
    """Said before with --check, which writes nothing."""
    repository = _repository(tmp_path / "r")
    before = _files(repository)
    said = _actions(repository, "--check", code=1)
    assert _files(repository) == before
    assert said == {
        CI: "create",
        ACTION: "create",
        "pyproject.toml": "update",
        ".pre-commit-config.yaml": "create",
        "environment.yml": "update",
    }
    assert _actions(repository) == said
    after = _files(repository)
    assert set(_actions(repository, "--check").values()) == {"unchanged"}
    assert set(_actions(repository).values()) == {"unchanged"}
    assert _files(repository) == after
    assert after["environment.yml"].decode().startswith(ENVIRONMENT)
    dependencies = yaml.safe_load(after["environment.yml"])["dependencies"]
    tools = {"pip", "coverage", "pre-commit", "black", "ruff", "mypy"}
    assert set(dependencies[3:-1]) == {*tools, "hatchling>=1.27"}
    assert dependencies[-1] == {"pip": ["runnerctl"]}


def test_the_answer_reads_well(tmp_path: Path) -> None:
    """A short table, every difference in a file that was there, three lines of what comes next."""
    repository = _repository(tmp_path / "r")
    ran = call("ci", "init", str(repository))
    lines = ran.out.split("\n")
    assert lines[0].split() == ["FILE", "WHAT", "NOTE"]
    assert "+parallel = true" in lines and "+  - coverage" in lines
    after = ran.out[ran.out.index("Next:") :]
    assert [line.strip()[:2] for line in after.split("\n") if line[2:3].isdigit()] == ["1.", "2.", "3."]
    assert max(map(len, after.split("\n"))) <= 80
    quiet = call("ci", "init", str(repository), "--no-diff", "--threshold", "90")
    assert "@@" not in quiet.out and "fail_under = 90" in (repository / "pyproject.toml").read_text()


def test_options_are_remembered_by_the_workflow(tmp_path: Path) -> None:
    """A later run needs none of them again."""
    repository = _repository(tmp_path / "r")
    _actions(repository, "--branch", "trunk", "--gpu-labels", "self-hosted,a100", "--workflow", "gpu.yml")
    workflow = yaml.safe_load((repository / ".github/workflows/gpu.yml").read_text())
    assert workflow[True]["push"]["branches"] == ["trunk"]
    assert workflow["jobs"]["gpu_tests"]["runs-on"] == ["self-hosted", "a100"]
    assert workflow["jobs"]["gpu_tests"]["steps"][1]["with"] == {"cuda": "12.8"}
    assert set(_actions(repository).values()) == {"unchanged"}
    assert not (repository / CI).exists()
    assert _actions(repository, "--branch", "main")[".github/workflows/gpu.yml"] == "update"


def test_an_edited_file_is_kept_and_shown(tmp_path: Path) -> None:
    """Nothing to say while there is nothing new; --force takes the new one."""
    repository = _repository(tmp_path / "r")
    _actions(repository)
    edited = (repository / CI).read_text().replace("timeout-minutes: 45", "timeout-minutes: 90")
    (repository / CI).write_text(edited)
    assert _actions(repository)[CI] == "unchanged"
    ran = call("ci", "init", str(repository), "--branch", "trunk")
    assert "kept" in ran.out and "-    timeout-minutes: 90" in ran.out and "+    branches: [trunk]" in ran.out
    assert (repository / CI).read_text() == edited
    assert _actions(repository, "--branch", "trunk", "--force")[CI] == "update"
    assert "timeout-minutes: 45" in (repository / CI).read_text()


def test_a_workflow_that_is_not_ours_is_kept(tmp_path: Path) -> None:
    """And everything else is done."""
    repository = _repository(tmp_path / "r", **{CI: "name: mine\n"})
    actions = _actions(repository)
    assert actions[CI] == "keep" and actions["pyproject.toml"] == "update"
    assert (repository / CI).read_text() == "name: mine\n"
    assert _actions(repository, "--force")[CI] == "update"


def test_a_file_can_be_left_alone(tmp_path: Path) -> None:
    """For good: the workflow remembers it."""
    repository = _repository(tmp_path / "r")
    assert _actions(repository, "--keep", "environment.yml")["environment.yml"] == "keep"
    assert _actions(repository)["environment.yml"] == "keep"
    assert (repository / "environment.yml").read_text() == ENVIRONMENT


def test_settings_stay_where_the_project_has_them(tmp_path: Path) -> None:
    """No tool is configured twice."""
    files = {
        ".coveragerc": "[run]\nbranch = true\n",
        "pytest.ini": "[pytest]\naddopts = --cov=widgets -n 4\n",
    }
    repository = _repository(tmp_path / "r", **files)
    actions = _actions(repository)
    assert actions[".coveragerc"] == actions["pytest.ini"] == "update" and "pyproject.toml" not in actions
    assert "--no-cov" in (repository / CI).read_text()
    assert "patch =\n    subprocess\n" in (repository / ".coveragerc").read_text()
    assert set(_actions(repository).values()) == {"unchanged"}


def test_both_tools_in_one_setup_cfg(tmp_path: Path) -> None:
    """Each finds its own section, also with Windows' line ends, which stay."""
    text = "[metadata]\nname = widgets\n\n[tool:pytest]\naddopts = -q\n\n[coverage:run]\nbranch = true\n"
    repository = _repository(tmp_path / "r", **{"pyproject.toml": ""})
    (repository / "setup.cfg").write_bytes(text.replace("\n", "\r\n").encode())
    (repository / "setup.py").write_text("")
    assert _actions(repository)["setup.cfg"] == "update"
    data = (repository / "setup.cfg").read_bytes()
    assert data.count(b"\n") == data.count(b"\r\n")
    assert b"gpu:" in data and b"parallel = true" in data and b"[coverage:report]" in data
    assert set(_actions(repository).values()) == {"unchanged"}
    assert "--editable ." in (repository / CI).read_text()


@pytest.mark.parametrize(
    "files,where",
    [
        ({"environment.yml": "a: [\n"}, "environment.yml:"),
        ({"environment.yml": "dependencies:\n\t- x\n"}, "environment.yml:2"),
        ({"environment.yml": "dependencies:\n  - python\n  - pip:\n    - -e .\n"}, "environment.yml:4"),
        ({"environment.yml": "name: x\n"}, "environment.yml"),
        ({"pyproject.toml": "[project\n"}, "pyproject.toml"),
        ({".coveragerc": "parallel\n"}, ".coveragerc"),
        ({".pre-commit-config.yaml": "- a\n"}, ".pre-commit-config.yaml"),
        ({".github": "a file\n"}, ".github"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, files: dict[str, str], where: str) -> None:
    """What, where, what to do."""
    repository = _repository(tmp_path / "r", **files)
    before = _files(repository)
    ran = call("ci", "init", str(repository))
    assert ran.code in (65, 69, 78) and where in ran.err and len(ran.err.strip().split("\n")) == 1, ran.err
    assert _files(repository) == before


def test_names_that_mean_something_elsewhere_stay_out(tmp_path: Path) -> None:
    """Folders of a repository are text from outside: for YAML, an expression and a shell."""
    evil = ("x;touch pwn", "q'\"${{ github.token }}", "n\nl: evil", "::set-env name=A::b", "-rf")
    files = {f"src/{name}/__init__.py": "" for name in evil}
    files |= {f"tests/{name}/integration/test_integration.py": "def test(): pass\n" for name in evil}
    project = '[build-system]\nrequires = ["setuptools"]\n'
    repository = _repository(tmp_path / "r", **files, **{"pyproject.toml": project})
    ran = call("ci", "init", str(repository))
    assert ran.code == 0 and "\n::" not in ran.out, ran.err
    written = "".join(
        (repository / name).read_text() for name in (CI, "pyproject.toml", ".pre-commit-config.yaml")
    )
    assert not [text for text in ("touch pwn", "token }}", "l: evil", "::set-env") if text in written]
    assert call("ci", "check", str(repository)).code == 0


def test_what_is_no_place_for_it(tmp_path: Path) -> None:
    """No directory; no environment; no package; below a repository's top; a branch that is none."""
    assert call("ci", "init", str(tmp_path / "none")).code == 64
    repository = _repository(tmp_path / "r")
    assert "top alone" in call("ci", "init", str(repository / "src")).err
    assert call("ci", "init", str(repository), "--branch", "a b").code == 64
    assert call("ci", "init", str(repository), "--workflow", "../x.yml").code == 64
    assert call("ci", "init", str(repository), "--integration", "tests/none.py").code == 64
    (repository / "environment.yml").unlink()
    assert "environment.yml: is not there" in call("ci", "init", str(repository)).err
    (repository / "ci").mkdir()
    (repository / "ci/environment.yaml").write_text("dependencies: [python]\n")
    assert "give --environment-file ci/environment.yaml" in call("ci", "init", str(repository)).err
    shutil.rmtree(repository / "src")
    assert "--source-package" in call("ci", "init", str(repository)).err


def test_without_git_it_is_done_with_a_note(tmp_path: Path) -> None:
    """And the default branch is origin's where a clone knows it."""
    repository = _repository(tmp_path / "r")
    (repository / ".git").rmdir()
    ran = call("ci", "init", str(repository))
    assert ran.code == 0 and "git init" in ran.err
    other = _repository(tmp_path / "o")
    (other / ".git/refs/remotes/origin").mkdir(parents=True)
    (other / ".git/refs/remotes/origin/HEAD").write_text("ref: refs/remotes/origin/develop\n")
    _actions(other)
    assert "branches: [develop]" in (other / CI).read_text()
    assert set(_actions(other).values()) == {"unchanged"}


def test_what_is_generated_passes_the_checks_of_others(tmp_path: Path) -> None:
    """zizmor, GitHub's schemas, and our own `ci check`."""
    repository = tmp_path / "r"
    skip = shutil.ignore_patterns(".*_cache", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "examples/gpubuffers", repository, ignore=skip)
    (repository / ".git").mkdir()
    _actions(repository, "--system-package", "libgl1", "--cuda", "12.8")
    tools = Path(sys.executable).parent
    env = {"PATH": os.environ["PATH"]}
    schema = [str(tools / "check-jsonschema"), "--builtin-schema"]
    for command in (
        [str(tools / "zizmor"), "--offline", "--no-progress", str(repository / ".github")],
        [*schema, "vendor.github-workflows", str(repository / CI)],
        [*schema, "vendor.github-actions", str(repository / ACTION)],
    ):
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
    found = call("ci", "check", str(repository), "-o", "json")
    assert found.json["findings"] == [], found.out
