"""Does each GPU differ from the saved baseline?"""

from __future__ import annotations

from collections.abc import Iterable

from runnerctl.core.baseline import Difference, differences
from runnerctl.core.checks.modes import wanted_layout
from runnerctl.core.driver_readings import Baseline, GpuHistory
from runnerctl.core.findings import Check, Status, Verdict, ok
from runnerctl.core.snapshot import Gpu, Host, Nvml, Snapshot, Unavailable
from runnerctl.core.spec import HostSpec

__all__ = ["CHECKS"]


def _saved(snapshot: Snapshot) -> bool:
    """Whether a baseline was saved, and NVML answers."""
    return snapshot.baseline is not None and not isinstance(snapshot.gpus, Unavailable)


def _judge_baseline(
    baseline: Baseline, gpus: tuple[Gpu, ...], nvml: Nvml, host: Host, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    laid_out = {gpu.index for gpu in gpus if wanted_layout(gpu, spec)}
    found = differences(baseline, gpus, driver_version=nvml.driver_version, laid_out=laid_out)
    # A container has the GPUs that it was given.
    found = tuple(each for each in found if not (host.container and each.what == "missing"))
    yield from (_verdict(each, spec) for each in found)
    if all(each.status == "OK" for each in found):
        number = f"{len(baseline.gpus)} GPU{'' if len(baseline.gpus) == 1 else 's'}"
        yield ok(f"{number} compared with the baseline of {baseline.saved_at:%Y-%m-%d}: no difference")


def _verdict(found: Difference, spec: HostSpec | None) -> Verdict:
    status: Status = found.status
    if found.what == "missing" and spec and spec.nvidia_driver.gpu_count is not None:
        status = "WARNING"  # gpu.count says already that jobs lack one
    subject = "" if found.gpu is None else f"GPU {found.gpu}"
    data = {"what": found.what, "before": found.before, "now": found.now}
    return Verdict(status, found.summary, found.remedy, subject, data)


def _noted(snapshot: Snapshot) -> bool:
    """Whether there are notes that this user may read."""
    notes = snapshot.gpu_history
    return notes is not None and not (isinstance(notes, Unavailable) and notes.kind == "denied")


def _judge_notes(history: GpuHistory, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    number = len(history.events)
    yield ok(f"{number} event{'' if number == 1 else 's'} in the host's notes on its GPUs", events=number)


BASELINE = Check(
    id="gpu.baseline",
    title="The GPUs are as they were when the baseline was saved",
    docs=(
        "Only where `runnerctl baseline save` was run. Any difference in UUIDs, VBIOS, PCIe width and "
        "generation, power limit, clocks, ECC, compute mode, MIG and active NVLinks is a finding, as is a "
        "growth of the lifetime counters of uncorrectable errors and remapped rows: no limit has to be set. "
        "Another driver version, and more of something, are notes. A GPU that is gone is critical unless "
        "gpu.count says so; a MIG layout that the spec has is left to gpu.mig."
    ),
    remedy="put it back, or accept it with `runnerctl baseline save --force`",
    judge=_judge_baseline,
    needs=("baseline", "gpus", "nvml", "host"),
    when=_saved,
)

NOTES = Check(
    id="gpu.notes",
    title="What was done to the GPUs is known",
    docs=(
        "Resets, reboots, failed probes and GPUs taken out of service are written down in "
        "/var/lib/runnerctl/gpus.json. Where that file cannot be understood, a GPU that is out of service, "
        "or a fault that came back, would look like new."
    ),
    remedy="`runnerctl health --act` as root moves a damaged file aside and begins afresh: GPUs on hold then "
    "count as taken out, until `runnerctl resume --force`",
    judge=_judge_notes,
    needs=("gpu_history",),
    when=_noted,
)

CHECKS: tuple[Check, ...] = (BASELINE, NOTES)
