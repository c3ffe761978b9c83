"""Read ``/etc/runnerctl/host.json``: what this host should be, as inventory said when it was provisioned."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from runnerctl.core.rules import broken_rules
from runnerctl.core.spec import SCHEMA, SECTIONS, HostSpec
from runnerctl.errors import AccessError, DataError

__all__ = [
    "HOST_FILE",
    "HostFileProblem",
    "check_host_file",
    "load_host_spec",
    "parse_host_spec",
    "read_host_file",
]

HOST_FILE = Path("/etc/runnerctl/host.json")
LARGEST_BYTES = 4 * 1024 * 1024  # far above any real spec: a device or a log given by mistake is refused
WRITE_AGAIN = "write it again: ansible-playbook provision.yml --tags runnerctl"


@dataclass(frozen=True)
class HostFileProblem:
    """One thing wrong with a host file. ``line`` counts from 1; ``id`` names the rule."""

    id: str
    line: int
    message: str
    remedy: str


def load_host_spec(path: Path = HOST_FILE) -> HostSpec | None:
    """The spec kept in ``path``, or None when there is no such file (the host was never provisioned).

    Raises DataError when it is cut short, of a newer schema or otherwise no spec; AccessError when it may not
    be read.
    """
    if path.is_fifo():  # to read it is to wait for a writer
        raise DataError("is a named pipe", where=str(path), remedy=WRITE_AGAIN)
    content = read_host_file(path)
    return None if content is None else parse_host_spec(content, where=str(path))


def parse_host_spec(content: bytes, *, where: str) -> HostSpec:
    """The spec in ``content``. Raises DataError that names ``where`` and what is wrong.

    The rules that types cannot say are left to ``runnerctl spec validate``: a host must stay readable when
    they change.
    """
    built = _build(content)
    if isinstance(built, HostFileProblem):
        raise DataError(built.message, where=where, remedy=built.remedy)
    return built


def check_host_file(content: bytes) -> tuple[HostSpec | None, list[HostFileProblem]]:
    """The spec in ``content`` and every problem found; the spec is None when it cannot be built."""
    built = _build(content)
    return (None, [built]) if isinstance(built, HostFileProblem) else (built, _rule_problems(content, built))


def _build(content: bytes) -> HostSpec | HostFileProblem:
    try:
        data = msgspec.json.decode(content.decode())
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        return HostFileProblem("spec.json", line, f"is no JSON: it is not UTF-8 at line {line}", WRITE_AGAIN)
    except msgspec.DecodeError as error:
        return _broken(content, str(error))
    if not isinstance(data, dict) or "schema" not in data:
        message = "is JSON, but no host spec: it has no schema"
        return HostFileProblem("spec.schema", 1, message, WRITE_AGAIN)
    if data["schema"] != SCHEMA:
        return _other_schema(content, data["schema"])
    try:
        return msgspec.convert(data, HostSpec)
    except msgspec.ValidationError as error:
        return _misfit(content, str(error))


def read_host_file(path: Path) -> bytes | None:
    """The bytes of a host file, or None when there is none. Raises DataError or AccessError."""
    try:
        with path.open("rb") as stream:
            content = stream.read(LARGEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise AccessError("may not be read", where=str(path), remedy="run this as root") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), remedy="give a file") from None
    if len(content) > LARGEST_BYTES:
        raise DataError("is too large to be a host spec", where=str(path), remedy=WRITE_AGAIN)
    return content


def _broken(content: bytes, reason: str) -> HostFileProblem:
    if not content.strip():
        return HostFileProblem("spec.json", 1, "is empty", WRITE_AGAIN)
    if "truncated" in reason:
        line = content.rstrip().count(b"\n") + 1
        return HostFileProblem("spec.json", line, f"is cut short at line {line}", WRITE_AGAIN)
    at = re.search(r"\(byte (\d+)\)", reason)
    line = content[: int(at[1])].count(b"\n") + 1 if at else 1
    text = re.sub(r" \(byte \d+\)", "", reason).removeprefix("JSON is malformed: ")
    return HostFileProblem("spec.json", line, f"is no JSON: {text} at line {line}", WRITE_AGAIN)


def _other_schema(content: bytes, schema: object) -> HostFileProblem:
    from runnerctl import __version__

    line = _line_of(content, "schema")
    found = re.fullmatch(r"runnerctl\.host/(\d+)", schema) if isinstance(schema, str) else None
    if found is None:
        return HostFileProblem("spec.schema", line, f"has the schema {schema!r}, not {SCHEMA!r}", WRITE_AGAIN)
    age = "newer" if int(found[1]) > int(SCHEMA.rpartition("/")[2]) else "older"
    remedy = "upgrade runnerctl on this host" if age == "newer" else WRITE_AGAIN
    message = f"has the {age} schema {schema}; runnerctl {__version__} reads {SCHEMA}"
    return HostFileProblem("spec.schema", line, message, remedy)


def _misfit(content: bytes, reason: str) -> HostFileProblem:
    """A field that is unknown or of the wrong type; ``reason`` is msgspec's text with the path at its end."""
    text, _, path = reason.partition(" - at ")
    path = path.strip("`").removeprefix("$").strip(".")
    unknown = re.search(r"unknown field `(.*)`", text)
    if unknown:
        name = f"{path}.{unknown[1]}".strip(".")
        return HostFileProblem(
            "spec.field", _line_of(content, unknown[1]), f"has an unknown field {name!r}", WRITE_AGAIN
        )
    last = (re.findall(r"[A-Za-z_]\w*", path) or [""])[-1]
    message = f"{path or 'the content'}: {text[:1].lower()}{text[1:]}"
    return HostFileProblem("spec.value", _line_of(content, last), message, WRITE_AGAIN)


def _rule_problems(content: bytes, spec: HostSpec) -> list[HostFileProblem]:
    """What the rules of the spec say about one that somebody may have edited by hand."""
    return [
        HostFileProblem(
            "spec.rule",
            _line_of(content, _field_of(problem.variable)),
            f"{problem.variable} {problem.message}",
            problem.remedy,
        )
        for problem in broken_rules(spec)
    ]


def _field_of(variable: str) -> str:
    """The JSON key that holds a variable such as ``github_runner_slots[0].url``."""
    name = re.split(r"[.\[]", variable)[0]
    section = next((section for section in SECTIONS if name.startswith(f"{section}_")), "")
    return name.removeprefix(f"{section}_")


def _line_of(content: bytes, key: str) -> int:
    """The line on which a key first stands, or 1."""
    at = content.find(f'"{key}"'.encode()) if key else -1
    return content[:at].count(b"\n") + 1 if at >= 0 else 1
