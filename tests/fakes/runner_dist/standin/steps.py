"""One step of a job, and the job's state that steps share."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import processes
from .conditions import holds
from .files import CommandFiles
from .joblog import JobLog, command

_SHELLS = {
    "": ["bash", "-e"],
    "bash": ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail"],
    "sh": ["sh", "-e"],
    "python": ["python3"],
}


@dataclass
class JobState:
    """What every step sees and may change."""

    log: JobLog
    workspace: Path
    temp: Path
    externals: Path
    facts: dict[str, str]
    cancelled: threading.Event
    environment: dict[str, str] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    summary: str = ""
    failed: bool = False

    def variables(self, *layers: dict[str, str]) -> dict[str, str]:
        """The environment of a process: the runner's own, the job's, then ``layers``; the last one wins."""
        merged = dict(os.environ)
        for layer in (self.environment, *layers, self.facts):
            merged.update(layer)
        if self.paths:
            merged["PATH"] = os.pathsep.join([*self.paths, merged.get("PATH", "")])
        return merged


def run_step(state: JobState, step: dict[str, Any]) -> None:
    """Run, skip or fail one step of the workflow."""
    name = str(step.get("name") or f"Run {str(step.get('run', step.get('uses', ''))).splitlines()[:1]}")
    try:
        wanted = holds(str(step.get("if") or ""), failed=state.failed, cancelled=state.cancelled.is_set())
    except ValueError as error:
        state.log.write(f"##[error]{error}")
        state.failed = True
        return
    state.log.write(f"##[section]Starting: {name}")
    if not wanted:
        state.log.write(f"##[section]Finishing: {name} (skipped)")
        return
    succeeded = "run" in step and _run_script(state, step)
    if "run" not in step:
        action = step.get("uses")
        state.log.write(f"##[error]Unable to resolve action '{action}': this runner runs scripts only.")
    if not succeeded and not step.get("continue-on-error"):
        state.failed = True
    state.log.write(f"##[section]Finishing: {name} ({'success' if succeeded else 'failure'})")


def _run_script(state: JobState, step: dict[str, Any]) -> bool:
    script = state.temp / f"{uuid.uuid4()}.sh"
    script.write_text(str(step["run"]) + "\n", encoding="utf-8")
    shell = str(step.get("shell") or "")
    words = [*_SHELLS.get(shell, shell.split()), str(script)]
    if "{0}" in shell:
        words = [word.replace("{0}", str(script)) for word in shell.split()]
    state.log.write(f"##[group]Run {(str(step['run']).splitlines() or [''])[0]}")
    for line in str(step["run"]).splitlines():
        state.log.write(line)
    state.log.write(f"shell: {' '.join([shutil.which(words[0]) or words[0], *words[1:]])}")
    state.log.write("##[endgroup]")
    directory = state.workspace / str(step.get("working-directory") or "")
    minutes = step.get("timeout-minutes")
    own = {key: str(value) for key, value in (step.get("env") or {}).items()}
    return run_process(state, words, own, directory=directory, minutes=float(minutes) if minutes else None)


def run_hook(state: JobState, kind: str, path: str) -> None:
    """Run the administrator's hook: ``kind`` is "started" or "completed". Its failure fails the job."""
    title = "Set up runner" if kind == "started" else "Complete runner"
    state.log.write(f"##[section]Starting: {title}")
    state.log.write(f"A job {kind} hook has been configured by the self-hosted runner administrator")
    words = _hook_words(state, path)
    if not os.path.isfile(path):
        state.log.write(f"##[error]File doesn't exist: '{path}'")
        succeeded = False
    elif not words:
        state.log.write(f"##[error]{path} is no script: its name must end in '.sh', '.ps1' or '.js'.")
        succeeded = False
    else:
        state.log.write(f"##[group]Run '{path}'")
        state.log.write("##[endgroup]")
        succeeded = run_process(state, words, {}, directory=state.workspace, outputs=False)
    state.failed = state.failed or not succeeded
    state.log.write(f"##[section]Finishing: {title} ({'success' if succeeded else 'failure'})")


def _hook_words(state: JobState, path: str) -> list[str]:
    """How a hook is started; its path is not quoted, so one with spaces falls apart, as it really does.

    Its shell is looked for where the job's steps said first (``GITHUB_PATH``): ScriptHandler.cs, WhichUtil.
    """
    if path.endswith(".sh"):
        places = os.pathsep.join([*state.paths, os.environ.get("PATH", "")])
        return [shutil.which("bash", path=places) or "sh", "-e", *path.split()]
    if path.endswith(".ps1"):
        return ["pwsh", "-command", f". '{path}'"]
    if path.endswith(".js"):
        return [str(state.externals / "node24" / "bin" / "node"), *path.split()]
    return []


def run_process(
    state: JobState,
    words: list[str],
    own: dict[str, str],
    *,
    directory: Path,
    minutes: float | None = None,
    outputs: bool = True,
) -> bool:
    """Run a program as part of the job, honour what it wrote to its files; True when all went well."""
    files = CommandFiles(state.temp / "_runner_file_commands")

    def on_line(line: str) -> None:
        shown = command(line, state.log)
        if shown is not None:
            state.log.write(shown)

    named = files.environment()
    if not outputs:
        named = {name: path for name, path in named.items() if name not in ("GITHUB_OUTPUT", "GITHUB_STATE")}
    try:
        code = processes.run(
            words,
            directory=directory,
            environment=state.variables(own, named),
            on_line=on_line,
            cancelled=state.cancelled,
            deadline_seconds=minutes * 60 if minutes else None,
        )
    except OSError as error:
        state.log.write(f"##[error]An error occurred trying to start process '{words[0]}': {error.strerror}")
        return False
    if code:
        state.log.write(f"##[error]Process completed with exit code {code}.")
    return _apply_files(state, files) and code == 0


def _apply_files(state: JobState, files: CommandFiles) -> bool:
    try:
        state.environment.update(files.read_env())
        files.read_output()
    except ValueError as error:
        state.log.write(f"##[error]Unable to process file command successfully. {error}")
        return False
    state.paths[:0] = [path for path in files.read_paths() if path not in state.paths]
    state.summary += files.read_summary()
    return True


def run_greedy_child(state: JobState, mebibytes: int) -> None:
    """A child that grows until the kernel kills it, or is killed when it has grown enough."""
    code = (
        "import os,signal\nopen('/proc/self/oom_score_adj','w').write('1000')\nkept=[]\n"
        f"for _ in range({mebibytes}): kept.append(bytearray(os.urandom(4096)*256))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    state.log.write("##[section]Starting: Grow until killed")
    run_process(state, [sys.executable, "-c", code], {}, directory=state.workspace)
    state.failed = True
