"""``Runner.Worker``: runs one job as real processes of the same user and reports its end."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from . import faults, processes
from .context import RESULTS, Context, RunnerError, time_scale
from .facts import github_facts
from .joblog import JobLog
from .steps import JobState, run_greedy_child, run_hook, run_step
from .wire import Service, WireError

_REPORT_ATTEMPTS = 5


def main(_: list[str]) -> int:
    """Read the job from standard input and run it. Exits with 100 plus the result's place in RESULTS."""
    # The listener decides when a job ends; a signal to the whole group must not end it twice. A handler
    # rather than "ignore", which the job's processes would inherit.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda *_: None)
    context = Context("Worker")
    context.open_log()
    message: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    cancelled = threading.Event()
    threading.Thread(target=_watch_listener, args=(cancelled,), daemon=True).start()
    worker = Worker(context, message, cancelled)
    result = worker.run()
    context.trace(f"Job completed with result: {result}")
    os._exit(100 + RESULTS.index(result))


def _watch_listener(cancelled: threading.Event) -> None:
    """One more line, or the end of the listener, cancels the job."""
    sys.stdin.buffer.read(1)
    cancelled.set()


class Worker:
    """One job on this runner."""

    def __init__(self, context: Context, message: dict[str, Any], cancelled: threading.Event) -> None:
        self.context = context
        self.message = message
        self.job: dict[str, Any] = message["job"]
        self.cancelled = cancelled
        self.work = Path(message["work"])
        self.service = Service(message["server_url"], authorization=f"Bearer {message['secret']}")
        log_service = Service(message["server_url"], authorization=f"Bearer {message['secret']}")
        self.log = JobLog(context, log_service, str(self.job["id"]))
        self.tracking_id = f"github_{uuid.uuid4()}"
        self.summary = ""

    def run(self) -> str:
        """Run the job and report it; returns the result."""
        try:
            result = self._run()
        except (OSError, RunnerError) as error:
            self.log.write(f"##[error]{error}")
            result = "Failed"
        self.log.write(f"##[section]Job result: {result}")
        self.log.close()
        self._report(result)
        return result

    def _run(self) -> str:
        fault = faults.requested()
        if fault.name == "worker-crash":
            processes.kill(os.getpid())
        state = self._set_up()
        state.environment = {name: str(value) for name, value in (self.job.get("env") or {}).items()}
        hooks = {kind: os.environ.get(f"ACTIONS_RUNNER_HOOK_JOB_{kind.upper()}", "") for kind in _HOOKS}
        if hooks["started"]:
            run_hook(state, "started", hooks["started"])
        if fault.name == "oom-child":
            run_greedy_child(state, int(fault.number_or(64)))
        for step in self.job.get("steps") or []:
            run_step(state, step)
        if hooks["completed"]:
            run_hook(state, "completed", hooks["completed"])
        self._clean_up(state)
        self.summary = state.summary
        if self.cancelled.is_set():
            return "Canceled"
        return "Failed" if state.failed else "Succeeded"

    def _set_up(self) -> JobState:
        """The "Set up job" step: directories, event, and what the log says first."""
        self.log.write("##[section]Starting: Set up job")
        owner, _, repository = str(self.job.get("repository") or "owner/repository").partition("/")
        workspace = self.work / repository / repository
        temp = self.work / "_temp"
        shutil.rmtree(temp, ignore_errors=True)
        for directory in (workspace, temp / "_github_workflow", self.work / "_actions", self.work / "_tool"):
            directory.mkdir(parents=True, exist_ok=True)
        mapping = self.work / "_PipelineMapping" / owner / repository
        mapping.mkdir(parents=True, exist_ok=True)
        folder = {
            "repositoryName": f"{owner}/{repository}",
            "workspaceDirectory": f"{repository}/{repository}",
        }
        (mapping / "PipelineFolder.json").write_text(json.dumps(folder), encoding="utf-8")
        event = temp / "_github_workflow" / "event.json"
        event.write_text(json.dumps(self._event(), indent=2), encoding="utf-8")
        facts = {**github_facts(self.job), **self._facts(workspace, temp, event)}
        # Of the processes' environment, not of a context: a workflow's own `env` may change it.
        os.environ["RUNNER_TRACKING_ID"] = self.tracking_id
        self._describe()
        self.log.write("##[section]Finishing: Set up job (success)")
        return JobState(
            log=self.log,
            workspace=workspace,
            temp=temp,
            externals=self.context.root / "externals",
            facts=facts,
            cancelled=self.cancelled,
        )

    def _event(self) -> dict[str, Any]:
        """The webhook's payload: what every event has, and what the job was given."""
        name = str(self.job.get("repository") or "owner/repository")
        repository = {"full_name": name, "name": name.partition("/")[2], "private": True, "fork": False}
        sender = {"login": str(self.job.get("actor") or "")}
        return {"repository": repository, "sender": sender, **(self.job.get("event") or {})}

    def _describe(self) -> None:
        self.log.write(f"Current runner version: '{self.context.version}'")
        self.log.write(f"Runner name: '{self.message['runner']['name']}'")
        self.log.write(f"Runner group name: '{self.message['runner']['group']}'")
        self.log.write(f"Machine name: '{platform.node()}'")
        for entry in self._setup_info():
            self.log.write(f"##[group]{entry.get('group', '')}")
            for line in str(entry.get("detail", "")).splitlines():
                self.log.write(line)
            self.log.write("##[endgroup]")
        self.log.write(f"Complete job name: {self.job.get('name')}")

    def _setup_info(self) -> list[dict[str, Any]]:
        try:
            entries = json.loads((self.context.root / ".setup_info").read_text(encoding="utf-8-sig"))
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            self.context.trace(f".setup_info is not used: {error}")
            return []
        return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []

    def _facts(self, workspace: Path, temp: Path, event: Path) -> dict[str, str]:
        """Variables a step cannot change."""
        server = str(self.message["github_url"] or self.message["server_url"]).split("://", 1)
        server_url = f"{server[0]}://{server[-1].split('/', 1)[0]}"
        chosen = [os.environ[name] for name in _TOOL_VARIABLES if os.environ.get(name)]
        tools = chosen[0] if chosen else str(self.work / "_tool")
        return {
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": f"{server_url}/api/v3",
            "GITHUB_EVENT_PATH": str(event),
            "GITHUB_GRAPHQL_URL": f"{server_url}/api/graphql",
            "GITHUB_SERVER_URL": server_url,
            "GITHUB_WORKSPACE": str(workspace),
            "RUNNER_ARCH": self.context.architecture,
            "RUNNER_ENVIRONMENT": "self-hosted",
            "RUNNER_NAME": str(self.message["runner"]["name"]),
            "RUNNER_OS": "Linux",
            "RUNNER_TEMP": str(temp),
            "RUNNER_TOOL_CACHE": tools,
            "RUNNER_WORKSPACE": str(workspace.parent),
        }

    def _clean_up(self, state: JobState) -> None:
        """The "Complete job" step: kill what still carries this job's mark, empty the temporary directory."""
        self.log.write("##[section]Starting: Complete job")
        self.log.write("Cleaning up orphan processes")
        for pid, name in processes.marked("RUNNER_TRACKING_ID", self.tracking_id).items():
            self.log.write(f"Terminate orphan process: pid ({pid}) ({name})")
            processes.kill(pid)
        shutil.rmtree(state.temp, ignore_errors=True)
        self.log.write("##[section]Finishing: Complete job (success)")

    def _report(self, result: str) -> None:
        report = {"result": result, "summary": self.summary}
        for attempt in range(_REPORT_ATTEMPTS):
            if attempt:
                time.sleep(5 / time_scale())
            try:
                reply = self.service.call("POST", f"/jobs/{self.job['id']}/complete", report)
            except WireError as error:
                self.context.trace(f"The result could not be reported: {error}")
                continue
            if reply.status < 500:
                return


_HOOKS = ("started", "completed")
_TOOL_VARIABLES = ("RUNNER_TOOL_CACHE", "RUNNER_TOOLSDIRECTORY", "AGENT_TOOLSDIRECTORY")
