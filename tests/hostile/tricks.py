"""Attempts that are jobs of their own: tricks against the hooks, and names that steer who reads them."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Iterator
from typing import Any

from tests.hostile.outside import Outside
from tests.system.site import Site

__all__ = ["ALLOWED", "EVIL", "HOOK_TRICKS", "METRICS", "NAMES", "hooks", "names"]

ALLOWED = "acme/widgets/.github/workflows/*@refs/heads/main"
EVIL = "acme/widgets/.github/workflows/evil.yml@refs/heads/hostile"
# The step needs none of what the tricks break, and is at work for longer than the guard looks away.
_RAN = "the-step-of-a-refused-job-came-to-its-end"
_STEP = {
    "name": "harm",
    "shell": "/usr/bin/python3 -I {0}",
    "run": f"import time; time.sleep(5); print('{_RAN}'.upper())",
}
_LEAVE = "$(echo 'exit 0' >/tmp/leave; echo /tmp/leave)"

# What the workflow puts into its job's environment; the kernel refuses nothing of it.
HOOK_TRICKS: dict[str, dict[str, str]] = {
    "hook.no-trick": {},
    "hook.bash-env": {"BASH_ENV": _LEAVE, "ENV": _LEAVE},
    "hook.functions": {
        f"BASH_FUNC_{name}%%": "() { builtin exit 0; }"
        for name in ("exec", "read", "printf", "exit", "[", "set")
    },
    "hook.shellopts": {"SHELLOPTS": "noexec", "BASHOPTS": "extdebug", "PS4": "$(kill $PPID)"},
    "hook.preload": {"LD_PRELOAD": "/tmp/none.so", "LD_AUDIT": "/tmp/none.so", "LD_LIBRARY_PATH": "/tmp"},
    "hook.python": {
        "PYTHONPATH": "/tmp",
        "PYTHONHOME": "/tmp",
        "PYTHONSTARTUP": "/tmp/x",
        "PYTHONINSPECT": "1",
    },
    "hook.claims": {
        "GITHUB_WORKFLOW_REF": "acme/widgets/.github/workflows/ci.yml@refs/heads/main",
        "GITHUB_REF": "refs/heads/main",
        "GITHUB_REPOSITORY": "acme/trusted",
    },
}

NAMES: dict[str, str] = {
    "name.terminal": "\x1b]0;taken\x07\x1b[2J\x1b[31m\x9b31m\u202egnp.exe",
    "name.commands": "a\n::error::b\r\n##[command]c\n::add-mask::d\u2028e",
    "name.csv": '=HYPERLINK("http://x.invalid","y"),"z',
    "name.prometheus": 'x"} 1 \\n{a="\\',
}
METRICS = "/var/lib/runnerctl/jobs.prom"
_METRIC = re.compile(r"#.*|\w+(\{\w+=\"([^\"\\]|\\.)*\"(,\w+=\"([^\"\\]|\\.)*\")*\})? \S+")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")


def hooks(site: Site, outside: Outside, label: str) -> Iterator[tuple[str, str]]:
    """Run a job for each trick from a workflow that is not allowed; yields its id and what went wrong."""
    jobs, before = {}, _refused(outside)
    for identity, env in HOOK_TRICKS.items():
        jobs[identity] = site.github.add_job(
            labels=["self-hosted", label],
            name=identity,
            env=env,
            steps=[_STEP],
            repository="acme/widgets",
            workflow_ref=EVIL,
        )
    for identity, job in jobs.items():
        result, log = site.result(job, seconds=60)
        if _RAN.upper() in log:
            yield identity, "its step came to its end"
        elif result != "failure":
            yield identity, f"the job's result is {result}"
        else:
            yield identity, ""
    until = time.monotonic() + 20
    while (refused := _refused(outside) - before) < len(jobs) and time.monotonic() < until:
        time.sleep(0.2)
    if refused != len(jobs):
        yield "hook.no-trick", f"of {len(jobs)} jobs {refused} are written down as refused"


def _refused(outside: Outside) -> int:
    """How many jobs the guard has written down as refused."""
    answer = outside.shell("/opt/runnerctl/bin/runnerctl jobs --result refused --limit 1000 -o json")
    return int(json.loads(answer)["job_count"])


def names(site: Site, outside: Outside, label: str) -> Iterator[tuple[str, str]]:
    """Run a job for each name, then read every list of jobs there is."""
    terminal, commands, formula, metrics = NAMES.values()
    kinds = (
        {"name": terminal, "workflow": formula, "actor": metrics, "head_ref": commands},
        {"name": commands, "workflow": metrics, "actor": formula, "event_name": terminal},
    )
    jobs = [
        site.github.add_job(
            labels=["self-hosted", label],
            steps=[{"name": "x", "run": "true"}],
            repository="acme/widgets",
            **kind,
        )
        for kind in kinds
    ]
    for job in jobs:
        site.github.wait_job(job, seconds=60)
    outside.wait_listening()
    texts = {
        "jobs": outside.shell("/opt/runnerctl/bin/runnerctl jobs 2>&1"),
        "csv": outside.shell("/opt/runnerctl/bin/runnerctl jobs -o csv 2>/dev/null"),
        "json": outside.shell("/opt/runnerctl/bin/runnerctl jobs -o json 2>/dev/null"),
        "list": outside.shell("/opt/runnerctl/bin/runnerctl list 2>&1"),
        "health": outside.shell("/opt/runnerctl/bin/runnerctl health 2>&1"),
        "metrics": outside.shell(f"cat {METRICS}"),
        "guard": outside.shell("journalctl --no-pager -o cat -u runnerctl-guard.service"),
    }
    silent = "".join(f"{key} says nothing; " for key, text in texts.items() if not text.strip())
    yield "name.terminal", silent + "; ".join(key for key, text in texts.items() if _CONTROL.search(text))
    yield "name.commands", "; ".join(
        key for key in ("jobs", "list", "health", "guard") if re.search(r"^\s*(::|##\[)", texts[key], re.M)
    )
    yield "name.csv", _bad_table(texts["csv"], texts["json"])
    broken = [line for line in texts["metrics"].splitlines() if not _METRIC.fullmatch(line)]
    yield "name.prometheus", "; ".join(broken)


def _bad_table(table: str, document: str) -> str:
    """What is wrong with the CSV and JSON answers: cells that a table program would run, broken rows."""
    rows = list(csv.reader(io.StringIO(table)))
    if len({len(row) for row in rows}) > 1:
        return f"rows of {sorted({len(row) for row in rows})} cells"
    formulas = [cell for row in rows for cell in row if re.match(r"\s*[=@]|\s*[+-](?![0-9.]+$)", cell)]
    try:
        loaded: Any = json.loads(document)
    except ValueError as error:
        return f"the JSON answer: {error}"
    return f"{formulas[0]!r} is a formula" if formulas else "" if isinstance(loaded, dict) else "no object"
