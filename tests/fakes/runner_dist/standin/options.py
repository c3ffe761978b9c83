"""The command line: a command word, flags, arguments, and ``ACTIONS_RUNNER_INPUT_*``.

What the command line does not give may come from the environment; such a variable is removed from it once
read, so that no job inherits it. An unknown option is only remarked upon.
"""

from __future__ import annotations

import os

PREFIX = "ACTIONS_RUNNER_INPUT_"
_GENERIC = {"help", "version", "commit", "check"}
_FLAGS = {
    "configure": {
        "unattended",
        "replace",
        "ephemeral",
        "disableupdate",
        "no-default-labels",
        "generateserviceconfig",
        "runasservice",
    },
    "remove": {"local", "unattended"},
    "run": {"once"},
    "warmup": set(),
}
_ARGUMENTS = {
    "configure": {
        "url",
        "token",
        "pat",
        "name",
        "labels",
        "runnergroup",
        "work",
        "auth",
        "username",
        "monitorsocketaddress",
        "windowslogonaccount",
        "windowslogonpassword",
    },
    "remove": {"token", "pat"},
    "run": {"jitconfig", "startuptype"},
    "warmup": set(),
}
_ALL_FLAGS = _GENERIC.union(*_FLAGS.values())


class Options:
    """Parsed words of one command line. Names are lower case."""

    def __init__(self, words: list[str]) -> None:
        self.command = ""
        self.unknown: list[str] = []
        self._flags: set[str] = set()
        self._values: dict[str, str] = {}
        self._from_environment = _take_environment()
        self._parse(words)

    def _parse(self, words: list[str]) -> None:
        pending = ""
        for word in words:
            if word.startswith("--"):
                pending = self._option(word[2:])
            elif pending:
                self._values[pending], pending = word, ""
            elif not self.command and word.lower() in _FLAGS:
                self.command = word.lower()
            else:
                self.unknown.append(word)
        self._remark_on_strangers()

    def _option(self, name: str) -> str:
        """Note a flag, or return the argument's name whose value comes next."""
        if name.lower() in _ALL_FLAGS:
            self._flags.add(name.lower())
            return ""
        self._values[name.lower()] = ""
        return name.lower()

    def _remark_on_strangers(self) -> None:
        flags = _GENERIC | _FLAGS.get(self.command, set())
        arguments = set(_ARGUMENTS.get(self.command, set()))
        if "check" in self._flags:
            arguments |= {"url", "pat"}
        self.unknown += sorted(self._flags - flags) + sorted(set(self._values) - arguments)

    def flag(self, name: str) -> bool:
        """Whether the flag was given; from the environment only the words true and false count."""
        return name in self._flags or self._from_environment.get(name, "").lower() == "true"

    def value(self, name: str) -> str:
        """The argument's value, trimmed; empty when not given. The command line wins."""
        return (self._values.get(name) or self._from_environment.get(name, "")).strip()


def _take_environment() -> dict[str, str]:
    """Read and remove every ``ACTIONS_RUNNER_INPUT_*`` variable, whatever its case."""
    taken: dict[str, str] = {}
    for name in list(os.environ):
        if name.upper().startswith(PREFIX):
            taken[name[len(PREFIX) :].lower()] = os.environ.pop(name).strip()
    return taken
