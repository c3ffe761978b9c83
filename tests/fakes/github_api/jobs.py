"""The job queue and the sessions: a job goes to an online, idle runner that has all of its labels."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.fakes.github_api.state import Job, Runner
from tests.fakes.github_api.store import Store
from tests.fakes.github_api.wire import Json, RefusalError

__all__ = ["Jobs", "Session"]

_FIRST_WAIT = 15.0
_MAX_WAIT = 120.0
_LOOK_SECONDS = 0.5
_CONCLUSIONS = {"Succeeded": "success", "Failed": "failure", "Canceled": "cancelled", "Skipped": "skipped"}
_OWN_FIELDS = frozenset(
    ["repository", "workflow", "name", "labels", "steps", "env", "event_name", "event", "actor", "run_id"]
)


@dataclass
class Session:
    """A listener's session. ``wait``: its last poll's length; ``seen``: monotonic time of its last sign."""

    id: str
    runner_id: int
    wake: threading.Condition
    wait: float = _FIRST_WAIT
    seen: float = field(default_factory=time.monotonic)
    polling: bool = False
    gone: bool = False
    closed: bool = False


class Jobs:
    """Queue and sessions. All methods lock by themselves."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.queued: dict[int, Job] = {}
        self.survivors: set[int] = set()
        self.cancelling: set[int] = set()
        self.sessions: dict[str, Session] = {}
        self.of_runner: dict[int, Session] = {}
        self.lost: dict[int, float] = {}
        self.stopping = False
        self.restart()

    def restart(self) -> None:
        """Take up what the store holds: the queue is a view of it; sessions do not survive."""
        with self.store.lock:
            for session in list(self.sessions.values()):
                self._close(session)
            self.queued = {job.id: job for job in self.store.state.jobs.values() if job.status == "queued"}
            for job in self.queued.values():
                job.assigned_to = None
            # A listener that was busy when we went down comes back with a new session and the same job.
            self.survivors = {item.id for item in self.store.state.runners.values() if item.busy}

    # -- truth about runners

    def online(self, runner: Runner) -> bool:
        """Whether a poll is open or ended less than twice its length ago (longer while a job runs)."""
        if runner.forced_status is not None:
            return runner.forced_status == "online"
        session = self.of_runner.get(runner.id)
        if session is None or session.closed or session.gone:
            return False
        grace = max(2 * session.wait, self.store.settings.busy_grace_seconds if runner.busy else 0)
        return session.polling or time.monotonic() - session.seen <= grace

    # -- sessions

    def open(self, runner: Runner) -> Session:
        """A new session. 409 while the runner's previous one is alive."""
        with self.store.lock:
            previous = self.of_runner.get(runner.id)
            if previous is not None and self.online(runner) and runner.forced_status is None:
                raise RefusalError(409, "A session for this runner already exists.")
            if previous is not None:
                self._close(previous)
            if runner.id in self.survivors:
                self.survivors.discard(runner.id)
            else:
                self._give_up(runner)
            session = Session(secrets.token_hex(16), runner.id, threading.Condition(self.store.lock))
            self.sessions[session.id] = session
            self.of_runner[runner.id] = session
            self.store.changed.notify_all()
            return session

    def close(self, session_id: str) -> None:
        """End a session; its runner is offline at once and what it was offered goes back to the queue."""
        with self.store.lock:
            session = self.sessions.get(session_id)
            if session is None:
                raise RefusalError(404, "no such session")
            self._close(session)
            self.dispatch()

    def close_for(self, runner: Runner) -> None:
        """End the session of a runner, if it has one."""
        with self.store.lock:
            session = self.of_runner.get(runner.id)
            if session is not None:
                self._close(session)

    def _close(self, session: Session) -> None:
        session.closed = True
        self.sessions.pop(session.id, None)
        if self.of_runner.get(session.runner_id) is session:
            del self.of_runner[session.runner_id]
        self._take_back(session.runner_id)
        session.wake.notify_all()
        self.store.changed.notify_all()

    def _take_back(self, runner_id: int) -> None:
        job = self._offered(runner_id)
        if job is not None:
            job.assigned_to = None

    def _give_up(self, runner: Runner) -> None:
        """A runner that opens a session while it was busy has lost its job: the job failed."""
        for job in self.store.state.jobs.values():
            if job.status == "in_progress" and job.runner_id == runner.id:
                self._finish(job, "Failed")
        runner.busy = False

    # -- polling

    def poll(self, session_id: str, *, wait: float, client_gone: Callable[[], bool]) -> Job | None:
        """Wait for a job, or for the running one's cancellation.

        None when there was neither in time; 404 record deleted, 409 session gone.
        """
        with self.store.lock:
            session = self._session(session_id)
            session.wait = min(max(wait, 0.0), _MAX_WAIT)
            session.polling, session.gone = True, False
            self.store.changed.notify_all()
            try:
                return self._wait(session, client_gone)
            finally:
                session.polling = False
                session.seen = time.monotonic()

    def _session(self, session_id: str) -> Session:
        session = self.sessions.get(session_id)
        if session is None:
            raise RefusalError(409, "the session is gone")
        return session

    def _wait(self, session: Session, client_gone: Callable[[], bool]) -> Job | None:
        until = time.monotonic() + session.wait
        while True:
            if session.runner_id not in self.store.state.runners:
                raise RefusalError(404, "registration has been deleted")
            if session.closed:
                raise RefusalError(409, "the session is gone")
            self.dispatch()
            job = self._offered(session.runner_id) or self._cancelled(session.runner_id)
            if job is not None:
                return job
            left = until - time.monotonic()
            if left <= 0 or self.stopping:
                return None
            session.wake.wait(min(left, _LOOK_SECONDS))
            if client_gone():
                session.gone = True
                self._take_back(session.runner_id)
                self.store.changed.notify_all()
                return None

    def _offered(self, runner_id: int) -> Job | None:
        return next((job for job in self.queued.values() if job.assigned_to == runner_id), None)

    def _cancelled(self, runner_id: int) -> Job | None:
        found = (self.job(number) for number in self.cancelling)
        job = next((job for job in found if job.runner_id == runner_id), None)
        if job is not None:
            self.cancelling.discard(job.id)
        return job

    # -- the queue

    def add(self, given: Json) -> Job:
        """Queue a job and offer it at once."""
        store = self.store
        with store.lock:
            job_id = store.next_id()
            known = {key: value for key, value in given.items() if key in _OWN_FIELDS and value is not None}
            rest = {key: value for key, value in given.items() if key not in _OWN_FIELDS}
            known.setdefault("run_id", store.next_id())
            known.setdefault("repository", "")
            known.setdefault("workflow", "ci")
            known.setdefault("name", f"job-{job_id}")
            job = Job(id=job_id, **{"labels": ["self-hosted"], **known}, extra=rest, created_at=store.now())
            store.state.jobs[job_id] = job
            store.state.logs[job_id] = ""
            self.queued[job_id] = job
            self.dispatch()
            return job

    def expire(self) -> None:
        """Fail jobs whose runner has shown no sign of life for too long: only then are they forgotten."""
        with self.store.lock:
            now, limit = time.monotonic(), self.store.settings.lost_seconds
            for job in list(self.store.state.jobs.values()):
                runner = self.store.state.runners.get(job.runner_id or 0)
                if job.status != "in_progress" or runner is None or self.online(runner):
                    self.lost.pop(job.id, None)
                elif now - self.lost.setdefault(job.id, now) > limit:
                    self._finish(job, "Failed")

    def dispatch(self) -> None:
        """Offer queued jobs, oldest first, to runners that wait for one."""
        limit = self.store.settings.assign_timeout_seconds
        waiting = [item for item in self.sessions.values() if item.polling and not item.gone]
        for job in self.queued.values():
            if job.assigned_to is not None:
                if time.monotonic() - (job.assigned_at or 0.0) <= limit:
                    continue
                job.assigned_to = None  # not taken in time: back into the queue
            for session in waiting:
                runner = self.store.state.runners.get(session.runner_id)
                if runner is not None and self._fits(runner, job):
                    job.assigned_to, job.assigned_at = runner.id, time.monotonic()
                    session.wake.notify_all()
                    break

    def _fits(self, runner: Runner, job: Job) -> bool:
        if runner.busy or self._offered(runner.id) is not None:
            return False
        have = {label.name.lower() for label in runner.labels}
        return {label.lower() for label in job.labels} <= have and self._may_serve(runner, job)

    def _may_serve(self, runner: Runner, job: Job) -> bool:
        """Whether the runner's scope and group reach the job's repository; a job without one fits all."""
        if not job.repository:
            return True
        owner = job.repository.partition("/")[0].lower()
        if runner.scope.startswith("/repos/"):
            return runner.scope == f"/repos/{job.repository.lower()}"
        if runner.scope.startswith("/orgs/") and runner.scope != f"/orgs/{owner}":
            return False
        group = self.store.groups(runner.scope).get(runner.group_id)
        if group is None or group.visibility != "selected":
            return True
        organisation = runner.scope.startswith("/orgs/")
        wanted = self.store.repository_id(job.repository) if organisation else self.store.owner_id(owner)
        return wanted in group.selected

    def job(self, job_id: int) -> Job:
        """One job, or 404."""
        job = self.store.state.jobs.get(job_id)
        if job is None:
            raise RefusalError(404, "no such job")
        return job

    def acquire(self, job_id: int) -> Job:
        """The runner takes its job: only now does it become busy. 409 when it is no longer its own."""
        with self.store.lock:
            job = self.job(job_id)
            runner = self.store.state.runners.get(job.assigned_to or 0)
            if job.status != "queued" or runner is None:
                raise RefusalError(409, "the job is not assigned to this runner")
            job.status, job.started_at = "in_progress", self.store.now()
            self.queued.pop(job.id, None)
            job.runner_id, job.runner_name, job.runner_group_id = runner.id, runner.name, runner.group_id
            if not job.repository:
                job.repository = _repository_for(runner)
            runner.busy = True
            self.touch(runner.id)
            self.store.changed.notify_all()
            return job

    def touch(self, runner_id: int | None) -> None:
        """A sign of life that is not a poll."""
        session = self.of_runner.get(runner_id or 0)
        if session is not None:
            session.seen = time.monotonic()

    def append_log(self, job_id: int, text: str) -> None:
        """Add to a job's log."""
        with self.store.lock:
            self.touch(self.job(job_id).runner_id)
            self.store.state.logs[job_id] += text
            self.store.changed.notify_all()

    def complete(self, job_id: int, result: str, summary: str = "") -> None:
        """The runner reports a result: Succeeded, Failed, Canceled or Skipped; and the job's summary."""
        with self.store.lock:
            job = self.job(job_id)
            if result not in _CONCLUSIONS:
                raise RefusalError(422, f"unknown result {result!r}")
            if job.status != "in_progress":
                raise RefusalError(409, "the job is not running")
            job.summary = summary
            self._finish(job, result)

    def _finish(self, job: Job, result: str) -> None:
        job.status, job.result, job.conclusion = "completed", result, _CONCLUSIONS[result]
        job.completed_at = self.store.now()
        self.queued.pop(job.id, None)
        self.cancelling.discard(job.id)
        runner = self.store.state.runners.get(job.runner_id or 0)
        if runner is not None:
            runner.busy = False
            self.touch(runner.id)
            if runner.ephemeral:
                self.forget(runner)
        self.store.changed.notify_all()
        self.dispatch()

    def cancel(self, job_id: int) -> None:
        """Cancel a job: one in the queue at once, a running one by a message to its listener."""
        with self.store.lock:
            job = self.job(job_id)
            if job.status == "completed":
                raise RefusalError(409, "the job is over")
            if job.status == "queued":
                self._finish(job, "Canceled")
                return
            self.cancelling.add(job_id)
            session = self.of_runner.get(job.runner_id or 0)
            if session is not None:
                session.wake.notify_all()

    def forget(self, runner: Runner) -> None:
        """Remove a record and wake its listener, which is told that it no longer exists."""
        with self.store.lock:
            self._take_back(runner.id)
            self.store.remove_runner(runner)
            session = self.of_runner.get(runner.id)
            if session is not None:
                session.wake.notify_all()


def _repository_for(runner: Runner) -> str:
    """A repository for a job that named none: the runner's own, or one of its owner."""
    kind, _, name = runner.scope.removeprefix("/").partition("/")
    return name if kind == "repos" else f"{name}/demo"
