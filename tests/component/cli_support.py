"""Run the real command line: as a process, or in this one with streams of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runnerctl.cli.context import Context, Paths
from runnerctl.cli.main import run

__all__ = ["TOKEN", "Ran", "call", "host_json", "spawn"]

TOKEN = "ghp_" + "componenttest0" * 2
SECONDS = 60


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The answer, which must be one JSON document."""
        return json.loads(self.out)


def call(
    *arguments: str, env: Mapping[str, str] | None = None, root: Path = Path("/"), user_id: int = 0
) -> Ran:
    """Run in this process."""
    out, err = io.StringIO(), io.StringIO()
    context = Context(
        env=env or {},
        stdout=out,
        stderr=err,
        clock=lambda: 1795348800.0,
        paths=Paths(root),
        user_id=lambda: user_id,
    )
    code = run(list(arguments), context)
    return Ran(code, out.getvalue(), err.getvalue())


def spawn(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    path: Sequence[Path] = (),
    stdout: Any = subprocess.PIPE,
) -> Ran:
    """Run as a process of its own, with nothing of our environment but what a process needs."""
    search = os.pathsep.join([*map(str, path), os.environ["PATH"]])
    base = {
        "PATH": search,
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "RUNNERCTL_CACHE_DIR": "off",
    }
    done = subprocess.run(
        [sys.executable, "-m", "runnerctl", *arguments],
        env={**base, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    return Ran(done.returncode, done.stdout or "", done.stderr)


def host_json(root: Path, *, url: str, slots: Sequence[Mapping[str, Any]], **variables: Any) -> Path:
    """Write ``/etc/runnerctl/host.json`` of host ``gpu-1`` below ``root``."""
    import msgspec

    from runnerctl.core.spec import host_spec

    values = {"github_runner_url": url, "github_runner_slots": [dict(slot) for slot in slots], **variables}
    spec, problems = host_spec("gpu-1", values)
    assert spec is not None, problems
    path = root / "etc/runnerctl/host.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(spec), indent=2))
    return path
