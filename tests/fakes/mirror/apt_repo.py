"""A signed repository of Debian packages made here: real .debs, real lists, a throw-away key.

    with SigningKey() as key, AptRepo(mirror.root / "nvidia", key) as repo:
        repo.add(Deb("nvidia-smi", "580.1-1", files={"/usr/bin/nvidia-smi": Script("#!/bin/sh\n")}))
        repo.publish()
        ...  # URIs: mirror.url + "/nvidia", Suites: /, the key at mirror.url + "/nvidia/gpgkey"

``suite="bookworm"`` makes ``dists/bookworm/<component>`` instead of a flat repository. What can go wrong is
done after ``publish``: ``tamper``, ``sign_with``, ``expire``, ``drop_signature``; ``publish`` again mends it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

from tests.hosts.machine import ensure_programs

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AptRepo", "Deb", "Script", "SigningKey"]

PROGRAMS = {"gpg": "gnupg", "dpkg-deb": "dpkg", "gpgconf": "gpgconf gpg-agent"}
DAY_SECONDS = 86400
COMMAND_SECONDS = 120
RELATIONS = ("Pre-Depends", "Depends", "Recommends", "Conflicts", "Breaks", "Replaces", "Provides")


class Script(str):
    """The text of a file that can be executed."""

    __slots__ = ()


@dataclass(frozen=True)
class Deb:
    """A package. ``scripts``: preinst, postinst, prerm, postrm, triggers ... -> text.

    ``relations``: control fields such as ``Depends`` -> their text. ``units`` of systemd are plain files.
    """

    name: str
    version: str
    architecture: str = "all"
    relations: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)

    @property
    def filename(self) -> str:
        """As in a pool: the epoch is not part of it."""
        return f"{self.name}_{self.version.split(':')[-1]}_{self.architecture}.deb"

    def control(self) -> str:
        """The control file."""
        unknown = set(self.relations) - set(RELATIONS)
        if unknown:
            raise ValueError(f"no relation between packages: {', '.join(sorted(unknown))}")
        fields = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": self.architecture,
            "Maintainer": "Nobody <nobody@example.org>",
            **self.relations,
            "Description": f"stands in for {self.name}",
        }
        return "".join(f"{key}: {value}\n" for key, value in fields.items())


class SigningKey:
    """A throw-away ed25519 key in a directory of its own; use it as a context manager."""

    def __init__(self, owner: str = "Repository <repository@example.org>") -> None:
        ensure_programs(PROGRAMS)
        self.home = Path(tempfile.mkdtemp(prefix="gk-"))  # short: gpg-agent's socket lies in it
        try:
            self._gpg("--passphrase", "", "--quick-generate-key", owner, "ed25519", "sign", "never")
            listed = self._gpg("--with-colons", "--list-keys").decode()
        except BaseException:
            self.close()
            raise
        lines = [line.split(":") for line in listed.splitlines()]
        self.fingerprint = next(line[9] for line in lines if line[0] == "fpr")

    def public(self) -> str:
        """The public key as text."""
        return self._gpg("--armor", "--export", self.fingerprint).decode()

    def clearsign(self, text: str) -> bytes:
        """The text with its signature around it."""
        return self._gpg("--local-user", self.fingerprint, "--clearsign", text=text)

    def detached(self, text: str) -> bytes:
        """The signature alone, as text."""
        return self._gpg("--local-user", self.fingerprint, "--armor", "--detach-sign", text=text)

    def close(self) -> None:
        """Forget the key and end its agent."""
        home = str(self.home)
        subprocess.run(
            ["gpgconf", "--homedir", home, "--kill", "all"], capture_output=True, timeout=30, check=False
        )
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _gpg(self, *arguments: str, text: str = "") -> bytes:
        argv = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", "--pinentry-mode", "loopback"]
        return _run([*argv, *arguments], text=text)


class AptRepo:
    """The repository in ``directory``, which something else serves. Nothing is there before ``publish``."""

    def __init__(
        self,
        directory: Path,
        key: SigningKey,
        *,
        suite: str = "/",
        component: str = "main",
        origin: str = "Acme",
        architectures: Sequence[str] = ("amd64", "arm64"),
    ) -> None:
        ensure_programs(PROGRAMS)
        self.directory, self.key, self.suite, self.component = directory, key, suite, component
        self.origin, self.architectures = origin, tuple(architectures)
        self._entries: dict[str, str] = {}
        (directory / "pool").mkdir(parents=True, exist_ok=True)

    def add(self, *packages: Deb) -> list[Path]:
        """Build packages into the pool; `publish` puts them on the lists."""
        built = [self._build(package) for package in packages]
        for package, path in zip(packages, built, strict=True):
            self._entries[path.name] = self._entry(package, path)
        return built

    def remove(self, package: Deb) -> None:
        """Take a package away; `publish` takes it off the lists."""
        (self.directory / "pool" / package.filename).unlink()
        del self._entries[package.filename]

    def publish(self, *, valid_seconds: float = 7 * DAY_SECONDS, date: float | None = None) -> None:
        """Write the lists, signed by the repository's key, and the key itself as ``gpgkey``."""
        for lists, text in self._lists().items():
            path = self.releases / lists
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, text.encode())
        now = time.time() if date is None else date
        text = self._release(now, now + valid_seconds)
        _write(self.releases / "Release", text.encode())
        self.sign_with(self.key)
        _write(self.directory / "gpgkey", self.key.public().encode())

    # -- what can go wrong ------------------------------------------------------------------------------

    def tamper(self, package: Deb) -> None:
        """Change one byte of a package, whose size stays as the list says."""
        path = self.directory / "pool" / package.filename
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        _write(path, bytes(data))

    def sign_with(self, key: SigningKey) -> None:
        """Sign the Release file with this key; the repository's own is what `publish` takes."""
        text = (self.releases / "Release").read_text()
        _write(self.releases / "InRelease", key.clearsign(text))
        _write(self.releases / "Release.gpg", key.detached(text))

    def expire(self) -> None:
        """As if nobody had looked after the repository for a month."""
        self.publish(date=time.time() - 30 * DAY_SECONDS)

    def drop_signature(self) -> None:
        """A Release file that nobody has signed."""
        for name in ("InRelease", "Release.gpg"):
            (self.releases / name).unlink(missing_ok=True)

    def break_list(self) -> None:
        """A package list that is not the signed one."""
        for name in self._lists():
            path = self.releases / name
            _write(path, path.read_bytes().replace(b"Maintainer: N", b"Maintainer: M"))

    @property
    def releases(self) -> Path:
        """Where the Release file lies."""
        return self.directory if self.suite == "/" else self.directory / "dists" / self.suite

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing runs; the directory is its maker's."""

    # -- how it is made ---------------------------------------------------------------------------------

    def _build(self, package: Deb) -> Path:
        target = self.directory / "pool" / package.filename
        with tempfile.TemporaryDirectory(prefix="deb-") as name:
            tree = Path(name) / "tree"
            control = {"control": package.control(), **package.scripts}
            for path, text in {f"DEBIAN/{key}": value for key, value in control.items()}.items():
                executable = path.rpartition("/")[2] in ("preinst", "postinst", "prerm", "postrm", "config")
                _place(tree / path, text, 0o755 if executable else 0o644)
            for path, text in package.files.items():
                _place(tree / path.lstrip("/"), text, 0o755 if isinstance(text, Script) else 0o644)
            _run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", str(tree), str(target)])
        return target

    def _entry(self, package: Deb, path: Path) -> str:
        data = path.read_bytes()
        sums = {"MD5sum": hashlib.md5(data, usedforsecurity=False), "SHA256": hashlib.sha256(data)}
        lines = [f"Filename: pool/{path.name}", f"Size: {len(data)}"]
        lines += [f"{name}: {digest.hexdigest()}" for name, digest in sums.items()]
        return package.control() + "\n".join(lines) + "\n"

    def _lists(self) -> dict[str, str]:
        """Path under `releases` -> the packages of one architecture, or of all in a flat repository."""
        if self.suite == "/":
            return {"Packages": "\n".join(self._entries.values())}
        return {
            f"{self.component}/binary-{architecture}/Packages": "\n".join(
                entry
                for name, entry in self._entries.items()
                if name.endswith((f"_{architecture}.deb", "_all.deb"))
            )
            for architecture in self.architectures
        }

    def _release(self, date: float, until: float) -> str:
        fields = {
            "Origin": self.origin,
            "Label": self.origin,
            **({} if self.suite == "/" else {"Suite": self.suite, "Codename": self.suite}),
            **({} if self.suite == "/" else {"Components": self.component}),
            "Architectures": " ".join(self.architectures),
            "Date": formatdate(date, usegmt=True).replace("GMT", "UTC"),
            "Valid-Until": formatdate(until, usegmt=True).replace("GMT", "UTC"),
            "Acquire-By-Hash": "no",
        }
        lines = [f"{name}: {value}" for name, value in fields.items()] + ["SHA256:"]
        for name in self._lists():
            data = (self.releases / name).read_bytes()
            lines.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}")
        return "\n".join(lines) + "\n"


def _write(path: Path, data: bytes) -> None:
    """In one step: the server reads while we write."""
    partial = path.with_name(f".{path.name}.new")
    partial.write_bytes(data)
    partial.rename(path)


def _place(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _run(argv: list[str], *, text: str = "") -> bytes:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        argv, input=text.encode(), capture_output=True, timeout=COMMAND_SECONDS, env=environment, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{argv[0]} failed with {done.returncode}: {done.stderr.decode(errors='replace')}")
    return done.stdout
