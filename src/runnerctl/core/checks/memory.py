"""Is the memory of each GPU sound: ECC, remapped rows, retired pages?"""

from __future__ import annotations

from collections.abc import Iterable

from runnerctl.core.checks.each import gpu_check
from runnerctl.core.findings import Check, Verdict, critical, ok, warning
from runnerctl.core.snapshot import Gpu
from runnerctl.core.spec import HostSpec

__all__ = ["CHECKS"]

# NVIDIA, "Dynamic Page Retirement": a board with 60 retired pages or more qualifies for replacement.
_MOST_RETIRED_PAGES = 60
_RESET = "drain the slots that use it, then `nvidia-smi --gpu-reset -i {index}`, or reboot"
_REPLACE = "take the GPU out of service and have it replaced"


def _judge_ecc(gpu: Gpu, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    counts = gpu.ecc_counts
    if counts is None or counts.volatile_uncorrected is None:
        return
    data = {
        "uncorrected": counts.volatile_uncorrected,
        "corrected": counts.volatile_corrected,
        "aggregate_uncorrected": counts.aggregate_uncorrected,
        "aggregate_corrected": counts.aggregate_corrected,
    }
    if counts.volatile_uncorrected > 0:
        number = _number(counts.volatile_uncorrected, "uncorrectable ECC error")
        summary = f"{number} since the driver was loaded: results cannot be trusted"
        yield critical(summary, _RESET.format(index=gpu.index), **data)
        return
    past = counts.aggregate_uncorrected
    history = f" ({past} in its whole life)" if past else ""
    yield ok(f"no uncorrectable ECC error since the driver was loaded{history}", **data)


def _judge_sram(gpu: Gpu, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    exceeded = gpu.ecc_counts.sram_threshold_exceeded if gpu.ecc_counts else None
    if exceeded:
        yield critical("uncorrectable SRAM errors have passed the limit that the GPU sets itself")
    elif exceeded is not None:
        yield ok("SRAM errors are within the GPU's own limit")


def _judge_ecc_mode(gpu: Gpu, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    if gpu.ecc is None or gpu.ecc_pending is None:
        return
    now, then = _switch(gpu.ecc), _switch(gpu.ecc_pending)
    if gpu.ecc == gpu.ecc_pending:
        yield ok(f"ECC is {now}", ecc=gpu.ecc)
        return
    summary = f"ECC is {now}, and will be {then} after the next reset"
    yield warning(summary, _RESET.format(index=gpu.index), ecc=gpu.ecc, pending=gpu.ecc_pending)


def _judge_row_remap(gpu: Gpu, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    rows = gpu.remapped_rows
    if rows is None:
        return
    data = {
        "corrected": rows.corrected,
        "uncorrected": rows.uncorrected,
        "pending": rows.pending,
        "failure": rows.failure,
    }
    done = _number(rows.corrected + rows.uncorrected, "memory row")
    if rows.failure:
        yield critical("a broken row of memory could not be remapped: no spare row is left", _REPLACE, **data)
    elif rows.pending:
        remedy = f"reset it when its slots are idle: `nvidia-smi --gpu-reset -i {gpu.index}`, or reboot"
        yield warning(f"a row remap waits for the next reset ({done} remapped so far)", remedy, **data)
    else:
        yield ok(f"{done} remapped, none waits", **data)


def _judge_retired_pages(gpu: Gpu, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    pages = gpu.retired_pages
    if pages is None:
        return
    total = pages.single_bit + pages.double_bit
    data = {"single_bit": pages.single_bit, "double_bit": pages.double_bit, "pending": pages.pending}
    if total >= _MOST_RETIRED_PAGES:
        summary = f"{total} pages of memory are retired; NVIDIA replaces from {_MOST_RETIRED_PAGES} on"
        yield critical(summary, _REPLACE, **data)
    elif pages.pending:
        yield warning(f"a page of memory waits to be retired ({total} are)", **data)
    else:
        yield ok(f"{_number(total, 'page')} of memory retired, none waits", **data)


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _switch(on: bool) -> str:
    return "on" if on else "off"


CHECKS: tuple[Check, ...] = (
    gpu_check(
        "gpu.ecc",
        title="No uncorrectable memory error since the driver was loaded",
        docs=(
            "Reads NVML's volatile ECC counters, which start at 0 when the driver is loaded or the GPU is "
            "reset. Corrected errors are no fault. The aggregate counters cover the GPU's whole life and "
            "never alarm as such; gpu.baseline reports their growth. GPUs without ECC are left out."
        ),
        remedy="drain the slots that use it and reset the GPU",
        judge=_judge_ecc,
    ),
    gpu_check(
        "gpu.sram_ecc",
        title="SRAM errors are within the GPU's own limit",
        docs=(
            "Newer GPUs count uncorrectable errors of their caches and registers and raise a flag when there "
            "are too many (nvmlDeviceGetSramEccErrorStatus, bThresholdExceeded). NVIDIA replaces such a GPU."
        ),
        remedy=_REPLACE,
        judge=_judge_sram,
    ),
    gpu_check(
        "gpu.ecc_mode",
        title="The ECC mode is the one that was set",
        docs=(
            "A change of the ECC mode takes effect at the next reset. Until then the GPU runs in the old "
            "mode. GPUs without ECC are left out."
        ),
        remedy="drain the slots that use it and reset the GPU",
        judge=_judge_ecc_mode,
    ),
    gpu_check(
        "gpu.row_remap",
        title="No broken row of memory waits to be replaced",
        docs=(
            "From Ampere on a broken row of memory is replaced by a spare one at the next reset. A remap "
            "that waits is safe: the row is not used meanwhile. A remap that failed means that no spare "
            "row is left. Numbers of remapped rows alone are no fault."
        ),
        remedy="reset the GPU when its slots are idle: `nvidia-smi --gpu-reset -i INDEX`, or reboot",
        judge=_judge_row_remap,
    ),
    gpu_check(
        "gpu.retired_pages",
        title="No broken page of memory waits to be retired",
        docs=(
            "Before Ampere the driver takes broken pages of memory out of use when it is loaded next. From "
            f"{_MOST_RETIRED_PAGES} retired pages on NVIDIA replaces the board."
        ),
        remedy="load the driver again when no slot uses a GPU, or reboot",
        judge=_judge_retired_pages,
    ),
)
