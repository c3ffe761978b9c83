"""Read an ``environment.yml`` strictly: what is not understood is an error with its line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runnerctl.core.channels import channel_fault, plain_url
from runnerctl.envs.file_pip import check_pip
from runnerctl.envs.file_yaml import Source, kind_of, line_of
from runnerctl.envs.model import EnvironmentFile, Line
from runnerctl.errors import DataError

if TYPE_CHECKING:
    from yaml.nodes import MappingNode, Node

__all__ = ["REFUSED_VARIABLES", "parse", "variable_fault"]

KEYS = ("name", "prefix", "channels", "dependencies", "variables", "platforms")
NODEFAULTS = "nodefaults"
SUBDIR = re.compile(r"(linux|osx|win|noarch|emscripten|wasi|freebsd|zos)(-[a-z0-9]+)?")
# What the dynamic linker, Python, node and the runner itself obey: an environment that sets these changes
# what every later step of a job runs, git included.
REFUSED_VARIABLES = (
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LD_AUDIT",
    "PYTHONHOME",
    "PYTHONPATH",
    "NODE_OPTIONS",
    "PATH",
)
REFUSED_PREFIXES = ("GITHUB_", "RUNNER_", "ACTIONS_")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPEC = re.compile(
    r"(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)"
    r"(?P<rest>(\s*[=<>!~][^\[\]]*|\s+[^\[\]]+)?)"
    r"(?P<bracket>\[[^\[\]]*\])?\s*"
)
_VERSION = re.compile(r"[A-Za-z0-9_.,|*+!<>=~^$()?:\s-]*")
BRACKET_KEYS = ("version", "build", "build_number", "md5", "sha256")
MAX_ITEMS = 2000
MAX_NAME = 200
MAX_LINE = 500  # characters of a channel or a dependency


def parse(text: str, where: str = "environment.yml") -> EnvironmentFile:
    """The file, or a DataError that says line, reason and remedy. ``text``: at most 1 MiB.

    Raises ConfigError where PyYAML is not installed.
    """
    source = Source(text.removeprefix("\ufeff"), where)
    reader = _Reader(source)
    for key, line, value in source.pairs(source.root(), "the file"):
        reader.read(key, line, value)
    return reader.result()


def variable_fault(name: str) -> str | None:
    """Why an environment may not set a variable; None when it may."""
    if _VARIABLE.fullmatch(name) is None:
        return "is no name of a variable"
    if name.upper() in REFUSED_VARIABLES or name.upper().startswith(REFUSED_PREFIXES):
        return "decides what every later step of a job runs, so an environment may not set it"
    return None


class _Reader:
    """The fields as they are read."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.fields: dict[str, Any] = {"where": source.where}
        self.notes: list[str] = []

    def read(self, key: str, line: int, value: Node) -> None:
        """One key of the file."""
        if key not in KEYS:
            near = difflib.get_close_matches(key.lower(), KEYS, 1)
            known = f"the keys are {', '.join(KEYS)}"
            remedy = f"did you mean {near[0]!r}? {known}" if near else known
            raise self.source.error(line, f"unknown key {key[:80]!r}", remedy)
        readers: dict[str, Callable[[Node], None]] = {
            "name": self._name,
            "prefix": self._prefix,
            "channels": self._channels,
            "dependencies": self._dependencies,
            "variables": self._variables,
            "platforms": self._platforms,
        }
        readers[key](value)

    def result(self) -> EnvironmentFile:
        """The whole file, once every key was read."""
        if "specs" not in self.fields:
            raise self.source.error(1, "has no dependencies", "list what the environment needs")
        if not self.fields.get("channels"):
            raise self.source.error(
                self.fields.pop("channels_line", 1),
                "names no channel, so that each host would take its own",
                "write channels: [conda-forge]",
            )
        self.fields.pop("channels_line", None)
        self._prefixes()
        return EnvironmentFile(**self.fields, notes=tuple(self.notes))

    def _prefixes(self) -> None:
        listed = {plain_url(line.text) for line in self.fields["channels"]}
        for spec in self.fields["specs"]:
            channel, colons, _ = spec.text.partition("::")
            if colons and not {plain_url(channel), plain_url(channel).rpartition("/")[0]} & listed:
                what = f"the channel {channel[:80]!r} of a dependency is not listed"
                raise self.source.error(spec.line, what, "add it to channels")

    def _name(self, node: Node) -> None:
        if kind_of(node) != "empty":
            name = self.source.plain_of(node, "the name")
            if len(name) > MAX_NAME or not name.isprintable():
                raise self.source.error(line_of(node), "the name is no name", "write one short word")
            self.fields["name"] = name

    def _prefix(self, node: Node) -> None:
        self.source.plain_of(node, "the prefix")
        self.notes.append(f"line {line_of(node)}: prefix is passed over, the store has a place of its own")

    def _channels(self, node: Node) -> None:
        self.fields["channels_line"] = line_of(node)
        found: list[Line] = []
        for item in self._items(node, "channels", "a channel"):
            if item.text == NODEFAULTS:
                continue
            if len(item.text) > MAX_LINE:
                raise self.source.error(item.line, "a channel is too long", "write a name or a URL")
            fault = channel_fault(item.text)
            if fault:
                raise self.source.error(item.line, fault[0], fault[1])
            if plain_url(item.text) in [plain_url(each.text) for each in found]:
                self.notes.append(f"line {item.line}: {item.text} stands there twice")
                continue
            found.append(item)
        self.fields["channels"] = tuple(found)

    def _items(self, node: Node, what: str, each: str) -> list[Line]:
        items = self.source.sequence(node, what).value
        if len(items) > MAX_ITEMS:
            raise self.source.error(line_of(node), f"{what} has more than {MAX_ITEMS} items", "list fewer")
        return [Line(self.source.text_of(item, each).strip(), line_of(item)) for item in items]

    def _platforms(self, node: Node) -> None:
        items = self._items(node, "platforms", "a platform")
        for item in items:
            if SUBDIR.fullmatch(item.text) is None:
                what = f"{item.text[:40]!r} is no platform"
                raise self.source.error(item.line, what, "write linux-64, linux-aarch64 or the like")
        self.fields["platforms"] = tuple(item.text for item in items)

    def _variables(self, node: Node) -> None:
        if kind_of(node) == "empty":
            return
        found: dict[str, str] = {}
        for name, line, value in self.source.pairs(self.source.mapping(node, "variables"), "variables"):
            fault = variable_fault(name)
            if fault:
                raise self.source.error(line, f"the variable {name[:80]!r} {fault}", "remove it")
            found[name] = self.source.plain_of(value, f"the variable {name}")
            if "\0" in found[name]:
                what = f"the variable {name} has a null character"
                raise self.source.error(line_of(value), what, "no program could be given it: remove it")
        self.fields["variables"] = found

    def _dependencies(self, node: Node) -> None:
        specs: list[Line] = []
        items = self.source.sequence(node, "dependencies").value
        if len(items) > MAX_ITEMS:
            raise self.source.error(line_of(node), f"has more than {MAX_ITEMS} dependencies", "list fewer")
        for item in items:
            if kind_of(item) == "a mapping":
                self._section(item)
                continue
            line = Line(self.source.text_of(item, "a dependency").strip(), line_of(item))
            self._spec(line)
            specs.append(line)
        if not specs:
            raise self.source.error(line_of(node), "dependencies is empty", "list python and what you need")
        self.fields["specs"] = tuple(specs)

    def _section(self, node: MappingNode) -> None:
        for key, line, value in self.source.pairs(node, "a dependency"):
            if key.startswith("sel("):
                what, remedy = (
                    f"{key!r} selects by platform, which conda does not know",
                    "write a file a platform",
                )
                raise self.source.error(line, what, remedy)
            if key != "pip":
                said = f"{key}={value.value}" if kind_of(value) in ("a string", "a number") else key
                what = f"the dependency {key[:80]!r} is written as a mapping"
                raise self.source.error(line, what, f"write `- {said[:80]}`; only pip has a list of its own")
            if "pip" in self.fields:
                raise self.source.error(line, "a second pip section", "keep one")
            lines = tuple(self._items(value, "pip", "a line of the pip section"))
            check_pip(lines, self.source.where)
            self.fields["pip"] = lines

    def _spec(self, line: Line) -> None:
        fault = _spec_fault(line.text)
        if fault:
            raise self.source.error(line.line, fault[0], fault[1])


