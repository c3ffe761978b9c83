"""Keys of package repositories that inventory gives as a file on the controller, or as text."""

from __future__ import annotations

import os
from pathlib import Path

from ansible.plugins.action import ActionBase
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.repository_key import armoured, key_packets

from runnerctl.core.repository_keys import key_kind
from runnerctl.core.sections import ContainerToolkit, NvidiaDriver, Problem

__all__ = ["driver_key", "read_key", "toolkit_keys"]

KEY_BYTES = 256 << 10  # a key with many signatures has a tenth of it
REMEDY = "give a public key: its address, a file on the controller, or its text"


def read_key(action: ActionBase, variable: str, given: str | None) -> tuple[str | None, list[Problem]]:
    """The armoured key that ``variable`` names, and what is wrong with it; None for none and for an address.

    The host fetches an address itself. A relative path is looked for beside the playbook.
    """
    kind = key_kind(given) if given else "address"
    if given is None or kind == "address":
        return None, []
    shown = "its text" if kind == "text" else repr(given)
    try:
        data = given.encode() if kind == "text" else _file(action, given)
        return armoured(key_packets(data, where=shown)).decode("ascii"), []
    except OSError as error:
        reason = error.strerror or str(error)
        return None, [Problem(variable, f"{shown} cannot be read on the controller: {reason}", REMEDY)]
    except HostError as error:
        return None, [Problem(variable, f"{error.where} {error.what}", REMEDY)]


def driver_key(action: ActionBase, spec: NvidiaDriver) -> tuple[str | None, list[Problem]]:
    """The key of ``nvidia_driver_repository_key``; nothing is read where others manage the driver."""
    variable = "nvidia_driver_repository_key"
    return read_key(action, variable, spec.repository_key if spec.manage else None)


def toolkit_keys(action: ActionBase, spec: ContainerToolkit) -> tuple[dict[str, str], list[Problem]]:
    """Field -> key, of the repositories that the spec makes use of."""
    fields = ["repository_key"] if spec.manage else []
    if spec.manage and spec.docker and spec.docker_source == "docker":
        fields.append("docker_repository_key")
    texts: dict[str, str] = {}
    problems: list[Problem] = []
    for field in fields:
        text, found = read_key(action, f"container_toolkit_{field}", getattr(spec, field))
        problems += found
        texts.update({field: text} if text else {})
    return texts, problems


def _file(action: ActionBase, name: str) -> bytes:
    with Path(action._loader.path_dwim(os.path.expanduser(name))).open("rb") as file:
        return file.read(KEY_BYTES)
