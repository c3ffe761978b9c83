"""Controller half of ``runnerctl_cli``: the wheel, the wheelhouse and the spec."""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from ansible.errors import AnsibleActionFail
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.bundle import bundle_of
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.env_store import store_argument
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.layout import laid_out
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.network import network_argument
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import RunnerctlError, spec_from_task

from runnerctl.core.spec import HostSpec
from runnerctl.wheel import Wheel, controller_wheel, extra_distributions, file_sha256


class ActionModule(TargetAction):
    """See the module's documentation: ``ansible-doc runnerctl.gpu_runner.runnerctl_cli``."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the host; bring the wheel only when it asks for it."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        spec, facts = laid_out(self, spec_from_task(self, variables), variables)
        try:
            wheel = controller_wheel()
        except RunnerctlError as error:
            raise AnsibleActionFail(f"{spec.host}: {error}") from None
        args: dict[str, Any] = {
            "version": wheel.version,
            "wheel_sha256": wheel.sha256,
            "spec": _host_json(spec),
            **network_argument(self, spec),
            **store_argument(self, spec),
        }
        result = self.execute("runnerctl_cli", args, variables)
        if result.get("needs_wheel"):
            more = self._bring(wheel, spec, result.get("python"))
            result = self.execute("runnerctl_cli", {**args, **more}, variables)
        for internal in ("needs_wheel", "python"):
            result.pop(internal, None)
        return {**result, "ansible_facts": facts}

    def _bring(self, wheel: Wheel, spec: HostSpec, python: str | None) -> dict[str, str]:
        """Copy to the host what it installs from; returns the module's arguments for it."""
        args = {"wheel": self.put_file(wheel.path)}
        house = spec.runnerctl.wheelhouse
        if house is None and spec.runnerctl.bundle is None:
            return args
        if house is not None and house.startswith(("http://", "https://")):
            return {**args, "wheelhouse": house}
        wheels = self._wheels(house, spec.host) if house else self._bundled(spec)
        wheels = _fitting(wheels if spec.conda.store else _without_store(wheels), python)
        with tempfile.TemporaryDirectory(prefix="runnerctl-wheelhouse-") as directory:
            packed = Path(directory) / "wheelhouse.tar"
            with tarfile.open(packed, "w") as archive:
                for path in wheels:
                    archive.add(path, arcname=path.name)
            sha256 = file_sha256(packed)
            return {**args, "wheelhouse": self.put_file(packed), "wheelhouse_sha256": sha256}

    def _bundled(self, spec: HostSpec) -> list[Path]:
        """The bundle's wheels, without our own: the host gets the one that manages it."""
        try:
            bundle = bundle_of(self, spec)
            found = bundle.wheels() if bundle else []
        except RunnerctlError as error:
            raise AnsibleActionFail(f"{spec.host}: {error}") from None
        others = [file for file in found if not file.path.startswith("wheels/runnerctl-")]
        return [bundle.path(file) for file in others] if bundle else []

    def _wheels(self, house: str, host: str) -> list[Path]:
        place = Path(self._loader.path_dwim(os.path.expanduser(house)))
        wheels = sorted(place.glob("*.whl")) if place.is_dir() else []
        if not wheels:
            raise AnsibleActionFail(
                f"{host}: runnerctl_wheelhouse: {house!r} is no directory with wheels on the controller; "
                "fill one with `pip download 'runnerctl[env]' -d DIRECTORY`, or give an http address"
            )
        return wheels


def _host_json(spec: HostSpec) -> str:
    return msgspec.json.format(msgspec.json.encode(spec), indent=2).decode() + "\n"


def _without_store(wheels: list[Path]) -> list[Path]:
    """What only the store of environments needs is large, and stays where it is."""
    names = extra_distributions("env")
    return [path for path in wheels if path.name.split("-")[0].lower() not in names]


def _fitting(wheels: list[Path], python: str | None) -> list[Path]:
    """Leave out wheels of other Python versions (as the tag ``cp313`` says); pip judges the rest."""
    if python is None:
        return wheels
    own = f"cp{python.replace('.', '')}"
    return [path for path in wheels if _fits(path.stem.split("-")[-3:-1], own)]


def _fits(tags: list[str], own: str) -> bool:
    """Whether the tags [python, ABI] of a wheel's name can suit the CPython ``own``."""
    interpreters, abi = tags
    names = interpreters.split(".")
    return own in names or "abi3" in abi or any(name.startswith("py") for name in names)
