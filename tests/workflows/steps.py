"""Run one job's steps as the runner would: standard library only, so that it runs on a host, inside a job.

``python3 steps.py JOB.json``. The job is what `plan` made of the workflow. Actions known here are checkout,
artifacts and composite actions of the repository itself; any other one that is reached is an error.
"""

from __future__ import annotations

import fnmatch
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
from pathlib import Path
from typing import Any

try:
    from tests.workflows.expressions import Expressions
except ImportError:  # on a host the two files lie side by side
    from expressions import Expressions  # type: ignore[import-not-found, no-redef]

__all__ = ["Job", "main"]

SECONDS = 900
SHELLS = {
    "bash": ["bash", "--noprofile", "--norc", "-eo", "pipefail"],
    "": ["bash", "-e"],
    "sh": ["sh", "-e"],
}


class Job:
    """One job of a plan; ``results`` tells of each step: its name and what became of it."""

    def __init__(self, plan: dict[str, Any], scratch: Path) -> None:
        self.plan = plan
        self.workspace = Path(plan.get("workspace") or scratch / "workspace")
        self.temp = Path(os.environ.get("RUNNER_TEMP") or scratch / "temp")
        for folder in (self.workspace, self.temp):
            folder.mkdir(parents=True, exist_ok=True)
        self.environment: dict[str, str] = {}
        self.path: list[str] = []
        self.status = "success"
        self.results: list[dict[str, str]] = []

    def run(self) -> str:
        """All steps; returns the job's result."""
        self._steps(self.plan["steps"], {}, {}, self.plan.get("shell") or "")
        return self.status

    def _steps(
        self, steps: list[dict[str, Any]], inputs: dict[str, Any], env: dict[str, Any], shell: str
    ) -> dict[str, Any]:
        done: dict[str, Any] = {}
        for number, step in enumerate(steps):
            contexts = {**self.plan["contexts"], "inputs": inputs or self.plan["contexts"].get("inputs", {})}
            contexts["steps"] = done
            contexts["runner"] = {**contexts["runner"], "temp": str(self.temp)}
            known = {**self.plan.get("env", {}), **env, **self.environment}
            contexts["env"] = known
            tell = Expressions(contexts, status=self.status, root=self.workspace)
            name = step.get("name") or step.get("run", step.get("uses", "")).split("\n")[0]
            if not tell.holds(step.get("if")):
                self._note(name, "skipped")
                continue
            own = {key: tell.fill(value) for key, value in (step.get("env") or {}).items()}
            contexts["env"] = {**known, **own}
            print(f"##[step] {name}", flush=True)
            try:
                outputs = self._one(step, tell, own, shell, env)
                result = "success"
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired, OSError, RuntimeError) as error:
                print(f"##[error] {name}: {error}", flush=True)
                outputs, result = {}, "failure"
                if not step.get("continue-on-error"):
                    self.status = "failure"
            self._note(name, result)
            done[step.get("id") or f"_{number}"] = {
                "outputs": outputs,
                "outcome": result,
                "conclusion": result,
            }
        return done

    def _note(self, name: str, result: str) -> None:
        self.results.append({"name": name, "result": result})

    def _one(
        self, step: dict[str, Any], tell: Expressions, own: dict[str, str], shell: str, env: dict[str, Any]
    ) -> dict[str, Any]:
        if "run" in step:
            return self._shell(step, tell, {**env, **own}, shell)
        given = {key: tell.fill(value) for key, value in (step.get("with") or {}).items()}
        uses = step["uses"]
        if uses.startswith("./"):
            return self._composite(uses, given, {**env, **own})
        action = uses.partition("@")[0]
        if action == "actions/checkout":
            shutil.copytree(self.plan["repository"], self.workspace, dirs_exist_ok=True, symlinks=True)
            return {}
        if action == "actions/upload-artifact":
            return self._upload(given)
        if action == "actions/download-artifact":
            return self._download(given)
        raise RuntimeError(f"there is no {uses} here: no step of this runner should need it")

    def _composite(self, uses: str, given: dict[str, str], env: dict[str, Any]) -> dict[str, Any]:
        action = self.plan["actions"][uses.removeprefix("./").rstrip("/")]
        inputs = {}
        for key, value in (action.get("inputs") or {}).items():
            if (value or {}).get("required") and key not in given:
                raise RuntimeError(f"{uses} needs input {key}")
            inputs[key] = given.get(key, str((value or {}).get("default", "")))
        contexts = self.plan["contexts"]
        here = {**contexts["github"], "action_path": str(self.workspace / uses)}
        before, self.plan["contexts"] = contexts, {**contexts, "github": here}
        try:
            done = self._steps(action["runs"]["steps"], inputs, env, "")
        finally:
            self.plan["contexts"] = before
        if self.status == "failure":
            raise RuntimeError(f"{uses} failed")
        tell = Expressions({**contexts, "inputs": inputs, "steps": done}, root=self.workspace)
        return {key: tell.fill(value["value"]) for key, value in (action.get("outputs") or {}).items()}

    def _shell(
        self, step: dict[str, Any], tell: Expressions, own: dict[str, Any], shell: str
    ) -> dict[str, str]:
        script = self.temp / "step.sh"
        script.write_text(tell.fill(step["run"]) + "\n")
        files = {
            name: self.temp / name.lower() for name in ("ENV", "PATH", "OUTPUT", "STEP_SUMMARY", "STATE")
        }
        for file in files.values():
            file.write_text("")
        env = {**os.environ, **{key: str(value) for key, value in self.plan.get("env", {}).items()}}
        env |= self.environment
        env |= {f"GITHUB_{name}": str(file) for name, file in files.items()}
        env |= {"GITHUB_WORKSPACE": str(self.workspace), "RUNNER_TEMP": str(self.temp)}
        env |= {"GITHUB_ACTIONS": "true", "CI": "true", "RUNNER_OS": "Linux", "RUNNER_ARCH": "X64"}
        env |= {f"GITHUB_{key.upper()}": str(value) for key, value in self.plan["contexts"]["github"].items()}
        env["GITHUB_ACTION_PATH"] = str(self.plan["contexts"]["github"].get("action_path", ""))
        env |= {key: str(value) for key, value in own.items()}
        env["PATH"] = os.pathsep.join([*self.path, env.get("PATH", os.defpath)])
        folder = self.workspace / tell.fill(step.get("working-directory") or "")
        command = [*SHELLS[step.get("shell") or shell], str(script)]
        sys.stdout.flush()
        subprocess.run(command, cwd=folder, env=env, check=True, stdin=subprocess.DEVNULL, timeout=SECONDS)
        self.environment |= _assignments(files["ENV"].read_text())
        self.path = [*reversed(files["PATH"].read_text().splitlines()), *self.path]
        return _assignments(files["OUTPUT"].read_text())

    def _upload(self, given: dict[str, str]) -> dict[str, str]:
        hidden = given.get("include-hidden-files") == "true"
        found: list[Path] = []
        for pattern in given["path"].split():
            for path in self.workspace.glob(pattern):
                inside = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
                found += [each for each in inside if hidden or not _is_hidden(each, self.workspace)]
        if not found and given.get("if-no-files-found") == "error":
            raise RuntimeError(f"no files were found with the path {given['path']}")
        # The action keeps paths below what all patterns have in common.
        roots = [_plain_part(pattern) for pattern in given["path"].split()]
        root = self.workspace / os.path.commonpath(roots)
        for path in found:
            name = f"{given['name']}/{path.relative_to(root)}"
            _call("PUT", self.plan["artifacts"], name, path.read_bytes())
        return {}

    def _download(self, given: dict[str, str]) -> dict[str, str]:
        where = self.workspace / given.get("path", "")
        for name in json.loads(_call("GET", self.plan["artifacts"])):
            artifact, _, inside = name.partition("/")
            if given.get("name") not in (None, artifact):
                continue
            if not fnmatch.fnmatch(artifact, given.get("pattern", "*")):
                continue
            flat = "name" in given or given.get("merge-multiple") == "true"
            target = where / (inside if flat else name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_call("GET", self.plan["artifacts"], name))
        return {}


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _plain_part(pattern: str) -> str:
    """The folders of a pattern before its first wildcard."""
    parts = pattern.split("/")[:-1]
    wild = next((at for at, part in enumerate(parts) if any(sign in part for sign in "*?[")), len(parts))
    return "/".join(parts[:wild])


