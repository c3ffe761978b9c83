"""The spec: variables in, a validated description or every problem out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from runnerctl.core.scope import api_url_for, parse_scope
from runnerctl.core.spec import HostSpec, duplicate_runner_names, host_spec
from runnerctl.errors import ConfigError

URL = "https://github.com/acme/widgets"
GPU = "GPU-6f1a0c3e-2d4b-4c5a-9e8f-0a1b2c3d4e5f"


def _problems(**values: Any) -> list[str]:
    spec, problems = host_spec("h1", {"github_runner_url": URL, **values})
    assert spec is None
    return [problem.line("h1") for problem in problems]


def _spec(**values: Any) -> HostSpec:
    spec, problems = host_spec("h1", {"github_runner_url": URL, **values})
    assert not problems, problems
    assert spec is not None
    return spec


def test_a_url_is_all_that_must_be_said() -> None:
    """One slot, named main, at the given URL."""
    spec = _spec()
    assert [spec.runner_name(slot) for slot in spec.github_runner.slots] == ["h1-main"]
    assert spec.slot_labels(spec.github_runner.slots[0]) == ()


def test_gpus_bring_their_label_and_inventory_adds_its_own() -> None:
    """Labels compare without case; the fixed ones are GitHub's."""
    spec = _spec(
        github_runner_labels=["A100", "Linux"],
        github_runner_slots=[{"name": "a", "gpus": [GPU], "labels": ["Big"]}, {"name": "b"}],
    )
    first, second = spec.github_runner.slots
    assert spec.slot_labels(first) == ("a100", "big", "gpu")
    assert spec.slot_labels(second) == ("a100",)


def test_without_default_labels_inventory_may_name_them() -> None:
    """`no_default_labels` leaves the fixed ones to inventory."""
    spec = _spec(github_runner_no_default_labels=True, github_runner_labels=["linux", "special"])
    assert spec.slot_labels(spec.github_runner.slots[0]) == ("linux", "special")


def test_text_from_the_command_line_is_converted() -> None:
    """`-e name=value` gives text; the spec holds the type."""
    spec = _spec(conda_manage="false", nvidia_driver_gpu_count="8", github_runner_version="")
    assert spec.conda.manage is False
    assert spec.nvidia_driver.gpu_count == 8
    assert spec.github_runner.version is None


def test_it_survives_the_file() -> None:
    """What is written to host.json is read back as the same spec."""
    spec = _spec(
        github_runner_slots=[{"name": "a", "gpus": [GPU]}], github_runner_env={"http_proxy": "http://p:1"}
    )
    assert msgspec.json.decode(msgspec.json.encode(spec), type=HostSpec) == spec


SLOTS = "github_runner_slots"
BAD: list[tuple[dict[str, Any], str]] = [
    (
        {"github_runner_lables": ["x"]},
        "is no variable of this collection; did you mean github_runner_labels?",
    ),
    ({"conda_manage": "perhaps"}, "conda_manage: is 'perhaps': Expected `bool`"),
    ({"github_runner_slots": "main"}, "github_runner_slots: is 'main': Expected `array`"),
    ({SLOTS: [{"name": "a", "gpu": ["x"]}]}, "has an unknown key 'gpu'; did you mean gpus?"),
    ({"github_runner_labels": ["a,b"]}, "github_runner_labels: label 'a,b' contains a comma"),
    ({"github_runner_labels": ["x" * 257]}, "has 257 characters, more than 256"),
    ({"github_runner_labels": ["--replace"]}, "label '--replace' begins with a hyphen"),
    (
        {"github_runner_url": "https://github.com/acme", "github_runner_group": "--pat"},
        "begins with a hyphen",
    ),
    ({"github_runner_labels": [""]}, "label '' is empty"),
    ({"github_runner_labels": ["a\nb"]}, "contains a control character"),
    ({SLOTS: [{"name": "a"}, {"name": "a"}]}, "github_runner_slots[1]: name 'a' is given twice"),
    ({SLOTS: [{"name": "A b"}]}, "name 'A b' is no slot name"),
    ({SLOTS: [{"name": "../x"}]}, "is no slot name"),
    ({SLOTS: [{"name": "a", "gpus": [GPU]}, {"name": "b", "gpus": [GPU]}]}, "already claimed by slot 'a'"),
    ({SLOTS: [{"name": "a", "gpus": ["0"]}]}, "'0' is no GPU UUID"),
    ({SLOTS: [{"name": "a", "mode": "ephemeral"}]}, "github_runner_slots[0].mode: is 'ephemeral'"),
    ({"github_runner_url": "https://github.com/a/b/c"}, "url: 'https://github.com/a/b/c' is no repository"),
    ({"github_runner_url": "https://github.com"}, "is no repository, organisation or enterprise"),
    ({"github_runner_url": "http://github.com/acme"}, "is plain HTTP to a public host; use https"),
    (
        {"github_runner_url": None},
        "github_runner_slots[0]: has no URL to register at; give github_runner_url",
    ),
    ({"github_runner_group": "gpu"}, "group 'gpu' is given for a repository"),
    ({"github_runner_no_default_labels": True}, "leaves the slot without any label"),
    ({"github_runner_sha256": "0" * 64}, "github_runner_sha256: is pinned without github_runner_version"),
    (
        {"github_runner_sha256": "abc", "github_runner_version": "2.336.0"},
        "give 64 lower-case hexadecimal digits",
    ),
    ({"github_runner_version": "latest"}, "github_runner_version: is 'latest'; give it as 2.336.0"),
    ({"github_runner_env": {"AWS_SECRET_KEY": "x"}}, "KEY: looks like a secret"),
    (
        {"github_runner_env": {"ACTIONS_RUNNER_HOOK_JOB_STARTED": "/x.sh"}},
        "ACTIONS_RUNNER_HOOK_JOB_STARTED: would replace the hook",
    ),
    ({"runnerctl_health_interval_seconds": 1}, "runnerctl_health_interval_seconds: is 1; give at least 10"),
    ({"runnerctl_health_clean_probes": 0}, "runnerctl_health_clean_probes: is 0; give at least 1"),
    ({"runnerctl_health_prometheus": "x.prom"}, "runnerctl_health_prometheus: is 'x.prom'"),
    ({"runnerctl_health_prometheus": "/x\nExecStart=/y"}, "runnerctl_health_prometheus: is "),
    ({"github_runner_env": {"https_proxy": "http://me:pw@proxy:1"}}, "https_proxy: looks like a secret"),
    ({"runnerctl_wheelhouse": "https://me:pw@h/w"}, "runnerctl_wheelhouse: holds a user or a password"),
    ({"conda_url": "https://me:pw@h/{version}"}, "conda_url: holds a user or a password"),
    ({"github_runner_download_url": "https://ghp_hidden@m/{version}"}, "download_url: holds a user"),
    ({"github_runner_api_url": "api.github.com"}, "github_runner_api_url: is 'api.github.com'; give it as"),
    ({"github_runner_api_url": "https://h:x/"}, "github_runner_api_url: is 'https://h:x/'"),
    ({"github_runner_api_url": "https://ghp_hidden@h/api/v3"}, "is an address with a user"),
    ({"github_runner_api_url": "http://8.8.8.8/api/v3"}, "is plain HTTP to a public host; use https"),
    ({"conda_version": "../x"}, "conda_version: is '../x'; give it as"),
    ({"conda_channels": []}, "conda_channels: is empty; name the channels"),
    ({"conda_channels": ["conda-forge", "defaults"]}, "names Anaconda's default channels"),
    ({"github_runner_env": {"A B": "x"}}, "is no variable name"),
    ({"github_runner_env": {"A": "x\ny"}}, "has a line break"),
    (
        {"github_runner_download_url": "https://m/{version.__class__}"},
        "holds a placeholder other than {version}",
    ),
    ({"github_runner_download_url": "https://m/{version"}, "holds a placeholder other than"),
    ({"conda_url": "https://m/a\nb"}, "conda_url: holds a space or a control character"),
    ({"github_runner_replace": "always"}, "github_runner_replace: is 'always'"),
    ({"nvidia_driver_flavour": "closed"}, "nvidia_driver_flavour: is 'closed'"),
    ({"runnerctl_health_disk_free_warning_percent": 101}, "is 101; give 0 to 100"),
    ({"github_runner_online_timeout_seconds": 0}, "is 0; give at least 1"),
]


