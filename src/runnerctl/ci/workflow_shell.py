"""The commands of a ``run:`` script, as far as a reader can tell without running a shell. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

import msgspec

__all__ = ["Command", "commands"]

_EXPRESSION = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_PYTHON = re.compile(r"python(3(\.\d+)?)?$")
_PUNCTUATION = frozenset("();|&")
_REDIRECTION = re.compile(r"\d*>&\d|&>")
_KEYWORDS = frozenset({"if", "then", "else", "elif", "do", "while", "until", "!"})
_PLAIN_WRAPPERS = frozenset(
    {"env", "time", "nice", "exec", "command", "xvfb-run", "stdbuf", "nohup", "setsid"}
)
_RUNNERS = frozenset({"conda", "mamba", "micromamba", "uv", "poetry", "pdm", "hatch", "pixi"})
_WITH_VALUE = frozenset({"-n", "--name", "-p", "--prefix", "-u", "--user", "-s", "--signal", "-k", "--with"})
_MAX_COMMANDS = 2000


class Command(msgspec.Struct, frozen=True):
    """One simple command. ``line`` counts from zero within the script; ``words[0]`` is the program itself.

    ``via`` names what runs it (``sudo``, ``conda``, ``coverage``); ``guarded``: its failure is caught.
    """

    line: int
    words: tuple[str, ...]
    via: tuple[str, ...] = ()
    guarded: bool = False

    @property
    def program(self) -> str:
        """The program's name without its folder."""
        return self.words[0].rsplit("/", 1)[-1] if self.words else ""

    @property
    def arguments(self) -> tuple[str, ...]:
        """All words but the first."""
        return self.words[1:]

    def value(self, *names: str) -> str | None:
        """The last value of an option: ``--name X``, ``--name=X``, and for a short one also ``-nX``."""
        found = None
        for at, word in enumerate(self.words):
            for name in names:
                if word == name:
                    found = self.words[at + 1] if at + 1 < len(self.words) else ""
                elif name.startswith("--") and word.startswith(name + "="):
                    found = word[len(name) + 1 :]
                elif len(name) == 2 and not word.startswith("--") and word.startswith(name):
                    found = word[2:].removeprefix("=")
        return found

    def has(self, *options: str) -> bool:
        """Whether one of the options is given, with or without a value."""
        return any(
            word == option or word.startswith(option + "=") for word in self.words for option in options
        )


def commands(script: str) -> tuple[Command, ...]:
    """The simple commands of a shell script, in order; what cannot be read is split at spaces."""
    found: list[Command] = []
    for number, line in _logical_lines(script):
        for words, guarded in _simple(line):
            found += _unwrapped(Command(number, tuple(words), guarded=guarded))
            if len(found) >= _MAX_COMMANDS:
                return tuple(found)
    return tuple(found)


def _logical_lines(script: str) -> Iterator[tuple[int, str]]:
    """Lines with their continuations joined, without the bodies of here documents."""
    held, start, until = "", 0, ""
    for number, line in enumerate(script.splitlines()):
        if until:
            until = "" if line.strip() == until else until
            continue
        start = number if not held else start
        if line.endswith("\\") and not line.endswith("\\\\"):
            held += line[:-1] + " "
            continue
        whole, held = held + line, ""
        heredoc = _HEREDOC.search(whole)
        until = heredoc[2] if heredoc else ""
        yield start, whole
    if held:
        yield start, held


def _simple(line: str) -> Iterator[tuple[list[str], bool]]:
    """Words of each command of a line, and whether its failure is caught by ``||`` or a condition."""
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\x01{len(kept) - 1}\x02"

    masked = _EXPRESSION.sub(keep, line)
    words: list[str] = []
    condition = False
    for word in [*_split(masked), ";"]:
        if word not in "{}" and not _PUNCTUATION.issuperset(word):
            words.append(re.sub("\x01(\\d+)\x02", lambda match: kept[int(match[1])], word))
            continue
        while words and words[0] in _KEYWORDS:
            condition = words[0] not in ("then", "else", "do")
            words = words[1:]
        if words:
            yield words, condition or word == "||"
        words, condition = [], False


def _split(line: str) -> list[str]:
    plain = _REDIRECTION.sub(" > ", line)
    try:
        lexer = shlex.shlex(plain, posix=True, punctuation_chars="();|&")
        lexer.whitespace_split = True
        lexer.commenters = ""  # it would take the # in a word for one, too
        words = list(lexer)
    except ValueError:  # a quote that closes on a later line, or one in a comment
        words = plain.split()
    comment = next((at for at, word in enumerate(words) if word.startswith("#")), len(words))
    return words[:comment]


def _unwrapped(command: Command) -> Iterator[Command]:
    """The command itself, without what only runs it. ``coverage run -m pytest`` gives both."""
    words, via = list(command.words), list(command.via)
    for _ in range(8):
        before = len(words)
        words = _peeled(words, via)
        if not words or len(words) == before:
            break
    if not words:
        return
    yield Command(command.line, tuple(words), tuple(via), command.guarded)
    if words[0] == "coverage" and words[1:2] == ["run"] and "-m" in words:
        inner = words[words.index("-m") + 1 :]
        if inner:
            yield Command(command.line, tuple(inner), (*via, "coverage"), command.guarded)


def _peeled(words: list[str], via: list[str]) -> list[str]:
    first = words[0].rsplit("/", 1)[-1]
    if _ASSIGNMENT.match(words[0]):
        return words[1:]
    if first == "sudo":
        via.append("sudo")
        return _after_options(words[1:])
    if first in _PLAIN_WRAPPERS:
        return _after_options(words[1:]) or words
    if first == "timeout":
        return _after_options(words[1:])[1:]
    if first in _RUNNERS and words[1:2] == ["run"]:
        via.append(first)
        return _after_options(words[2:])
    if first == "runnerctl" and words[1:3] == ["env", "exec"] and "--" in words:
        via.append("runnerctl")
        return words[words.index("--") + 1 :]
    if _PYTHON.match(first) and "-m" in words[1:3]:
        return words[words.index("-m") + 1 :]
    return words


def _after_options(words: Sequence[str]) -> list[str]:
    rest = list(words)
    while rest and rest[0].startswith("-"):
        skip = 2 if rest[0] in _WITH_VALUE else 1
        if rest[0] == "--":
            return rest[1:]
        rest = rest[skip:]
    return rest
