"""What a runner host talks to, standing in for the open network: GitHub, the download mirror, a wheelhouse.

Everything enters through doors that users have too: the registration URL, download URLs, an environment
variable with a token. As processes of their own: ``python -m tests.hosts standins``.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tests.fakes.github_api import Control, GithubApi
from tests.fakes.mirror import Mirror, Published
from tests.hosts.wheelhouse import wheelhouse

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["RUNNER_PATH", "RUNNER_VERSION", "World", "variables"]

RUNNER_VERSION = "2.336.0"
RUNNER_PATH = (
    "/actions/runner/releases/download/v{version}/actions-runner-linux-{architecture}-{version}.tar.gz"
)
CONDA_PATH = "/conda-forge/miniforge/releases/download/{version}/Miniforge3-{version}-Linux-{machine}.sh"
SCOPE = "/repos/acme/widgets"


def variables(github: str, mirror: str) -> dict[str, Any]:
    """Inventory variables that point a host at stand-ins, given their base URLs."""
    return {
        "github_runner_url": f"{github}/acme/widgets",
        "github_runner_download_url": mirror + RUNNER_PATH,
        "conda_url": mirror + CONDA_PATH,
        "conda_store": False,  # tests of the store turn it on: a host without costs less
        "runnerctl_wheelhouse": str(wheelhouse()),
    }


@dataclass(frozen=True)
class World:
    """GitHub with one repository, ``acme/widgets``, and a mirror that offers the release it names."""

    github: GithubApi
    mirror: Mirror
    token: str
    scope: str = SCOPE

    @classmethod
    def build(cls, address: str, mirror: Mirror, *, state: Path | None = None) -> World:
        """Start GitHub on an address of this machine; ``mirror`` is running already."""
        github = GithubApi(host=address, state=state).start()
        world = cls(github, mirror, f"ghp_{secrets.token_hex(18)}")
        world.control.add_token(world.token)
        world.publish(RUNNER_VERSION)
        return world

    @property
    def control(self) -> Control:
        """The control desk of the stand-in for GitHub."""
        return self.github.control

    def publish(self, version: str, architecture: str = "x64", *, payload_mib: int = 0) -> Published:
        """Release a runner version: on the mirror, and as the one that GitHub offers."""
        made = self.mirror.add_runner(version, architecture, payload_mib=payload_mib)
        asset = {"sha256": made.sha256, "download_url": made.url}
        self.control.release(version, architectures={architecture: asset})
        return made

    def variables(self, **more: Any) -> dict[str, Any]:
        """Inventory variables that point a host here, and more of the caller's."""
        return {**variables(self.github.url, self.mirror.url), **more}

    def environment(self) -> Mapping[str, str]:
        """The credential, as a person would give it."""
        return {"GH_TOKEN": self.token}

    def stop(self) -> None:
        """End GitHub; the mirror is its maker's."""
        self.github.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
