"""From the active probe's readings to what is noted of each GPU: it passed, it failed, or nothing. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

from msgspec.structs import replace

from runnerctl.core.checks import deep as checks
from runnerctl.core.deep_readings import DeepProbe
from runnerctl.core.findings import Finding
from runnerctl.core.health import judge
from runnerctl.core.snapshot import Snapshot

__all__ = ["ProbeResult", "probe_results"]

_CHECKS = tuple(check for check in checks.CHECKS if check.id in ("gpu.compute", "gpu.memory_test"))
# cuda.h, CUresult: a placeholder library, fabric manager, versions that differ, compatibility libraries. No
# reset of a GPU mends what is wrong with the host.
_THE_HOSTS = frozenset({34, 802, 803, 804})


class ProbeResult(NamedTuple):
    """What a probe says of one GPU; without a ``kind`` it says nothing, and ``reason`` is why."""

    kind: Literal["probe_passed", "probe_failed"] | None
    reason: str


def probe_results(
    snapshot: Snapshot, deep: DeepProbe, *, thorough: Collection[str] = ()
) -> dict[str, ProbeResult]:
    """UUID of each GPU of ``deep`` -> its result. Those in ``thorough`` pass with a memory test only.

    A GPU in MIG mode passes when all its devices do, and fails when one does.
    """
    findings = judge(replace(snapshot, deep=deep), _CHECKS).findings
    found: dict[str, ProbeResult] = {}
    for device in deep.gpus:
        own = [finding for finding in findings if finding.subject == f"GPU {device.index}"]
        found[device.uuid] = _result(own, thorough=device.uuid in thorough)
    return found


def _result(findings: Sequence[Finding], *, thorough: bool) -> ProbeResult:
    failed = [each for each in findings if each.status == "CRITICAL" and _is_its_own(each.data)]
    if failed:
        return ProbeResult("probe_failed", failed[0].summary)
    needed = [each for each in findings if thorough or each.id == "gpu.compute" or each.status == "CRITICAL"]
    open_ones = [each.summary for each in needed if each.status != "OK"]
    if open_ones:
        return ProbeResult(None, open_ones[0])
    if thorough and not any(each.id == "gpu.memory_test" for each in findings):
        return ProbeResult(None, "its memory was not tested")
    return ProbeResult("probe_passed", findings[0].summary) if findings else ProbeResult(None, "no device")


def _is_its_own(data: Mapping[str, object]) -> bool:
    """Whether a finding tells of the GPU, and not of the host's software."""
    return data.get("kind") != "library_missing" and data.get("code") not in _THE_HOSTS
