"""The pip section of an environment file, by uv: wheels only, and never in place of what conda installed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from runnerctl.envs import _confine, lockfile
from runnerctl.envs._engine_errors import no_space, one_line
from runnerctl.envs.model import EnvironmentFile, Event, Line
from runnerctl.envs.ports import Order, Tell
from runnerctl.errors import ConfigError, DataError, RunnerctlError, TryAgainError, UnavailableError

__all__ = ["DEADLINE_SECONDS", "distributions", "install_pip"]

DEADLINE_SECONDS = 3600.0
REQUEST_SECONDS = 60
# Passed on from the builder's own environment: the way to the network, nothing that changes an answer.
KEPT = {"PATH", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR"}
KEPT |= {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"}
OPTIONS = {"--pre": ("--prerelease", "allow"), "--no-deps": ("--no-deps",)}
PASSED_OVER = ("--prefer-binary", "--only-binary")  # wheels are all there is
IN_A_STEP = "the store takes wheels only; ask for a version that has one, or install it in a step of the job"
_OFFLINE = re.compile(
    r"(?i)failed to (fetch|connect)|error sending request|dns error|connection (refused|reset)|timed out"
    r"|could not connect|\b50\d\b|request failed|network"
)
_NO_WHEEL = re.compile(
    r"(?i)no wheels|no usable wheels|no (compatible|matching) wheel|building source|no-build"
    r"|binary distribution"
)
_PIN = re.compile(r"\d[0-9A-Za-z.!+]*")
_PLAIN_NAME = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)")


def install_pip(
    order: Order, prefix: Path, tell: Tell, *, seconds: float = DEADLINE_SECONDS
) -> tuple[str, ...]:
    """Install the section's packages into ``prefix``; ``name==version`` of what was added.

    What conda installed is pinned: a section that cannot live with it is refused, not obeyed. Raises
    DataError with the line of the file where it is known, UnavailableError when the index does not answer,
    TryAgainError for a full disk or after ``seconds``.
    """
    file = order.file
    python = prefix / "bin" / "python"
    if not python.exists():
        remedy = "add python (and pip) to dependencies"
        raise DataError("has a pip section but no python", where=_where(file, file.pip[0]), remedy=remedy)
    tell(Event("pip", text=f"{len(file.pip)} lines"))
    before = distributions(prefix)
    with tempfile.TemporaryDirectory(prefix="runnerctl-pip-") as directory:
        folder = Path(directory)
        options = _write(order, folder, before)
        command = [uv(), "pip", "install", "--python", _confined(python, folder), *options]
        text, code = _call(command, _environment(order, folder), cwd=folder, seconds=seconds)
    if code != 0:
        raise explain(text, file)
    after = distributions(prefix)
    changed = sorted(name for name, version in before.items() if after.get(name) != version)
    if changed:
        what = f"pip's section replaced what conda installed: {', '.join(changed)}"
        raise DataError(what, where=_where(file, file.pip[0]), remedy="list these among the dependencies")
    return tuple(f"{name}=={version}" for name, version in sorted(after.items()) if name not in before)


def _confined(python: Path, folder: Path) -> str:
    """The interpreter as uv asks it: it came out of a package, and may write to ``folder`` only."""
    launcher = folder / ".bin" / "python"
    launcher.parent.mkdir()
    own = [sys.executable, "-I", "-S", _confine.__file__, str(folder), str(python)]
    launcher.write_text(f'#!/bin/sh\nexec {shlex.join(own)} "$@"\n', encoding="utf-8")
    launcher.chmod(0o700)
    return str(launcher if os.access(launcher, os.X_OK) else python)  # not where the disk is mounted noexec


def uv() -> str:
    """Path of the program. Raises ConfigError without it."""
    try:
        from uv import find_uv_bin

        return os.fsdecode(find_uv_bin())
    except (ImportError, FileNotFoundError):
        what = "pip sections need uv, which is not installed here"
        raise ConfigError(what, remedy="pip install 'runnerctl[env]'") from None


def distributions(prefix: Path) -> dict[str, str]:
    """Normalised name -> version of every Python distribution in a prefix."""
    folders = [str(path) for path in prefix.glob("lib/python3*/site-packages")]
    found = {}
    for one in metadata.distributions(path=folders):
        name = one.metadata["Name"] if one.metadata else None
        if name:
            found[re.sub(r"[-_.]+", "-", name).lower()] = one.version
    return found


def _write(order: Order, folder: Path, conda: Mapping[str, str]) -> list[str]:
    """Write the lists that uv reads; its options. Line N of the list is line N of the section."""
    lines, options = [], ["--only-binary", ":all:"]
    for line in order.file.pip:
        word = re.split(r"[\s=]", line.text.strip(), maxsplit=1)[0]
        options += OPTIONS.get(word, ())
        lines.append("" if word in OPTIONS or word in PASSED_OVER else line.text.strip())
    for name, text in order.files.items():
        place = (folder / name).resolve()
        if not place.is_relative_to(folder.resolve()):
            raise DataError(f"the file {name!r} leaves the directory", where=order.file.where)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    pins = [f"{name}=={version}" for name, version in sorted(conda.items()) if _PIN.fullmatch(version)]
    if order.lock is not None:
        pins += lockfile.read(order.lock).pip
    listed, pinned = folder / ".section.txt", folder / ".conda.txt"
    listed.write_text("\n".join(lines) + "\n", encoding="utf-8")
    pinned.write_text("\n".join(pins) + "\n", encoding="utf-8")
    return [*options, "--requirement", str(listed), "--constraint", str(pinned)]


def _environment(order: Order, folder: Path) -> dict[str, str]:
    """What uv sees: no settings of whoever runs this; the index by a variable, for others see arguments."""
    kept = {name: value for name, value in os.environ.items() if name.upper() in KEPT}
    order.caches.wheels.mkdir(parents=True, exist_ok=True)
    index = {"UV_DEFAULT_INDEX": order.pip_index} if order.pip_index else {}
    return {
        **kept,
        **index,
        "HOME": str(folder),
        "UV_CACHE_DIR": str(order.caches.wheels),
        "UV_HTTP_TIMEOUT": str(REQUEST_SECONDS),
        "UV_KEYRING_PROVIDER": "disabled",
        "UV_NO_CONFIG": "1",
        "UV_NO_PROGRESS": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_CERTS": "1",
        "NO_COLOR": "1",
    }


def _call(
    command: Sequence[str], environment: Mapping[str, str], *, cwd: Path, seconds: float
) -> tuple[str, int]:
    try:
        run = subprocess.run(
            command,
            env=environment,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        what = f"pip's section took longer than {seconds:.0f} s"
        raise TryAgainError(what, remedy="try again; the package index may be slow") from None
    return (run.stderr + run.stdout).decode("utf-8", "replace"), run.returncode


def explain(text: str, file: EnvironmentFile) -> RunnerctlError:
    """uv's message as one line with the line of the file that it is about."""
    if full := no_space(text):
        return full
    line = _line(text, file)
    where = _where(file, line)
    reason = _reason(text)
    if _OFFLINE.search(text) and "No solution found" not in text:
        what = f"the package index did not answer: {reason}"
        return UnavailableError(what, where=where, remedy="check the network, then try again")
    if _NO_WHEEL.search(text):
        return DataError(f"pip's section cannot be had: {reason}", where=where, remedy=IN_A_STEP)
    remedy = (
        "what conda installed stays as it is: loosen the line, or list the package among the dependencies"
    )
    return DataError(f"pip's section cannot be had: {reason}", where=where, remedy=remedy)


