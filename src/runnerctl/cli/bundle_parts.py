"""What ``runnerctl bundle`` collects: from specs, with pip and the hosts' own downloader."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import download
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.cli_venv import pip_error
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.process import run
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.repository_key import (
    armoured,
    key_packets,
)
from msgspec.structs import replace

from runnerctl.bundle.collect import Download, Wanted
from runnerctl.core.repository_keys import key_address
from runnerctl.core.spec import HostSpec, NvidiaDriver, Runnerctl, Slot
from runnerctl.core.templates import fill
from runnerctl.core.toolkit_rules import upstream_key
from runnerctl.errors import ConfigError, DataError, UnavailableError
from runnerctl.reconcile import Fleet
from runnerctl.wheel import controller_wheel

__all__ = ["MACHINES", "PYTHONS", "fetch", "fetch_wheels", "read_key", "trust", "wanted"]

MACHINES = {"x64": "x86_64", "arm64": "aarch64"}
PYTHONS = ("3.10", "3.11", "3.12", "3.13")  # of the distributions that the roles know
# glibc 2.34 is the oldest among them (Enterprise Linux 9).
GLIBC = ("2_17", "2_24", "2_27", "2_28", "2_31", "2_34")
PIP_SECONDS = 900.0
ROUNDS = 5  # each may bring what needs more
KEY_BYTES = 256 << 10


def wanted(
    specs: Iterable[HostSpec],
    env: Mapping[str, str],
    *,
    architectures: Sequence[str],
    keys: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Wanted:
    """What hosts of these specs need, each file once. Raises RunnerctlError."""
    runners: dict[str, Download] = {}
    installers: dict[str, Download] = {}
    addresses = dict.fromkeys(keys)
    for spec in _unlike(specs):
        addresses |= dict.fromkeys(_keys(spec))
        for architecture in architectures:
            if spec.github_runner.slots and "runner" not in without:
                runner = _runner(spec, env, architecture)
                _add(runners, runner)
            if spec.conda.manage and "miniforge" not in without:
                _add(installers, _installer(spec, architecture))
    return Wanted(tuple(runners.values()), tuple(installers.values()), tuple(addresses))


def _unlike(specs: Iterable[HostSpec]) -> list[HostSpec]:
    """One spec of those that want the same: a fleet's hosts mostly do, and each would be asked for again."""
    found: dict[bytes, HostSpec] = {}
    for spec in specs:
        runner = spec.github_runner
        slots = tuple(Slot(name=url) for url in sorted({slot.url or "" for slot in runner.slots}))
        runner = replace(runner, slots=slots, labels=(), group=None, env={})
        driver = NvidiaDriver(
            manage=spec.nvidia_driver.manage, repository_key=spec.nvidia_driver.repository_key
        )
        like = replace(spec, host="", runnerctl=Runnerctl(), nvidia_driver=driver, github_runner=runner)
        found.setdefault(msgspec.json.encode(like), spec)
    return list(found.values())


def _add(found: dict[str, Download], new: Download) -> None:
    """By its name in the bundle: two files of one name must be one file."""
    name = new.url.rpartition("/")[2]
    old = found.setdefault(name, new)
    if old.sha256 != new.sha256:
        raise DataError(
            f"two hosts want different files of the name {name}",
            where="the inventory",
            remedy="make one bundle for each, with --limit",
        )


def _runner(spec: HostSpec, env: Mapping[str, str], architecture: str) -> Download:
    release = Fleet(spec, env).release(MACHINES[architecture])
    return Download(release.url, release.sha256, release.version, architecture, release.token)


def _installer(spec: HostSpec, architecture: str) -> Download:
    conda = spec.conda
    url = fill(conda.url, version=conda.version, machine=MACHINES[architecture])
    sha256 = conda.sha256 or _published(url)
    return Download(url, sha256, conda.version, architecture)


