"""How does each GPU fare: the driver's own verdict on it, its temperature, its clocks and its power?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from runnerctl.core.baseline import SAME_MHZ, SAME_WATTS
from runnerctl.core.checks import modes
from runnerctl.core.checks.each import gpu_check, saved_gpu
from runnerctl.core.driver_readings import Baseline
from runnerctl.core.findings import Check, Verdict, critical, ok, unknown, warning
from runnerctl.core.snapshot import Gpu
from runnerctl.core.spec import HostSpec
from runnerctl.core.xid_table import Action

__all__ = ["CHECKS", "CLOCKS", "POWER_LIMIT"]

_RESET = "drain the slots that use it, then `nvidia-smi --gpu-reset -i {index}`, or reboot"
_REBOOT = "drain the host and reboot it"


class _Wish(NamedTuple):
    """What the driver may ask for: NVML's word, its meaning, what to do, and that as an Xid's action."""

    word: str
    meaning: str
    remedy: str
    action: Action


# nvmlDeviceGpuRecoveryAction_t
_WISHES = {
    1: _Wish("reset", "a reset of the GPU", _RESET, "RESET"),
    2: _Wish("reboot", "a reboot of the host", _REBOOT, "REBOOT"),
    3: _Wish(
        "drain_p2p",
        "an end of peer-to-peer traffic",
        "let jobs that use several GPUs end, then reset the GPU",
        "WARN",
    ),
    4: _Wish("drain_and_reset", "no more work, and then a reset of the GPU", _RESET, "RESET"),
    5: _Wish(
        "recover_imex",
        "a recovery of the IMEX domain",
        "restart the IMEX service on all hosts of the NVLink domain",
        "WARN",
    ),
    6: _Wish("bus_reset", "a reset of the GPU over the PCI bus", _RESET, "RESET"),
    7: _Wish("system_reboot", "a reboot of the whole system", _REBOOT, "REBOOT"),
}
# nvmlClocksEventReasons: the bits that are no choice of anybody. 0x1 idle, 0x2 a clock setting, 0x4 the power
# limit, 0x10 sync boost and 0x100 the display's clocks are normal.
_HARDWARE, _SOFT_HEAT, _HEAT, _BRAKE = 0x8, 0x20, 0x40, 0x80
_COLDEST, _HOTTEST = -50, 200  # °C: a number beyond these is no temperature of a chip that works
_COOLING = "look at fans, air flow and the room's temperature"
_POWER = "look at power supplies, cables and the chassis' power budget"


def _judge_recovery(gpu: Gpu, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    action = gpu.recovery_action
    if action is None:
        return
    wish = _WISHES.get(action)
    if action == 0:
        yield ok("the driver asks for nothing", recovery="none")
    elif wish is None:
        remedy = "look at `nvidia-smi -q -d GPU_RECOVERY_ACTION`, and update runnerctl"
        yield unknown(f"the driver asks for something unknown (action {action})", remedy, code=action)
    else:
        # What only affects work across several GPUs leaves the others' jobs alone.
        say = warning if wish.action == "WARN" else critical
        remedy = wish.remedy.format(index=gpu.index)
        data = {"recovery": wish.word, "code": action, "action": wish.action}
        yield say(f"the driver asks for {wish.meaning}", remedy, **data)


def _judge_temperature(gpu: Gpu, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    now = gpu.temperature_celsius
    if now is None:
        return
    slows, stops = gpu.temperature_slowdown_celsius, gpu.temperature_shutdown_celsius
    memory, memory_most = gpu.memory_temperature_celsius, gpu.memory_temperature_max_celsius
    data = {
        "celsius": now,
        "slowdown_celsius": slows,
        "shutdown_celsius": stops,
        "margin_celsius": gpu.temperature_margin_celsius,
        "memory_celsius": memory,
    }
    if not _COLDEST <= now <= _HOTTEST:
        remedy = "look at `nvidia-smi -q -d TEMPERATURE`; if it says so, too, reset the GPU"
        yield unknown(f"it says {now} °C, which cannot be", remedy, **data)
    elif stops is not None and now >= stops:
        yield critical(f"{now} °C, and it switches itself off at {stops} °C", **data)
    elif slows is not None and now >= slows:
        yield critical(f"{now} °C, and it slows itself down at {slows} °C", **data)
    elif memory is not None and memory_most is not None and memory >= memory_most:
        yield warning(f"its memory has {memory} °C, and is slowed down at {memory_most} °C", **data)
    elif _no_margin(gpu):
        yield warning(f"{now} °C, and no margin is left before it slows down", **data)
    else:
        yield ok(f"{now} °C{f', it slows down at {slows} °C' if slows is not None else ''}", **data)


def _no_margin(gpu: Gpu) -> bool:
    """Whether no margin is left. Some H100 say 0 or less when cool: it counts only with heat as a reason."""
    margin, reasons = gpu.temperature_margin_celsius, gpu.clock_reasons
    return margin is not None and margin <= 0 and bool((reasons or 0) & (_SOFT_HEAT | _HEAT))


def _judge_throttle(gpu: Gpu, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    reasons = gpu.clock_reasons
    if reasons is None:
        return
    data = {"reasons": f"{reasons:#x}", "clock_sm_mhz": gpu.clock_sm_mhz}
    if reasons & _BRAKE:
        yield warning("slowed down by the power brake: the power supply asks for it", _POWER, **data)
    elif reasons & _HEAT:
        yield warning("slowed down by the hardware because of heat (thermal slowdown)", _COOLING, **data)
    elif reasons & _SOFT_HEAT:
        yield warning("slowed down by the driver because of heat (thermal slowdown)", _COOLING, **data)
    elif reasons & _HARDWARE:
        yield warning("slowed down by the hardware: heat, power brake or power supply", **data)
    else:
        yield ok("nothing slows it down", **data)


def _judge_power_limit(gpu: Gpu, baseline: Baseline | None, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    limit, default = gpu.power_limit_watts, gpu.power_default_watts
    if limit is None or default is None:
        return
    data = {"watts": limit, "default_watts": default}
    then = saved_gpu(gpu, baseline)
    always = then.power_limit_watts if then else None
    if limit >= default - SAME_WATTS:
        yield ok(f"power limit {limit:.0f} W, default {default:.0f} W", **data)
    elif always is not None and abs(limit - always) <= SAME_WATTS:
        yield ok(f"power limit {limit:.0f} W of {default:.0f} W, as in the baseline", **data)
    else:
        remedy = f"`nvidia-smi -i {gpu.index} -pl {default:.0f}`; if it is meant, `runnerctl baseline save`"
        yield warning(f"power limit lowered to {limit:.0f} W; the default is {default:.0f} W", remedy, **data)


def _judge_clocks(gpu: Gpu, baseline: Baseline | None, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    now, default = gpu.clock_application_mhz, gpu.clock_application_default_mhz
    if now is None or default is None:
        return
    data = {"mhz": now, "default_mhz": default}
    then = saved_gpu(gpu, baseline)
    always = then.clock_application_mhz if then else None
    if now >= default - SAME_MHZ:
        yield ok(f"application clock {now} MHz, default {default} MHz", **data)
    elif always is not None and abs(now - always) <= SAME_MHZ:
        yield ok(f"application clock {now} MHz of {default} MHz, as in the baseline", **data)
    else:
        remedy = f"`nvidia-smi -i {gpu.index} -rac`; if it is meant, `runnerctl baseline save`"
        yield warning(f"application clock lowered to {now} MHz; the default is {default} MHz", remedy, **data)


RECOVERY_ACTION = gpu_check(
    "gpu.recovery_action",
    title="The driver asks for nothing to be done to a GPU",
    docs=(
        "Reads the driver's own recovery action (NVML field 230): none, reset, reboot, drain. It is the "
        "highest authority on what a GPU needs. Drivers before 555 or so do not tell."
    ),
    remedy="do what the driver asks for",
    judge=_judge_recovery,
)

TEMPERATURE = gpu_check(
    "gpu.temperature",
    title="No GPU is too hot",
    docs=(
        "Compares temperatures with the GPU's own limits for slowing down and switching off; there are no "
        "limits of our own. A margin of 0 or less, which some GPUs report while they are cool, counts only "
        "when the clocks are held down by heat as well."
    ),
    remedy=f"drain its slots, and {_COOLING}",
    judge=_judge_temperature,
)

THROTTLE = gpu_check(
    "gpu.throttle",
    title="Neither heat nor the power supply slows a GPU down",
    docs=(
        "Reads why clocks are below their maximum (nvmlDeviceGetCurrentClocksEventReasons): hardware "
        "slowdown (0x8), thermal slowdown by the driver (0x20) and by the hardware (0x40), power brake "
        "(0x80). Being idle, clock settings and the power limit are normal reasons."
    ),
    remedy=f"{_COOLING}; {_POWER}",
    judge=_judge_throttle,
)

POWER_LIMIT = gpu_check(
    "gpu.power_limit",
    title="The power limit is not lowered",
    docs=(
        "Compares the enforced power limit with the board's default. A lower one that the saved baseline has "
        "too is meant."
    ),
    remedy="set the default again with `nvidia-smi -pl`",
    judge=_judge_power_limit,
    needs=("baseline?",),
)

CLOCKS = gpu_check(
    "gpu.clocks",
    title="The application clocks are not lowered",
    docs=(
        "Compares the SM application clock with its default: `nvidia-smi -ac` in a job stays in force for "
        "the jobs after it. A lower setting that the saved baseline has too is meant. Clocks locked with "
        "`nvidia-smi -lgc` cannot be read back."
    ),
    remedy="reset them with `nvidia-smi -rac` and `nvidia-smi -rgc`",
    judge=_judge_clocks,
    needs=("baseline?",),
)

CHECKS: tuple[Check, ...] = (RECOVERY_ACTION, TEMPERATURE, THROTTLE, POWER_LIMIT, CLOCKS, *modes.CHECKS)
