"""The bundle that inventory names, for action plugins: verified here, brought file by file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from runnerctl.bundle.store import Bundle, open_bundle
from runnerctl.core.sections import HostSpec, Problem
from runnerctl.errors import ConfigError, RunnerctlError
from runnerctl.wheel import cache_directory

__all__ = ["bundle_of", "bundle_problems", "bundled_release", "with_bundled_keys"]

VARIABLE = "runnerctl_bundle"


def bundle_of(action: ActionBase, spec: HostSpec) -> Bundle | None:
    """The verified bundle of a host, or None when inventory names none. Raises RunnerctlError."""
    name = spec.runnerctl.bundle
    if name is None:
        return None
    path = Path(action._loader.path_dwim(os.path.expanduser(name)))
    return open_bundle(path, cache_directory().parent / "bundles")


def bundle_problems(action: ActionBase, spec: HostSpec, machine: str) -> list[Problem]:
    """What is wrong with the bundle, or missing in it for this host: for preflight."""
    try:
        bundle = bundle_of(action, spec)
        if bundle is None:
            return []
        names = {file.path.rpartition("/")[2].partition("-")[0] for file in bundle.wheels()}
        if spec.conda.store and "py_rattler" not in names:
            what = "has no wheels for the store of environments (conda_store)"
            raise ConfigError(what, where=bundle.name, remedy="make it again with this runnerctl")
        if spec.conda.manage:
            bundle.miniforge(machine, spec.conda.version)
        if spec.github_runner.slots:
            bundled_release(bundle, spec, machine)
    except RunnerctlError as error:
        what = f"{error.where}: {error.what}" if error.where else error.what
        return [Problem(VARIABLE, what, error.remedy)]
    return []


def bundled_release(bundle: Bundle, spec: HostSpec, machine: str) -> dict[str, Any]:
    """Version and SHA-256 of the runner to install, as `runner_release` takes them; ``url`` is empty.

    Raises ConfigError when it is not in the bundle, or not the pinned one.
    """
    file = bundle.runner(machine, spec.github_runner.version)
    pinned = spec.github_runner.sha256
    if pinned not in (None, file.sha256):
        what = f"{file.path} has SHA-256 {file.sha256}, and github_runner_sha256 is another"
        raise ConfigError(what, where=bundle.name, remedy="correct the pin, or make the bundle again")
    return {"version": file.version, "url": "", "sha256": file.sha256}


def with_bundled_keys(action: ActionBase, spec: HostSpec, plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan of repositories whose keys come from the bundle, as far as it has what lies at their address."""
    repositories = [dict(each) for each in plan.get("repositories", ())]
    try:
        bundle = bundle_of(action, spec)
        if bundle is None:
            return dict(plan)
        for repository in repositories:
            if text := bundle.key(repository.get("key_url") or ""):
                repository.update(key_text=text, key_url=None)
    except RunnerctlError as error:
        raise AnsibleActionFail(f"{spec.host}: {error}") from None
    return {**plan, "repositories": repositories}
