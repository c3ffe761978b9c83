"""The job's log: stamped lines, masked, streamed to the service within a fraction of a second."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timezone

from .context import Context, time_scale
from .wire import Service, WireError

_PAUSE_SECONDS = 0.1
_LAST_TRY_SECONDS = 60.0


class JobLog:
    """Lines of one job. Safe to write from several threads."""

    def __init__(self, context: Context, service: Service, job_id: str) -> None:
        self._context = context
        self._service = service
        self._path = f"/jobs/{job_id}/log"
        self._lines: list[str] = []
        self._masks: list[str] = []
        self._changed = threading.Condition()
        self._closing = False
        self._sender = threading.Thread(target=self._send, daemon=True)
        self._sender.start()

    def write(self, text: str) -> None:
        """Add one line; secrets known so far are replaced."""
        for mask in self._masks:
            text = text.replace(mask, "***")
        self._context.trace(text, area="JobLog")
        moment = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f0Z")
        with self._changed:
            self._lines.append(f"{moment} {text}\n")
            self._changed.notify()

    def mask(self, secret: str) -> None:
        """Hide ``secret`` from here on."""
        if secret.strip():
            self._masks.append(secret.strip())

    def close(self) -> None:
        """Send what is left; gives up after a minute."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._sender.join(_LAST_TRY_SECONDS + 30)

    def _send(self) -> None:
        last_try = float("inf")
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._closing)
                batch, self._lines = self._lines, []
                closing = self._closing
            if not batch:
                return
            if closing:
                last_try = min(last_try, time.monotonic() + _LAST_TRY_SECONDS / time_scale())
            if not self._post("".join(batch)):
                with self._changed:
                    self._lines[:0] = batch
                if time.monotonic() > last_try:
                    return
                time.sleep(1 / time_scale())
            elif not closing:
                time.sleep(_PAUSE_SECONDS)

    def _post(self, text: str) -> bool:
        try:
            reply = self._service.call("POST", self._path, text=text)
        except WireError as error:
            self._context.trace(f"The log could not be sent: {error}")
            return False
        return reply.status < 500


def command(line: str, log: JobLog) -> str | None:
    """Act on a workflow command (``::name::text``); return what the log shows, None for nothing."""
    if not line.startswith("::"):
        return line
    head, sign, text = line[2:].partition("::")
    name = head.split(" ", 1)[0]
    if not sign:
        return line
    if name == "add-mask":
        log.mask(text)
        return None
    if name in ("error", "warning", "notice", "debug", "group", "endgroup"):
        return f"##[{name}]{text}"
    return line
