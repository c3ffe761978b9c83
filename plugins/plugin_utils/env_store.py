"""What the store of conda environments needs of the controller: whose jobs run there, and credentials."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import Secret

from runnerctl.core.scope import owner_of
from runnerctl.core.sections import HostSpec, Problem

__all__ = ["store_argument", "store_problems"]

VARIABLE = "conda_store_credentials_file"
MAX_BYTES = 256 << 10
# The ways that rattler knows to prove who one is (rattler_networking, authentication_storage).
KINDS = {"BearerToken", "CondaToken", "BasicHTTP", "S3Credentials", "OAuth"}
PLACE = re.compile(r"\*?[0-9A-Za-z.-]+(:\d+)?(/[^\s]*)?|[a-z0-9]+://[^\s@]+")
REMEDY = 'write {"HOST": {"BearerToken": "..."}}, with CondaToken or BasicHTTP where the server wants those'


def store_argument(action: ActionBase, spec: HostSpec) -> dict[str, Any]:
    """The store's arguments of module ``runnerctl_cli``; none for a host without one.

    Raises AnsibleActionFail when the credentials cannot be used.
    """
    if not spec.conda.store:
        return {}
    text, problems = _credentials(action, spec)
    if problems:
        raise AnsibleActionFail("\n".join(problem.line(spec.host) for problem in problems))
    owners = {owner_of(spec.slot_url(slot)) for slot in spec.github_runner.slots}
    found: dict[str, Any] = {"env_owners": sorted(filter(None, owners))}
    return {**found, **({"env_credentials": Secret(text)} if text is not None else {})}


def store_problems(action: ActionBase, spec: HostSpec) -> list[Problem]:
    """What is wrong with the credentials on the controller: for preflight, before anything is changed."""
    return _credentials(action, spec)[1] if spec.conda.store else []


def _credentials(action: ActionBase, spec: HostSpec) -> tuple[str | None, list[Problem]]:
    """The file's text in one form. What is wrong with it is told without any of its content."""
    name = spec.conda.store_credentials_file
    if name is None:
        return None, []
    path = Path(action._loader.path_dwim(os.path.expanduser(name)))
    try:
        with path.open("rb") as file:
            size = len(file.read(MAX_BYTES + 1))
        text = str(action._loader.get_text_file_contents(str(path)))  # from the vault, if it is in one
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"{name!r} cannot be read on the controller: {reason}"
        return None, [Problem(VARIABLE, message, "give the path of a JSON file")]
    except AnsibleError:
        message = f"{name!r} cannot be decrypted, or is no text"
        return None, [Problem(VARIABLE, message, "give its vault's password, or another file")]
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if wrong := "is too large" if size > MAX_BYTES else _wrong(content):
        return None, [Problem(VARIABLE, f"{name!r} {wrong}", REMEDY)]
    return json.dumps(content, sort_keys=True) + "\n", []


def _wrong(content: object) -> str | None:
    if not isinstance(content, dict):
        return "is no JSON object"
    for number, (place, given) in enumerate(content.items(), start=1):
        if not PLACE.fullmatch(place):
            return f"has as entry {number} what is no host's name"
        if not (isinstance(given, dict) and len(given) == 1 and set(given) <= KINDS):
            return f"does not say for {place[:60]} how to prove who one is"
    return None
