"""The pieces of ``ci init``: edits that leave everything else alone, marks, options, the workflow's text."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from runnerctl.ci.edit_config import Config
from runnerctl.ci.edit_coverage import edit_coverage
from runnerctl.ci.edit_environment import Needs, add_packages, build_needs, cuda_version, missing
from runnerctl.ci.edit_hooks import edit_hooks, hooks_for
from runnerctl.ci.edit_ini import IniConfig
from runnerctl.ci.edit_pytest import edit_pytest, registered, unregistered
from runnerctl.ci.edit_toml import TomlConfig, read_toml
from runnerctl.ci.init_mark import command_of, marked, state
from runnerctl.ci.init_model import Options
from runnerctl.ci.init_options import checked, command_line, from_command_line, merged
from runnerctl.ci.init_project import Project
from runnerctl.ci.init_repo import Repository
from runnerctl.ci.init_workflow import ACTION_PATH, ACTIONS, action_text, workflow_text
from runnerctl.errors import ConfigError, DataError, RunnerctlError, TryAgainError, UsageError

ROOT = Path(__file__).parents[2]
OUTCOMES = ("success", "failure", "cancelled", "skipped")
PROJECT = Project(
    packages={"widgets": "src/widgets"},
    tests=("tests/test_a.py",),
    integration=("tests/test_integration.py",),
    gpu_tests=True,
    integration_gpu=True,
    build_requires=("setuptools",),
    mypy_files=True,
)
PYPROJECT = """\
# mine
[project]
name = "widgets"   # the name

[tool.pytest.ini_options]
addopts = "-ra"    # report all
markers = [
  "slow: takes long",  # a comment
]

[tool.coverage.run]
branch = true

[tool.black]
line-length = 99
"""
ENVIRONMENT = """\
name: widgets
channels: [conda-forge]
dependencies:
- python=3.12   # pinned
- "pytest>=8"
# the GPU
- cuda-version=12.8
- pip:
    - black==25.1.0
"""


def _cover(config: Config, *, force: bool = False, threshold: str | None = None) -> list[str]:
    found = ["widgets"]
    return edit_coverage(config, packages=None, found=found, threshold=threshold, workers=False, force=force)


def test_a_toml_file_gains_settings_and_loses_nothing() -> None:
    """Every line of the user's is still there, in its order; the settings are what the jobs need."""
    config = TomlConfig(PYPROJECT, "pyproject.toml", ("tool", "coverage"))
    assert _cover(config) == []
    both = TomlConfig(config.render(), "pyproject.toml", ("tool", "pytest", "ini_options"))
    edit_pytest(both)
    text = both.render()
    rest = iter(text.split("\n"))
    changed = {'addopts = "-ra"    # report all', "]"}
    assert all(line in rest for line in PYPROJECT.split("\n") if line not in changed)
    tool = read_toml(text, "").unwrap()["tool"]
    assert tool["coverage"]["run"] == {
        "branch": True,
        "parallel": True,
        "concurrency": ["multiprocessing", "thread"],
        "sigterm": True,
        "relative_files": True,
        "source": ["widgets"],
    }
    assert tool["coverage"]["report"] == {"fail_under": 80}
    assert tool["pytest"]["ini_options"]["addopts"] == "-ra --strict-markers"
    assert [each.split(":")[0] for each in tool["pytest"]["ini_options"]["markers"]] == ["slow", "gpu"]
    assert "# report all" in text and "# a comment" in text


@pytest.mark.parametrize(
    "config",
    [
        TomlConfig("", "pyproject.toml", ("tool", "coverage")),
        IniConfig("", ".coveragerc", "{}"),
        IniConfig(
            "[metadata]\nname = x\n\n[coverage:run]\n# why\nbranch = true\n\n[x]\n",
            "setup.cfg",
            "coverage:{}",
        ),
        IniConfig("[run]\nconcurrency = thread\nomit =\n    a\n    b\n", ".coveragerc", "{}"),
        TomlConfig('[tool.coverage.run]\nconcurrency = "thread"\n', "p", ("tool", "coverage")),
    ],
)
def test_settings_can_be_read_back_and_are_not_set_twice(config: Config) -> None:
    """Whatever the format: what was set is there, and a second time nothing is to do."""
    _cover(config)
    text = config.render()
    assert config.text("run", "parallel") == "true"
    assert set(config.items("run", "concurrency")) == {"multiprocessing", "thread"}
    assert config.text("report", "fail_under") == "80"
    _cover(config)
    assert config.render() == text


