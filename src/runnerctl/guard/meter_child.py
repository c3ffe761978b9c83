"""The meter's child as its parent sees it: started, spoken to, given up. Nothing here waits long."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from runnerctl.guard.meter_board import Board
from runnerctl.guard.meter_sums import Content
from runnerctl.probes.child import kill_group

__all__ = ["MeterChild"]

_GRACE_SECONDS = 0.2  # how long a killed child may take to disappear before it is left behind
_POLL_SECONDS = 0.01
_ENDING_SECONDS = 0.05
_ANSWER_BYTES = 65536


class MeterChild:
    """One process that holds NVML. Raises OSError when none can be started."""

    def __init__(self) -> None:
        self.board = Board.new()
        self._buffer = b""
        self._number = 0
        # -I: nothing in the environment or the working directory changes what root runs.
        argv = [sys.executable, "-I", "-m", "runnerctl.guard.meter_work", str(self.board.descriptor)]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=(self.board.descriptor,),
            start_new_session=True,
        )
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                os.set_blocking(stream.fileno(), False)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def ended(self) -> str | None:
        """How it ended; None while it lives."""
        status = self._process.poll()
        if status is None:
            return None
        return f"signal {-status}" if status < 0 else f"exit code {status}"

    def content(self) -> Content:
        """What it wrote so far."""
        data = self.board.read()
        try:
            return msgspec.json.decode(data, type=Content) if data else Content()
        except msgspec.MsgspecError:
            return Content()

    def stuck_in(self, now: float, limit: float) -> str | None:
        """The call that has not returned for more than ``limit`` seconds."""
        stage = self.board.stage()
        return stage.text.strip() if stage.text and now - stage.since > limit else None

    def send(self, command: dict[str, Any]) -> bool:
        """Hand over a command; False when it cannot take one, because it hangs or has ended."""
        data = msgspec.json.encode(command) + b"\n"
        stream = self._process.stdin
        try:
            # A pipe takes all of up to 4096 bytes or nothing (pipe(7)); more, while it is not full.
            return stream is not None and stream.write(data) == len(data)
        except OSError:
            return False

    def ask(self, command: str, *, seconds: float, **more: Any) -> Iterator[dict[str, Any]]:
        """A command and its answers, as far as they come within ``seconds``."""
        self._number += 1
        deadline = time.monotonic() + seconds
        if not self.send({command: self._number, **more}):
            return
        while (answer := self._answer(deadline)) is not None:
            if answer.get("id") != self._number:
                continue  # of a look that was given up
            if len(answer) == 1:
                return
            yield answer

    def _answer(self, deadline: float) -> dict[str, Any] | None:
        stream = self._process.stdout
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if stream is None or left <= 0 or not select.select([stream], [], [], left)[0]:
                return None
            data = stream.read(_ANSWER_BYTES)
            if not data:
                self.wait(_ENDING_SECONDS)  # it is about to be gone, and then it says why
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            return msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError:
            return {}

    def kill(self) -> bool:
        """End it, and what it started; False when it cannot be ended (it sleeps in the kernel)."""
        kill_group(self.pid)
        return self.wait(_GRACE_SECONDS)

    def quit(self) -> bool:
        """Let it end by itself, or else end it."""
        if self._process.stdin:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        return self.wait(_GRACE_SECONDS) or self.kill()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within so many seconds."""
        deadline = time.monotonic() + seconds
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def forget(self) -> None:
        """Let go of its pipes and its board."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()
        self.board.close()
