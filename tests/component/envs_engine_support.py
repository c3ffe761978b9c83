"""What the tests of engines share: orders, a channel, a package index of wheels made here."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runnerctl.envs.file import parse
from runnerctl.envs.model import Channel, Event, HostFacts, VirtualPackage
from runnerctl.envs.ports import Caches, Order

__all__ = ["Heard", "facts", "order", "wheel", "yml"]


def yml(channel: str, specs: Sequence[str], pip: Sequence[str] = ()) -> str:
    """An environment.yml whose specs begin at line 3."""
    lines = [f"channels: [{channel}]", "dependencies:", *(f"  - {spec}" for spec in specs)]
    return "\n".join(lines + (["  - pip:", *(f"    - {line}" for line in pip)] if pip else [])) + "\n"


def facts(**virtual: str) -> HostFacts:
    """A host with glibc 2.36 and, say, ``cuda="12.8"``."""
    both = {"glibc": "2.36", **virtual}
    return HostFacts("linux-64", tuple(VirtualPackage(f"__{name}", both[name]) for name in sorted(both)))


def order(store: Path, text: str, **more: Any) -> Order:
    """What the store would ask for this text."""
    file = parse(text)
    caches = Caches(store / "pkgs", store / "uv", store / "repodata")
    channels = tuple(Channel(line.text) for line in file.channels)
    return Order(**{"file": file, "channels": channels, "facts": facts(), "caches": caches, **more})


class Heard(list[Event]):
    """Collects events when called."""

    def __call__(self, event: Event) -> None:
        self.append(event)


def wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    requires: Sequence[str] = (),
    more: Mapping[str, str] | None = None,
    commands: Sequence[str] = (),
) -> Path:
    """Write a wheel of one module into ``folder``/simple/<name>, which a plain file server makes an index.

    ``more``: further files of the archive. ``commands``: names of further commands.
    """
    info = f"{name}-{version}.dist-info"
    metadata = [
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    files = {
        f"{name}.py": f"version = '{version}'\n",
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\n"
        + "".join(f"{command} = {name}:main\n" for command in (f"{name}-tool", *commands)),
        **(more or {}),
    }
    files[f"{info}/RECORD"] = _record(files, info)
    place = folder / "simple" / name / f"{name}-{version}-py3-none-any.whl"
    place.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(place, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return place


def _record(files: Mapping[str, str], info: str) -> str:
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        rows.append(f"{path},sha256={digest},{len(text)}")
    return "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
