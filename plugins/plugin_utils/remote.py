"""Run the target's half of a module from an action plugin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

__all__ = ["Secret", "TargetAction"]

FQCN = "runnerctl.gpu_runner."


class Secret(str):
    """A text that Ansible's debug output does not show: it prints the arguments of a module by ``repr``."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'<hidden>'"


class TargetAction(ActionBase):
    """An action whose module never touches the target's disk: secrets may be among its arguments."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = True

    def _is_pipelining_enabled(self, module_style: str, wrap_async: bool = False) -> bool:
        """Pipeline whatever the settings say: else arguments lie in a file on the target for a while."""
        pipelined = module_style == "new" and not wrap_async and self._connection.has_pipelining
        if not pipelined:
            name = self._connection.transport
            raise AnsibleActionFail(f"connection {name} cannot pipeline modules: use ssh or local")
        return True

    def execute(
        self, module: str, args: dict[str, Any], task_vars: dict[str, Any], *, check: bool | None = None
    ) -> dict[str, Any]:
        """Run a module of this collection on the target; in check mode when asked, or when the task is.

        Raises AnsibleActionFail with the module's own message, AnsibleConnectionFailure when unreachable.
        """
        before = self._task.check_mode
        self._task.check_mode = before if check is None else check
        try:
            result: dict[str, Any] = self._execute_module(
                module_name=f"{FQCN}{module}", module_args=args, task_vars=task_vars
            )
        finally:
            self._task.check_mode = before
        if result.get("unreachable"):
            raise AnsibleConnectionFailure(result.get("msg", "the host is unreachable"))
        if result.get("failed"):
            raise AnsibleActionFail(_message(result), result=result)
        return result

    def put_file(self, path: Path) -> str:
        """Copy a file to the task's temporary directory on the host, which Ansible removes afterwards."""
        shell = self._connection._shell
        if shell.tmpdir is None:
            self._make_tmp_path()
        remote = str(shell.join_path(shell.tmpdir, path.name))
        transfer: Callable[[str, str], object] = self._transfer_file
        make_readable: Callable[[tuple[str, ...]], object] = self._fixup_perms2
        transfer(str(path), remote)
        make_readable((shell.tmpdir, remote))
        return remote


def _message(result: dict[str, Any]) -> str:
    text = str(result.get("msg") or "the module failed")
    if "MODULE FAILURE" in text or "No start of json" in text:
        tail = (result.get("module_stderr") or result.get("exception") or "").strip().splitlines()
        return f"{text.splitlines()[0]}: {tail[-1] if tail else 'no output'}"
    return text
