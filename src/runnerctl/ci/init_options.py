"""The options of ``ci init``: what may be said, and how the workflow remembers it. Pure.

Every value ends in a workflow or in a shell's command line there, so each is held to a narrow alphabet.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

import msgspec

from runnerctl.ci.init_model import Options
from runnerctl.errors import UsageError

__all__ = ["DEFAULT_LABELS", "checked", "command_line", "from_command_line", "merged"]

DEFAULT_LABELS = ("self-hosted", "linux", "x64", "gpu")
# Remembered in the workflow's own head; what the coverage settings hold is not said twice.
_REMEMBERED = {
    "branch": "--branch",
    "gpu_labels": "--gpu-labels",
    "integration": "--integration",
    "cuda": "--cuda",
    "system_packages": "--system-package",
    "environment_file": "--environment-file",
    "forks": "--forks",
    "keep": "--keep",
}
_LISTS = ("gpu_labels", "integration", "source_packages", "system_packages", "keep")
_PATH = r"\w[\w-]*(?:[./]+[\w-]+)*"
_FORMS: Mapping[str, tuple[str, str]] = {
    "branch": (r"\w[\w.-]*(?:/\w[\w.-]*)*", "give a branch such as main"),
    "gpu_labels": (r"[A-Za-z0-9][\w.-]*", "give labels such as self-hosted,linux,x64,gpu"),
    "integration": (_PATH, "give a path in the repository, of letters, digits, '_', '-', '.' and '/'"),
    "source_packages": (r"[^\W\d]\w*(?:\.[^\W\d]\w*)*", "give the name that `import` takes"),
    "threshold": (r"(?:100|[0-9]{1,2})(?:\.0+)?|[0-9]{1,2}\.[0-9]{1,2}", "give percent, from 0 to 100"),
    "cuda": (r"auto|none|[0-9]{1,2}\.[0-9]{1,2}", "give auto, none or a version such as 12.8"),
    "system_packages": (r"[a-z0-9][a-z0-9+.-]+", "give a package of Ubuntu such as libgl1"),
    "environment_file": (_PATH, "give a path in the repository such as environment.yml"),
    "forks": (r"hold|allow", "give hold or allow"),
    "keep": (r"\.?" + _PATH, "give a path in the repository such as environment.yml"),
}
_GONE = {"libgl1-mesa-glx": "libgl1"}  # packages that current Ubuntu no longer has


def checked(options: Options) -> Options:
    """``options`` when each value can be used. Raises UsageError for the first that cannot."""
    for field, (form, remedy) in _FORMS.items():
        value = getattr(options, field)
        values = () if value is None else value if isinstance(value, tuple) else (value,)
        for each in values:
            if not re.fullmatch(form, each, re.ASCII) or ".." in each:
                raise UsageError(f"{each!r} cannot be used", where=_option(field), remedy=remedy)
    for name in options.system_packages or ():
        if name in _GONE:
            raise UsageError(
                f"{name} is gone from Ubuntu", where=_option("system_packages"), remedy=f"give {_GONE[name]}"
            )
    if options.gpu_labels is not None and not options.gpu_labels:
        raise UsageError("no label is given", where="--gpu-labels", remedy=_FORMS["gpu_labels"][1])
    return options


def _option(field: str) -> str:
    special = {"source_packages": "--source-package", "system_packages": "--system-package"}
    return special.get(field, "--" + field.replace("_", "-"))


def command_line(options: Options) -> str:
    """The command that says what is to be remembered."""
    words = ["runnerctl", "ci", "init"]
    for field, option in _REMEMBERED.items():
        value = getattr(options, field)
        if field == "gpu_labels" and value:
            words += [option, ",".join(value)]
        elif value is not None:
            values = [value] if isinstance(value, str) else value
            words += [word for each in values for word in (option, each)]
    return shlex.join(words)


def from_command_line(text: str) -> Options:
    """What `command_line` wrote; other words are left out. Raises UsageError for a bad value."""
    try:
        words = shlex.split(text)[3:]
    except ValueError:
        return Options()
    fields = {option: field for field, option in _REMEMBERED.items()}
    found: dict[str, Any] = {}
    for option, value in zip(words[::2], words[1::2], strict=False):
        field = fields.get(option)
        if field == "gpu_labels":
            found[field] = tuple(value.split(","))
        elif field in _LISTS:
            found[field] = (*found.get(field, ()), value)
        elif field is not None:
            found[field] = value
    return checked(Options(**found))


def merged(said: Options, remembered: Options) -> Options:
    """What is said now, and for the rest what was said before."""
    old = msgspec.structs.asdict(remembered)
    new = {key: value for key, value in msgspec.structs.asdict(said).items() if value is not None}
    return Options(**{**old, **new})
