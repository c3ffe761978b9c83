"""``ci check`` as people run it: four forms of the answer, labels of a fleet, and what ``--fix`` writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from runnerctl.ci.rules import all_rules
from tests.component.cli_support import TOKEN, call
from tests.fakes.github_api import GithubApi

ROOT = Path(__file__).parents[2]
WORKFLOW = """\
# our CI
name: CI
on:
  pull_request: # every one

jobs:
  # the quick tier
  tests:
    runs-on: ubuntu-latest # hosted
    steps:
      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1
      - run: sudo apt-get install -y libgl1-mesa-glx # OpenGL
      - run: pytest --cov=package
"""
FIXED = """\
# our CI
name: CI
on:
  pull_request: # every one

concurrency:
  group: ${{ github.workflow }}-${{ github.ref }}
  cancel-in-progress: ${{ github.event_name == 'pull_request' }}

permissions:
  contents: read

jobs:
  # the quick tier
  tests:
    runs-on: ubuntu-latest # hosted
    timeout-minutes: 60
    steps:
      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1
        with:
          persist-credentials: false
      - run: sudo apt-get install -y libgl1 # OpenGL
      - run: pytest --cov=package
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A repository with a workflow as many have it."""
    return written(tmp_path, WORKFLOW)


def written(root: Path, workflow: str, name: str = "ci.yml") -> Path:
    """A repository with this workflow."""
    path = root / ".github/workflows" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(workflow, encoding="utf-8")
    return root


def workflow_of(root: Path) -> str:
    """What the workflow is now."""
    return (root / ".github/workflows/ci.yml").read_text(encoding="utf-8")


def test_text_is_grouped_by_file_and_fits(files: Path) -> None:
    """Each finding with its line, its rule and once its remedy; exit code 1."""
    ran = call("ci", "check", str(files))
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert lines[0] == ".github/workflows/ci.yml"
    assert max(map(len, lines)) <= 80
    assert "12: error: apt package libgl1-mesa-glx no longer exists" in ran.out
    assert "ci.package_gone" in ran.out and "--fix mends 5" in lines[-1]


def test_json_has_the_contract(files: Path) -> None:
    """Schema, and every field of a finding."""
    ran = call("ci", "check", str(files), "-o", "json")
    assert (ran.code, ran.json["schema"]) == (1, "runnerctl.ci/1")
    found = {each["id"]: each for each in ran.json["findings"]}
    assert found["ci.package_gone"]["line"] == 12
    fields = {"id", "file", "line", "severity", "message", "remedy", "why", "fixable"}
    assert all(set(each) == fields for each in ran.json["findings"])


def test_sarif_names_every_rule_it_uses(files: Path) -> None:
    """What GitHub's code scanning asks of an upload (SARIF 2.1.0)."""
    ran = call("ci", "check", str(files), "-o", "sarif")
    (run,) = ran.json["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert ran.json["version"] == "2.1.0" and len(rules) == len(all_rules())
    prints = [result["partialFingerprints"]["runnerctl/1"] for result in run["results"]]
    assert len(set(prints)) == len(prints) == 6
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == ".github/workflows/ci.yml"
        assert place["region"]["startLine"] >= 1


def test_in_a_workflow_lines_are_annotated(files: Path) -> None:
    """By default there, and only there; text of a file cannot end an annotation."""
    ran = call("ci", "check", str(files), env={"GITHUB_ACTIONS": "true"})
    assert (
        "::error file=.github/workflows/ci.yml,line=12,title=ci.package_gone::apt package" in ran.out
    ), ran.out
    assert "::" not in call("ci", "check", str(files)).out
    hostile = 'on: push\njobs:\n  "a\\n::error::b":\n    runs-on: ubuntu-latest\n    steps: [{run: make}]\n'
    written(files, hostile)
    ran = call("ci", "check", str(files), env={"GITHUB_ACTIONS": "true"})
    assert not any(line.startswith("::error::") for line in ran.out.splitlines())


def test_fix_makes_the_smallest_change_and_once(files: Path) -> None:
    """Comments and layout stay; the second run changes nothing; what it cannot mend is still told."""
    shown = call("ci", "check", str(files), "--fix", "--dry-run")
    assert "+    timeout-minutes: 60" in shown.out and workflow_of(files) == WORKFLOW
    ran = call("ci", "check", str(files), "--fix", "-o", "json")
    assert workflow_of(files) == FIXED
    assert [each["id"] for each in ran.json["findings"]] == ["ci.coverage_threshold_missing"]
    assert (ran.code, ran.json["written"], len(ran.json["fixed"])) == (1, [".github/workflows/ci.yml"], 5)
    again = call("ci", "check", str(files), "--fix")
    assert workflow_of(files) == FIXED and "+++" not in again.out


def test_fix_keeps_line_ends_and_rights(files: Path) -> None:
    """A file of Windows stays one."""
    path = files / ".github/workflows/ci.yml"
    path.write_bytes(WORKFLOW.replace("\n", "\r\n").encode())
    path.chmod(0o640)
    call("ci", "check", str(files), "--fix")
    assert path.read_bytes() == FIXED.replace("\n", "\r\n").encode()
    assert path.stat().st_mode & 0o777 == 0o640
    settings = files / "pyproject.toml"
    settings.write_bytes(b"[tool.coverage.run] # mine\r\nbranch = true\r\n")
    (files / "pool.py").write_text("import multiprocessing\n")
    written(files, WORKFLOW + "      - run: coverage run -m pytest\n")
    call("ci", "check", str(files), "--fix")
    after = settings.read_bytes()
    assert b"parallel = true\r\n" in after and after.count(b"\n") == after.count(b"\r\n")


def test_severity_is_a_threshold(files: Path) -> None:
    """Only errors; and a repository without any is clean then."""
    ran = call("ci", "check", str(files), "--severity", "error", "-o", "json")
    assert {each["id"] for each in ran.json["findings"]} == {"ci.package_gone"}
    written(files, WORKFLOW.replace("-mesa-glx", ""))
    assert call("ci", "check", str(files), "--severity", "error").code == 0


def test_one_broken_file_does_not_hide_the_others(files: Path) -> None:
    """Its line is told; the rest is judged."""
    written(files, "on: push\njobs:\n  a: [\n", "broken.yml")
    written(files, "\x00", "binary.yml")
    (files / ".github/workflows/latin.yml").write_bytes(b"name: \xff\n")
    found = call("ci", "check", str(files), "-o", "json").json["findings"]
    assert {each["file"].rsplit("/", 1)[-1] for each in found if each["id"] == "ci.invalid_file"} == {
        "broken.yml",
        "binary.yml",
        "latin.yml",
    }
    assert "ci.package_gone" in {each["id"] for each in found}


@pytest.mark.parametrize(
    "text,said",
    [
        ("on: push\njobs: " + "[" * 2000, "is nested too deeply"),
        ("on: push\n---\non: pull_request\n", "expected a single document in the stream, but found another"),
    ],
)
def test_why_a_file_is_broken_reads_well(files: Path, text: str, said: str) -> None:
    """No words of a parser's inside."""
    written(files, text)
    assert said in " ".join(call("ci", "check", str(files)).out.split())


def test_labels_are_judged_by_a_file(files: Path, tmp_path: Path) -> None:
    """Lines, or JSON; without any source it says that they were not judged."""
    written(files, WORKFLOW.replace("ubuntu-latest", "[self-hosted, gpu, a100]"))
    labels = tmp_path / "labels"

    def unknown(text: str) -> bool:
        labels.write_text(text, encoding="utf-8")
        ran = call("ci", "check", str(files), "--labels-from", str(labels), "-o", "json")
        return "ci.label_unknown" in {each["id"] for each in ran.json["findings"]}

    assert unknown("self-hosted, linux, gpu # the old one\n")
    assert not unknown("self-hosted linux GPU A100\n")
    assert not unknown(json.dumps({"runners": [{"labels": [{"name": "self-hosted"}, "gpu", "a100"]}]}))
    labels.write_text("[1]", encoding="utf-8")
    assert call("ci", "check", str(files), "--labels-from", str(labels)).code == 65
    assert "labels of the fleet (give" in call("ci", "check", str(files), "-o", "json").json["not_judged"][0]


@pytest.fixture(scope="module")
def github() -> Iterator[GithubApi]:
    """A stand-in with one runner."""
    with GithubApi() as server:
        server.control.add_token(TOKEN, scopes=["admin:org"])
        server.control.add_runner("/orgs/acme", "a-main", labels=["gpu"], status="online")
        yield server


def test_labels_are_judged_by_the_runners_at_github(files: Path, github: GithubApi) -> None:
    """The labels of each runner as a job would meet them."""
    for labels, known in (("[self-hosted, gpu]", True), ("[self-hosted, a100]", False)):
        written(files, WORKFLOW.replace("ubuntu-latest", labels))
        url = f"{github.url}/acme"
        ran = call("ci", "check", str(files), "--url", url, "-o", "json", env={"GH_TOKEN": TOKEN})
        assert ("ci.label_unknown" not in {each["id"] for each in ran.json["findings"]}) is known
    assert github.control.violations() == []


def test_bad_command_lines(tmp_path: Path) -> None:
    """One line each."""
    assert call("ci", "check", str(tmp_path / "none")).code == 64
    assert "no workflow" in call("ci", "check", str(tmp_path)).err
    assert call("ci", "check", str(tmp_path), "--dry-run").code == 64


def test_our_own_workflows_are_clean() -> None:
    """What we ask of others."""
    ran = call("ci", "check", str(ROOT), "--severity", "note")
    assert ran.code == 0, ran.out


def test_what_ci_init_writes_is_clean(tmp_path: Path) -> None:
    """A project with both tiers and processes: after ci init there is nothing left to say."""
    files = {
        "environment.yml": "name: p\nchannels: [conda-forge]\ndependencies: [python=3.11]\n",
        "pyproject.toml": '[project]\nname = "p"\nversion = "1"\n',
        "src/p/__init__.py": "import multiprocessing\n\nCPUS = multiprocessing.cpu_count()\n",
        "tests/test_p.py": "import pytest\n\n\n@pytest.mark.gpu\ndef test_p():\n    pass\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    made = call("ci", "init", str(tmp_path))
    assert made.code == 0, made.err
    ran = call("ci", "check", str(tmp_path), "--labels-from", str(labels_of_one(tmp_path)))
    assert ran.code == 0, ran.out


def labels_of_one(folder: Path) -> Path:
    """A fleet of one runner with a GPU."""
    path = folder / "labels.txt"
    path.write_text("self-hosted linux x64 gpu\n", encoding="utf-8")
    return path
