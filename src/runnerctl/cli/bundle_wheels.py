"""Whether a folder holds all wheels that a Python version needs.

``pip download --python-version`` chooses files for that version, but judges by the Python that it runs in
which requirements apply: one that only an older Python has would be missing on the host.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import Requirement  # ansible-core needs it, too
from packaging.utils import canonicalize_name

__all__ = ["missing"]


def missing(folder: Path, root: str, *, python: str, machine: str, extras: Iterable[str] = ()) -> list[str]:
    """Requirements that ``root``, with its ``extras``, has on this Python and no wheel here meets.

    ``python``: as ``3.11``.
    """
    wheels = {_name(path): path for path in sorted(folder.glob("*.whl")) if _fits(path, python, machine)}
    seen: set[tuple[str, str]] = set()
    wanted: dict[str, str] = {}
    waiting = [(canonicalize_name(root), extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for needed in _requirements(wheels[name], extra, python, machine):
            key = canonicalize_name(needed.name)
            if key in wheels:
                waiting += [(key, each) for each in ("", *needed.extras)]
            else:
                wanted[key] = f"{needed.name}{needed.specifier}"
    return sorted(wanted.values())


def _requirements(wheel: Path, extra: str, python: str, machine: str) -> Iterator[Requirement]:
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": machine,
        "extra": extra,
    }
    for line in _lines(wheel):
        needed = Requirement(line)
        if needed.marker is None or needed.marker.evaluate(environment):
            yield needed


def _lines(wheel: Path) -> Iterable[str]:
    with zipfile.ZipFile(wheel) as archive:
        name = next(each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        text = archive.read(name).decode("utf-8", "replace")
    return HeaderParser().parsestr(text).get_all("Requires-Dist") or []


def _name(wheel: Path) -> str:
    return canonicalize_name(wheel.name.split("-")[0])


def _fits(wheel: Path, python: str, machine: str) -> bool:
    """By the tags in its name: the version, any later one with a stable ABI, or any Python 3."""
    interpreters, abi, platforms = wheel.stem.split("-")[-3:]
    if platforms != "any" and not any(each.endswith(machine) for each in platforms.split(".")):
        return False
    minor = int(python.partition(".")[2])
    for each in interpreters.split("."):
        if each == f"cp3{minor}" or each.startswith("py3"):
            return True
        if abi == "abi3" and each.startswith("cp3") and each[3:].isdigit() and int(each[3:]) <= minor:
            return True
    return False