def _call(method: str, address: str, name: str = "", data: bytes | None = None) -> bytes:
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=30)
    try:
        connection.request(method, f"/{urllib.parse.quote(name)}", body=data)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise RuntimeError(f"artifact {name}: {answer.status}")
        return answer.read()
    finally:
        connection.close()


def _assignments(text: str) -> dict[str, str]:
    """``NAME=VALUE`` and ``NAME<<END`` lines, as the runner reads them; what is neither is an error."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        name, sign, value = line.partition("=")
        heredoc, twice, end = line.partition("<<")
        if twice and (not sign or len(heredoc) < len(name)):
            inside = []
            for each in lines:
                if each == end:
                    break
                inside.append(each)
            else:
                raise RuntimeError(f"the value of {heredoc} has no end")
            found[heredoc] = "\n".join(inside)
        elif sign:
            found[name] = value
        elif line:
            raise RuntimeError(f"a line of GITHUB_ENV cannot be read: {line}")
    return found


def main(argv: list[str]) -> int:
    """Run a job; the last line tells of its steps, as JSON."""
    plan = json.loads(Path(argv[0]).read_text())
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(plan, Path(scratch))
        result = job.run()
    print("##[steps] " + json.dumps(job.results), flush=True)
    return 0 if result == "success" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