def test_an_ini_file_keeps_its_lines() -> None:
    """Settings go to the end of their section, before the empty line."""
    config = IniConfig("[run]\nbranch = true\n\n[html]\ndirectory = x\n", ".coveragerc", "{}")
    _cover(config)
    lines = config.render().split("\n")
    assert lines[:3] == ["[run]", "branch = true", "parallel = true"]
    assert lines[lines.index("[html]") - 1] == ""
    assert config.text("html", "directory") == "x"


def test_what_the_user_set_stays_unless_forced() -> None:
    """A switch that is off is told of; a threshold that is said replaces the old one."""
    text = "[tool.coverage.run]\nparallel = false\nsource_pkgs = ['a']\n"
    text += "[tool.coverage.report]\nfail_under = 55\n"
    config = TomlConfig(text, "p", ("tool", "coverage"))
    notes = _cover(config)
    assert len(notes) == 1 and "parallel" in notes[0]
    assert config.text("run", "parallel") == "false"
    assert config.text("report", "fail_under") == "55"
    assert config.text("run", "source") is None
    assert _cover(config, force=True, threshold="92.5") == []
    assert config.text("run", "parallel") == "true"
    assert config.text("report", "fail_under") == "92.5"


@pytest.mark.parametrize(
    "text,done",
    [
        ("[pytest]\n", "[pytest]\nmarkers =\n    gpu:"),
        ("[pytest]\nmarkers =\n    slow: x\naddopts = -q\n", "addopts = -q --strict-markers"),
        (
            "[pytest]\nmarkers = gpu(n): x\naddopts = --strict\n",
            "[pytest]\nmarkers = gpu(n): x\naddopts = --strict\n",
        ),
    ],
)
def test_the_marker_is_registered_in_an_ini_file(text: str, done: str) -> None:
    """Once, and strictly."""
    config = IniConfig(text, "pytest.ini", "pytest")
    edit_pytest(config)
    assert done in config.render()
    again = IniConfig(config.render(), "pytest.ini", "pytest")
    edit_pytest(again)
    assert again.render() == config.render()


def test_a_list_of_options_gets_one_more() -> None:
    """pytest takes both forms."""
    config = TomlConfig('[pytest]\naddopts = ["-ra"]\n', "pytest.toml", ("pytest",))
    edit_pytest(config)
    assert read_toml(config.render(), "").unwrap()["pytest"]["addopts"] == ["-ra", "--strict-markers"]


def test_a_marker_that_a_conftest_registers_is_registered() -> None:
    """Its text is read, not run."""
    conftest = 'def pytest_configure(config):\n    config.addinivalue_line("markers", "slow: takes long")\n'
    config = IniConfig("", "pytest.ini", "pytest")
    assert unregistered("@pytest.mark.slow\n", config) == ["slow"]
    assert unregistered("@pytest.mark.slow\n", config, registered([conftest])) == []


def test_markers_that_nobody_registers_are_found() -> None:
    """pytest's own and the registered ones are none of them."""
    config = IniConfig("[pytest]\nmarkers =\n    slow: x\n", "pytest.ini", "pytest")
    source = "pytestmark = [pytest.mark.slow]\n'x' == pytest.mark.quoted\n"
    source += "@pytest.mark.skip\n@pytest.mark.gpuu\n    @pytest.mark.gpu(vram='1GiB')\n"
    assert unregistered(source, config) == ["gpuu"]


@pytest.mark.parametrize(
    "text,form",
    [
        ("[tool", "TOML"),
        ("tool.coverage = 3\n", "cannot be edited"),
        ("[tool]\ncoverage = {run = {branch = true}}\n", "cannot be edited"),
    ],
)
def test_a_toml_file_that_cannot_be_edited_is_one_line(text: str, form: str) -> None:
    """Broken, or laid out so that there is no place."""
    with pytest.raises(DataError, match=form):
        config = TomlConfig(text, "pyproject.toml", ("tool", "coverage"))
        _cover(config)
        config.render()


