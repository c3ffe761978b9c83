"""Names for what is asked and for what was solved.

*input key*: the content of a request that may change a solution. *digest*: the solution itself; several keys
may have the same. *text key*: the raw request, so that a hit needs no parser.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from runnerctl.envs.model import Channel, EnvironmentFile, HostFacts, Request, Solution

__all__ = ["DIGITS", "digest", "input_key", "named_files", "text_key"]

VERSION = 1  # of everything below: another number makes every name new
DIGITS = 20  # of a name, in hex: 80 bits; prefixes stay short for the first lines of scripts
# Of what virtual packages say, this much decides: a newer kernel alone makes no new environment.
PRESENCE_ONLY = ("__linux", "__unix")
_SPEC_NAME = re.compile(r"\s*([A-Za-z0-9_][A-Za-z0-9_.-]*)(.*)", re.DOTALL)
# Every repetition that may fail is bounded: whoever writes the file must not make it slow.
_FILE = r"""["']?(?:-r|-c|--requirement|--constraint)[ \t]{0,9}=?[ \t]{0,9}["']?([^\s"'#]+)"""
_INCLUDE = re.compile(rf"^[ \t]*-[ \t]+{_FILE}", re.MULTILINE)
_INNER = re.compile(rf"^[ \t]*{_FILE}", re.MULTILINE)


def _named(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def text_key(request: Request, facts: HostFacts, policy: str) -> str:
    """64 hex digits: this very text, on such a host, under a policy (its fingerprint)."""
    return _named(
        {
            "version": VERSION,
            "text": request.text,
            "engine": request.engine,
            "lock": request.lock,
            "files": request.files,
            "facts": _facts(facts),
            "policy": policy,
        }
    )


def input_key(
    file: EnvironmentFile,
    channels: Sequence[Channel],
    facts: HostFacts,
    request: Request,
    *,
    pip_index: str | None,
) -> str:
    """Everything that decides a solution, and nothing else: no comment, order of specs, name or prefix.

    ``channels``: those of the file after aliases, in order.
    """
    return _named(
        {
            "version": VERSION,
            "engine": request.engine,
            "channels": [channel.url for channel in channels],
            "specs": sorted({normal_spec(line.text) for line in file.specs}),
            "pip": [normal_pip(line.text) for line in file.pip],
            "files": _files(request.files) if file.pip else [],
            "index": pip_index if file.pip else None,
            "variables": file.variables,
            "facts": _facts(facts),
            "lock": _sha(request.lock) if request.lock is not None else None,
        }
    )[:DIGITS]


def digest(
    solution: Solution, file: EnvironmentFile, request: Request, *, pip_index: str | None = None
) -> str:
    """What is installed: the solved packages and the pip section. The name of the environment's directory."""
    return _named(
        {
            "version": VERSION,
            "engine": request.engine,
            "packages": sorted([package.url, package.sha256 or ""] for package in solution.packages),
            "pip": [normal_pip(line.text) for line in file.pip],
            "files": _files(request.files) if file.pip else [],
            "index": pip_index if file.pip else None,
            # a lock pins what pip's section comes to, and says of packages what their own channel does not
            # have to: nobody else may find what it made
            "lock": _sha(request.lock) if request.lock is not None else None,
        }
    )[:DIGITS]


def _files(files: Mapping[str, str]) -> list[list[str]]:
    return sorted([name, _sha(text)] for name, text in files.items())


def _facts(facts: HostFacts) -> list[Any]:
    virtual = [
        [package.name] if package.name in PRESENCE_ONLY else [package.name, package.version, package.build]
        for package in sorted(facts.virtual)
    ]
    return [facts.subdir, virtual]


def normal_spec(text: str) -> str:
    """A spec in one form: its name in lower case, single blanks, none around operators."""
    channel, colons, spec = text.strip().rpartition("::")
    match = _SPEC_NAME.fullmatch(spec)
    name, rest = (match[1].lower(), match[2]) if match else ("", spec)
    apart = " " if rest[:1].isspace() else ""
    rest = re.sub(r"\s*([<>=!~,|]+)\s*", r"\1", apart + " ".join(rest.split()))
    return f"{channel}{colons}{name}{rest.rstrip()}"


def normal_pip(text: str) -> str:
    """A line of the pip section with single blanks."""
    return " ".join(text.split())


def named_files(text: str, files: Iterable[str] = ()) -> tuple[str, ...]:
    """The names that a raw ``environment.yml`` (and the raw requirement files ``files``) seem to include.

    By pattern, without a YAML parser, for whoever has to send them along: it may name too many, never too
    few of those that stand on one line. What leaves the directory is not named.
    """
    found = [*_INCLUDE.findall(text), *(name for each in files for name in _INNER.findall(each))]
    names = [name[2:] if name.startswith("./") else name for name in found]
    fine = [name for name in names if "://" not in name and not name.startswith(("/", "~"))]
    return tuple(dict.fromkeys(name for name in fine if ".." not in name.split("/")))