def _spec_fault(text: str) -> tuple[str, str] | None:
    """What is wrong with a dependency, and what to do."""
    if not text:
        return "a dependency is empty", "write a package's name"
    shown = text[:80]
    if len(text) > MAX_LINE:
        return f"{shown!r}... is too long", "write one package a line"
    if re.search(r"[^\x20-\x7e]", text):
        return f"{shown!r} has a character that no package has", "write plain ASCII on one line"
    if "://" in text.rpartition("::")[2] or text.startswith((".", "/", "~")):
        return "a dependency is an address or a path", "name a package of a listed channel"
    if text.startswith("-"):
        return f"{shown!r} is an option, not a package", "list it below `- pip:` if it is pip's"
    channel, colons, spec = text.rpartition("::")
    if colons and (fault := channel_fault(channel)):
        return fault
    match = _SPEC.fullmatch(spec)
    if match is None or _VERSION.fullmatch(match["rest"]) is None:
        return f"{shown!r} is no package and version", "write name, name=1.2 or name>=1.2,<2"
    return _bracket_fault(match["bracket"] or "", shown)


def _bracket_fault(bracket: str, shown: str) -> tuple[str, str] | None:
    inside = re.sub(r"'[^']*'|\"[^\"]*\"", "", bracket.strip("[]"))
    for part in filter(None, (part.strip() for part in inside.split(","))):
        key = part.partition("=")[0].strip()
        if key not in BRACKET_KEYS:
            return (
                f"{shown!r} asks by {key!r}",
                f"ask by {', '.join(BRACKET_KEYS)}; name channels in channels",
            )
    return None


def refused(where: str, line: int, what: str, remedy: str) -> DataError:
    """An error about a line of a file that was read already."""
    return DataError(what, where=f"{where}:{line}", remedy=remedy)
