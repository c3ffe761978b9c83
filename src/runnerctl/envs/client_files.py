"""The files that an ``environment.yml`` names in its pip section, found without reading YAML. Stdlib only.

What is found here goes with the first question, so that a hit is one round. It need not find everything: the
service reads the file properly and asks for what is missing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable

from runnerctl.envs.wire import MOST_FILES
from runnerctl.errors import DataError

__all__ = ["named_files", "reader", "regular_text"]

MOST_NAMED = 50
_VALUE = r"(?:-[rc]|--requirement|--constraint)(?:[ \t]*=[ \t]*|[ \t]*)([^\s'\"#=][^'\"#\n]*)"
_IN_YAML = re.compile(rf"^\s*-\s+['\"]?\s*{_VALUE}", re.MULTILINE)
_IN_LIST = re.compile(rf"^\s*{_VALUE}", re.MULTILINE)


def reader(folder: str) -> Callable[[str], str]:
    """What reads a file by the name that an ``environment.yml`` in ``folder`` gives it.

    It raises DataError for a name that leads out of ``folder``, and for what is no readable text.
    """

    def read(name: str) -> str:
        if os.path.isabs(name) or ".." in name.split("/") or "\0" in name:
            raise DataError("leads out of the directory of environment.yml", where=repr(name)[1:-1])
        return regular_text(os.path.join(folder, name), name, MOST_FILES)

    return read


def named_files(text: str, folder: str) -> dict[str, str]:
    """The content of the files that ``text`` seems to name, and of those that these name, by name.

    What is not there or cannot be read is left out: the service says so, with the line.
    """
    if "-r" not in text and "-c" not in text:
        return {}
    read = reader(folder)
    found: dict[str, str] = {}
    names = [_plain(name) for name in _IN_YAML.findall(text)]
    while names and len(found) < MOST_NAMED:
        name = names.pop(0)
        if name in found:
            continue
        try:
            found[name] = read(name)
        except DataError:
            continue
        beside = name.rpartition("/")[0]
        inner = [_plain(each) for each in _IN_LIST.findall(found[name])]
        names += [f"{beside}/{each}" if beside else each for each in inner]
    return found


def _plain(name: str) -> str:
    name = name.strip()
    while name.startswith("./"):
        name = name[2:]
    return name


def regular_text(path: str, where: str, most: int) -> str:
    """The text of a regular file. Raises DataError for anything else, and above ``most`` bytes."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a named pipe must not hold us
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise DataError("is no regular file", where=where)
            data = file.read(most + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=where) from None
    if len(data) > most:
        raise DataError(f"is larger than {most >> 10} KiB", where=where)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError("is not UTF-8", where=where, remedy="save it as UTF-8") from None
