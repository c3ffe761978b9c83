"""``run``: keeps a session, hands jobs to a worker process, ends with the codes supervisors know."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any

from . import faults
from .context import (
    RESULTS,
    RETRYABLE,
    SUCCESS,
    TERMINATED,
    VERSION_DEPRECATED,
    Context,
    RunnerError,
    Stopped,
    time_scale,
)
from .options import Options
from .session import Event, Poller, Session, SessionError, deprecated
from .settings import Settings
from .wire import Service, WireError

# How long a cancelled job may take: after an interrupt, and within the bound of the unload handler.
_CANCEL_SECONDS = {signal.SIGINT: 300.0, signal.SIGTERM: 30.0}
_REFUSED = "Runner version v{} is deprecated and cannot receive messages."


class Listener:
    """One run of the listener process."""

    def __init__(self, context: Context, options: Options) -> None:
        self.context = context
        self.settings = Settings(context.root)
        if options.value("jitconfig"):
            self.settings.save_jit(options.value("jitconfig"))
        if not self.settings.is_configured():
            raise RunnerError("Not configured. Run config.(sh/cmd) to configure the runner.")
        self.runner = self.settings.load()
        self.secret = self.settings.secret()
        self.once = options.flag("once") or bool(self.runner.get("ephemeral"))
        self.fault = faults.requested()
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.listening = False
        self.job: dict[str, Any] | None = None
        self.worker: subprocess.Popen[bytes] | None = None
        self.session = Session(
            context, server_url=self._server_url(), secret=self.secret, agent_id=int(self.runner["agentid"])
        )
        self.poller = Poller(self.session, self.events)

    def _server_url(self) -> str:
        return str(self.runner.get("serverurlv2") or self.runner["serverurl"])

    def run(self) -> int:
        """Run until there is a reason to end. Returns the exit code."""
        if self.fault.name == "exit2" and faults.exits_left(self.context.root, int(self.fault.number_or(10))):
            self.context.complain("An error occurred: the service is not available, try again later.")
            return RETRYABLE
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._on_signal)
        try:
            code = self._open()
        except Stopped as stopped:
            self._announce_end(stopped.signum)
            return SUCCESS
        if code is None:
            self.poller.start()
            code = self._serve()
        return code

    def _open(self) -> int | None:
        """Open the session and say so; an exit code when that is already the end."""
        self.context.say()
        try:
            self.session.open(time.sleep, always_conflict=self.fault.name == "session-conflict")
        except SessionError as refused:
            # An expired version looks connected until the first message is due.
            if refused.code == VERSION_DEPRECATED:
                self._greet()
            return self._refused(refused)
        self._greet()
        self.listening = True
        return self._fault_once_listening()

    def _greet(self) -> None:
        self.context.say("√ Connected to GitHub")
        self.context.say()
        self.context.say(f"Current runner version: '{self.context.version}'")
        self.context.stamped("Listening for Jobs")

    def _fault_once_listening(self) -> int | None:
        name = self.fault.name
        if name in ("exit1-after-listening", "exit7", "exit0-wiped", "crash"):
            delay = self.fault.number_or(0) / time_scale()
            threading.Timer(delay, self.events.put, [("fault", name)]).start()
        return self._hang() if name == "hang" else None

    def _hang(self) -> int:
        """Poll once, then do nothing for as long as nobody stops the process."""
        self.poller.start()
        self.poller.stop()
        while True:
            kind, value = self.events.get()
            if kind == "stop":
                self._announce_end(value)
                return SUCCESS

    def _serve(self) -> int:
        """The main loop: one event at a time."""
        while True:
            kind, value = self.events.get()
            code = getattr(self, f"_when_{kind}")(value)
            if code is not None:
                return int(code)

    def _when_job(self, offer: dict[str, Any]) -> None:
        if self.worker is not None:
            self.context.trace(f"Skipped job {offer.get('id')}: another one is running.")
            return
        job = self._acquire(offer)
        if job is None:
            return
        self.job = job
        self.context.stamped(f"Running job: {job.get('name')}")
        if self.fault.name == "hang-after-ack":
            self.poller.stop()
            return
        self._start_worker(job)

    def _acquire(self, offer: dict[str, Any]) -> dict[str, Any] | None:
        service = Service(self._server_url(), authorization=f"Bearer {self.secret}")
        try:
            reply = service.call("POST", f"/jobs/{offer['id']}/acquire", {})
        except WireError as error:
            self.context.trace(f"Job {offer.get('id')} was not acquired: {error}")
            return None
        finally:
            service.close()
        if reply.status >= 300:
            self.context.trace(f"Job {offer.get('id')} was not acquired: {reply.status}. Skipping it.")
            return None
        return {**offer, **reply.body.get("job", reply.body)}

    def _start_worker(self, job: dict[str, Any]) -> None:
        """Spawn ``Runner.Worker``; the job goes to its standard input, where no other user sees it."""
        message = {
            "job": job,
            "server_url": self._server_url(),
            "secret": self.secret,
            "runner": {
                "name": self.runner.get("agentname", ""),
                "group": self.runner.get("poolname", "Default"),
            },
            "github_url": self.runner.get("githuburl", ""),
            "work": str(self.context.root / str(self.runner.get("workfolder", "_work"))),
        }
        self.worker = subprocess.Popen(
            [str(self.context.bin / "Runner.Worker"), "spawnclient", "0", "1"], stdin=subprocess.PIPE
        )
        self._tell_worker(json.dumps(message))
        threading.Thread(target=self._watch, args=(self.worker,), daemon=True).start()

    def _tell_worker(self, line: str) -> None:
        if self.worker is not None and self.worker.stdin is not None:
            try:
                self.worker.stdin.write(line.encode() + b"\n")
                self.worker.stdin.flush()
            except OSError as error:
                self.context.trace(f"The worker no longer reads: {error}")

    def _watch(self, worker: subprocess.Popen[bytes]) -> None:
        self.events.put(("finished", worker.wait()))

    def _when_finished(self, exit_code: int) -> int | None:
        job, self.job, self.worker = self.job or {}, None, None
        known = 100 <= exit_code < 100 + len(RESULTS)
        result = RESULTS[exit_code - 100] if known else "Failed"
        if not known:
            self.context.complain(f"Worker exited with code {exit_code}; the job is reported as failed.")
            self._report_failure(job)
        self.context.stamped(f"Job {job.get('name')} completed with result: {result}")
        if not self.once:
            return None
        self._end_session()
        if self.runner.get("ephemeral"):
            self.settings.delete()
            if os.environ.get("ACTIONS_RUNNER_RETURN_JOB_RESULT_FOR_HOSTED", "").lower() in ("1", "true"):
                return 100 + RESULTS.index(result)
        return SUCCESS

    def _report_failure(self, job: dict[str, Any]) -> None:
        service = Service(self._server_url(), authorization=f"Bearer {self.secret}", timeout=10)
        try:
            service.call("POST", f"/jobs/{job.get('id')}/complete", {"result": "Failed"})
        except WireError as error:
            self.context.trace(f"The job's end could not be reported: {error}")
        finally:
            service.close()

    def _when_cancel(self, _: object) -> None:
        self._tell_worker("cancel")

    def _when_gone(self, _: object) -> int:
        self.context.complain("The runner no longer exists on the server. Cleaning up local configuration.")
        self._cancel_job(_CANCEL_SECONDS[signal.SIGTERM])
        self.poller.stop()
        self.settings.delete()
        return SUCCESS

    def _when_refused(self, refused: SessionError) -> int:
        self._cancel_job(_CANCEL_SECONDS[signal.SIGTERM])
        return self._refused(refused)

    def _refused(self, refused: SessionError) -> int:
        if refused.code == VERSION_DEPRECATED:
            return deprecated(self.context, str(refused))
        self.context.complain(str(refused))
        return refused.code

    def _when_fault(self, name: str) -> int:
        if name == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "exit0-wiped":
            return self._when_gone(None)
        self.context.complain(f"An error occurred: {_REFUSED.format(self.context.version)}")
        self._end_session()
        return VERSION_DEPRECATED if name == "exit7" else TERMINATED

    def _when_stop(self, signum: int) -> int:
        self._announce_end(signum)
        self._cancel_job(_CANCEL_SECONDS[signal.Signals(signum)])
        self._end_session()
        return SUCCESS

    def _announce_end(self, signum: int) -> None:
        if signum == signal.SIGINT:
            self.context.say("Exiting...")

    def _cancel_job(self, seconds: float) -> None:
        """Cancel the running job, if any, and wait so long for its end; then kill the worker."""
        if self.worker is None:
            return
        worker = self.worker
        self._tell_worker("cancel")
        deadline = time.monotonic() + seconds / time_scale()
        while self.worker is not None:
            try:
                kind, value = self.events.get(timeout=max(deadline - time.monotonic(), 0))
            except Empty:
                worker.kill()
                deadline = time.monotonic() + 5
                continue
            if kind == "finished":
                self.once = False
                self._when_finished(value)

    def _end_session(self) -> None:
        self.poller.stop()
        self.session.close()

    def _on_signal(self, signum: int, _: FrameType | None) -> None:
        """Before the loop runs, leave by exception; later let the loop decide."""
        if not self.listening:
            raise Stopped(signum)
        self.events.put(("stop", signum))
