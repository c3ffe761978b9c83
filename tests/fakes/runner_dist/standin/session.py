"""The session with the service: opened with retries, then polled by a thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any
from urllib.parse import quote

from .context import SESSION_CONFLICT, TERMINATED, VERSION_DEPRECATED, Context, Stopped, time_scale
from .wire import Reply, Service, WireError

# What the threads tell the main loop: a word and what belongs to it.
Event = tuple[str, Any]

_RETRY_SECONDS, _CONFLICT_SECONDS, _SKEW_SECONDS, _POLL_SECONDS = 30.0, 240.0, 1800.0, 50.0


class SessionError(Exception):
    """No session can be had; ``code`` is the exit code that follows."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


def deprecated(context: Context, message: str) -> int:
    """Say that the version is refused; 7 where the environment asks for it, else 1."""
    context.complain(f"An error occurred: {message}")
    wanted = os.environ.get("ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE", "").lower() in ("1", "true")
    return VERSION_DEPRECATED if wanted else TERMINATED


class Session:
    """One listener session. ``sleep`` waits so many seconds or raises Stopped."""

    def __init__(self, context: Context, *, server_url: str, secret: str, agent_id: int) -> None:
        self.context = context
        # An answer may come as late as the poll asked for; what is later counts as a lost connection.
        self.service = Service(server_url, authorization=f"Bearer {secret}", timeout=_POLL_SECONDS + 30)
        self.agent_id = agent_id
        self.session_id = ""
        self._troubled = False

    def open(self, sleep: Callable[[float], None], *, always_conflict: bool = False) -> None:
        """Create the session; retry what may pass.

        Raises SessionError with the exit code of what does not.
        """
        deadlines: dict[str, float] = {}
        while True:
            reply = Reply(409, {}) if always_conflict else self._create()
            if reply is not None and reply.status < 300:
                self.session_id = str(reply.body["session_id"])
                self._recovered()
                return
            self._judge(reply, deadlines)
            sleep(_RETRY_SECONDS / time_scale())

    def _create(self) -> Reply | None:
        body = {"agent_id": self.agent_id, "version": self.context.version}
        try:
            return self.service.call("POST", "/sessions", body)
        except WireError as error:
            self.trouble(str(error))
            return None

    def _judge(self, reply: Reply | None, deadlines: dict[str, float]) -> None:
        """Return to try again, or raise SessionError."""
        if reply is None:
            return
        if reply.status == 409:
            self.context.complain("A session for this runner already exists.")
            self._give_up(deadlines, "conflict", _CONFLICT_SECONDS, code=SESSION_CONFLICT)
        elif reply.status == 401 and "clock" in reply.message.lower():
            self.context.complain(
                "The local machine's clock may be out of sync with the server time by more than five minutes."
                " Please sync your clock with your domain or internet time and try again."
            )
            self._give_up(deadlines, "skew", _SKEW_SECONDS, code=TERMINATED)
        elif reply.status == 404:
            raise SessionError(
                "The runner registration has been deleted from the server, please re-configure. Runner"
                " registrations are automatically deleted for runners that have not connected to the service"
                " recently.",
                code=TERMINATED,
            )
        elif reply.status == 426:
            raise SessionError(reply.message, code=VERSION_DEPRECATED)
        elif reply.status < 500 and reply.status not in (408, 429):
            raise SessionError(f"Failed to create session. {reply.message}", code=TERMINATED)
        else:
            self.trouble(reply.message)

    def _give_up(self, deadlines: dict[str, float], kind: str, seconds: float, *, code: int) -> None:
        now = time.monotonic()
        if now >= deadlines.setdefault(kind, now + seconds / time_scale()):
            raise SessionError(f"Stop retry after retried for {seconds:g} seconds.", code=code)

    def trouble(self, message: str) -> None:
        """Say once that the service cannot be reached."""
        if not self._troubled:
            self._troubled = True
            self.context.complain(f"{_now()}: Runner connect error: {message}. Retrying until reconnected.")

    def _recovered(self) -> None:
        if self._troubled:
            self._troubled = False
            self.context.stamped("Runner reconnected.")

    def poll(self) -> Reply:
        """Ask for one message. Raises WireError."""
        wait = max(round(_POLL_SECONDS / time_scale(), 1), 0.1)
        reply = self.service.call("GET", f"/messages?session_id={quote(self.session_id)}&wait={wait}")
        if reply.status < 500 and reply.status != 429:
            self._recovered()
        return reply

    def close(self) -> None:
        """Tell the service that this session ends; what goes wrong now no longer matters."""
        service = Service(self.service.base_url, authorization=self.service._authorization, timeout=5)
        try:
            if self.session_id:
                service.call("DELETE", f"/sessions/{quote(self.session_id)}")
        except WireError as error:
            self.context.trace(f"Ignored while deleting the session: {error}")
        finally:
            service.close()


class Poller(threading.Thread):
    """Polls until told to stop and puts what it learns into ``events``."""

    def __init__(self, session: Session, events: SimpleQueue[Event]) -> None:
        super().__init__(name="poller", daemon=True)
        self._session = session
        self._events = events
        self._stop_asked = threading.Event()

    def stop(self) -> None:
        """Ask it to end after the poll that is under way."""
        self._stop_asked.set()

    def run(self) -> None:
        """Poll; every failure waits longer than the one before."""
        failures = 0
        try:
            while True:
                try:
                    reply = self._session.poll()
                    message = "" if reply.status in _UNDERSTOOD else reply.message
                except WireError as error:
                    reply, message = Reply(0, {}), str(error)
                if self._stop_asked.is_set():
                    return
                if not message:
                    failures = 0
                    self._understand(reply)
                    continue
                failures += 1
                self._session.trouble(message)
                self._sleep(_back_off(failures))
        except Stopped:
            return
        except SessionError as refused:
            self._events.put(("refused", refused))

    def _understand(self, reply: Reply) -> None:
        if reply.status == 200 and "job" in reply.body:
            self._events.put(("job", reply.body["job"]))
        elif reply.status == 200 and "cancel" in reply.body:
            self._events.put(("cancel", reply.body["cancel"]))
        elif reply.status == 404:
            self._events.put(("gone", None))
            self._sleep(3600 * time_scale())
        elif reply.status == 426:
            raise SessionError(reply.message, code=VERSION_DEPRECATED)
        elif reply.status in (401, 409):
            self._session.open(self._sleep)

    def _sleep(self, seconds: float) -> None:
        if self._stop_asked.wait(seconds):
            raise Stopped(0)


_UNDERSTOOD = (200, 204, 401, 404, 409, 426)


def _back_off(failures: int) -> float:
    """15 to 30 s for the first five failures, then 30 to 60 s; the spread keeps a fleet out of step."""
    low = 15.0 if failures <= 5 else 30.0
    return low * (1 + os.urandom(1)[0] / 255) / time_scale()


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime())
