"""Proof that the driver answers: NVML asked in a child process with a deadline. Standard library only.

NVML can hang in the kernel, where no signal reaches it: the child is killed, and left behind when it does not
die. The numbers are those of ``nvml.h``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ANSWERS", "INSTALL", "STUCK", "Ask", "Proof", "in_child", "judge", "prove"]

LIBRARY = "libnvidia-ml.so.1"
SECONDS = 60.0  # the first call after boot initialises every GPU: 4 s each without persistence
REAP_SECONDS = 2.0
VERSION_BYTES = 96
INSTALL = "install the driver, or set nvidia_driver_manage: true"
LOAD = "`modprobe nvidia`, `dmesg` and `dkms status` on the host say why"
STUCK = "save `dmesg` and reboot the host"
COUNT = "look at `lspci -d 10de:` and `dmesg` on the host, or correct nvidia_driver_gpu_count"
# NVML's answer -> what it means and what to do.
ANSWERS = {
    4: (
        "NVML refuses: no permission to open the driver's devices",
        "look at owner and mode of /dev/nvidiactl",
    ),
    9: ("the driver is not loaded", LOAD),
    12: ("the driver's library is missing", INSTALL),
    15: ("a GPU is lost", STUCK),
    18: ("driver library and loaded kernel module differ", "reboot the host once its jobs have ended"),
}


@dataclass(frozen=True)
class Proof:
    """What NVML says. ``problem`` and ``remedy`` are one line each, empty when all is as expected."""

    loaded: bool = False
    driver_version: str | None = None
    gpu_count: int = 0
    problem: str = ""
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For a module's result."""
        return asdict(self)


Ask = Callable[[Callable[[str], None]], dict[str, Any]]


def prove(
    expected: int | None, *, seconds: float = SECONDS, ask: Ask | None = None, may_load: bool = True
) -> Proof:
    """Ask NVML, and compare with the number of GPUs that is expected (None: any).

    ``may_load``: whether the driver may be loaded for it, which NVML does for root when it starts.
    """
    return judge(in_child(ask or (_ask_nvml if may_load else _ask_library), seconds), expected)


def judge(answer: dict[str, Any], expected: int | None) -> Proof:
    """What an answer means. ``stage``: the call that never came back or ended the child."""
    stage = answer.get("stage")
    if "hang_seconds" in answer:
        problem = f"NVML hangs: {stage} did not return within {answer['hang_seconds']:.0f} s"
        return Proof(problem=problem, remedy=STUCK)
    if "status" in answer:
        remedy = "install the driver's packages again: library and driver may be of different builds"
        return Proof(problem=f"NVML crashes in {stage} (status {answer['status']})", remedy=remedy)
    code = answer.get("code")
    version, opened, count = answer.get("version"), answer.get("opened", 0), answer.get("count", 0)
    if code:
        problem, remedy = ANSWERS.get(code, (f"NVML fails: {stage} answers {code}", STUCK))
        return Proof(problem=problem, remedy=remedy)
    wanted = count if expected is None else expected
    if opened < count or opened < wanted:
        problem = f"{opened} of {max(wanted, count)} GPUs answer"
    elif opened > wanted:
        problem = f"{opened} GPUs answer, {wanted} are expected"
    else:
        return Proof(True, version, opened)
    return Proof(True, version, opened, problem, COUNT)


def _ask_library(announce: Callable[[str], None]) -> dict[str, Any]:
    """What can be said without starting NVML, of a driver that is not loaded."""
    announce("loading the library")
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return {"code": 12, "stage": "loading the library"}
    return {"code": 9, "stage": "nvmlInit_v2"}


def _ask_nvml(announce: Callable[[str], None]) -> dict[str, Any]:
    """Runs in the child: every call is announced before it is made."""
    announce("loading the library")
    try:
        nvml = ctypes.CDLL(LIBRARY)
    except OSError:
        return {"code": 12, "stage": "loading the library"}
    announce("nvmlInit_v2")
    if code := nvml.nvmlInit_v2():
        return {"code": code, "stage": "nvmlInit_v2"}
    text, count = ctypes.create_string_buffer(VERSION_BYTES), ctypes.c_uint()
    announce("nvmlSystemGetDriverVersion")
    nvml.nvmlSystemGetDriverVersion(text, VERSION_BYTES)
    announce("nvmlDeviceGetCount_v2")
    if code := nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return {"code": code, "stage": "nvmlDeviceGetCount_v2"}
    opened = 0
    for index in range(count.value):
        announce(f"nvmlDeviceGetHandleByIndex_v2 of GPU {index}")
        opened += nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(ctypes.c_void_p())) == 0
    return {"version": text.value.decode("ascii", "replace"), "count": count.value, "opened": opened}


def in_child(ask: Ask, seconds: float) -> dict[str, Any]:
    """What ``ask`` answers in a child process; where it ended or hung, how and in which call (``stage``)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _child(ask, reader, writer)
    os.close(writer)
    lines, ended = _lines(reader, time.monotonic() + seconds)
    os.close(reader)
    if not ended:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    status = _reap(child)
    stage = next((line["stage"] for line in reversed(lines) if "stage" in line), "the child process")
    answers = [line["answer"] for line in lines if "answer" in line]
    if answers:
        answer: dict[str, Any] = answers[-1]
        return answer
    return {"stage": stage, "status": status} if ended else {"stage": stage, "hang_seconds": seconds}


def _child(ask: Ask, reader: int, writer: int) -> None:
    """Never returns: the parent's buffers and handlers are none of its business."""
    status = 1
    try:
        os.close(reader)
        os.setsid()
        # One left behind in the kernel must not keep the connection open, whose end the controller awaits.
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        answer = ask(lambda stage: _say(writer, {"stage": stage}))
        _say(writer, {"answer": answer})
        status = 0
    finally:
        os._exit(status)


def _say(writer: int, line: dict[str, Any]) -> None:
    os.write(writer, json.dumps(line).encode() + b"\n")


def _lines(reader: int, deadline: float) -> tuple[list[dict[str, Any]], bool]:
    """What the child said, and whether it ended by itself."""
    data = b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([reader], [], [], left)[0]:
            break
        chunk = os.read(reader, 65536)
        if not chunk:
            return [json.loads(line) for line in data.splitlines()], True
        data += chunk
    return [json.loads(line) for line in data.splitlines() if line.endswith(b"}")], False


def _reap(child: int) -> int:
    """Its status; -1 when it sleeps uninterruptibly and is left behind."""
    deadline = time.monotonic() + REAP_SECONDS
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        time.sleep(0.02)
    return -1
