"""Arguments and options that the commands about environments share."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from runnerctl.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from runnerctl.cli.env_shown import Asked

__all__ = [
    "CudaOption",
    "EngineOption",
    "FileArgument",
    "GithubOption",
    "LayerOption",
    "LockOption",
    "RefreshOption",
    "StoreOption",
    "asked",
    "bytes_given",
    "days_given",
]

Engine = Literal["rattler", "conda", "mamba"]
DAY = 86400.0
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)

FileArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="FILE", help="The environment's file. Default: environment.yml.", show_default=False
    ),
]
CudaOption = Annotated[
    str,
    typer.Option(
        "--cuda", metavar="VERSION", help="CUDA to solve for: auto (what the host has), none, or 12.8."
    ),
]
EngineOption = Annotated[
    Engine,
    typer.Option(
        "--engine", help="What solves and installs; conda and mamba must be on the host, and are unproved."
    ),
]
LockOption = Annotated[
    str | None,
    typer.Option(
        "--lock",
        metavar="LOCKFILE",
        help="Take exactly these packages: a file of runnerctl env lock.",
        show_default=False,
    ),
]
RefreshOption = Annotated[
    str | None,
    typer.Option(
        "--refresh",
        metavar="DAYS",
        help="Solve again when the last solve is older. Default: never.",
        show_default=False,
    ),
]
LayerOption = Annotated[
    str,
    typer.Option(
        "--layer",
        metavar="PATH",
        help="A writable layer over the environment: auto (in a job: in RUNNER_TEMP), none, or where.",
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="PATH",
        help="host, user, or a directory. Default: RUNNERCTL_ENV_STORE, or the host's, or the user's own.",
        show_default=False,
    ),
]
GithubOption = Annotated[
    bool, typer.Option("--github", help="Activate it for the later steps: GITHUB_ENV and GITHUB_PATH.")
]


def asked(file: str | None, *, refresh: str | None = None, **given: Any) -> Asked:
    """What the options ask for. Raises UsageError."""
    from runnerctl.cli.env_shown import Asked, find_file

    seconds = days_given(refresh, "--refresh")
    return Asked(find_file(file), refresh_seconds=None if seconds is None else int(seconds), **given)


def days_given(text: str | None, option: str) -> float | None:
    """Days as seconds; ``7``, ``7d`` and ``12h`` are understood. Raises UsageError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,5}(?:\.\d{1,3})?)\s*([dh]?)", text)
    if found is None:
        raise UsageError(f"is {text!r}", where=option, remedy="give days, such as 7, or hours, such as 12h")
    return float(found[1]) * (DAY / 24 if found[2] == "h" else DAY)


def bytes_given(text: str | None, option: str, place: str) -> int | None:
    """``200GiB``, or ``20%`` of the file system that holds ``place``. Raises UsageError, UnavailableError."""
    if text is None:
        return None
    share = re.fullmatch(r"(\d{1,2}(?:\.\d+)?|100)\s*%", text)
    if share:
        return int(_file_system_bytes(place) * float(share[1]) / 100)
    found = _SIZE.fullmatch(text)
    if found is None:
        raise UsageError(f"is {text!r}", where=option, remedy="give a size, such as 200GiB, or 20%")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def _file_system_bytes(place: str) -> int:
    while not os.path.exists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    try:
        status = os.statvfs(place)
    except OSError as error:
        raise UnavailableError(f"cannot be looked at: {error.strerror}", where=place) from None
    return status.f_frsize * status.f_blocks
