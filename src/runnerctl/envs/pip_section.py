"""The pip section of an environment file, by uv: wheels only, and never in place of what conda installed."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from runnerctl.envs import _query, lockfile, pip_guard, sandbox
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
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
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
    if not order.anyway and not sandbox.is_available():
        what = "has a pip section, which this host's kernel cannot install safely (no Landlock)"
        raise ConfigError(what, where=_where(file, file.pip[0]), remedy="update the kernel to 5.13 or newer")
    guard = pip_guard.Guard(prefix, order.caches)
    with sandbox.scratch("pip") as folder:
        options = _write(order, folder, before)
        command = [uv(), "pip", "install", "--python", _confined(order, python, folder), *options]
        rules = _rules(order, prefix, folder)
        text, code = _call(command, _environment(order, folder), rules=rules, seconds=seconds)
    if code != 0:
        raise explain(text, file)
    after = distributions(prefix)
    changed = sorted(name for name, version in before.items() if after.get(name) != version)
    if changed:
        what = f"pip's section replaced what conda installed: {', '.join(changed)}"
        raise DataError(what, where=_where(file, file.pip[0]), remedy="list these among the dependencies")
    if found := guard.changed():
        name, path = found
        line = next((one for one in file.pip if name and name in _folded(one.text)), file.pip[0])
        what = f"the wheel of {name or 'a package'} replaces {path}, which conda installed"
        raise DataError(what, where=_where(file, line), remedy="leave it out, or take conda's package of it")
    return tuple(f"{name}=={version}" for name, version in sorted(after.items()) if name not in before)


def _confined(order: Order, python: Path, folder: Path) -> str:
    """The interpreter as uv asks it: it came out of a package, and may reach its environment only.

    What it answers says where uv installs: `_query` looks at that.
    """
    own, launcher = folder / ".query", folder / ".bin" / "python"
    own.mkdir()
    launcher.parent.mkdir()
    prefix = python.parent.parent
    read = (prefix, folder / ".query", order.caches.wheels, *_homes(python))
    rules = sandbox.Rules(write=(own,), read=read, anyway=order.anyway, tied=False)
    plain = {**sandbox.PLAIN, "HOME": str(own), "TMPDIR": str(own)}
    words = [sys.executable, "-I", "-S", _query.__file__, str(order.caches.wheels), str(prefix)]
    words += sandbox.command(rules, [str(python)], environment=plain)
    launcher.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    launcher.chmod(0o700)
    return str(launcher)


def _homes(python: Path) -> tuple[Path, ...]:
    """Where an interpreter that is a link into another installation has its library."""
    home = Path(os.path.realpath(python)).parent.parent
    return () if home.is_relative_to(python.parent.parent.resolve()) else (home,)


def _rules(order: Order, prefix: Path, folder: Path) -> sandbox.Rules:
    """What uv may do: install here, keep wheels, reach the network; start our launcher, read certificates."""
    index = (order.pip_index or "").removeprefix("file://")
    resolver = Path(os.path.realpath("/etc/resolv.conf")).parent
    read = [Path(uv()), Path(sys.prefix), Path(sys.base_prefix), Path(pip_guard.__file__).parent, resolver]
    read += [Path(os.environ[name]) for name in CERTIFICATES if os.environ.get(name)]
    read += [Path(index)] if index.startswith("/") else []
    return sandbox.Rules(
        # uv writes its RECORDs in place, and nothing else that is there
        write=(*prefix.glob("lib/python3*/site-packages"), order.caches.wheels, folder),
        make=(prefix,),
        read=(*read, *_homes(prefix / "bin" / "python")),
        network=True,
        ours=True,
        anyway=order.anyway,
        file_bytes=64 << 30,
        cpu_seconds=7200,
        open_files=65536,
    )


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
            found[_folded(name)] = one.version
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
        "TMPDIR": str(folder),
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
    command: Sequence[str], environment: Mapping[str, str], *, rules: sandbox.Rules, seconds: float
) -> tuple[str, int]:
    ended = sandbox.run(rules, command, environment=environment, folder=rules.write[-1], seconds=seconds)
    if ended.code is None:
        what = f"pip's section took longer than {seconds:.0f} s"
        raise TryAgainError(what, remedy="try again; the package index may be slow")
    return ended.output.decode("utf-8", "replace"), ended.code


def _folded(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


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
    folded = _folded(" ".join(wanted) or text)
    for line in file.pip:
        match = _PLAIN_NAME.match(line.text)
        name = _folded(match[1]) if match else ""
        if name and re.search(rf"(?<![a-z0-9-]){re.escape(name)}(?![a-z0-9-])", folded):
            return line
    return file.pip[0]


def _where(file: EnvironmentFile, line: Line) -> str:
    return f"{file.where}:{line.line}"
