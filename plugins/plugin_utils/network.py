"""The site's way to the network, handed to modules that download something."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from runnerctl.core.ca_bundle import MAX_BYTES, certificates, wrong_ca_bundle
from runnerctl.core.environment import proxy_environment
from runnerctl.core.sections import HostSpec, Problem

__all__ = ["network_argument", "network_problems"]

VARIABLE = "runnerctl_ca_bundle"


def network_argument(action: ActionBase, spec: HostSpec) -> dict[str, Any]:
    """The argument ``network`` of a module; none where the host's own way to the network is enough.

    Raises AnsibleActionFail when the CA bundle cannot be used.
    """
    text, problems = _site_ca(action, spec)
    if problems:
        raise AnsibleActionFail("\n".join(problem.line(spec.host) for problem in problems))
    given = {**proxy_environment(spec.runnerctl), **({"ca": text} if text else {})}
    return {"network": given} if given else {}


def network_problems(action: ActionBase, spec: HostSpec) -> list[Problem]:
    """What is wrong with the CA bundle on the controller: for preflight, before anything is changed."""
    return _site_ca(action, spec)[1]


def _site_ca(action: ActionBase, spec: HostSpec) -> tuple[str | None, list[Problem]]:
    name = spec.runnerctl.ca_bundle
    if name is None:
        return None, []
    path = Path(action._loader.path_dwim(os.path.expanduser(name)))
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1).decode("ascii", "replace")
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"{name!r} cannot be read on the controller: {reason}"
        return None, [Problem(VARIABLE, message, "give the path of a PEM file")]
    wrong = "is too large" if len(text) > MAX_BYTES else wrong_ca_bundle(text)
    if wrong:
        return None, [Problem(VARIABLE, f"{name!r} {wrong}", "give a PEM file with certificates alone")]
    return certificates(text), []