def test_a_broken_ini_file_is_one_line() -> None:
    """With its name."""
    with pytest.raises(DataError, match=r"\.coveragerc"):
        IniConfig("nothing\n", ".coveragerc", "{}")


def test_hooks_are_added_and_nothing_else_changes() -> None:
    """The user's repos, their comments and their layout stay byte for byte."""
    text = "repos:\n- repo: https://example.org/black  # old\n  rev: v1\n  hooks:\n  - id: black\n"
    text += "\n# the end\nfail_fast: true\n"
    after, notes = edit_hooks(text, "x", hooks_for(["src/widgets"]))
    assert len(notes) == 1 and "black comes from" in notes[0]
    rest = iter(after.split("\n"))
    assert all(line in rest for line in text.split("\n"))
    content = yaml.safe_load(after)
    assert content["fail_fast"] is True and len(content["repos"]) == 2
    assert [hook["id"] for hook in content["repos"][1]["hooks"]] == ["ruff", "mypy"]
    assert content["repos"][1]["hooks"][1]["entry"] == "mypy src/widgets"
    assert edit_hooks(after, "x", hooks_for([]))[0] == after


def test_hooks_of_a_new_file_are_the_environments() -> None:
    """One set of versions: no hook brings its own."""
    text, notes = edit_hooks(None, "x", hooks_for([]))
    content = yaml.safe_load(text)
    assert notes == []
    assert {repo["repo"] for repo in content["repos"]} == {"local"}
    assert {hook["language"] for hook in content["repos"][0]["hooks"]} == {"system"}
    assert edit_hooks(text, "x", hooks_for([])) == (text, [])


@pytest.mark.parametrize("text", ["repos: []\n", "fail_fast: true\n", "repos: [{repo: local, hooks: []}]\n"])
def test_hooks_that_have_no_place_are_told_of(text: str) -> None:
    """Rather than guessed."""
    after, notes = edit_hooks(text, "x", hooks_for([]))
    assert after == text and "black, ruff, mypy" in notes[0]


def test_packages_are_added_where_they_belong() -> None:
    """Conda's after conda's, pip's after pip's, and every other line stays."""
    have = {"python", "pytest", "black"}
    lacking = missing(Needs(("python", "pytest", "coverage", "ruff", "black"), ("runnerctl",)), have)
    assert lacking == Needs(("coverage", "ruff"), ("runnerctl",))
    after = add_packages(ENVIRONMENT, "environment.yml", lacking)
    assert after is not None
    rest = iter(after.split("\n"))
    assert all(line in rest for line in ENVIRONMENT.split("\n"))
    dependencies = yaml.safe_load(after)["dependencies"]
    assert dependencies[-3:-1] == ["coverage", "ruff"]
    assert dependencies[-1] == {"pip": ["black==25.1.0", "runnerctl"]}


def test_a_pip_section_is_made_where_there_is_none() -> None:
    """At the end, as deep as the list is."""
    after = add_packages("dependencies:\n    - python\n    - pip", "e", Needs((), ("runnerctl",)))
    assert yaml.safe_load(after or "")["dependencies"] == ["python", "pip", {"pip": ["runnerctl"]}]


def test_a_list_in_one_line_is_left_to_its_owner() -> None:
    """No line can be added to it."""
    assert add_packages("dependencies: [python]\n", "e", Needs(("pytest",))) is None


def test_what_brings_a_package_along_counts() -> None:
    """pytest-cov depends on coverage."""
    assert missing(Needs(("coverage",)), {"pytest-cov"}) == Needs(())


def test_build_requirements_become_packages() -> None:
    """With their lower bound; names that are not known to be conda-forge's are told of."""
    assert build_needs(["setuptools>=77", "Hatch_VCS", "my-backend[x]~=1"]) == (
        ["setuptools>=77", "hatch-vcs"],
        ["my-backend"],
    )