def _published(url: str) -> str:
    """The checksum that stands beside a file as ``<file>.sha256``. Raises DataError."""
    try:
        words = download.fetch_text(f"{url}.sha256").lower().split()
    except HostError as error:
        raise UnavailableError(error.what, where=error.where, remedy=error.remedy) from None
    if not words or len(words[0]) != 64 or set(words[0]) - set("0123456789abcdef"):
        remedy = "give --conda-sha256"
        raise DataError("does not begin with a SHA-256", where=f"{url}.sha256", remedy=remedy)
    return words[0]


def _keys(spec: HostSpec) -> list[str]:
    """Addresses of keys that a spec fixes; NVIDIA's and Docker's own depend on the distribution."""
    driver, toolkit = spec.nvidia_driver, spec.container_toolkit
    found = [key_address(driver.repository_key)] if driver.manage else []
    if toolkit.manage:
        found.append(key_address(toolkit.repository_key) or upstream_key(toolkit.repository_url))
        found += [key_address(toolkit.docker_repository_key)] if toolkit.docker else []
    return [address for address in found if address]


def fetch(url: str, dest: Path, sha256: str, *, headers: Mapping[str, str]) -> None:
    """Bring a file with the hosts' own downloader: whole, or not there. Raises UnavailableError."""
    try:
        download.fetch(url, dest, sha256, headers=headers)
    except HostError as error:
        raise UnavailableError(error.what, where=error.where, remedy=error.remedy) from None


def read_key(url: str) -> bytes:
    """The armoured public key at an address. Raises RunnerctlError."""
    try:
        return armoured(key_packets(download.fetch_bytes(url, limit_bytes=KEY_BYTES), where=url))
    except HostError as error:
        raise DataError(error.what, where=error.where, remedy=error.remedy) from None


def fetch_wheels(
    folder: Path,
    *,
    pythons: Sequence[str],
    architectures: Sequence[str],
    extras: Sequence[str] = (),
    tell: Callable[[str], None],
) -> None:
    """Our own wheel and all it depends on, with pip, from the index it is configured for.

    ``extras``: of our package, which some of the hosts need.
    """
    try:
        from runnerctl.cli.bundle_wheels import missing
    except ImportError as error:
        what = f"{error.name} is needed to tell which wheels belong together"
        raise ConfigError(what, remedy="pip install 'runnerctl[controller]'") from None
    wheel = str(controller_wheel().path)
    for python in pythons:
        for architecture in architectures:
            tell(f"wheels for Python {python} on {architecture}")
            machine = MACHINES[architecture]
            needed = [f"{wheel}[{','.join(extras)}]" if extras else wheel]
            for _ in range(ROUNDS):
                _pip(folder, needed, python, machine)
                needed = missing(folder, "runnerctl", python=python, machine=machine, extras=extras)
                if not needed:
                    break
            else:
                what = f"pip brings no wheel of {', '.join(needed)} for Python {python} on {architecture}"
                raise UnavailableError(what, remedy="leave that version out (--python)")


def _pip(folder: Path, needed: Sequence[str], python: str, machine: str) -> None:
    platforms = [f"--platform=manylinux_{glibc}_{machine}" for glibc in GLIBC]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(folder)]
    command += ["--implementation", "cp", "--python-version", python, *platforms]
    try:
        done = run([*command, f"--platform=manylinux2014_{machine}", *needed], timeout=PIP_SECONDS)
    except HostError as error:
        raise UnavailableError(error.what, where="pip", remedy="run again") from None
    if done.rc:
        raise UnavailableError(
            f"pip cannot collect wheels for Python {python} on {machine}: {pip_error(done)}",
            remedy="make a package index reachable for pip, or leave that version out (--python)",
        )


def trust(env: Mapping[str, str]) -> None:
    """Believe the CA bundle of ``RUNNERCTL_CA_BUNDLE`` in downloads too, and have pip do so."""
    if bundle := env.get("RUNNERCTL_CA_BUNDLE", "").strip():
        for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"):
            os.environ[name] = bundle
