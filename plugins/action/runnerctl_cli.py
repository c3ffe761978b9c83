"""Controller half of ``runnerctl_cli``: the wheel, the wheelhouse and the spec."""

from __future__ import annotations

import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from ansible.errors import AnsibleActionFail
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import RunnerctlError, spec_from_task

from runnerctl.core.spec import HostSpec
from runnerctl.wheel import Wheel, controller_wheel, file_sha256


class ActionModule(TargetAction):
    """See the module's documentation: ``ansible-doc runnerctl.gpu_runner.runnerctl_cli``."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask the host; bring the wheel only when it asks for it."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        spec = spec_from_task(self, variables)
        try:
            wheel = controller_wheel()
        except RunnerctlError as error:
            raise AnsibleActionFail(f"{spec.host}: {error}") from None
        args = {"version": wheel.version, "wheel_sha256": wheel.sha256, "spec": _host_json(spec)}
        result = self.execute("runnerctl_cli", args, variables)
        if result.get("needs_wheel"):
            more = self._bring(wheel, spec, result.get("python"))
            result = self.execute("runnerctl_cli", {**args, **more}, variables)
        for internal in ("needs_wheel", "python"):
            result.pop(internal, None)
        return result

    def _bring(self, wheel: Wheel, spec: HostSpec, python: str | None) -> dict[str, str]:
        """Copy to the host what it installs from; returns the module's arguments for it."""
        args = {"wheel": self._put(wheel.path)}
        house = spec.runnerctl.wheelhouse
        if house is None:
            return args
        if house.startswith(("http://", "https://")):
            return {**args, "wheelhouse": house}
        wheels = _fitting(self._wheels(house, spec.host), python)
        with tempfile.TemporaryDirectory(prefix="runnerctl-wheelhouse-") as directory:
            packed = Path(directory) / "wheelhouse.tar"
            with tarfile.open(packed, "w") as archive:
                for path in wheels:
                    archive.add(path, arcname=path.name)
            sha256 = file_sha256(packed)
            return {**args, "wheelhouse": self._put(packed), "wheelhouse_sha256": sha256}

    def _wheels(self, house: str, host: str) -> list[Path]:
        place = Path(self._loader.path_dwim(os.path.expanduser(house)))
        wheels = sorted(place.glob("*.whl")) if place.is_dir() else []
        if not wheels:
            raise AnsibleActionFail(
                f"{host}: runnerctl_wheelhouse: {house!r} is no directory with wheels on the controller; "
                "fill one with `pip download runnerctl -d DIRECTORY`, or give an http address"
            )
        return wheels

    def _put(self, path: Path) -> str:
        """Copy a file to the task's temporary directory on the host; Ansible removes that afterwards."""
        shell = self._connection._shell
        if shell.tmpdir is None:
            self._make_tmp_path()
        remote = str(shell.join_path(shell.tmpdir, path.name))
        transfer: Callable[[str, str], object] = self._transfer_file
        make_readable: Callable[[tuple[str, ...]], object] = self._fixup_perms2
        transfer(str(path), remote)
        make_readable((shell.tmpdir, remote))
        return remote


def _host_json(spec: HostSpec) -> str:
    return msgspec.json.format(msgspec.json.encode(spec), indent=2).decode() + "\n"


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
