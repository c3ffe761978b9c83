"""The rules of section ``container_toolkit`` that types cannot say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from runnerctl.core.repository_keys import key_problem
from runnerctl.core.sections import ContainerToolkit, Problem
from runnerctl.core.templates import check_template, has_password

__all__ = ["toolkit_problems", "upstream_key"]

VERSION = re.compile(r"\d+\.\d+\.\d+[0-9A-Za-z.~+]*(-[0-9A-Za-z.~+]+)?")
FINGERPRINT = re.compile(r"(0x)?([0-9A-Fa-f]{40}|[0-9A-Fa-f]{64})")
# NVIDIA keeps its key beside the trees: .../gpgkey for .../stable/deb/amd64 and .../stable/rpm/x86_64.
TREE = re.compile(
    r"(?P<top>.+?)(/stable|/experimental)?/(\{format\}|deb|rpm)/(\{architecture\}|[a-z0-9_]+)/?"
)


def upstream_key(repository_url: str) -> str | None:
    """Where NVIDIA's repository, or an exact copy of it, has its key; None when the layout is another."""
    match = TREE.fullmatch(repository_url)
    return f"{match['top']}/gpgkey" if match else None


def toolkit_problems(wanted: ContainerToolkit) -> list[Problem]:
    """Every rule that the section breaks."""
    problems = list(_address_problems(wanted))
    if wanted.version is not None and not VERSION.fullmatch(wanted.version):
        problems.append(Problem("container_toolkit_version", f"is {wanted.version!r}", "give it as 1.19.1"))
    for name in ("repository_key_fingerprint", "docker_repository_key_fingerprint"):
        value = getattr(wanted, name)
        parts = ["".join(part.split()) for part in (value or "").split(",")]
        if value is not None and not all(FINGERPRINT.fullmatch(part) for part in parts):
            message = f"is {value[:80]!r}"
            problems.append(Problem(f"container_toolkit_{name}", message, "give 40 hexadecimal digits"))
    if wanted.repository_key is None and upstream_key(wanted.repository_url) is None:
        message = "is needed: container_toolkit_repository_url is not laid out as NVIDIA's repository"
        remedy = (
            "give the key's address, a file or its text, or let the address end in /{format}/{architecture}"
        )
        problems.append(Problem("container_toolkit_repository_key", message, remedy))
    return problems + _config_problems(wanted.docker_config)


def _address_problems(wanted: ContainerToolkit) -> Iterator[Problem]:
    for name, placeholders in (
        ("repository_url", ("format", "architecture")),
        ("docker_repository_url", ("distribution",)),
    ):
        if wrong := check_template(getattr(wanted, name), *placeholders):
            remedy = "use " + " and ".join(f"{{{each}}}" for each in placeholders) + ", or the whole address"
            yield Problem(f"container_toolkit_{name}", wrong, remedy)
    for name in ("repository_key", "docker_repository_key"):
        if problem := key_problem(f"container_toolkit_{name}", getattr(wanted, name)):
            yield problem


def _config_problems(config: Mapping[str, Any]) -> list[Problem]:
    """dockerd gets its sockets from its unit, and what stands in host.json can be read by all."""
    where = "container_toolkit_docker_config"
    problems = []
    if "hosts" in config:
        message = "the unit of the Engine gives its sockets already, and dockerd refuses both"
        problems.append(
            Problem(f"{where}.hosts", message, "use a drop-in for docker.service or docker.socket")
        )
    if any(has_password(text) for text in _texts(config)):
        remedy = "host.json is readable by all: put it into a drop-in for docker.service"
        problems.append(Problem(where, "holds an address with a password", remedy))
    return problems


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
