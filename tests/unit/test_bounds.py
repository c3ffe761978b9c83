"""Numbers, paths and patterns of inventory that cannot be: one line each."""

from __future__ import annotations

from typing import Any

import pytest

from runnerctl.core.bounds import BOUNDS
from runnerctl.core.spec import host_spec

URL = {"github_runner_url": "https://github.com/acme"}


def _lines(values: dict[str, Any]) -> list[str]:
    _, problems = host_spec("h", {**URL, **values})
    return [problem.line("h") for problem in problems]


@pytest.mark.parametrize("variable", sorted(BOUNDS))
def test_numbers_have_bounds(variable: str) -> None:
    """One too little, far too much; what is just right passes."""
    least, most = BOUNDS[variable]
    for value, remedy in ((least - 1, f"give at least {least}"), (10**40, f"give at most {most}")):
        (line,) = _lines({variable: value})
        assert line.startswith(f"h: {variable}: is ")
        assert line.endswith(remedy)
        assert len(line) < 120
    assert not _lines({variable: least}) and not _lines({variable: most})


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("runnerctl_jobs_prometheus", "/etc/shadow", "ends in .prom"),
        ("runnerctl_jobs_prometheus", "jobs.prom", "absolute path"),
        ("runnerctl_jobs_prometheus", "/a/../b.prom", "absolute path"),
        ("runnerctl_jobs_prometheus", "/a\0.prom", "absolute path"),
        ("github_runner_policy_repositories", [""], "OWNER/NAME"),
        ("github_runner_policy_repositories", ["acme"], "OWNER/NAME"),
        ("github_runner_policy_repositories", ["a/b/c"], "OWNER/NAME"),
        ("github_runner_policy_repositories", ["acme/a\n"], "OWNER/NAME"),
        ("github_runner_policy_workflows", [" "], "FILE@REF"),
        ("github_runner_policy_workflows", ["a\u202eb"], "FILE@REF"),
    ],
)
def test_what_could_never_do_its_work_is_refused(variable: str, value: Any, expected: str) -> None:
    """One line that can be printed, with what to give."""
    (line,) = _lines({variable: value})
    assert line.startswith(f"h: {variable}: ") and expected in line and line.isprintable()


def test_what_is_right_passes() -> None:
    """Names and stars."""
    values = {
        "github_runner_policy_repositories": ["acme/widgets", "acme/*", "*"],
        "github_runner_policy_workflows": ["acme/app/.github/workflows/ci.yml@refs/heads/main", "acme/*"],
        "runnerctl_jobs_prometheus": "/var/lib/prometheus/node-exporter/jobs.prom",
    }
    assert not _lines(values)


def test_two_writers_do_not_share_a_file() -> None:
    """The health service's metrics and the guard's would replace each other."""
    path = "/var/lib/prometheus/node-exporter/runnerctl.prom"
    (line,) = _lines({"runnerctl_jobs_prometheus": path, "runnerctl_health_prometheus": path})
    assert "a file of its own" in line
