"""conda environments by the host's own ``conda`` or ``mamba``, for who has to use these.

Unproved: no conda could be had where this was written; its tests have a program in its place that answers as
conda is documented to. ``create --dry-run --json`` gives the solution, an explicit list with sha256 is what
gets installed. No condarc is read (``CONDARC``, HOME), channels and their priority are given in full.
Channels that want a credential are refused, for conda would need it in their addresses.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from runnerctl.envs import lockfile
from runnerctl.envs._engine_errors import install_error, no_space, one_line
from runnerctl.envs.model import Event, Package, Solution
from runnerctl.envs.pip_section import install_pip
from runnerctl.envs.ports import Installed, Order, Tell
from runnerctl.errors import ConfigError, DataError, RunnerctlError, TryAgainError, UnavailableError

__all__ = ["Conda"]

SOLVE_SECONDS = 900.0
INSTALL_SECONDS = 3600.0
PLACES = ("/opt/miniforge3/bin", "/opt/conda/bin", "/usr/local/bin", "/usr/bin")
KEPT = {"LANG", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}
KEPT |= {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"}
OVERRIDES = {f"__{name}": f"CONDA_OVERRIDE_{name.upper()}" for name in ("cuda", "glibc", "linux")}
PUBLIC = "https://conda.anaconda.org/"  # where a channel without an address is, as conda has it
EXPLICIT = "@EXPLICIT"


class Conda:
    """See `ports.Engine`. ``program``: its path; else it is searched in PATH and Miniforge's usual places."""

    def __init__(self, name: Literal["conda", "mamba"], *, program: str | None = None) -> None:
        places = os.pathsep.join([os.environ.get("PATH", ""), *PLACES])
        found = program or shutil.which(name, path=places)
        if found is None:
            remedy = "install Miniforge, or use the engine rattler"
            raise ConfigError(f"there is no {name} on this host", where="--engine", remedy=remedy)
        self.name: Literal["conda", "mamba"] = name
        self.program = found

    def solve(self, order: Order, tell: Tell) -> Solution:
        """Decide on every package, or take those of ``order.lock``."""
        if order.credentials is not None:
            what = f"the engine {self.name} cannot use channels that want a credential"
            raise ConfigError(what, where=order.file.where, remedy="use the engine rattler")
        tell(Event("solve"))
        if order.lock is not None:
            lock = lockfile.read(order.lock)
            lockfile.check(lock, order.file, files=order.files, engine=self.name)
            packages = _of_explicit(lock.body, order)
        else:
            packages = self._solved(order)
        text = lockfile.write(_explicit(packages), order.file, files=order.files, engine=self.name)
        return Solution(packages, text)

    def install(self, order: Order, packages: Sequence[Package], prefix: Path, tell: Tell) -> Installed:
        """Let it fetch, verify and link an explicit list, then pip's section."""
        tell(Event("fetch", total=len(packages)))
        with tempfile.TemporaryDirectory(prefix="runnerctl-") as folder:
            listed = Path(folder, "explicit.txt")
            listed.write_text(_explicit(packages), encoding="utf-8")
            command = [self.program, "create", "--yes", "--json", "--prefix", str(prefix)]
            command += ["--file", str(listed)]
            answer = self._call(command, order, Path(folder), INSTALL_SECONDS)
        if answer.get("success") is not True:
            raise install_error(_said(answer))
        tell(Event("link", done=len(packages), total=len(packages)))
        python = next((package for package in packages if package.name == "python"), None)
        pip = install_pip(order, prefix, tell) if order.file.pip else ()
        return Installed(pip, "bin/python" if python else None, python.version if python else None)

    def _solved(self, order: Order) -> tuple[Package, ...]:
        with tempfile.TemporaryDirectory(prefix="runnerctl-") as folder:
            command = [self.program, "create", "--dry-run", "--yes", "--json", "--override-channels"]
            command += ["--strict-channel-priority", "--prefix", str(Path(folder, "nothing"))]
            command += [part for channel in order.channels for part in ("--channel", channel.url)]
            command += ["--", *(line.text for line in order.file.specs)]
            answer = self._call(command, order, Path(folder), SOLVE_SECONDS)
        if answer.get("success") is not True:
            raise _unsolved(answer, order)
        actions = answer.get("actions") or {}
        fetched = {one.get("dist_name"): one for one in actions.get("FETCH") or []}
        linked = actions.get("LINK") or []
        records = ({**one, **fetched.get(one.get("dist_name"), {})} for one in linked)
        return tuple(sorted(map(_package, records), key=lambda package: package.name))

    def _call(self, command: Sequence[str], order: Order, folder: Path, seconds: float) -> dict[str, Any]:
        """The program's JSON answer. Its deadline ends it with what it started (a session of its own)."""
        environment = _environment(order, folder, Path(self.program).parent)
        try:
            run = subprocess.run(
                command,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            what = f"{self.name} took longer than {seconds:.0f} s"
            raise TryAgainError(what, where=order.file.where, remedy="try again") from None
        try:
            answer = json.loads(run.stdout)
        except ValueError:
            said = one_line((run.stderr or run.stdout).decode("utf-8", "replace"), 240)
            what = f"{self.name} ended with {run.returncode} and gave no answer: {said}"
            raise UnavailableError(what, where=order.file.where, remedy="try the engine rattler") from None
        return answer if isinstance(answer, dict) else {}


def _environment(order: Order, folder: Path, programs: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.upper() in KEPT}
    virtual = {one.name: one.version for one in order.facts.virtual}
    overrides = {variable: virtual.get(name, "") for name, variable in OVERRIDES.items()}
    packages = order.caches.packages.with_name("conda-pkgs")  # conda's own layout, not rattler's
    packages.mkdir(parents=True, exist_ok=True)
    return {
        **kept,
        **overrides,
        "HOME": str(folder),
        "PATH": f"{programs}:/usr/bin:/bin",
        "CONDARC": os.devnull,
        "CONDA_PKGS_DIRS": str(packages),
        "CONDA_SUBDIR": order.facts.subdir,
        "CONDA_CHANNEL_PRIORITY": "strict",
        "CONDA_SAFETY_CHECKS": "enabled",
        "CONDA_EXTRA_SAFETY_CHECKS": "true",
        "CONDA_NOTIFY_OUTDATED_CONDA": "false",
        "CONDA_REPORT_ERRORS": "false",
    }


def _package(record: Mapping[str, Any]) -> Package:
    """One record of conda's answer; mamba's names differ little."""
    try:
        url = record.get("url") or f"{record['base_url']}/{record['platform']}/{record['dist_name']}.conda"
        return Package(
            name=str(record["name"]),
            version=str(record["version"]),
            build=str(record.get("build_string") or record["build"]),
            url=str(url),
            sha256=record.get("sha256"),
            size_bytes=record.get("size"),
            noarch=record.get("platform", record.get("subdir")) == "noarch",
        )
    except KeyError as error:
        what = f"conda's answer has a package without {error}"
        raise UnavailableError(what, remedy="use the engine rattler") from None


def _explicit(packages: Sequence[Package]) -> str:
    missing = [package.name for package in packages if not package.sha256]
    if missing:
        what = f"conda's answer has no sha256 of {', '.join(missing[:5])}"
        raise UnavailableError(what, remedy="use the engine rattler")
    lines = [f"{package.url}#sha256:{package.sha256}" for package in packages]
    return "\n".join([EXPLICIT, *lines, ""])


def _of_explicit(text: str, order: Order) -> tuple[Package, ...]:
    """The packages of an explicit list; name, version and build stand in each file's name."""
    found, where = [], order.file.where
    bases = tuple(f"{one.url if '://' in one.url else PUBLIC + one.url}/" for one in order.channels)
    for line in text.splitlines():
        if line.startswith("#") or line.strip() in ("", EXPLICIT):
            continue
        url, mark, sha256 = line.strip().partition("#sha256:")
        stem = url.rpartition("/")[2].removesuffix(".conda").removesuffix(".tar.bz2")
        parts = stem.rsplit("-", 2)
        if not mark or len(parts) != 3:
            raise DataError(f"the lock has {line[:80]!r}", where=where, remedy=lockfile.MAKE_ANEW)
        if not url.startswith(bases) or ".." in url:
            what = f"the lock has {stem}, which comes from no channel of the file"
            raise DataError(what, where=where, remedy=lockfile.MAKE_ANEW)
        noarch = url.rsplit("/", 2)[-2] == "noarch"
        found.append(Package(parts[0], parts[1], parts[2], url, sha256, noarch=noarch))
    return tuple(found)


def _said(answer: Mapping[str, Any]) -> str:
    told = (answer.get(key) for key in ("message", "error", "solver_problems"))
    return next((str(one) for one in told if one), "it said nothing")


def _unsolved(answer: Mapping[str, Any], order: Order) -> RunnerctlError:
    said, kind = _said(answer), str(answer.get("exception_name", ""))
    if full := no_space(said):
        return full
    where = order.file.where
    if "HTTP" in kind or "Connection" in kind:
        what = f"a channel did not answer: {one_line(said, 240)}"
        return UnavailableError(what, where=where, remedy="check the network, then try again")
    line = next((line for line in order.file.specs if line.text.split("=")[0].split()[0] in said), None)
    place = f"{where}:{line.line}" if line else where
    return DataError(f"cannot be had: {one_line(said)}", where=place, remedy="loosen a version")
