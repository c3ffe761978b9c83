"""A verdict as the output of a monitoring plugin (Nagios, Icinga, Checkmk, ...). Pure.

The form is that of the Monitoring Plugins guidelines: one line with the status and the gist, ``|``,
performance data; then longer text. No ``|`` may stand in the text.
"""

from __future__ import annotations

from collections.abc import Iterator

from runnerctl.cli.output import escape
from runnerctl.core.findings import SEVERITY, Finding
from runnerctl.core.health import Health
from runnerctl.core.snapshot import Gpu, Snapshot

__all__ = ["render_plugin"]

_GIST = 160  # characters; what is shown on a pager


def render_plugin(health: Health, snapshot: Snapshot | None = None) -> str:
    """The first line, performance data, and a line for each finding that is not OK.

    Performance data: ``duration`` in seconds, ``findings_*`` counts, and with a snapshot each GPU's
    temperature (degrees Celsius), power (watts), utilisation (percent) and used memory (bytes).
    """
    bad = sorted((f for f in health.findings if f.status != "OK"), key=lambda f: -SEVERITY[f.status])
    first = f"RUNNERCTL {health.status} - {_gist(bad, len(health.findings))}"
    data = " ".join(_data(health, snapshot))
    lines = [f"{first} | {data}", *(_line(finding) for finding in bad)]
    return "\n".join(lines) + "\n"


def _gist(bad: list[Finding], total: int) -> str:
    if not total:
        return "nothing could be checked"
    if not bad:
        return f"all {total} findings are OK"
    worst = _text(bad[0])
    shown = worst if len(worst) <= _GIST else worst[: _GIST - 3] + "..."
    return shown if len(bad) == 1 else f"{shown} (and {len(bad) - 1} more)"


def _text(finding: Finding) -> str:
    subject = "" if finding.subject == "host" else f" {finding.subject}"
    return _clean(f"{finding.id}{subject}: {finding.summary}")


def _line(finding: Finding) -> str:
    remedy = f" -> {_clean(finding.remedy)}" if finding.remedy else ""
    return f"{finding.status}: {_text(finding)}{remedy}"


def _clean(text: str) -> str:
    """One line without ``|``, which would begin performance data."""
    return escape(" ".join(text.split())).replace("|", "/")


def _data(health: Health, snapshot: Snapshot | None) -> Iterator[str]:
    yield f"duration={health.duration_seconds:.3f}s;;;0"
    for status in SEVERITY:
        count = sum(finding.status == status for finding in health.findings)
        yield f"findings_{status.lower()}={count};;;0"
    for gpu in snapshot.listed_gpus if snapshot else ():
        yield from _gpu(gpu)


def _gpu(gpu: Gpu) -> Iterator[str]:
    name = f"gpu{gpu.index}"
    if gpu.temperature_celsius is not None:
        yield f"{name}_temperature={gpu.temperature_celsius}"
    if gpu.power_watts is not None:
        yield f"{name}_power={gpu.power_watts:g}"
    if gpu.utilization_percent is not None:
        yield f"{name}_utilization={gpu.utilization_percent}%;;;0;100"
    if gpu.memory_used_bytes is not None:
        yield f"{name}_memory_used={gpu.memory_used_bytes}B;;;0;{gpu.memory_total_bytes or ''}"
