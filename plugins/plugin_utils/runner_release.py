"""Which runner release a host takes, and how it gets there: shared by provision and upgrade."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.bundle import bundle_of, bundled_release
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.network import network_argument
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import Secret, TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import RunnerctlError

from runnerctl.core.spec import HostSpec
from runnerctl.reconcile import Fleet, Release

__all__ = ["expected_release", "install_release", "kept_release"]


def expected_release(
    action: TargetAction, spec: HostSpec, fleet: Fleet, machine: str, *, installed: Collection[str] = ()
) -> Release:
    """The bundle's release, or the one that inventory pins or GitHub expects. Raises RunnerctlError."""
    if bundle := bundle_of(action, spec):
        found = bundled_release(bundle, spec, machine)
        return Release(found["version"], url=found["url"], sha256=found["sha256"])
    return fleet.release(machine, installed=installed)


def kept_release(spec: HostSpec, version: str, report: Mapping[str, Any]) -> tuple[str, str] | None:
    """What a converge keeps instead of a release that was rolled back on the host, and why; None to take it.

    ``report`` is what the host's half of ``preflight`` says. A pin is somebody's word and is obeyed; a host
    that has nothing else takes the release all the same.
    """
    reasons = {str(each["version"]): str(each["reason"]) for each in report.get("refused", ())}
    if spec.github_runner.version or version not in reasons:
        return None
    left = [each for each in report.get("releases", ()) if each not in reasons]
    if not left:
        return None
    kept = max(left, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])
    return kept, (
        f"{spec.host}: keeps runner {kept}: {version} was rolled back here ({reasons[version]}); "
        "try it again with `runnerctl upgrade --retry`, or pin github_runner_version"
    )


def install_release(
    action: TargetAction,
    spec: HostSpec,
    known: Mapping[str, Any],
    variables: dict[str, Any],
    *,
    token: str | None = None,
) -> dict[str, Any]:
    """Let the host have the release (``version``, ``url``, ``sha256``); the module's answer.

    Raises AnsibleActionFail.
    """
    args = {**known, "token": token and Secret(token), **network_argument(action, spec)}
    if spec.runnerctl.bundle and not action._task.check_mode:
        args["url"] = _bring(action, spec, known, variables)
    return action.execute("runner_release", args, variables)


def _bring(action: TargetAction, spec: HostSpec, known: Mapping[str, Any], variables: dict[str, Any]) -> str:
    """Copy the bundle's archive to a host that lacks the release; the module compares it again."""
    if not action.execute("runner_release", dict(known), variables, check=True)["changed"]:
        return ""
    try:
        bundle = bundle_of(action, spec)
    except RunnerctlError as error:
        raise AnsibleActionFail(f"{spec.host}: {error}") from None
    archive = bundle.with_sha256(str(known["sha256"])) if bundle else None
    if archive is None:  # the bundle was replaced while the play ran
        raise AnsibleActionFail(f"{spec.host}: runnerctl_bundle: was changed meanwhile; run again")
    return action.put_file(archive)