def _reason(text: str) -> str:
    """The message without the lines of its tree, its hints, and our own file's name."""
    plain = re.sub(r"(?m)^\s*(hint|warning):.*$|^Using Python.*$", "", text)
    plain = re.sub(r"[^\x20-\x7e]+", " ", plain)
    plain = re.sub(
        r"No solution found when resolving dependencies:?|error: |\b[Cc]aused? by:|\bcause:", "", plain
    )
    plain = re.sub(r",? we can conclude that your requirements are unsatisfiable", "", plain)
    return one_line(re.sub(r"\S*/\.section\.txt", "the pip section", plain)).rstrip(".")


def _line(text: str, file: EnvironmentFile) -> Line:
    """The line of the section that a message names by number or by its package; else the first."""
    number = re.search(r"\.section\.txt:(\d+)", text)
    if number and 0 < int(number[1]) <= len(file.pip):
        return file.pip[int(number[1]) - 1]
    wanted = re.findall(r"(?i)you require ([a-z0-9][a-z0-9._-]*)", text)
    folded = re.sub(r"[-_.]+", "-", " ".join(wanted) or text).lower()
    for line in file.pip:
        match = _PLAIN_NAME.match(line.text)
        name = re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""
        if name and re.search(rf"(?<![a-z0-9-]){re.escape(name)}(?![a-z0-9-])", folded):
            return line
    return file.pip[0]


def _where(file: EnvironmentFile, line: Line) -> str:
    return f"{file.where}:{line.line}"
