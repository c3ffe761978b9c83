"""The workflow and the composite action, as texts. Pure but for reading the package's own data."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from runnerctl.ci.init_model import Options
from runnerctl.ci.init_project import Project
from runnerctl.errors import BugError

__all__ = ["ACTIONS", "ACTION_PATH", "action_text", "workflow_text"]

ACTION_PATH = ".github/actions/conda-env/action.yml"
# Each by its commit: a tag can be moved. All are releases of GitHub's own for runners since 2.327 (Node 24).
ACTIONS = {
    "CHECKOUT": "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1",
    "UPLOAD": "actions/upload-artifact@043fb46d1a93c77aae656e7c1c64a875d1fc6a0a # v7.0.1",
    "DOWNLOAD": "actions/download-artifact@3e5f45b2cfb9172054b4087a40e8e0b5a5461e7c # v8.0.1",
}
_PLAIN = re.compile(r"[A-Za-z][\w./-]*")
_WORDS = frozenset(["true", "false", "yes", "no", "on", "off", "null", "y", "n"])
_INSTALL = """\
      - name: Install the project itself, and nothing else
        run: python -m pip install --no-deps --no-build-isolation --editable ."""
_SYSTEM = """\
      - name: Install system libraries that conda does not manage
        run: sudo apt-get update && sudo apt-get install --yes --no-install-recommends {packages}"""
_INTEGRATION = """\
      - name: Run the integration tests
        run: python -m coverage run -m pytest{rest} {paths}"""
_HOLD = """\
          # No GPU has seen a fork's code, and none will by itself: somebody has to bring it here.
          if [ "$FORK" = true ]; then
            echo "::error::a fork's code is not run on our GPUs: review it, push its commit to a branch" \\
              "of this repository, and merge a pull request from there"
            exit 1
          fi"""
_ALLOW = """\
          # Chosen with --forks allow: a fork's code is merged on the word of the CPU tests and its reviewers.
          if [ "$FORK" = true ] && [ "$GPU_TESTS" = skipped ]; then
            echo "::warning::a fork's code was not tested on a GPU, and its coverage was not judged"
            exit 0
          fi"""


def workflow_text(
    options: Options, project: Project, *, no_cov: bool, cuda: str, labels: Sequence[str]
) -> str:
    """``ci.yml`` without its head. ``no_cov``: pytest-cov is switched on in the settings, and is to rest.

    With it, data would be combined in each job already, and judged there against the common threshold.
    """
    file = options.environment_file or "environment.yml"
    inputs = [f"          environment-file: {_scalar(file)}"] if file != "environment.yml" else []
    inputs += [f"          cuda: {_scalar(cuda)}"] if cuda != "auto" else []
    rest = " --no-cov" if no_cov else ""
    paths = " ".join(shlex.quote(path) for path in project.integration)
    require = " --require-gpu" if project.integration_gpu else ""  # it also wants a marked test to run
    system = " ".join(options.system_packages or ())
    values = {
        **ACTIONS,
        "BRANCH": _scalar(options.branch or "main"),
        "GPU_LABELS": ", ".join(_scalar(label) for label in labels),
        "SYSTEM_PACKAGES": _SYSTEM.format(packages=system) if system else "",
        "ENVIRONMENT_INPUTS": (
            "\n".join([" " * 8 + "with:", *(" " * 10 + each for each in inputs)]) if inputs else ""
        ),
        "INSTALL": "" if project.build_requires is None else _INSTALL,
        "OTHER_TESTS": rest + "".join(f" --ignore={shlex.quote(path)}" for path in project.integration),
        "INTEGRATION": _INTEGRATION.format(rest=rest + require, paths=paths) if paths else "",
        "FORKS": _ALLOW if options.forks == "allow" else _HOLD,
    }
    lines = []
    for line in _data("ci.yml").split("\n"):
        alone = re.fullmatch(r"@([A-Z_]+)@", line)
        if not (alone and not values[alone[1]]):  # a block that is not wanted leaves no empty line
            lines.append(re.sub(r"@([A-Z_]+)@", lambda hole: values[hole[1]], line))
    return "\n".join(lines)


def _scalar(text: str) -> str:
    """A value as YAML reads it back: plain where that is safe, else in quotes."""
    plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    return text if plain else json.dumps(text)


def action_text() -> str:
    """The composite action ``conda-env``, the one that this package was made with."""
    try:
        return _data("conda-env.yml")
    except FileNotFoundError:
        checkout = Path(__file__).parents[3] / ACTION_PATH  # an editable install: the wheel's hook copies it
    try:
        return checkout.read_text("utf-8")
    except OSError:
        raise BugError(
            "this installation lacks the action conda-env", remedy="install runnerctl again"
        ) from None


def _data(name: str) -> str:
    return (resources.files("runnerctl.ci") / "templates" / name).read_text("utf-8")
