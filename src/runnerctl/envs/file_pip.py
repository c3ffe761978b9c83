"""What the pip section may ask for, and the files it names: packages of an index, as wheels, by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from runnerctl.core.channels import has_credentials
from runnerctl.envs.model import Line
from runnerctl.errors import DataError

__all__ = ["INCLUDES", "check_files", "check_pip", "file_named", "listed_lines"]

INCLUDES = ("-r", "--requirement", "-c", "--constraint")
EDITABLE = ("-e", "--editable")
WITH_URL = ("-i", "--index-url", "--extra-index-url", "-f", "--find-links")
BARE = ("--pre", "--prefer-binary", "--no-deps")
_OPTION = re.compile(r"(--?[A-Za-z][A-Za-z-]*)(?:\s*=\s*|\s+|)(.*)", re.DOTALL)
_SHORT = re.compile(r"(-[rceif])\s*(.*)", re.DOTALL)
_VCS = re.compile(r"(?i)(^|@\s*)(git|hg|svn|bzr)\+|^git@")
_PATH = re.compile(r"^(\.|/|~|[A-Za-z]:[\\/])|\\|^file:|@\s*(file:|\.|/)")
_ARCHIVE = re.compile(r"(?i)^[^@;\s]+\.(whl|zip|tar\.gz|tgz|tar\.bz2)(\[.*\])?$")
_NAMED = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\s*(\[[A-Za-z0-9._,\s-]*\])?\s*"
    r"(@\s*https?://\S+|\(?\s*(===|[<>=!~]=|<|>)\s*[A-Za-z0-9][^;@]*\)?)?\s*(;.*)?"
)
_HASH = re.compile(r"\s--hash=sha(256|384|512):[0-9a-f]{64,128}\b")
IN_A_STEP = "install the project in a step of the job: pip install -e ."
MAX_FILES = 50
MAX_LINE, MAX_WORD = 20_000, 1000  # characters; a line may have many hashes


def check_pip(lines: tuple[Line, ...], where: str) -> None:
    """Raises DataError for the first line that cannot be had, or that would put a secret into the store."""
    for line in lines:
        fault = _fault(line.text.strip())
        if fault:
            raise DataError(fault[0], where=f"{where}:{line.line}", remedy=fault[1])


def check_files(lines: tuple[Line, ...], files: Mapping[str, str], where: str) -> tuple[str, ...]:
    """The names of all files that ``lines`` lead to, in order; each of them is checked as ``lines`` were.

    Raises DataError when one was not handed over, or says something that the pip section may not.
    """
    found: list[str] = []
    todo = [(name, f"{where}:{line.line}") for line in lines if (name := file_named(line.text))]
    while todo:
        name, said = todo.pop(0)
        if name in found:
            continue
        if name not in files:
            raise DataError(
                f"the file {name!r} is not there", where=said, remedy="commit it, or drop the line"
            )
        if len(found) >= MAX_FILES:
            raise DataError(f"leads to more than {MAX_FILES} files", where=said, remedy="name fewer")
        found.append(name)
        inside = tuple(listed_lines(files[name]))
        check_pip(inside, name)
        todo += [
            (_beside(name, inner), f"{name}:{line.line}")
            for line in inside
            if (inner := file_named(line.text))
        ]
    return tuple(found)


def _beside(name: str, inner: str) -> str:
    """pip takes the files that a file names from that file's own directory."""
    folder = name.rpartition("/")[0]
    return f"{folder}/{inner}" if folder else inner


def listed_lines(text: str) -> Iterator[Line]:
    """The lines of a requirements file that say something, joined where a backslash ends one."""
    held, began = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = re.sub(r"(^|\s)#.*$", "", raw).strip()
        began = began or number
        if line.endswith("\\"):
            held += line[:-1] + " "
            continue
        whole, held = (held + line).strip(), ""
        if whole:
            yield Line(whole, began)
        began = 0
    if held.strip():
        yield Line(held.strip(), began)


def file_named(text: str) -> str | None:
    """The file that a line names with ``-r`` or ``-c``, without ``./`` in front."""
    option, value = _split(text)
    if option not in INCLUDES:
        return None
    value = value.strip().strip("\"'")
    while value.startswith("./"):
        value = value[2:]
    return value


def _split(text: str) -> tuple[str, str]:
    """A line's option and its value; without an option both are empty or the line."""
    text = text.strip()
    match = (_OPTION if text.startswith("--") else _SHORT).fullmatch(text)
    if match is None:
        return ("", text) if not text.startswith("-") else (text.split()[0], "")
    return match[1], match[2].strip().removeprefix("=").strip()


def _fault(text: str) -> tuple[str, str] | None:
    """What is wrong with a line, and what to do."""
    if re.search(r"[\x00-\x1f\x7f]", text):
        return "a line of the pip section has a control character", "remove it"
    words = text.split()
    if len(text) > MAX_LINE or any(len(word) > MAX_WORD for word in words):
        return "a line of the pip section is too long", "write one requirement a line"
    text = " ".join(words)
    option, value = _split(text)
    if any(has_credentials(word) for word in (*words, value) if "://" in word):
        return "a line of the pip section has a credential in its address", "use an index that needs none"
    if option:
        return _option_fault(option, value)
    if _VCS.search(text):
        return f"{text[:80]!r} comes from version control: what it is changes under the same line", IN_A_STEP
    if _PATH.search(text) or _ARCHIVE.match(text):
        return f"{text[:80]!r} is a path: the store has packages of an index only", IN_A_STEP
    named = _HASH.sub("", text).strip()
    if len(named) > MAX_WORD or not _NAMED.fullmatch(named):
        return f"{text[:80]!r} is no requirement that pip knows", "write name==version"
    return None


def _option_fault(option: str, value: str) -> tuple[str, str] | None:
    if option in EDITABLE:
        return "an editable install belongs to one checkout, not to an environment that is shared", IN_A_STEP
    if option in INCLUDES:
        return _include_fault(option, value)
    if option in WITH_URL:
        if re.fullmatch(r"https?://\S+", value):
            return None
        return f"{option} needs the http address of an index", "write https://HOST/PATH"
    if option in ("--only-binary",):
        return None
    if option in BARE and not value:
        return None
    return f"the option {option} is not one that the store takes", "remove it"


def _include_fault(option: str, value: str) -> tuple[str, str] | None:
    name = value.strip("\"'")
    if not name:
        return f"{option} names no file", "name one"
    if "://" in name:
        return f"{option} names a file on a server, which may change at any time", "commit the file"
    if name.startswith(("/", "~")) or ".." in name.split("/") or "\\" in name or "$" in name:
        return f"{option} {name[:80]!r} leaves the repository", "name a file below the environment.yml"
    return None
