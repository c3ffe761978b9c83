"""Host images, made by mmdebstrap from the archive this machine installs from; no image registry is needed.

Variants: ``full`` has python3-apt and python3-debian, ``bare`` does not (Ansible must do without them).
An image's tag is a hash of its recipe: a changed recipe makes a new image, an unchanged one costs nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from docker.errors import ImageNotFound

from tests.hosts.engine import LABEL, Engine
from tests.hosts.machine import CACHE, HostsError, as_root, call, ensure_programs, locked, pip_settings, say

__all__ = ["REPOSITORY", "SUITES", "Suite", "Variant", "image", "images"]

Suite = Literal["bookworm", "trixie"]
Variant = Literal["full", "bare"]
SUITES: tuple[Suite, ...] = ("bookworm", "trixie")
REPOSITORY = "runnerctl-host"
RELEASE = "2"  # raise it when the making changes in a way that the recipe does not show
ANSIBLE_HELPERS = ("python3-apt", "python3-debian")
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "python3",
    "sudo",
    "ca-certificates",
    "iproute2",
    *ANSIBLE_HELPERS,
)
CA_IN_HOST = "/etc/ssl/certs/test-machine.pem"
APT_SETTINGS = (  # of this machine, needed wherever its archive is used
    "Acquire::Check-Valid-Until",
    "Acquire::Check-Date",
    "Acquire::http::Proxy",
    "Acquire::https::Proxy",
    "Acquire::https::CAInfo",
)
BUILD_SECONDS = 900
FILES = {
    "etc/dpkg/dpkg.cfg.d/01_hosts": "path-exclude=/usr/share/man/*\npath-exclude=/usr/share/doc/*\n"
    "path-exclude=/usr/share/locale/*\nforce-unsafe-io\n",
    "etc/sudoers.d/admin": "admin ALL=(ALL) NOPASSWD: ALL\n",
}
FINISH = """set -eu
rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/hostname
: >"$1/etc/machine-id"
chroot "$1" useradd --create-home --shell /bin/bash admin
chmod 0440 "$1/etc/sudoers.d/admin"
chroot "$1" install -d -m 0700 /root/.ssh
chroot "$1" install -d -m 0700 -o admin -g admin /home/admin/.ssh
ln -sf /dev/null "$1/etc/systemd/system/apt-daily.timer"
ln -sf /dev/null "$1/etc/systemd/system/apt-daily-upgrade.timer"
"""


@dataclass(frozen=True)
class Recipe:
    """Everything an image depends on."""

    suite: str
    packages: tuple[str, ...]
    sources: tuple[str, ...]
    apt: tuple[str, ...]
    pip: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, str], ...]
    finish: str
    ca_sha256: str
    release: str = RELEASE

    def tag(self) -> str:
        """``suite-<hash>``."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.suite}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def images(on: Engine, suites: tuple[Suite, ...] = SUITES) -> dict[Suite, str]:
    """The full images of several suites, made side by side."""
    with ThreadPoolExecutor(len(suites)) as pool:
        return dict(zip(suites, pool.map(lambda suite: image(on, suite), suites), strict=True))


def image(on: Engine, suite: Suite, variant: Variant = "full") -> str:
    """The name of the image, made first when there is none. Raises HostsError."""
    name = f"{REPOSITORY}:{recipe(suite).tag()}"
    with locked(f"image-{suite}"):
        if not _have(on, name):
            _make(on, recipe(suite), name)
        if variant == "full":
            return name
        bare = f"{name}-bare"
        if not _have(on, bare):
            _strip(on, name, bare)
        return bare


def _have(on: Engine, name: str) -> bool:
    try:
        on.client.images.get(name)
    except ImageNotFound:
        return False
    return True


def recipe(suite: Suite) -> Recipe:
    """What the image of a suite is made of on this machine."""
    ca = dict(pip_settings()).get("cert")
    return Recipe(
        suite=suite,
        packages=PACKAGES,
        sources=_sources(suite),
        apt=_apt_settings(),
        pip=pip_settings(),
        files=tuple(FILES.items()),
        finish=FINISH,
        ca_sha256=hashlib.sha256(Path(ca).read_bytes()).hexdigest() if ca else "",
    )


def _make(on: Engine, made_of: Recipe, name: str) -> None:
    ensure_programs({"mmdebstrap": "mmdebstrap"})
    say(f"making the {made_of.suite} image")
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="image-") as directory:
        tarball = Path(directory) / "root.tar"
        call(_mmdebstrap(made_of, Path(directory), tarball), seconds=BUILD_SECONDS)
        repository, _, tag = name.partition(":")
        answer = on.client.api.import_image_from_file(
            str(tarball), repository, tag, changes=['CMD ["/sbin/init"]', f"LABEL {LABEL}=image"]
        )
    if '"error"' in answer:
        raise HostsError(f"Docker does not take the {made_of.suite} image: {answer.strip()}")
    say(f"{made_of.suite} image made in {time.monotonic() - begin:.0f} s")


