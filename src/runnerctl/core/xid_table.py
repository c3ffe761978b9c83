"""What each Xid means and what to do about it.

The facts: NVIDIA's Xid catalogue (docs.nvidia.com/deploy/xid-errors) with its *immediate action* for each
code, and the driver's own list of codes. The actions are ours:

- INFO: written down, nothing to do.
- JOB: a program failed through its own fault; the runner goes on.
- WARN: someone should look; jobs run.
- PROBE: the GPU must prove that it still works before the next job.
- RESET: no more jobs until the GPU was reset.
- REBOOT, POWER, RMA: the host must be booted, cut from its power, or the GPU looked at and replaced.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["ACTIONS", "BUCKETS", "TABLE", "Action", "Xid", "rank", "xid"]

Action = Literal["INFO", "JOB", "WARN", "PROBE", "RESET", "REBOOT", "POWER", "RMA"]
ACTIONS: tuple[Action, ...] = ("INFO", "JOB", "WARN", "PROBE", "RESET", "REBOOT", "POWER", "RMA")

BUCKETS: Mapping[str, str] = {
    "CHECK_MECHANICALS": "look at cables, power and seating",
    "CHECK_UVM": "look for an error of the unified memory driver beside it",
    "CONTACT_SUPPORT": "ask the vendor",
    "IGNORE": "nothing at once",
    "RESET_GPU": "reset the GPU",
    "RESTART_APP": "start the program again",
    "RESTART_BM": "boot the machine again",
    "RESTART_VM": "boot the virtual machine again",
    "UPDATE_SWFW": "update driver or firmware",
    "WORKFLOW": "follow NVIDIA's procedure for this code",
    "XID_154": "do what its text says",
}


@dataclass(frozen=True)
class Xid:
    """One code. ``bucket``: NVIDIA's immediate action, empty where the catalogue has none.

    ``repeat``: the action at the second occurrence within 24 hours, where it is not simply one step up.
    ``idle_reset``: the GPU wants a reset when no job runs, and may work until then.
    """

    code: int
    meaning: str
    cause: str
    bucket: str
    action: Action
    repeat: Action | None = None
    idle_reset: bool = False
    note: str = ""
    known: bool = True


def rank(action: Action) -> int:
    """How grave an action is, from INFO (0) to RMA (7)."""
    return ACTIONS.index(action)


def xid(code: int) -> Xid:
    """The entry of a code; one that nobody knows asks for a probe."""
    unknown = Xid(code, f"unknown Xid {code}", "not known", "", "PROBE", known=False)
    return TABLE.get(code, unknown)


_APP, _DRIVER, _HARDWARE, _EITHER = "program", "driver", "hardware", "program or hardware"
_COPY_ENGINES = {39: 0, 40: 1, 41: 2, 70: 3, 71: 4, 72: 5, 75: 6, 76: 7, 77: 8, 85: 9} | {
    code: code - 116 for code in range(126, 136)
}
_DECODERS = {68: 0, 83: 1, 84: 2, 88: 3, 89: 4, 96: 5, 97: 6, 98: 7}
_JPEG = {82: 0} | {code: code - 98 for code in range(99, 106)}
_NVLINK5 = {144: "SAW", 145: "RLW", 146: "TLW", 147: "TREX", 148: "NVLPW_CTRL", 149: "NETIR", 150: "MSE"}
_LINK_NOTE = "The line says whether it was fatal: a fatal one wants a reset, the other is written down."


def _families() -> list[Xid]:
    """Codes that differ by the number of their engine only."""
    copy = [
        Xid(code, f"copy engine {number} failed", _EITHER, "RESTART_APP", "PROBE")
        for code, number in _COPY_ENGINES.items()
    ]
    video = [
        Xid(code, f"video decoder {number} failed", "program or driver", "RESTART_APP", "JOB")
        for code, number in _DECODERS.items()
    ]
    jpeg = [
        Xid(code, f"JPEG decoder {number} failed", "program or driver", "RESTART_APP", "JOB")
        for code, number in _JPEG.items()
    ]
    links = [
        Xid(code, f"NVLink 5: error in the {unit} unit", _HARDWARE, "WORKFLOW", "PROBE", note=_LINK_NOTE)
        for code, unit in _NVLINK5.items()
    ]
    return copy + video + jpeg + links


_SINGLE = (
    Xid(8, "a channel made no progress and was stopped", "program or driver", "RESTART_APP", "PROBE"),
    Xid(11, "a command buffer was invalid", "program or driver", "RESTART_APP", "JOB"),
    Xid(
        13,
        "a kernel broke a rule: bad address, bad instruction, failed assertion",
        _APP,
        "RESTART_APP",
        "JOB",
        note="If it follows the GPU rather than the program, suspect the hardware.",
    ),
    Xid(25, "a command buffer was illegal", "program or driver", "RESTART_APP", "JOB"),
    Xid(31, "a program touched GPU memory that is not mapped", _APP, "RESTART_APP", "JOB"),
    Xid(
        32,
        "a command buffer was damaged",
        "program, driver or PCIe",
        "RESTART_APP",
        "JOB",
        repeat="PROBE",
        note="Damage may have happened on the bus: repeated, the GPU is probed.",
    ),
    Xid(37, "the context switch firmware met a call that it does not know", _DRIVER, "IGNORE", "JOB"),
    Xid(38, "the watchdog of the context switch firmware fired", _DRIVER, "IGNORE", "JOB"),
    Xid(43, "a channel was reset; the GPU stopped for that program only", _APP, "IGNORE", "JOB"),
    Xid(44, "a fault while switching between programs", "driver or hardware", "IGNORE", "PROBE"),
    Xid(
        45,
        "channels were cleaned up after another error, or because a program was killed",
        "another error",
        "WORKFLOW",
        "INFO",
        note="It follows: the Xid beside it is the one that counts.",
    ),
    Xid(46, "the GPU did not answer in time", "hardware or driver", "RESET_GPU", "RESET"),
    Xid(
        48,
        "two bits of memory were wrong at once, which ECC cannot correct",
        _HARDWARE,
        "WORKFLOW",
        "RESET",
        note="When NVML says that the SRAM error threshold is exceeded, the GPU is to be replaced.",
    ),
    Xid(54, "the auxiliary power cable is missing", "power", "CHECK_MECHANICALS", "POWER"),
    Xid(60, "the video or security processor failed", "program or driver", "RESTART_APP", "JOB"),
    Xid(61, "a warning of the power micro-controller", "hardware or driver", "CONTACT_SUPPORT", "PROBE"),
    Xid(62, "the power micro-controller halted", "hardware or driver", "RESET_GPU", "RESET"),
    Xid(
        63,
        "bad memory was marked: a row to be remapped, or a page to be retired",
        _HARDWARE,
        "IGNORE",
        "INFO",
        idle_reset=True,
        note="It takes effect at the next reset; NVML says whether one is still due.",
    ),
    Xid(64, "bad memory could not be remapped or retired", _HARDWARE, "RESET_GPU", "RESET", repeat="RMA"),
    Xid(66, "the driver used a register that it may not use", _DRIVER, "IGNORE", "INFO"),
    Xid(67, "the driver used a register that it may not use", _DRIVER, "IGNORE", "INFO"),
    Xid(69, "a graphics or compute class was used wrongly", "program or driver", "RESTART_APP", "JOB"),
    Xid(74, "an NVLink failed", _HARDWARE, "WORKFLOW", "RESET", repeat="RMA"),
    Xid(78, "a virtual GPU could not be started", "configuration", "UPDATE_SWFW", "WARN"),
    Xid(
        79,
        "the GPU has fallen off the bus",
        "hardware, power or PCIe",
        "RESTART_BM",
        "REBOOT",
        note="A reset does not reach it any more.",
    ),
    Xid(80, "data arrived at the GPU damaged", "program or PCIe", "RESTART_APP", "PROBE"),
    Xid(86, "the optical flow engine failed", "program or driver", "RESTART_APP", "JOB"),
    Xid(92, "many corrected memory errors in a short time", _HARDWARE, "IGNORE", "WARN"),
    Xid(93, "the infoROM is written more often than it should be", _HARDWARE, "IGNORE", "WARN"),
    Xid(
        94,
        "a memory error ECC could not correct; it hit one program only",
        _HARDWARE,
        "RESTART_APP",
        "JOB",
        idle_reset=True,
        note="Other programs may go on; the GPU wants a reset when it is idle.",
    ),
    Xid(95, "a memory error ECC could not correct or contain", _HARDWARE, "RESET_GPU", "RESET"),
    Xid(106, "a test message of the management bus", "operator", "IGNORE", "INFO"),
    Xid(107, "a silent test message of the management bus", "operator", "IGNORE", "INFO"),
    Xid(108, "an NVLink peer asked for an address that is not there", _APP, "IGNORE", "INFO"),
    Xid(
        109,
        "a program could not be switched out in time",
        _EITHER,
        "RESET_GPU",
        "PROBE",
        note="It is a reset when the driver itself asks for one.",
    ),
    Xid(110, "a security fault", "hardware or firmware", "RESET_GPU", "RESET"),
    Xid(
        119,
        "the GPU's system processor (GSP) did not answer the driver",
        "firmware or driver",
        "RESET_GPU",
        "RESET",
        note="If it comes back after a reboot, update the driver.",
    ),
    Xid(
        120,
        "the GPU's system processor (GSP) reported an error",
        "firmware or driver",
        "RESET_GPU",
        "RESET",
        note="If it comes back after a reboot, update the driver.",
    ),
    Xid(121, "a corrected error between processor and GPU (C2C)", _HARDWARE, "IGNORE", "WARN"),
    Xid(122, "the flash memory could not be read", _HARDWARE, "CONTACT_SUPPORT", "WARN", repeat="RMA"),
    Xid(123, "the flash memory could not be written", _HARDWARE, "CONTACT_SUPPORT", "WARN", repeat="RMA"),
    Xid(124, "the flash memory could not be erased", _HARDWARE, "CONTACT_SUPPORT", "WARN", repeat="RMA"),
    Xid(125, "the infoROM's file system is damaged", _HARDWARE, "CONTACT_SUPPORT", "WARN", repeat="RMA"),
    Xid(136, "an NVLink could not be trained", _HARDWARE, "RESET_GPU", "RESET"),
    Xid(137, "an NVLink access without the right to it", _APP, "IGNORE", "JOB"),
    Xid(139, "the second optical flow engine failed", "program or driver", "RESTART_APP", "JOB"),
    Xid(140, "an ECC error that was not recovered", _HARDWARE, "RESET_GPU", "RESET"),
    Xid(141, "CUDA's fast path failed", _DRIVER, "IGNORE", "JOB"),
    Xid(142, "video encoder 3 failed", "program or driver", "CONTACT_SUPPORT", "PROBE"),
    Xid(143, "the GPU could not be initialised", "hardware or driver", "RESET_GPU", "RESET", repeat="RMA"),
    Xid(151, "an encryption key could not be renewed", _DRIVER, "RESTART_VM", "REBOOT"),
    Xid(152, "the deep learning accelerator met a memory fault", _APP, "IGNORE", "INFO"),
    Xid(153, "the deep learning accelerator did not answer in time", _APP, "IGNORE", "INFO"),
    Xid(
        154,
        "the driver changed its mind about how the GPU recovers",
        "another error",
        "XID_154",
        "INFO",
        note="Its text beats this table: none, reset, reboot, drain.",
    ),
    Xid(155, "NVLink: an error that software defined", "driver or hardware", "RESET_GPU", "RESET"),
    Xid(156, "a part of the GPU was retired", _HARDWARE, "RESET_GPU", "RESET"),
    Xid(157, "a part of the GPU could not be retired", _HARDWARE, "IGNORE", "WARN"),
    Xid(158, "the GPU met a fatal timeout", _HARDWARE, "RESET_GPU", "RESET"),
    Xid(159, "an error between processor and GPU that carried no data", _HARDWARE, "CHECK_UVM", "PROBE"),
    Xid(160, "a memory channel was retired", _HARDWARE, "IGNORE", "WARN"),
    Xid(161, "a memory channel could not be retired", _HARDWARE, "IGNORE", "WARN"),
    Xid(162, "power smoothing is in use again", _HARDWARE, "", "INFO"),
    Xid(163, "power smoothing was switched off", _HARDWARE, "", "INFO"),
    Xid(164, "the power smoothing circuit nears the end of its life", _HARDWARE, "", "WARN"),
    Xid(165, "the power smoothing circuit is worn out", _HARDWARE, "", "WARN"),
    Xid(166, "NVLink traffic came before the link was encrypted", "driver or fabric manager", "", "PROBE"),
    Xid(167, "PCIe: a fatal timeout", "hardware or PCIe", "", "REBOOT"),
    Xid(168, "a part of the GPU's memory is out of use", _HARDWARE, "", "WARN"),
    Xid(169, "the security processor (SEC2) halted", "hardware or firmware", "", "REBOOT"),
    Xid(170, "NVLink: an interrupt in confidential computing mode", "driver or hardware", "", "PROBE"),
    Xid(171, "detail of an uncorrectable error: it was in DRAM", _HARDWARE, "", "RESET"),
    Xid(
        172,
        "detail of an uncorrectable error: it was in SRAM",
        _HARDWARE,
        "",
        "RESET",
        note="When NVML says that the SRAM error threshold is exceeded, the GPU is to be replaced.",
    ),
    Xid(173, "a fatal error between processor and GPU (C2C)", _HARDWARE, "", "RESET"),
    Xid(174, "an error of the memory subsystem", _HARDWARE, "", "PROBE"),
    Xid(175, "an error of the memory subsystem", _HARDWARE, "", "PROBE"),
    Xid(176, "PCIe: corrected errors", "hardware or PCIe", "", "WARN"),
)

TABLE: Mapping[int, Xid] = {
    entry.code: entry for entry in sorted((*_families(), *_SINGLE), key=lambda each: each.code)
}