@pytest.mark.parametrize(
    "specs,found",
    [
        (["cuda-version=12.8"], ("12.8", True)),
        (["conda-forge::cuda-toolkit ==12.4.1"], ("12.4", True)),
        (["pytorch=2.9=*cuda*"], (None, True)),
        (["cuda-version>=12"], (None, True)),
        (["python=3.12"], (None, False)),
    ],
)
def test_the_cuda_version_is_the_pinned_one(specs: list[str], found: tuple[str | None, bool]) -> None:
    """Hosted runners have no GPU: without it they would choose other builds."""
    assert cuda_version(specs) == found


def test_five_states_of_a_file_are_told_apart() -> None:
    """Ours and current, ours and old, edited, edited and old, never ours."""
    old, new = marked("a: 1\n", "runnerctl ci init"), marked("a: 2\n", "runnerctl ci init --branch x")
    assert state(new, new) == "same"
    assert state(old, new) == "old"
    assert state(old.replace("\n", "\r\n"), new) == "old"
    assert state(new + "# mine\n", new) == "edited"
    assert state(old + "# mine\n", new) == "both"
    assert state("a: 1\n", new) == "foreign"
    assert state("a: 2\n", new) == "same"
    assert command_of(new) == "runnerctl ci init --branch x"
    assert command_of("# Written by `runnerctl ci init --branch x`\n") is None


def test_options_are_remembered() -> None:
    """What the settings hold is not said twice; what is said now beats what was said before."""
    said = Options(
        branch="trunk", gpu_labels=("self-hosted", "a100"), integration=("t/a.py", "t/b.py"), threshold="9"
    )
    again = from_command_line(command_line(said))
    assert again == Options(
        branch="trunk", gpu_labels=("self-hosted", "a100"), integration=("t/a.py", "t/b.py")
    )
    assert merged(Options(branch="main"), again).branch == "main"
    assert merged(Options(), again).gpu_labels == ("self-hosted", "a100")
    assert from_command_line("runnerctl ci init 'open") == Options()


@pytest.mark.parametrize(
    "options",
    [
        Options(branch="${{ x }}"),
        Options(branch="a b"),
        Options(gpu_labels=("self-hosted", "a;b")),
        Options(gpu_labels=()),
        Options(integration=("../x.py",)),
        Options(integration=("--co",)),
        Options(integration=("/etc/passwd",)),
        Options(threshold="101"),
        Options(threshold="many"),
        Options(cuda="12"),
        Options(system_packages=("libgl1-mesa-glx",)),
        Options(system_packages=("a&&b",)),
        Options(source_packages=("a-b",)),
        Options(forks="maybe"),
        Options(keep=("../x",)),
    ],
)
def test_what_could_reach_a_shell_is_refused(options: Options) -> None:
    """Every option ends in a workflow."""
    with pytest.raises(UsageError):
        checked(options)


def _workflow(options: Options | None = None, project: Project = PROJECT, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"no_cov": False, "cuda": "auto", "labels": ("self-hosted", "gpu"), **more}
    loaded: dict[Any, Any] = yaml.safe_load(workflow_text(options or Options(), project, **given))
    loaded["on"] = loaded.pop(True)
    return loaded


