"""Make attempts from within a slot that does not run: its own unit, all of it, with another program.

The text is what systemd has loaded for the unit, drop-ins included, less what starts, orders and restarts the
runner. It lies in /run under a name of its own and is started by nothing but this.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from runnerctl.core.isolation import Attempt, Tried
from runnerctl.core.reading import Unavailable
from runnerctl.probes import isolation_attempts

__all__ = ["oneshot_text", "try_stopped"]

_UNITS = Path("/run/systemd/system")
_FILES = Path("/run/runnerctl")
_SECONDS = 60.0
_LEFT_OUT = re.compile(
    r"(?:Exec\w+|Condition\w+|Assert\w+|Requires|Wants|After|Before|BindsTo|PartOf|OnFailure|OnSuccess|Type"
    r"|Restart\w*|StartLimit\w+|EnvironmentFile|LoadCredential\w*|Standard\w+|RuntimeMaxSec|Timeout\w+|Sockets"
    r"|SuccessExitStatus|NotifyAccess|Watchdog\w+|Description|Documentation)\s*="
)


def try_stopped(
    plans: Mapping[str, tuple[str, Sequence[Attempt]]], *, environ: Mapping[str, str]
) -> dict[str, tuple[Tried, ...] | Unavailable]:
    """Slot -> what became of its attempts; ``plans`` gives its unit. Leaves nothing behind."""
    if not plans:
        return {}
    try:
        for slot, (unit, attempts) in plans.items():
            _write(slot, unit, attempts, environ)
        _systemctl(["daemon-reload"], environ)
        return {slot: _tried(slot, attempts, environ) for slot, (_, attempts) in plans.items()}
    finally:
        for slot in plans:
            for path in (_UNITS / _name(slot), _FILES / f"verify-{slot}.in", _FILES / f"verify-{slot}.out"):
                path.unlink(missing_ok=True)
        _systemctl(["daemon-reload"], environ)


def _name(slot: str) -> str:
    return f"gha-verify@{slot}.service"


def _write(slot: str, unit: str, attempts: Sequence[Attempt], environ: Mapping[str, str]) -> None:
    text = oneshot_text(_systemctl(["cat", "--no-pager", unit], environ), slot)
    _FILES.mkdir(mode=0o755, parents=True, exist_ok=True)
    lines = "".join(json.dumps([each.kind, each.target]) + "\n" for each in attempts)
    (_FILES / f"verify-{slot}.in").write_text(lines)
    _UNITS.mkdir(parents=True, exist_ok=True)
    (_UNITS / _name(slot)).write_text(text)


def oneshot_text(shown: str, slot: str) -> str:
    """A unit like the one that ``systemctl cat`` shows, which makes attempts and ends."""
    kept, section = [], ""
    for line in shown.splitlines():
        if line.startswith("["):
            section = line.strip()
        ours = not line.strip() or line.lstrip().startswith(("#", ";"))
        if not ours and section != "[Install]" and not _LEFT_OUT.match(line):
            kept.append(line)
    program = f"{sys.executable} -IS {isolation_attempts.__file__}"
    more = [
        "[Unit]",
        f"Description=Attempts from within slot {slot}",
        "[Service]",
        "Type=oneshot",
        f"ExecStart={program}",
        f"TimeoutStartSec={_SECONDS:.0f}",
        f"StandardInput=file:{_FILES}/verify-{slot}.in",
        f"StandardOutput=truncate:{_FILES}/verify-{slot}.out",
        "StandardError=null",
    ]
    return "\n".join([*kept, *more]) + "\n"


def _tried(
    slot: str, attempts: Sequence[Attempt], environ: Mapping[str, str]
) -> tuple[Tried, ...] | Unavailable:
    try:
        _systemctl(["start", _name(slot)], environ)
    except OSError as error:
        remedy = f"`journalctl -u {_name(slot)}` says why"
        return Unavailable(f"its unit cannot be started for attempts: {error}", remedy=remedy)
    results = []
    with suppress(OSError, ValueError):
        results = [json.loads(line) for line in (_FILES / f"verify-{slot}.out").read_text().splitlines()]
    if len(results) < len(attempts):
        at = attempts[len(results)].name
        return Unavailable(f"the attempts ended early, at: {at}", call=at)
    return tuple(Tried(each, *result) for each, result in zip(attempts, results, strict=True))


def _systemctl(words: Sequence[str], environ: Mapping[str, str]) -> str:
    """Raises OSError when systemd refuses or does not answer."""
    try:
        done = subprocess.run(
            ["systemctl", *words],
            env={**environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS + 15.0,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"systemctl {words[0]} did not answer") from None
    if done.returncode:
        raise OSError(" ".join(done.stderr.split())[:300] or f"systemctl {words[0]} failed")
    return done.stdout
