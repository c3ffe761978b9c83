"""What the checks on single GPUs have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from runnerctl.core.driver_readings import Baseline, BaselineGpu
from runnerctl.core.findings import Check, Verdict
from runnerctl.core.snapshot import Gpu, Snapshot, Unavailable
from runnerctl.core.spec import HostSpec

__all__ = ["gpu_check", "gpus_answer", "jobs_use", "saved_gpu", "slots_on"]


def gpus_answer(snapshot: Snapshot) -> bool:
    """Whether NVML shows GPUs (where it does not, `driver.nvml` says why)."""
    return not isinstance(snapshot.gpus, Unavailable) and bool(snapshot.gpus)


def gpu_check(
    name: str,
    *,
    title: str,
    docs: str,
    remedy: str,
    judge: Callable[..., Iterable[Verdict]],
    needs: tuple[str, ...] = (),
) -> Check:
    """A check on each GPU that answers. What does not is left to `gpu.answers`: one cause, one finding."""

    def answering(gpu: Gpu, *readings: Any, spec: HostSpec | None) -> Iterable[Verdict]:
        return () if gpu.failure else judge(gpu, *readings, spec=spec)

    return Check(
        id=name,
        title=title,
        docs=docs,
        remedy=remedy,
        judge=answering,
        needs=needs,
        over="gpus",
        when=gpus_answer,
    )


def slots_on(gpu: Gpu, spec: HostSpec | None) -> list[str]:
    """The slots that claim the GPU or a MIG device of it."""
    own = {uuid.lower() for uuid in (gpu.uuid, *gpu.mig_uuids) if uuid}
    slots = spec.github_runner.slots if spec else ()
    return [slot.name for slot in slots if own & {uuid.lower() for uuid in slot.gpus}]


def jobs_use(gpu: Gpu, spec: HostSpec | None) -> bool:
    """Whether jobs can be given the GPU: a slot claims it, or no slot claims any, so that all are for all."""
    claimed = any(slot.gpus for slot in spec.github_runner.slots) if spec else False
    return not claimed or bool(slots_on(gpu, spec))


def saved_gpu(gpu: Gpu, baseline: Baseline | None) -> BaselineGpu | None:
    """What the baseline says of the GPU, if it knows it."""
    if baseline is None or gpu.uuid is None:
        return None
    return next((each for each in baseline.gpus if each.uuid.lower() == gpu.uuid.lower()), None)
