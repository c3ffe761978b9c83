"""The hooks that a slot's runner starts before and after each job. Pure; standard library only."""

from __future__ import annotations

from .slot_files import MANAGED

__all__ = ["HOOK", "hook_text"]

HOOK = "/opt/runnerctl/hooks/job-started.sh"

# The runner starts it as the job's user before the first step (actions/runner, JobExtension). It calls no
# program and reads nothing of the job's: which slot this is, the kernel says.
_HOOK = """\
#!/bin/sh
{managed}
# A job that reaches a slot on hold fails at once, with the reason.
slot=
while IFS= read -r line; do
  case $line in
    *gha-runner@*.service*)
      slot=${{line#*gha-runner@}}
      slot=${{slot%%.service*}}
      ;;
  esac
done </proc/self/cgroup
hold=/var/lib/runnerctl/hold/$slot
if [ -z "$slot" ] || [ ! -e "$hold" ]; then
  exit 0
fi
reason=
IFS= read -r reason <"$hold" || :
printf '::error title=Runner slot on hold::slot %s takes no jobs: %s; %s\\n' \\
  "$slot" "${{reason:-no reason given}}" 'run the job again, on another runner'
exit 1
"""


def hook_text() -> str:
    """The runner's job-started hook."""
    return _HOOK.format(managed=MANAGED)
