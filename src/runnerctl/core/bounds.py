"""What numbers, paths and patterns of inventory may be, as far as no hardware needs to be known. Pure."""

from __future__ import annotations

import re

from runnerctl.core.sections import HostSpec, Problem

__all__ = ["bound_problems"]

PIB_IN_GIB = 1 << 20
# Variable -> least and most. The most is beyond every host: the kernel and systemd do not take any number.
BOUNDS: dict[str, tuple[int, int]] = {
    "github_runner_gpus_per_slot": (1, 1024),
    "github_runner_cpus_per_slot": (1, 65536),
    "github_runner_memory_per_slot_mib": (256, PIB_IN_GIB * 1024),
    "github_runner_tasks_per_slot": (256, 4194304),
    "github_runner_disk_per_slot_gib": (1, PIB_IN_GIB),
    "runnerctl_jobs_keep_days": (1, 36500),
    "runnerctl_clean_interval_hours": (1, 8760),
    "runnerctl_clean_work_gib": (0, PIB_IN_GIB),
    "runnerctl_clean_tools_gib": (0, PIB_IN_GIB),
    "runnerctl_clean_images_gib": (0, PIB_IN_GIB),
    "runnerctl_clean_logs_days": (1, 36500),
}
METRICS = "runnerctl_jobs_prometheus"
REPOSITORY = re.compile(r"[^/\s]+/[^/\s]+|\S*\*\S*")


def bound_problems(spec: HostSpec) -> list[Problem]:
    """Every value that is out of its bounds, or that could never do what it is for."""
    problems = []
    for variable, (least, most) in BOUNDS.items():
        value = _value(spec, variable)
        if value is not None and value < least:
            problems.append(Problem(variable, f"is {value}", f"give at least {least}"))
        elif value is not None and value > most:
            problems.append(Problem(variable, f"is {str(value)[:20]}", f"give at most {most}"))
    return problems + _metrics_problems(spec) + _pattern_problems(spec)


def _value(spec: HostSpec, variable: str) -> int | None:
    section = "github_runner" if variable.startswith("github_runner_") else "runnerctl"
    value: int | None = getattr(getattr(spec, section), variable.removeprefix(f"{section}_"))
    return value


def _metrics_problems(spec: HostSpec) -> list[Problem]:
    """Root writes there: a slip of the pen must not replace a file that is something else."""
    path, other = spec.runnerctl.jobs_prometheus, spec.runnerctl.health_prometheus
    if path is None:
        return []
    if not (path.startswith("/") and path.endswith(".prom") and path.isprintable() and ".." not in path):
        remedy = "give an absolute path that ends in .prom: the collector reads no other"
        return [Problem(METRICS, f"is {path[:60]!r}", remedy)]
    if path == other:
        return [Problem(METRICS, "is also runnerctl_health_prometheus", "give each a file of its own")]
    return []


def _pattern_problems(spec: HostSpec) -> list[Problem]:
    """A pattern that fits no name would refuse every job."""
    runner, problems = spec.github_runner, []
    for pattern in runner.policy_repositories:
        if not (REPOSITORY.fullmatch(pattern) and pattern.isprintable()):
            remedy = "give OWNER/NAME, with * for any part"
            problems.append(Problem("github_runner_policy_repositories", f"has {pattern[:70]!r}", remedy))
    for pattern in runner.policy_workflows:
        if not (pattern.strip() and pattern.isprintable()):
            remedy = "give OWNER/NAME/.github/workflows/FILE@REF, with * for any part"
            problems.append(Problem("github_runner_policy_workflows", f"has {pattern[:70]!r}", remedy))
    return problems