@pytest.mark.parametrize(("values", "expected"), BAD, ids=[str(index) for index in range(len(BAD))])
def test_bad_input_is_one_line_with_variable_value_and_remedy(values: dict[str, Any], expected: str) -> None:
    """Each is refused, by name, with what to do."""
    lines = _problems(**values)
    assert any(expected in line for line in lines), lines
    assert not [line for line in lines if "hidden" in line]
    assert all("\n" not in line and line.startswith("h1: ") and "; " in line for line in lines)


def test_all_problems_are_told_at_once() -> None:
    """A user mends everything in one go."""
    assert len(_problems(github_runner_lables=[], conda_manage="x", nvidia_driver_gpu_count="many")) == 3


def test_a_name_that_only_begins_like_a_secret_is_none() -> None:
    """TOKENIZERS_PARALLELISM stands in half of all CI environments; a proxy without a password is fine."""
    _spec(github_runner_env={"TOKENIZERS_PARALLELISM": "false", "https_proxy": "http://proxy:3128"})


def test_other_peoples_variables_are_left_alone() -> None:
    """Only our prefixes are ours."""
    _spec(ansible_host="h", my_runner_url="x", github_token="x")


@pytest.mark.parametrize(
    ("url", "kind", "path", "api"),
    [
        ("https://github.com/acme/widgets", "repository", "/repos/acme/widgets", "https://api.github.com"),
        ("https://github.com/acme/", "organization", "/orgs/acme", "https://api.github.com"),
        ("https://github.com/enterprises/big", "enterprise", "/enterprises/big", "https://api.github.com"),
        ("https://acme.ghe.com/a/b", "repository", "/repos/a/b", "https://api.acme.ghe.com"),
        ("https://git.acme.example/a", "organization", "/orgs/a", "https://git.acme.example/api/v3"),
    ],
)
def test_scopes_and_their_api(url: str, kind: str, path: str, api: str) -> None:
    """The three scopes on github.com, with data residency and on GHES."""
    scope = parse_scope(url)
    assert (scope.kind, scope.path, api_url_for(scope.url)) == (kind, path, api)


@pytest.mark.parametrize(
    "url",
    ["git@github.com:a/b", "https://u:p@github.com/a", "https://github.com/a/..", "ftp://github.com/a", ""],
)
def test_what_is_no_scope_is_refused(url: str) -> None:
    """Anything else is no place to register at; a password is not repeated."""
    with pytest.raises(ConfigError) as caught:
        parse_scope(url)
    assert "u:p" not in str(caught.value)


def test_two_hosts_with_one_runner_name_are_found() -> None:
    """`a-b` with slot `c` and `a` with slot `b-c` would take each other's record."""
    one, _ = host_spec("a-b", {"github_runner_url": URL, SLOTS: [{"name": "c"}]})
    two, _ = host_spec("a", {"github_runner_url": URL, SLOTS: [{"name": "b-c"}]})
    assert one is not None
    assert two is not None
    assert duplicate_runner_names({"a-b": one, "a": two}) == ["a-b-c"]
