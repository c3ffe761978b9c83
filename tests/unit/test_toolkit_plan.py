"""The plan for Docker and NVIDIA's toolkit: data cases, rules of its variables, its two halves in step."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.toolkit_work import (
    ToolkitPlan as TargetPlan,
)

from runnerctl.core.spec import HostSpec, host_spec
from runnerctl.core.toolkit_plan import ToolkitFacts, ToolkitPlan, toolkit_plan

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "cases_toolkit" / "plans.json").read_text())
DEBIAN = ToolkitFacts("debian", "12", "x86_64")
BASE = {"github_runner_url": "https://github.com/acme/widgets", "container_toolkit_manage": True}


def _spec(**given: Any) -> HostSpec:
    values = {f"container_toolkit_{name}": value for name, value in given.items()}
    spec, problems = host_spec("gpu1", {**BASE, **values})
    assert spec is not None, problems
    return spec


def _part(whole: Any, part: Any, where: str = "plan") -> None:
    """``part`` is found in ``whole``: objects may hold more, everything else is equal."""
    if isinstance(part, dict):
        for key, value in part.items():
            assert key in whole, f"{where}.{key}"
            _part(whole[key], value, f"{where}.{key}")
    elif isinstance(part, list) and part and isinstance(part[0], dict):
        assert len(whole) == len(part), where
        for number, value in enumerate(part):
            _part(whole[number], value, f"{where}[{number}]")
    else:
        assert whole == part, where


@pytest.mark.parametrize("case", CASES, ids=[case["title"] for case in CASES])
def test_plans(case: dict[str, Any]) -> None:
    """Spec and distribution -> repositories, packages and settings; or the one line that says why not."""
    spec, texts = _spec(**case.get("spec", {})), case.get("key_texts")
    plan, problems = toolkit_plan(spec, ToolkitFacts(*case["host"]), key_texts=texts)
    if "problem" in case:
        assert plan is None
        assert [problem.line("gpu1") for problem in problems] == [case["problem"]]
        return
    assert problems == []
    _part(json.loads(msgspec.json.encode(plan)), case["plan"])


def test_the_target_understands_the_plan() -> None:
    """Both halves name the same fields, and a plan travels as plain data."""
    ours = {field.name for field in msgspec.structs.fields(ToolkitPlan)}
    assert ours == {field.name for field in dataclasses.fields(TargetPlan)}
    plan, _ = toolkit_plan(_spec(version="1.19.1", docker=True, docker_source="docker"), DEBIAN)
    read = TargetPlan.from_dict(json.loads(msgspec.json.encode(plan)))
    assert [repository.name for repository in read.repositories] == ["nvidia-container-toolkit", "docker"]
    assert read.repositories[0].pins[0].pin == "version 1.19.1-*"
    assert read.toolkit[0] == "nvidia-container-toolkit"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"version": "newest"}, "container_toolkit_version: is 'newest'"),
        ({"repository_key_fingerprint": "C95B321B"}, "container_toolkit_repository_key_fingerprint: is"),
        (
            {
                "repository_url": "https://mirror.example/{release}",
                "repository_key": "https://mirror.example/key",
            },
            "container_toolkit_repository_url: holds a",
        ),
        ({"repository_url": "https://mirror.example/x"}, "container_toolkit_repository_key: is needed"),
        ({"repository_key": "https://me:secret@h/key"}, "container_toolkit_repository_key: holds a user"),
        ({"docker_repository_key": "mQIN\nBF"}, "container_toolkit_docker_repository_key: is neither"),
        (
            {"docker_repository_url": "https://me:pw@h/"},
            "container_toolkit_docker_repository_url: holds a user",
        ),
        ({"docker_config": {"hosts": ["tcp://0.0.0.0"]}}, "container_toolkit_docker_config.hosts: the unit"),
        (
            {"docker_config": {"proxies": {"http-proxy": "http://me:secret@proxy:3128"}}},
            "container_toolkit_docker_config: holds an address with a password",
        ),
        ({"docker_source": "snap"}, "container_toolkit_docker_source"),
    ],
)
def test_variables_that_cannot_be(given: dict[str, Any], line: str) -> None:
    """Refused before a host is touched, with the variable named; no secret is repeated."""
    values = {f"container_toolkit_{name}": value for name, value in given.items()}
    spec, problems = host_spec("gpu1", {**BASE, **values})
    assert spec is None
    lines = [problem.line("gpu1") for problem in problems]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"gpu1: {line}")
    assert "secret@" not in lines[0]


def test_fingerprints_may_be_written_as_people_do() -> None:
    """With spaces, in small letters, several of them."""
    given = "c95b 321b 61e8 8c18 09c4  f759 ddca e044 f796 ecb0," + "A" * 40
    assert _spec(repository_key_fingerprint=given).container_toolkit.repository_key_fingerprint == given