def _mmdebstrap(made_of: Recipe, directory: Path, tarball: Path) -> list[str]:
    """The command; writes what it reads into ``directory``."""
    tree = directory / "tree"
    files = dict(made_of.files)
    if made_of.pip:
        lines = [f"{key} = {CA_IN_HOST if key == 'cert' else value}" for key, value in made_of.pip]
        files["etc/pip.conf"] = "\n".join(["[global]", *lines, ""])
    for path, text in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    if ca := dict(made_of.pip).get("cert"):
        copy = tree / CA_IN_HOST.lstrip("/")
        copy.parent.mkdir(parents=True)
        copy.write_bytes(Path(ca).read_bytes())
    finish = directory / "finish"
    finish.write_text(made_of.finish)
    sources = directory / "sources.list"
    sources.write_text("".join(f"{line}\n" for line in made_of.sources))
    command = ["mmdebstrap", "--quiet", "--variant=apt", "--format=tar", "--skip=cleanup/apt/lists"]
    command += [f"--include={','.join(made_of.packages)}"]
    command += [f"--aptopt={setting}" for setting in made_of.apt]
    command += [f'--setup-hook=cp -r {shlex.quote(str(tree))}/. "$1"/']
    command += [f'--customize-hook=sh {shlex.quote(str(finish))} "$1"']
    command += [made_of.suite, str(tarball), *([str(sources)] if made_of.sources else [])]
    return as_root(command)


def _strip(on: Engine, full: str, bare: str) -> None:
    """The bare image: the full one less what Ansible would like to find."""
    command = ["apt-get", "purge", "-q", "-y", "--auto-remove", *ANSIBLE_HELPERS]
    container = on.client.containers.create(full, command, labels={LABEL: "image"}, network_mode="none")
    try:
        container.start()
        status = container.wait(timeout=120)["StatusCode"]
        if status:
            raise HostsError(f"the bare image cannot be made: {container.logs(tail=5).decode()}")
        repository, _, tag = bare.partition(":")
        container.commit(repository, tag, changes='CMD ["/sbin/init"]')
    finally:
        container.remove(force=True, v=True)


def _apt_settings() -> tuple[str, ...]:
    settings = ['Acquire::Languages "none"', 'Acquire::GzipIndexes "true"']
    if not Path("/usr/bin/apt-config").exists():
        return tuple(settings)
    dump = call(["apt-config", "dump"], seconds=30).splitlines()
    return (*settings, *(line.rstrip(";") for line in dump if line.split(" ")[0] in APT_SETTINGS))


def _sources(suite: str) -> tuple[str, ...]:
    """The machine's own Debian sources, for another suite; none means: mmdebstrap's own default."""
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    if release.get("ID", "").strip('"') != "debian":
        return ()
    here = release["VERSION_CODENAME"].strip('"')
    pockets = {here + tail: suite + tail for tail in ("", "-updates", "-security")}
    found = dict.fromkeys(
        f"deb {uri} {pockets[name]} {components}"
        for uri, name, components in _configured()
        if name in pockets and "main" in components.split()
    )
    return tuple(found)


def _configured() -> list[tuple[str, str, str]]:
    """(URI, suite, components) of every binary source in /etc/apt, in both notations."""
    found = []
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.*"))]
    for file in (file for file in files if file.is_file() and os.access(file, os.R_OK)):
        text = file.read_text(errors="replace")
        found += _stanzas(text) if file.suffix == ".sources" else _lines(text)
    return found


def _lines(text: str) -> list[tuple[str, str, str]]:
    found = []
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if words[:1] != ["deb"]:
            continue
        if words[1].startswith("["):
            end = next(index for index, word in enumerate(words) if word.endswith("]"))
            words = ["deb", *words[end + 1 :]]
        found.append((words[1], words[2], " ".join(words[3:])))
    return found


def _stanzas(text: str) -> list[tuple[str, str, str]]:
    found = []
    for stanza in text.split("\n\n"):
        lines = [line for line in stanza.splitlines() if ":" in line and not line.startswith(("#", " "))]
        fields = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        keyring = fields.get("signed-by", "debian-archive")
        if "deb" not in fields.get("types", "").split() or "debian-archive" not in keyring:
            continue
        uris, suites = fields.get("uris", "").split(), fields.get("suites", "").split()
        found += [(uri, suite, fields.get("components", "")) for uri in uris for suite in suites]
    return found
