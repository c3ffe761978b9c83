"""The hardware that slots are laid out over: GPUs by NVML, NUMA nodes and memory by the kernel's files.

Standard library only; reads and changes nothing. The same fields as ``runnerctl.core.hardware.Hardware``.
What cannot be read is said in ``unavailable``: an unknown is never taken for "no GPUs".
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .driver_facts import pci_devices
from .driver_prove import ANSWERS, INSTALL, STUCK, Ask, in_child
from .hardware_nvml import ask_hardware

__all__ = ["SECONDS", "read_hardware"]

SCHEMA = "runnerctl.hardware/1"
SECONDS = 60.0  # without persistence the first call initialises every GPU, up to 4 s each
REASONS = {12: ("the driver's library, libnvidia-ml.so.1, is missing", INSTALL)}
KIB = 1024


def read_hardware(
    *, gpus: bool = True, root: str = "/", seconds: float = SECONDS, ask: Ask = ask_hardware
) -> dict[str, Any]:
    """The host's hardware. ``gpus``: whether to ask NVML, within ``seconds``; ``root``: of /proc and /sys."""
    top = Path(root)
    numa = _numa(top)
    host: dict[str, Any] = {
        "schema": SCHEMA,
        "asked": gpus,
        "numa": numa,
        "memory_bytes": _memory(top / "proc/meminfo"),
        "pci_gpus": len(pci_devices(top)[0]) if top.joinpath("sys/bus/pci/devices").is_dir() else None,
    }
    if not gpus:
        return host
    answer = in_child(ask, seconds)
    if failure := _failure(answer):
        return {**host, "unavailable": failure[0], "remedy": failure[1]}
    known = {node["id"] for node in numa}
    for gpu in answer["gpus"]:
        gpu["numa_node"] = _node_of(top, gpu["pci_bus_id"], known)
    return {**host, **answer}


def _failure(answer: dict[str, Any]) -> tuple[str, str] | None:
    """What went wrong, and what to do; the words are those of the driver's role."""
    stage = answer.get("stage")
    if "hang_seconds" in answer:
        return f"NVML hangs: {stage} did not return within {answer['hang_seconds']:.0f} s", STUCK
    if "status" in answer:
        return f"NVML crashes in {stage} (status {answer['status']})", INSTALL
    if "gpus" in answer:
        return None
    code = answer.get("code", -1)
    return REASONS.get(code) or ANSWERS.get(code, (f"NVML fails: {stage} answers {code}", STUCK))


def _node_of(top: Path, bus: str | None, known: set[int]) -> int | None:
    """A GPU's NUMA node; -1 is the kernel's word for not knowing."""
    node = _number(top / "sys/bus/pci/devices" / bus / "numa_node") if bus else None
    if node is None or node not in known:
        return next(iter(known)) if len(known) == 1 and node is not None else None
    return node


def _numa(top: Path) -> list[dict[str, Any]]:
    """NUMA nodes and their cores; a kernel without NUMA has one node, 0, with all CPUs."""
    folders = sorted(top.joinpath("sys/devices/system/node").glob("node[0-9]*"), key=_id_of)
    nodes = []
    for folder in folders:
        cpus = _cpus(_text(folder / "cpulist"))
        memory = _memory(folder / "meminfo")
        nodes.append({"id": _id_of(folder), "cores": _cores(top, cpus), "memory_bytes": memory})
    if not nodes and (cpus := _cpus(_text(top / "sys/devices/system/cpu/online"))):
        nodes.append({"id": 0, "cores": _cores(top, cpus), "memory_bytes": _memory(top / "proc/meminfo")})
    return nodes


def _id_of(folder: Path) -> int:
    return int(re.sub(r"\D", "", folder.name) or 0)


def _cores(top: Path, cpus: list[int]) -> list[list[int]]:
    """CPUs that are threads of one core, together; in the order of the first of each."""
    left, cores = dict.fromkeys(cpus), []
    while left:
        first = next(iter(left))
        siblings = _text(top / f"sys/devices/system/cpu/cpu{first}/topology/thread_siblings_list")
        core = [cpu for cpu in _cpus(siblings) if cpu in left] or [first]
        for cpu in core:
            left.pop(cpu, None)
        left.pop(first, None)
        cores.append(core)
    return cores


def _cpus(text: str) -> list[int]:
    """The kernel's lists: ``0-15,32-47``."""
    found: list[int] = []
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found += range(int(first), int(last or first) + 1)
    return found


def _memory(path: Path) -> int | None:
    """MemTotal in bytes; of a node the line says the node first."""
    found = re.search(r"^(?:Node \d+ )?MemTotal:\s+(\d+) kB", _text(path), re.MULTILINE)
    return int(found[1]) * KIB if found else None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
