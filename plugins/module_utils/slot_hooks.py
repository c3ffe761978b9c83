"""The hooks that a slot's runner starts before and after each job. Pure; standard library only.

The runner starts them as the job's user (actions/runner, JobExtension), so they decide nothing: they ask
root's guard and print what it says. They call no program but the guard's own Python, which ignores the job's
settings (-I), and which slot this is, the kernel says.
"""

from __future__ import annotations

from .slot_files import MANAGED

__all__ = ["CLIENT", "COMPLETED", "HOOK", "client_text", "completed_text", "hook_files", "hook_text"]

HOOK = "/opt/runnerctl/hooks/job-started.sh"
COMPLETED = "/opt/runnerctl/hooks/job-completed.sh"
CLIENT = "/opt/runnerctl/hooks/client.py"

_STARTED = """\
#!/bin/sh
{managed}
# A job that reaches a slot on hold fails at once, with the reason.
slot=
while IFS= read -r line; do
  case $line in
    *gha-runner@*.service*) slot=${{line#*gha-runner@}} ;;
    *gha-ephemeral@*.service*) slot=${{line#*gha-ephemeral@}} ;;
    *) continue ;;
  esac
  slot=${{slot%%.service*}}
done </proc/self/cgroup
hold=/var/lib/runnerctl/hold/$slot
if [ -n "$slot" ] && [ -e "$hold" ]; then
  reason=
  IFS= read -r reason <"$hold" || :
  printf '::error title=Runner slot on hold::slot %s takes no jobs: %s; %s\\n' \\
    "$slot" "${{reason:-no reason given}}" 'run the job again, on another runner'
  exit 1
fi
# On a host with a guard no job begins without its leave.
if [ -e /etc/systemd/system/runnerctl-guard.socket ]; then
  if [ ! -x /opt/runnerctl/bin/python ]; then
    printf '::error title=Runner guard::%s\\n' 'runnerctl is damaged on this host; provision it again'
    exit 1
  fi
  /opt/runnerctl/bin/python -IS {client} started || exit 1
fi
exit 0
"""

_COMPLETED = """\
#!/bin/sh
{managed}
# What a job left behind is root's to remove, and what it used is root's to tell. Never fails a job.
if [ -e /etc/systemd/system/runnerctl-guard.socket ] && [ -x /opt/runnerctl/bin/python ]; then
  /opt/runnerctl/bin/python -IS {client} completed || :
fi
exit 0
"""

_CLIENT = '''\
{managed}
"""Asks root's guard on behalf of a hook, and prints what it says. Standard library only."""

import json
import os
import socket
import stat
import sys
import time

SOCKET = "/run/runnerctl/guard.sock"
SCHEMA = "runnerctl.guard/1"
SECONDS = {{"started": 60.0, "completed": 100.0}}
CONNECT_SECONDS = 5.0
AGAIN_SECONDS = 15.0  # a guard that is restarted, or renewed, is there again by then
UNIT = "/etc/systemd/system/runnerctl-guard.socket"
LARGEST_BYTES = 1024 * 1024
NO_ANSWER = "the guard of this host does not answer; the host needs a look: systemctl status runnerctl-guard"


def main():
    """Ask, print, and say by the exit status whether the job may go on."""
    ask = sys.argv[1]
    try:
        answer = asked(ask)
    except (OSError, ValueError) as error:
        kind = "error" if ask == "started" else "warning"
        told(kind, "Runner guard", NO_ANSWER + " (" + (str(error) or type(error).__name__) + ")")
        return 1
    for warning in answer.get("warnings", ()):
        told("warning", "Runner guard", warning)
    if ask == "started":
        if answer.get("verdict") == "admitted":
            return 0
        told("error", "Job refused", answer.get("reason") or "no reason given")
        return 1
    for line in answer.get("text", "").splitlines():
        # A line that begins like a command to the runner would be taken for one.
        print(" " + line if line.startswith(("::", "##[")) else line)
    summarise(answer.get("summary", ""))
    return 0


def asked(ask):
    """The guard's answer; asks again while it is away for a moment. Raises OSError or ValueError."""
    began = time.monotonic()
    while True:
        try:
            return answer_to(ask, began + SECONDS[ask])
        except (OSError, ValueError):
            if not os.path.lexists(UNIT):  # root has switched it off meanwhile
                return {{"verdict": "admitted"}}
            if time.monotonic() > began + AGAIN_SECONDS:
                raise
        time.sleep(0.25)


def answer_to(ask, end):
    """What the guard says to one question. Raises OSError or ValueError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(CONNECT_SECONDS)
        stream.connect(SOCKET)
        stream.sendall(json.dumps({{"schema": SCHEMA, "ask": ask}}).encode() + b"\\n")
        data = b""
        while not data.endswith(b"\\n"):
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer in time")
            stream.settimeout(left)
            part = stream.recv(65536)
            if not part or len(data) > LARGEST_BYTES:
                raise ValueError("it closed the connection")
            data += part
    answer = json.loads(data)
    if not isinstance(answer, dict) or answer.get("schema") != SCHEMA:
        raise ValueError("it speaks another version")
    return answer


def told(kind, title, text):
    """An annotation of the job."""
    text = text.replace("%", "%25").replace("\\r", "%0D").replace("\\n", "%0A")
    print("::" + kind + " title=" + title + "::" + text)


def summarise(text):
    """Append to the job's summary; the file is the job's, and so may be what stands in its place."""
    path = os.environ.get("GITHUB_STEP_SUMMARY", "")
    if not path or not text:
        return
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "wb") as stream:
            if stat.S_ISREG(os.fstat(handle).st_mode):
                stream.write(text.encode() + b"\\n")
    except OSError:
        return


if __name__ == "__main__":
    sys.exit(main())
'''


def hook_text() -> str:
    """The runner's job-started hook."""
    return _STARTED.format(managed=MANAGED, client=CLIENT)


def completed_text() -> str:
    """The runner's job-completed hook."""
    return _COMPLETED.format(managed=MANAGED, client=CLIENT)


def client_text() -> str:
    """What the hooks start to ask the guard."""
    return _CLIENT.format(managed=MANAGED)


def hook_files() -> dict[str, tuple[str, int]]:
    """Path -> text and mode of everything that is installed for the hooks; root owns it all."""
    return {
        CLIENT: (client_text(), 0o644),
        COMPLETED: (completed_text(), 0o755),
        HOOK: (hook_text(), 0o755),
    }
