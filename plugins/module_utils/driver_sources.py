"""The components of the host's own apt sources: which are missing, and a file of ours that adds them.

Both notations are read, one line a source and deb822; neither is edited. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .driver_work import MANAGED, Work
from .errors import HostError

__all__ = ["FILE", "Source", "add_components", "parse_lines", "parse_stanzas"]

FILE = "/etc/apt/sources.list.d/runnerctl-components.sources"
LISTS = "/var/lib/apt/lists"
DISTRIBUTIONS = ("Debian", "Ubuntu")
POCKETS = ("", "-updates", "-security", "-backports", "-backports-sloppy", "-proposed-updates", "/updates")
# Options of the one-line notation and their deb822 fields (sources.list(5)); the others do not matter here.
OPTIONS = {
    "arch": "Architectures",
    "signed-by": "Signed-By",
    "trusted": "Trusted",
    "check-valid-until": "Check-Valid-Until",
    "check-date": "Check-Date",
    "allow-insecure": "Allow-Insecure",
}
OWN_FIELDS = ("types", "uris", "suites", "components", "enabled", "x-repolib-name", "description")


@dataclass(frozen=True)
class Source:
    """One enabled source of binary packages: an address with a suite, its components and other fields."""

    uri: str
    suite: str
    components: tuple[str, ...]
    fields: tuple[tuple[str, str], ...] = ()


def add_components(work: Work, components: Sequence[str]) -> bool:
    """Have the host's own sources offer these components. Returns whether the file changed.

    Raises HostError when no source of the distribution is there to take them from.
    """
    sources = _own_sources(work)
    if not sources:
        remedy = "enable the distribution's own source on the host, or choose nvidia_driver_source: nvidia"
        raise HostError("names no enabled source of the distribution", where="/etc/apt", remedy=remedy)
    text = _text(_missing(sources, components))
    return work.write(FILE, text) if text else work.remove(FILE)


def parse_lines(text: str) -> list[Source]:
    """The notation with one line a source: ``deb [option=value ...] uri suite component ...``."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s*)?([^#]*)", line)
        words = match.group(2).split() if match else []
        if match is None or len(words) < 3:
            continue  # a comment, a source of source packages, or a flat repository without components
        options = [word.partition("=") for word in (match.group(1) or "").split()]
        fields = tuple((OPTIONS[key], value) for key, _, value in options if key in OPTIONS)
        found.append(Source(words[0], words[1], tuple(words[2:]), fields))
    return found


def parse_stanzas(text: str) -> list[Source]:
    """The notation deb822: paragraphs of fields, of which a value may go on in indented lines."""
    found = []
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = _fields(stanza)
        low = {name.lower(): value for name, value in fields}
        if "deb" not in low.get("types", "").split() or low.get("enabled", "yes").strip().lower() == "no":
            continue
        more = tuple((name, value) for name, value in fields if name.lower() not in OWN_FIELDS)
        components = tuple(low.get("components", "").split())
        found += [
            Source(uri, suite, components, more)
            for uri in low.get("uris", "").split()
            for suite in low.get("suites", "").split()
            if components
        ]
    return found


def _fields(stanza: str) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t"):
            if fields:
                name, value = fields[-1]
                fields[-1] = (name, f"{value}\n{line}")
        elif ":" in line:
            name, _, value = line.partition(":")
            fields.append((name.strip(), value.strip()))
    return fields


def _own_sources(work: Work) -> list[Source]:
    """The enabled sources that are the distribution's, without our own file."""
    folder = work.path("/etc/apt/sources.list.d")
    files = [work.path("/etc/apt/sources.list"), *(sorted(folder.iterdir()) if folder.is_dir() else [])]
    found: list[Source] = []
    for file in files:
        if file.suffix not in (".list", ".sources") or file == work.path(FILE) or not file.is_file():
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        found += parse_stanzas(text) if file.suffix == ".sources" else parse_lines(text)
    codename = _codename(work)
    return [source for source in found if _is_own(source, codename, work.path(LISTS))]


def _codename(work: Work) -> str:
    match = re.search(r"^VERSION_CODENAME=\"?([\w-]+)", work.read("/etc/os-release") or "", re.MULTILINE)
    return match.group(1) if match else ""


def _is_own(source: Source, codename: str, lists: Path) -> bool:
    """The list that was fetched says whose it is; before that, suite, key and component ``main`` do."""
    if "main" not in source.components:
        return False
    origin = _origin(source, lists)
    if origin is not None:
        return origin in DISTRIBUTIONS
    keys = dict(source.fields).get("Signed-By", "-archive-")
    names = ("stable", "oldstable", codename) if codename else ("stable", "oldstable")
    return "-archive-" in keys and source.suite in {name + tail for name in names for tail in POCKETS}


def _origin(source: Source, lists: Path) -> str | None:
    """``Origin`` of the fetched release file; its name is the address with slashes as underscores."""
    place = re.sub(r"^[a-z+]+://(?:[^@/]*@)?", "", source.uri).rstrip("/")
    stem = f"{place}/dists/{source.suite}".replace("_", "%5f").replace("/", "_")
    for name in (f"{stem}_InRelease", f"{stem}_Release"):
        try:
            text = (lists / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        match = re.search(r"^Origin:\s*(.+?)\s*$", text, re.MULTILINE)
        return match.group(1) if match else ""
    return None


def _missing(sources: Iterable[Source], components: Sequence[str]) -> list[Source]:
    """What each address and suite does not offer yet."""
    there: dict[tuple[str, str], set[str]] = {}
    first: dict[tuple[str, str], Source] = {}
    for source in sources:
        key = (source.uri.rstrip("/"), source.suite)
        there.setdefault(key, set()).update(source.components)
        first.setdefault(key, source)
    return [
        Source(source.uri, source.suite, lacking, source.fields)
        for key, source in first.items()
        if (lacking := tuple(name for name in components if name not in there[key]))
    ]


def _text(missing: Sequence[Source]) -> str:
    stanzas = []
    for source in missing:
        lines = ["Types: deb", f"URIs: {source.uri}", f"Suites: {source.suite}"]
        lines += [f"Components: {' '.join(source.components)}"]
        lines += [f"{name}: {value}".rstrip() for name, value in source.fields]
        stanzas.append("\n".join(lines) + "\n")
    return MANAGED + "\n".join(stanzas) if stanzas else ""
