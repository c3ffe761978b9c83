"""The rules of Miniforge and of the store of conda environments."""

from __future__ import annotations

import re

from runnerctl.core.bounds import PIB_IN_GIB
from runnerctl.core.channels import channel_fault, has_credentials, plain_url
from runnerctl.core.labels import normalise
from runnerctl.core.scope import check_transport, owner_of, split_url
from runnerctl.core.sections import Conda, HostSpec, Problem
from runnerctl.errors import ConfigError

__all__ = ["conda_problems"]

VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")
ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# GitHub's names of users and organisations; the suffix _SHORTCODE is that of managed users.
OWNER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,98}[A-Za-z0-9])?")
MOST_DAYS = 36500
PRIVATE = "conda_store_private_channels"
SECRET_REMEDY = "write it without; conda_store_credentials_file has it"
ADDRESS_REMEDY = "give it as https://HOST/PATH"


def conda_problems(spec: HostSpec) -> list[Problem]:
    """Every rule of this kind that ``spec`` breaks; whether a file exists is seen by the controller."""
    conda = spec.conda
    return [
        *_miniforge(conda),
        *_bounds(conda),
        *_channels(conda),
        *_aliases(conda),
        *_private(spec),
        *_index(conda.store_pip_index),
        *_credentials(conda.store_credentials_file),
    ]


def _miniforge(conda: Conda) -> list[Problem]:
    """Without a channel of its own conda takes Anaconda's, whose terms are not conda-forge's."""
    problems = []
    if not VERSION.fullmatch(conda.version):
        problems.append(Problem("conda_version", f"is {conda.version!r}", "give it as 26.3.2-3"))
    if not conda.channels or "defaults" in normalise(conda.channels):
        message = "names Anaconda's default channels" if conda.channels else "is empty"
        problems.append(Problem("conda_channels", message, "name the channels themselves: [conda-forge]"))
    return problems


def _bounds(conda: Conda) -> list[Problem]:
    """Numbers that would keep nothing, or that no host has."""
    problems = []
    given = {
        "store_budget_gib": (conda.store_budget_gib, PIB_IN_GIB),
        "store_owner_quota_gib": (conda.store_owner_quota_gib, PIB_IN_GIB),
        "store_keep_days": (conda.store_keep_days, MOST_DAYS),
    }
    for name, (value, most) in given.items():
        if value is not None and value < 1:
            problems.append(Problem(f"conda_{name}", f"is {value}", "give at least 1"))
        elif value is not None and value > most:
            problems.append(Problem(f"conda_{name}", f"is {str(value)[:20]}", f"give at most {most}"))
    return problems


def _channels(conda: Conda) -> list[Problem]:
    return [
        Problem(f"conda_store_channels[{index}]", fault[0], _remedy(fault[1]))
        for index, text in enumerate(conda.store_channels)
        if (fault := channel_fault(text))
    ]


def _aliases(conda: Conda) -> list[Problem]:
    """An alias is a name, and leads to an address: not to another name, which might be an alias again."""
    problems = []
    for name, address in conda.store_aliases.items():
        where = f"conda_store_aliases.{name[:60]}"
        if not ALIAS.fullmatch(name):
            problems.append(Problem(where, "is no channel's name", "give names such as conda-forge"))
        elif fault := channel_fault(name):
            problems.append(Problem(where, fault[0], _remedy(fault[1])))
        if fault := channel_fault(address):
            problems.append(Problem(where, fault[0], _remedy(fault[1])))
        elif "://" not in address:
            problems.append(Problem(where, f"is {address[:60]!r}", ADDRESS_REMEDY))
    return problems


def _private(spec: HostSpec) -> list[Problem]:
    """A private channel is one server's, over an encrypted way, and one owner's whose jobs run here."""
    problems, seen = [], set()
    owners = {owner_of(spec.slot_url(slot)) for slot in spec.github_runner.slots}
    for index, channel in enumerate(spec.conda.store_private_channels):
        where, owner = f"{PRIVATE}[{index}]", channel.owner.lower()
        problems += _private_address(f"{where}.url", channel.url)
        if not OWNER.fullmatch(channel.owner):
            remedy = "give the user or the organisation at GitHub"
            problems.append(Problem(f"{where}.owner", f"is {channel.owner[:60]!r}", remedy))
        elif owners and owner not in owners:
            message = f"{channel.owner!r} is the owner of no slot of this host: nobody could use it"
            remedy = f"give one of {', '.join(sorted(filter(None, owners))) or 'those that have slots here'}"
            problems.append(Problem(f"{where}.owner", message, remedy))
        if (plain_url(channel.url), owner) in seen:
            problems.append(Problem(where, "is given twice", "name each channel once for an owner"))
        seen.add((plain_url(channel.url), owner))
    return problems


def _private_address(where: str, url: str) -> list[Problem]:
    """A token goes there: plain HTTP is for this site's own addresses."""
    if fault := channel_fault(url):
        return [Problem(where, fault[0], _remedy(fault[1]))]
    parts = split_url(url)
    if parts is None or parts.scheme not in ("https", "http") or not parts.hostname:
        return [Problem(where, f"is {url[:60]!r}", ADDRESS_REMEDY)]
    return _encrypted(where, url)


def _encrypted(where: str, url: str) -> list[Problem]:
    try:
        check_transport(url)
    except ConfigError as error:
        return [Problem(where, error.what, error.remedy)]
    return []


def _index(url: str | None) -> list[Problem]:
    if url is None:
        return []
    where, parts = "conda_store_pip_index", split_url(url)
    if has_credentials(url):
        remedy = "every user of the host can read it: use an index that knows its hosts"
        return [Problem(where, "has a credential in its address", remedy)]
    if parts is None or parts.scheme not in ("https", "http") or not parts.hostname:
        return [Problem(where, f"is {url[:60]!r}", "give it as https://HOST/simple")]
    return []


def _credentials(path: str | None) -> list[Problem]:
    if path is None or (path.strip() and path.isprintable() and "://" not in path):
        return []
    message = "is an address" if "://" in path else f"is {path[:60]!r}"
    return [Problem("conda_store_credentials_file", message, "give the path of a JSON file")]


def _remedy(text: str) -> str:
    """The file's rules speak of the file."""
    return SECRET_REMEDY if "credential" in text else text
