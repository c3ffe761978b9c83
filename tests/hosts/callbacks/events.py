"""Ansible callback that writes what happens as JSON lines, for tests and for the demonstration's view.

``RUNNERCTL_EVENTS`` names the file. Shapes, one object a line::

    {"event": "play", "name"}
    {"event": "task", "name", "path"}
    {"event": "result", "task", "host", "item", "ignored", "msg", "data",
     "status": "ok|changed|failed|unreachable|skipped"}
    {"event": "recap", "hosts": {host: {"ok", "changed", "failures", "unreachable", "skipped", ...}}}

Each has ``at``, in seconds of the Unix clock. ``data`` holds a module's own answer without Ansible's
additions. Results under ``no_log`` arrive here censored by Ansible itself.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
    name: events
    type: aggregate
    short_description: Writes events as JSON lines
    description: Writes events as JSON lines to the file that RUNNERCTL_EVENTS names.
"""


class CallbackModule(CallbackBase):
    """The callback."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "events"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        path = os.environ.get("RUNNERCTL_EVENTS")
        self._file = open(path, "a", buffering=1) if path else None  # noqa: SIM115 - open as long as the play

    def _write(self, event: str, **fields: Any) -> None:
        if self._file:
            self._file.write(json.dumps({"event": event, "at": time.time(), **fields}, default=str) + "\n")

    def _result(self, result: Any, status: str, *, ignored: bool = False, item: Any = None) -> None:
        answer = dict(result._result)
        if status == "ok" and answer.get("changed"):
            status = "changed"
        if not isinstance(message := answer.get("msg", ""), str):
            message = json.dumps(message, default=str)
        data = {
            key: value
            for key, value in answer.items()
            if key not in ("invocation", "results", "ansible_facts")
        }
        self._write(
            "result",
            task=result._task.get_name().strip(),
            host=result._host.get_name(),
            status=status,
            item=None if item is None else str(item),
            ignored=ignored,
            msg=message[:2000],
            data=data,
        )

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """A play begins."""
        self._write("play", name=play.get_name().strip())

    def v2_playbook_on_task_start(self, task: Any, *_: Any, **__: Any) -> None:
        """A task begins."""
        self._write("task", name=task.get_name().strip(), path=task.get_path() or "")

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """A handler begins."""
        self._write("task", name=task.get_name().strip(), path=task.get_path() or "")

    def v2_runner_on_ok(self, result: Any) -> None:
        """A task went well on a host."""
        self._result(result, "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A task failed on a host."""
        self._result(result, "failed", ignored=ignore_errors)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host did not answer."""
        self._result(result, "unreachable")

    def v2_runner_on_skipped(self, result: Any) -> None:
        """A task did not apply to a host."""
        self._result(result, "skipped")

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """One item of a loop failed."""
        self._result(result, "failed", item=result._result.get("item", ""), ignored=True)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The end."""
        self._write("recap", hosts={host: stats.summarize(host) for host in stats.processed})
