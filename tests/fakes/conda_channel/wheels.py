"""A wheel becomes a conda package: noarch for pure Python, else one for this platform and this Python."""

from __future__ import annotations

import configparser
import re
import zipfile
from collections.abc import Mapping, Sequence
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.fakes.conda_channel.archive import PLACEHOLDER, CondaPackage, Entry, Program, Script
from tests.fakes.conda_channel.interpreter import PYTHON

__all__ = ["from_wheel"]

NOT_CARRIED = ("RECORD", "direct_url.json", "REQUESTED")
COMMAND = """#!{python}
import sys

from {module} import {name}

if __name__ == "__main__":
    sys.exit({call}())
"""


def from_wheel(wheel: Path) -> CondaPackage:
    """The package that a recipe would make of this wheel: same files, its dependencies, its commands."""
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    (meta,) = (name for name in contents if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
    info = meta.removesuffix("/METADATA")
    metadata = Parser().parsestr(contents[meta].decode("utf-8"))
    pure = b"Root-Is-Purelib: true" in contents[f"{info}/WHEEL"]
    site = "site-packages" if pure else f"lib/{PYTHON}/site-packages"
    files = _files(contents, site, pure=pure)
    files[f"{site}/{info}/INSTALLER"] = "conda\n"
    points = _entry_points(contents.get(f"{info}/entry_points.txt", b"").decode("utf-8"))
    if not pure:
        files |= {f"bin/{point.split(' = ')[0]}": _command(point) for point in points}
    return CondaPackage(
        canonicalize_name(metadata["Name"]),
        metadata["Version"],
        build="pyhd_0" if pure else f"{PYTHON.replace('thon', '').replace('.', '')}_0",
        depends=_depends(metadata.get_all("Requires-Dist") or [], metadata["Requires-Python"], pure=pure),
        files=files,
        noarch="python" if pure else None,
        entry_points=points if pure else (),
    )


def _files(contents: Mapping[str, bytes], site: str, *, pure: bool) -> dict[str, Entry]:
    files: dict[str, Entry] = {}
    for name, data in contents.items():
        place = re.fullmatch(r"[^/]+\.data/(\w+)/(.+)", name)
        if place is None or place[1] in ("purelib", "platlib"):
            inside = place[2] if place else name
            if not re.fullmatch(rf"[^/]+\.dist-info/({'|'.join(NOT_CARRIED)})", inside):
                files[f"{site}/{inside}"] = data
        elif place[1] == "scripts":
            files[f"{'python-scripts' if pure else 'bin'}/{place[2]}"] = Program(_with_python(data))
        elif place[1] == "data":
            files[place[2]] = data
    return files


def _with_python(script: bytes) -> bytes:
    return re.sub(rb"\A#!python[w]?(?=\s)", f"#!{PLACEHOLDER}/bin/python".encode(), script)


def _entry_points(text: str) -> list[str]:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # as every reader of this file does
    parser.read_string(text)
    if not parser.has_section("console_scripts"):
        return []
    points = parser.items("console_scripts")
    return [f"{name} = {point.split(' [')[0].strip()}" for name, point in points]


def _command(point: str) -> Script:
    module, _, call = point.split(" = ")[1].partition(":")
    python = f"{PLACEHOLDER}/bin/python"
    return Script(COMMAND.format(python=python, module=module, name=call.split(".")[0], call=call))


def _depends(requires: Sequence[str], python: str | None, *, pure: bool) -> list[str]:
    depends = [f"python {python.replace(' ', '')}" if python else "python"]
    if not pure:
        depends.append(f"python {PYTHON.removeprefix('python')}.*")
    for text in requires:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            versions = ",".join(sorted(str(one) for one in requirement.specifier))
            depends.append(f"{canonicalize_name(requirement.name)} {versions}".strip())
    return depends
