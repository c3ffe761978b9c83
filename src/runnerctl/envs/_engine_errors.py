"""What an engine's libraries say, as one line that tells a user what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from runnerctl.envs.model import EnvironmentFile, Line
from runnerctl.errors import DataError, RunnerctlError, TryAgainError, UnavailableError
from runnerctl.redact import redact

__all__ = ["channel_error", "install_error", "one_line", "unsatisfiable"]

NO_SPACE = re.compile(r"(?i)no space left|disk quota exceeded|os error (28|122)\b")
OFFLINE = re.compile(
    r"(?i)error sending request|client error \(connect\)|dns error|connection (refused|reset)|timed? ?out"
    r"|server error|\b5\d\d [A-Z]|connection closed|unexpected eof|error decoding response body"
)
HASH = re.compile(r"(?i)hash mismatch")
DENIED = re.compile(r"\b(401|403)\b")
_BOX = re.compile(r"[^\x20-\x7e]+")  # the lines of a tree
_URL = re.compile(r"(?:https?|file)://[^\s()'\"]+")
_NONE = re.compile(r"No candidates were found for (\S+) ?(.*?)\.?$", re.MULTILINE)
_VIRTUAL = re.compile(r"(__\w+)( [^,]*)?, for which no candidates were found")
MOST = 400  # characters of a reason
Versions = Callable[[str], Sequence[str]]


def one_line(text: str, most: int = MOST) -> str:
    """A library's text without secrets, on one line, cut to ``most`` characters."""
    line = " ".join(redact(text).split())
    return line if len(line) <= most else f"{line[: most - 4]} ..."


def no_space(text: str) -> TryAgainError | None:
    """The error, when the text says that the disk is full."""
    if not NO_SPACE.search(text):
        return None
    remedy = "make room, or let the store do so: runnerctl env gc"
    return TryAgainError("the disk of the store is full", remedy=remedy)


def channel_error(text: str, channels: Mapping[str, Line], where: str) -> RunnerctlError:
    """Why a channel's index could not be had. ``channels``: address -> the file's line."""
    if full := no_space(text):
        return full
    found = _URL.search(text)
    url = found[0].rstrip("/.,") if found else ""
    line = next((line for base, line in channels.items() if url.startswith(base.rstrip("/"))), None)
    place = f"{where}:{line.line}" if line else where
    shown = line.text if line else _host(url)
    if DENIED.search(text):
        remedy = "whoever runs this host gives its credential (conda_store_credentials_file)"
        return UnavailableError(f"the channel {shown} wants a credential", where=place, remedy=remedy)
    if "could not find subdir" in text or re.search(r"\b404\b", text):
        return DataError(f"there is no channel {shown}", where=place, remedy="check its name")
    reason = one_line(text.rsplit("Caused by:", 1)[-1], 160)
    remedy = "check the network and the channel's address, then try again"
    return UnavailableError(f"the channel {shown} did not answer: {reason}", where=place, remedy=remedy)


def is_spoilt(text: str) -> bool:
    """Whether what was kept of a channel's index may be the trouble: a channel that is far away is not."""
    return "304 Not Modified" in text or not (DENIED.search(text) or OFFLINE.search(text) or no_space(text))


def install_error(text: str) -> RunnerctlError:
    """Why packages could not be fetched or put into the prefix."""
    if full := no_space(text):
        return full
    file = re.search(r"failed to fetch (\S+)", text)
    name = file[1] if file else "a package"
    if HASH.search(text):
        return wrong_hash(name)
    if DENIED.search(text):
        remedy = "whoever runs this host gives its credential (conda_store_credentials_file)"
        return UnavailableError(f"{name} wants a credential", where=_host(text), remedy=remedy)
    reason = one_line(text.rsplit("Caused by:", 1)[-1], 240)
    if OFFLINE.search(text) or re.search(r"\b404\b", text):
        remedy = "try again; a channel's index may be ahead of its files"
        return UnavailableError(f"{name} could not be fetched: {reason}", remedy=remedy)
    return UnavailableError(f"{name} could not be installed: {reason}", remedy="try again")


def wrong_hash(name: str) -> UnavailableError:
    """An archive is another one than the index says."""
    what = f"{name} is not the file that the channel's index describes (sha256)"
    remedy = "nothing was installed; try again, and tell whoever runs the channel if it stays so"
    return UnavailableError(what, remedy=remedy)


def unsatisfiable(text: str, file: EnvironmentFile, *, versions: Versions) -> DataError:
    """The solver's explanation as one line with the lines of the file that it is about.

    ``versions``: the newest versions of a package that the channels have, for a hint.
    """
    if none := _NONE.search(text):
        return _nothing_fits(none[1], none[2].strip(), file, versions)
    tree = [_BOX.sub(" ", line).strip() for line in text.splitlines()]
    tree = [line.rstrip(".") for line in tree if line]
    tops = [line for line in file.specs if _mentioned(_name(line.text), text)]
    where = f"{file.where}:{tops[0].line}" if tops else file.where
    listed = " and ".join(f"{line.text} (line {line.line})" for line in tops[:4])
    if virtual := _VIRTUAL.search(text):
        what = (
            f"{listed or 'a dependency'} needs {virtual[1]}{virtual[2] or ''}, which this host does not have"
        )
        return DataError(what, where=where, remedy=_virtual_remedy(virtual[1]))
    reasons = [line for line in tree if "for which no candidates were found" in line] or _reasons(tree)
    reason = one_line("; ".join(dict.fromkeys(reasons)))
    what = f"{listed or 'the dependencies'} cannot be had{' together' if len(tops) > 1 else ''}: {reason}"
    remedy = "loosen a version; a package is taken from the first channel that has it (strict priority)"
    return DataError(what, where=where, remedy=remedy)


def _nothing_fits(name: str, spec: str, file: EnvironmentFile, versions: Versions) -> DataError:
    line = next((line for line in file.specs if _name(line.text) == name.lower()), None)
    where = f"{file.where}:{line.line}" if line else file.where
    if name.startswith("__"):
        what = f"{name} {spec} is not there on this host".replace(" * ", " ")
        return DataError(what, where=where, remedy=_virtual_remedy(name))
    known = versions(name)
    if not known:
        what = f"no channel has a package {name}"
        return DataError(what, where=where, remedy="check the name and the channels")
    what = f"no {name} fits {spec}"
    return DataError(what, where=where, remedy=f"the channels have {', '.join(known)}")


def _virtual_remedy(name: str) -> str:
    if name == "__cuda":
        return "build for a GPU host with --cuda VERSION (such as 12.8), or ask for the CPU build"
    return "take a build that needs less of the host"


def _reasons(tree: Sequence[str]) -> list[str]:
    """Who requires what: ``a 1.0 would require`` and the line below it are one reason."""
    joined = [
        f"{one} {tree[number].partition(',')[0]}"
        for number, one in enumerate(tree[:-1], start=1)
        if one.endswith("would require")
    ]
    return joined or [line.rstrip(":") for line in tree if not line.startswith("Cannot solve")]


def _name(spec: str) -> str:
    match = re.match(r"\s*([A-Za-z0-9_][A-Za-z0-9_.-]*)", spec.rpartition("::")[2])
    return match[1].lower() if match else ""


def _mentioned(name: str, text: str) -> bool:
    """Whether the package stands at the root of the solver's explanation, as what was asked for does."""
    return bool(name) and re.search(rf"(?m)^([├└]─ |.*because of: ){re.escape(name)} ", text) is not None


def _host(text: str) -> str:
    found = _URL.search(text)
    parts = urlsplit(found[0]) if found else None
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path.rstrip('/.,')}" if parts else "a channel"
