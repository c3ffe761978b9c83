"""Just-in-time configuration: a record for one job, and the files its listener starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runnerctl.errors import DataError, UnavailableError
from runnerctl.github.models import JitConfig, Runner
from runnerctl.github.operations import Operations
from runnerctl.redact import register_secret

__all__ = ["JitOperations"]

ATTEMPTS = 3


class JitOperations(Operations):
    """Mint configurations. Source: GitHub's REST reference, "Create configuration for a just-in-time runner".

    It stands in `runnerctl.github.registry.Registry`, which knows how to look up and to delete.
    """

    if TYPE_CHECKING:

        def runner_by_name(self, name: str) -> Runner | None: ...

        def delete(self, runner_id: int) -> bool: ...

    def jit_config(
        self, name: str, *, group_id: int, labels: Sequence[str], work_folder: str = "_work"
    ) -> JitConfig:
        """A configuration for a new ephemeral runner called ``name``; ``labels``: 1 to 100.

        A lost answer leaves a record whose key nobody has: it is looked up, removed while no listener has
        ever used it, and minted anew. Raises DataError when a runner of that name exists already, or has
        connected meanwhile: then it is somebody else's.
        """
        if self.runner_by_name(name) is not None:
            raise self._exists(name)
        attempts = 0
        while True:
            attempts += 1
            try:
                return self._mint(name, group_id=group_id, labels=labels, work_folder=work_folder)
            except UnavailableError:
                self._remove_unused(name)
                if attempts >= ATTEMPTS:
                    raise

    def _mint(self, name: str, **wanted: Any) -> JitConfig:
        body = {"name": name, "runner_group_id": wanted["group_id"], "labels": list(wanted["labels"])}
        answer = self.client.post(
            f"{self._runners}/generate-jitconfig",
            {**body, "work_folder": wanted["work_folder"]},
            what=f"mint a configuration for the runner {name}",
            accept=(409,),
        )
        if answer.status == 409:
            raise self._exists(name)
        config: JitConfig = answer.decode(JitConfig)
        register_secret(config.encoded_jit_config)
        return config

    def _remove_unused(self, name: str) -> None:
        runner = self.runner_by_name(name)
        if runner is None:
            return
        if runner.status == "online" or runner.busy or runner.version or runner.ephemeral is False:
            raise self._exists(name)
        self.delete(runner.id)

    def _exists(self, name: str) -> DataError:
        return DataError(
            f"a runner named {name} exists already",
            where=self.scope.name,
            remedy="remove its record, or take another name",
        )