def _runs(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_workflow_is_what_the_blueprint_asks_for() -> None:
    """Two tiers, one judgement of coverage, a gate; few rights, pinned actions, limits."""
    workflow = _workflow()
    jobs = workflow["jobs"]
    assert workflow["on"] == {"push": {"branches": ["main"]}, "pull_request": {"branches": ["main"]}}
    assert workflow["permissions"] == {} and workflow["concurrency"]["group"]
    assert set(jobs) == {"cpu_tests", "gpu_tests", "coverage", "gate"}
    assert all(0 < job["timeout-minutes"] <= 60 for job in jobs.values())
    assert all(job["permissions"] in ({}, {"contents": "read"}) for job in jobs.values())
    assert jobs["gpu_tests"]["needs"] == "cpu_tests" and jobs["gpu_tests"]["runs-on"] == [
        "self-hosted",
        "gpu",
    ]
    ignored = "--ignore=tests/test_integration.py"
    assert _runs(jobs["cpu_tests"])[1:] == [
        "pre-commit run --all-files --show-diff-on-failure",
        f'python -m coverage run -m pytest -m "not gpu" {ignored}',
    ]
    assert _runs(jobs["gpu_tests"])[1:] == [
        f"python -m coverage run -m pytest -m gpu --require-gpu {ignored}",
        "python -m coverage run -m pytest --require-gpu tests/test_integration.py",
    ]
    uses = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    pinned = {action.split(" ")[0] for action in ACTIONS.values()}
    assert set(uses) == {*pinned, "./.github/actions/conda-env"}
    assert not [run for job in jobs.values() for run in _runs(job) if "${{" in run]


def test_the_data_of_both_tiers_meet() -> None:
    """Their names begin with a dot, which an upload leaves out unless told."""
    jobs = _workflow()["jobs"]
    for name in ("cpu_tests", "gpu_tests"):
        upload = jobs[name]["steps"][-1]["with"]
        assert upload["path"] == ".coverage.*" and upload["include-hidden-files"] is True
        assert upload["if-no-files-found"] == "error"
        assert f"measured/{upload['name']}" in _runs(jobs["coverage"])[0]


def test_the_workflow_follows_the_project() -> None:
    """Options and what the repository is."""
    bare = Project({}, (), (), gpu_tests=False, integration_gpu=False, build_requires=None, mypy_files=False)
    options = Options(branch="on", system_packages=("libgl1",), environment_file="ci/env.yml")
    jobs = _workflow(options, bare, cuda="12.8", no_cov=True, labels=("1",))["jobs"]
    assert _runs(jobs["cpu_tests"])[0].endswith("--no-install-recommends libgl1")
    assert not [run for run in _runs(jobs["gpu_tests"]) if "pip install" in run or "sudo" in run]
    assert _runs(jobs["gpu_tests"]) == ["python -m coverage run -m pytest -m gpu --require-gpu --no-cov"]
    for name in ("cpu_tests", "gpu_tests", "coverage"):
        made = next(step for step in jobs[name]["steps"] if step.get("uses", "").startswith("./"))
        assert made["with"] == {"environment-file": "ci/env.yml", "cuda": "12.8"}
    assert jobs["gpu_tests"]["runs-on"] == ["1"]
    assert _workflow(options, bare)["on"]["push"] == {"branches": ["on"]}


@pytest.mark.parametrize("forks", ["hold", "allow"])
def test_the_gate_opens_for_success_alone(forks: str) -> None:
    """A fork's pull request passes untested only where that was chosen."""
    script = _runs(_workflow(Options(forks=forks))["jobs"]["gate"])[0]
    cases = list(itertools.product(("success", "failure"), OUTCOMES, OUTCOMES, ("true", "false")))
    lines = []
    for cpu, gpu, coverage, fork in cases:
        values = f"CPU_TESTS={cpu} GPU_TESTS={gpu} COVERAGE={coverage} FORK={fork}"
        lines.append(f'if {values} bash -e -c "$GATE" >/dev/null; then echo open; else echo shut; fi')
    env = {"PATH": os.environ["PATH"], "GATE": script}
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)], env=env, capture_output=True, text=True, timeout=30
    )
    for (cpu, gpu, coverage, fork), said in zip(cases, done.stdout.split(), strict=True):
        right = cpu == gpu == coverage == "success" and fork == "false"
        if forks == "allow":
            right = cpu == "success" and (
                gpu == coverage == "success" or (gpu == "skipped" and fork == "true")
            )
        assert (said == "open") is right, (cpu, gpu, coverage, fork)


def test_the_action_is_the_one_of_this_repository() -> None:
    """One source; the wheel's hook copies it to where the package looks."""
    assert action_text() == (ROOT / ACTION_PATH).read_text()
    assert f'ACTION = "{ACTION_PATH}"' in (ROOT / "hatch_build.py").read_text()


def test_a_link_out_of_the_repository_is_refused(tmp_path: Path) -> None:
    """Neither read nor written; one within is followed."""
    inside, outside = tmp_path / "r", tmp_path / "o"
    inside.mkdir()
    outside.mkdir()
    (outside / "x.toml").write_text("a = 1")
    (inside / "x.toml").symlink_to(outside / "x.toml")
    (inside / ".github").symlink_to(outside)
    (inside / "gone").symlink_to(inside / "nothing")
    (inside / "loop").symlink_to(inside / "loop")
    (inside / "real").write_text("1")
    (inside / "good").symlink_to("real")
    repository = Repository(inside)
    for path in ("x.toml", ".github/workflows/ci.yml", "gone", "loop"):
        with pytest.raises(ConfigError):
            repository.read(path)
    repository.write([("good", "1", "2")])
    assert (inside / "real").read_text() == "2" and (inside / "good").is_symlink()


def test_one_file_that_cannot_be_written_leaves_all_as_they_were(tmp_path: Path) -> None:
    """Folders made on the way included."""
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").mkdir()
    (tmp_path / "c").write_text("file")
    repository = Repository(tmp_path)
    with pytest.raises(RunnerctlError):
        repository.write([("a", "old", "new"), ("n/e/w", None, "x"), ("c/d", None, "x")])
    with pytest.raises(TryAgainError):
        repository.write([("n/e/w", None, "x"), ("a", "other", "new")])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b", "c"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_failure_half_way_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that were replaced already get their content back."""
    (tmp_path / "a").write_text("old")
    (tmp_path / "z").write_text("old")
    replace = os.replace

    def fail_late(source: Path, target: Path) -> None:
        if target.name == "z":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_late)
    with pytest.raises(RunnerctlError, match="No space"):
        Repository(tmp_path).write([("a", "old", "new"), ("d/b", None, "new"), ("z", "old", "new")])
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "z"]


def test_what_a_killed_run_left_is_taken_away(tmp_path: Path) -> None:
    """A file that was not whole yet lies beside its place, under a name that GitHub does not read."""
    left, other = tmp_path / ".ci.yml.0123.runnerctl-new", tmp_path / ".ci.yml.swp"
    left.write_text("half")
    other.write_text("mine")
    Repository(tmp_path).sweep(["ci.yml", "none/there.yml"])
    assert not left.exists() and other.exists()


def test_a_read_only_file_is_not_replaced(tmp_path: Path) -> None:
    """It can be replaced, but whoever made it so did not mean that."""
    (tmp_path / "a").write_text("1")
    (tmp_path / "a").chmod(0o444)
    with pytest.raises(RunnerctlError, match="is read-only") as refused:
        Repository(tmp_path).write([("a", "1", "2")])
    assert "--keep a" in str(refused.value)
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


ORIGIN = "refs/remotes/origin"


@pytest.mark.parametrize(
    "files,branch",
    [
        ({"HEAD": "ref: refs/heads/master\n"}, "master"),
        ({"HEAD": "ref: refs/heads/topic\n"}, None),
        ({"HEAD": "ref: refs/heads/topic\n", "refs/heads/master": "1"}, "master"),
        ({"HEAD": "ref: refs/heads/master\n", "packed-refs": "# x\n1 refs/heads/main\n"}, "main"),
        (
            {"HEAD": "ref: refs/heads/x\n", "refs/remotes/origin/HEAD": "ref: refs/remotes/origin/dev\n"},
            "dev",
        ),
    ],
)
def test_the_branch_is_the_one_that_is_there(
    tmp_path: Path, files: dict[str, str], branch: str | None
) -> None:
    """Also of a worktree, whose .git is a file."""
    for name, text in files.items():
        (tmp_path / "top/.git" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top/.git" / name).write_text(text)
    tree = tmp_path / "top/.git/worktrees/tree"
    tree.mkdir(parents=True)
    (tree / "commondir").write_text("../..\n")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/.git").write_text(f"gitdir: {tree}\n")
    assert Repository(tmp_path / "top").default_branch() == branch
    assert Repository(tmp_path / "tree").default_branch() == branch


def test_rights_of_a_file_stay(tmp_path: Path) -> None:
    """It is replaced, and looks as before."""
    (tmp_path / "a").write_text("1")
    (tmp_path / "a").chmod(0o640)
    Repository(tmp_path).write([("a", "1", "2")])
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("data", [b"\xff\xfe", b"\xef\xbb\xbfa = 1", b"a\0b"])
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes) -> None:
    """With the file's name."""
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(DataError, match=r"^a:"):
        Repository(tmp_path).read("a")
